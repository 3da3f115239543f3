"""A replica's side of the ledger: no engine is loaded without a lease, nor beyond it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray import serve

from deployments.held import own_devices, peak_of_host, release_all, release_caches
from deployments.identity import replica_id, settle_memory
from deployments.metrics import instrument
from runtime.admission import Admission
from runtime.client.ledger import LedgerActor
from runtime.engines import cuda
from runtime.errors import LedgerUnavailable
from runtime.memory import process
from runtime.memory.claims import Allotment
from runtime.memory.demands import label
from runtime.memory.device import Bytes, Unknown, devices, process_bytes, read
from runtime.memory.footprint import GIB
from runtime.memory.ledger import ACTOR, Lease, Refusal, Report, Terms, Word
from runtime.memory.meter import Meter
from runtime.memory.watch import Pressure, Watch
from runtime.metrics import MEMORY

logger = logging.getLogger("ray.serve")

_LEDGER_S = 10.0  # how long a replica looks for the ledger before it refuses to load
_ASK_AGAIN_S = 1.0  # while it waits for room
_RETRY_S = 0.2  # while the ledger is being restarted
_STREAMS_S = 5.0  # how long streams may take to end when a replica parks
_LOOK_S = 0.25  # how often what is available is read


class ReplicaMemory:
    """Reserves before anything is loaded, measures after, and yields when memory is short.

    Attributes:
        parked: Whether the engines are unloaded because memory is short.
    """

    def __init__(
        self,
        allotment: Allotment,
        load: Callable[[], Awaitable[Iterable[Admission]]],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        """Describe a replica; nothing happens yet.

        Args:
            allotment: What it may hold.
            load: Loads the engines and fills each slot once; returns who may begin, to be
                refused while memory is short.
            unload: Ends what runs, for the reason given, and frees the engines.
        """
        context = serve.get_replica_context()
        self.parked = False
        self._deployment = label(context.app_name, context.deployment)
        self._replica = f"{self._deployment}#{replica_id()}"
        self._signature = allotment.signature
        self._load = load
        self._unload = unload
        self._ledger = LedgerActor()
        self._admissions: tuple[Admission, ...] = ()
        self._devices = own_devices(allotment.claims)
        here = ray.get_runtime_context()
        self._leases = tuple(
            Lease(
                self._replica,
                self._deployment,
                (here.get_node_id(), self._devices[where].key),
                claim,
                os.getpid(),
                here.get_actor_id(),
            )
            for where, claim in allotment.claims.items()
        )
        self._meters = {device.key: Meter(device) for device in self._devices.values()}
        self._reporting = {device.key: Meter(device) for device in self._devices.values()}
        self._watches: dict[str, Watch] = {}
        self._terms: Terms | None = None
        self._holds: tuple[str, ...] = ()
        self._cap: int | None = None  # of torch's allocator, in bytes
        self._broken: Exception | None = None
        self._changing = False  # parks, or comes back
        self._tasks: list[asyncio.Task[None]] = []
        self._pressure = instrument(MEMORY.pressure)

    async def start(self) -> None:
        """Reserve, cap, load, measure; then keep the lease and watch the floors.

        Waits for as long as there is no room: a replica that gave up would be started again.

        Raises:
            LedgerUnavailable: There is no ledger; nothing was loaded.
            LeaseExceeded: The engines need more than was claimed; both figures are named.
        """
        await self._reserve()
        await self._load_within_lease()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep()), loop.create_task(self._watch())]

    def check(self) -> None:
        """Raise what kept the engines from being parked or loaded again, if anything did."""
        if self._broken is not None:
            raise self._broken

    async def _reserve(self) -> None:
        told = None
        while isinstance(answer := await self._ask("reserve", self._leases), Refusal):
            if answer.message != told:
                logger.warning("waiting for memory: %s", answer.message)
                told = answer.message
            await asyncio.sleep(_ASK_AGAIN_S)
        terms: Terms = answer
        self._terms = terms
        self._watches = {
            key: Watch(soft, hard, terms.clear_s) for key, (soft, hard) in terms.floors.items()
        }

    async def _load_within_lease(self) -> None:
        for lease in self._leases:
            if lease.claim.context:
                await asyncio.to_thread(self._cap_allocator, lease.claim.allocator)
        process.forget_peak()
        cuda.forget_peak()
        try:
            self._admissions = tuple(await self._load())
        except Exception as failure:
            if not cuda.is_out_of_memory(failure):
                raise
            lease = next((x for x in self._leases if x.claim.context), self._leases[0])
            raise await self._ask("overran", lease.replica, lease.device) from failure
        self.parked = False
        measured = []
        for where, lease in zip(self._devices, self._leases, strict=True):
            found = await asyncio.to_thread(self._measure, where)
            size = None if isinstance(found, Unknown) else found
            if isinstance(found, Unknown):
                logger.warning("%s is not measured: %s", lease.device[1], found.reason)
            if lease.claim.context:
                held = await asyncio.to_thread(self._driver_bytes)
                if not isinstance(held, Unknown):
                    # What is outside of the allocator is no estimate any more.
                    outside = held - cuda.allocator_reserved()
                    self._cap_allocator(lease.claim.total - lease.claim.host - outside)
                    if size is not None:  # what loading took for a while, the next start needs
                        beyond = cuda.allocator_peak() - cuda.allocator_reserved()
                        size = max(size, min(size + beyond, lease.claim.total))
            arguments = (lease.replica, lease.device, size, self._signature)
            error = await self._ask("measured", *arguments)
            if error is not None:
                raise error
            measured.append(replace(lease, state="serving", measured=size, peak=size))
        self._leases = tuple(measured)

    def _cap_allocator(self, size: int) -> None:
        self._cap = size
        cuda.cap_allocator(size)

    def _measure(self, where: str) -> Bytes:
        """The most this process has held of a device, in bytes."""
        held = self._gpu_bytes() if where == "gpu" else 0
        if self._devices[where].kind == "discrete":
            return held
        host = peak_of_host()
        return host if isinstance(host, Unknown) else held + host

    def _gpu_bytes(self) -> int:
        """What this process holds of its GPU, by the driver, or else by torch's allocator."""
        claim = self._leases[list(self._devices).index("gpu")].claim
        if not claim.context:
            return 0  # on unified memory, without anything that uses the GPU
        held = self._driver_bytes()
        if isinstance(held, Unknown):
            # The allocator's count is exact; a context's size is an estimate.
            return cuda.allocator_peak() + claim.context
        return held

    def _driver_bytes(self) -> Bytes:
        key = self._devices["gpu"].key
        own = next(device for device in devices(read()) if device.key == key)
        return process_bytes(own, os.getpid())

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Call the ledger, through its restarts.

        Raises:
            LedgerUnavailable: It has not answered for ten seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LEDGER_S
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._ledger.call(method, *arguments)
            except (ValueError, TimeoutError, ray.exceptions.RayActorError) as error:
                if loop.time() > deadline:
                    raise LedgerUnavailable(
                        f"The memory ledger ({ACTOR}) does not answer ({error}), and nothing is "
                        "loaded without a lease. It comes with the application: was this "
                        "deployment built by deployments.app:build_app?"
                    ) from error
            await asyncio.sleep(_RETRY_S)

    async def _keep(self) -> None:
        """Tell the ledger of this replica, and hear who holds."""
        known, told = -1, False
        while True:
            try:
                report = await asyncio.to_thread(self._report)
                leases = self._leases
                if self.parked:
                    leases = tuple(replace(lease, state="parked") for lease in leases)
                # Whoever frees or loads now does not hold still, whatever it was told.
                heard = -1 if self._changing else known
                word: Word = await self._ask("keep", leases, report, heard)
                await asyncio.to_thread(self._hold_still, word.holds)
                known = word.number
                told = False
            except Exception as error:  # serving goes on without a ledger; loading does not
                if not told:
                    logger.warning("the memory ledger cannot be told of this replica: %s", error)
                told = True
                await asyncio.sleep(_ASK_AGAIN_S)

    def _report(self) -> Report:
        held = {}
        for where, device in self._devices.items():
            size = self._measure(where)
            if not isinstance(size, Unknown):
                held[device.key] = size
        available = {key: meter.read() for key, meter in self._reporting.items()}
        known = {key: size for key, size in available.items() if not isinstance(size, Unknown)}
        return Report(held, known, int(self._worst()))

    def _hold_still(self, holds: tuple[str, ...]) -> None:
        """While somebody starts beside us, the device's free memory does not change by us.

        The allocator takes all of its lease, so that requests find what they need in its cache.
        """
        if bool(holds) != bool(self._holds) and self._cap is not None and not self.parked:
            if holds:
                cuda.fill_cache(self._cap)
            else:
                cuda.release_cached()
        self._holds = holds

    def _worst(self) -> Pressure:
        return max((w.pressure for w in self._watches.values()), default=Pressure.NONE)

    async def _watch(self) -> None:
        before = Pressure.NONE
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                for key, watch in self._watches.items():
                    pressure = watch.update(self._meters[key].read())
                    self._pressure.set(int(pressure), tags={"device": key})
                now = self._worst()
                await self._yield_to(now, changed=now != before)
            except LedgerUnavailable as error:  # it asks again at its next look
                logger.warning("%s", error)
            except Exception as error:
                logger.exception("the engines could not be parked, or loaded again")
                self._broken = error
                return
            before = now

    async def _yield_to(self, pressure: Pressure, *, changed: bool) -> None:
        """Do what the pressure asks for; while somebody holds, nothing is freed or taken."""
        assert self._terms is not None
        if changed and not self.parked:
            self._refuse(pressure)
        if self._holds:
            return
        if changed and pressure:
            await asyncio.to_thread(release_caches)
        if pressure is Pressure.HARD and not self.parked:
            lasting = [w.below_hard_s for w in self._watches.values()]
            if any(s is not None and s >= self._terms.park_after_s for s in lasting):
                await self._park()
        elif pressure is Pressure.NONE and self.parked:
            await self._come_back()

    def _refuse(self, pressure: Pressure) -> None:
        assert self._terms is not None
        for admission in self._admissions:
            if pressure:
                admission.pause(self._why(), self._terms.clear_s)
            else:
                admission.resume()

    def _why(self) -> str:
        assert self._terms is not None
        short = []
        for key, watch in self._watches.items():
            available = self._meters[key].read()
            if watch.pressure and not isinstance(available, Unknown):
                floor = self._terms.floors[key][0] / GIB
                short.append(f"{key} has {available / GIB:.2f} GiB available, floor {floor:.2f}")
        return f"Memory is short: {', '.join(short) or 'below a floor until just now'}."

    async def _park(self) -> None:
        assert self._terms is not None
        why = self._why()
        logger.warning("parking: %s", why)
        self.parked = True
        for admission in self._admissions:
            admission.pause(f"Parked. {why}", self._terms.clear_s, everybody=True)
        self._changing = True
        try:
            await self._unload(f"The replica parked. {why}")
            await self._streams_gone()
            await asyncio.to_thread(release_all)
            await self._ask("park", self._replica)
        finally:
            self._changing = False

    async def _streams_gone(self) -> None:
        """Return once no stream holds on to an engine, or after a while."""
        deadline = asyncio.get_running_loop().time() + _STREAMS_S
        while any(admission.taken for admission in self._admissions):
            if asyncio.get_running_loop().time() > deadline:
                logger.warning("streams that were told to end hold on to their engine")
                return
            await asyncio.sleep(_LOOK_S)

    async def _come_back(self) -> None:
        """Load again if the ledger lets us; else stay parked and ask again at the next look."""
        fresh = tuple(replace(lease, state="loading", measured=None) for lease in self._leases)
        if isinstance(await self._ask("reserve", fresh), Refusal):
            return
        self._changing = True
        try:
            self._leases = fresh
            await self._load_within_lease()
            settle_memory()
        except BaseException:
            self.parked = True
            with suppress(Exception):
                await self._unload("The engines could not be loaded again.")
                await self._ask("park", self._replica)
            raise
        finally:
            self._changing = False
        holds, self._holds = self._holds, ()  # one that began meanwhile
        await asyncio.to_thread(self._hold_still, holds)
        logger.warning("memory is there again: loaded and serving")
