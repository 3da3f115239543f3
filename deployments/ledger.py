"""The named actor around the ledger: it sees who dies, and holds the neighbours' share in Ray.

There is one in a cluster, on the head's node. Leases are written to the cluster's own
store with each change, so that a ledger that was restarted knows them; their replicas
confirm them with their next call.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections import Counter
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.metrics import Instruments
from deployments.placeholder import give_back, withhold
from runtime.errors import LeaseExceeded, MemoryUnknown
from runtime.memory.device import DeviceMemory, Unknown, devices, read
from runtime.memory.history import History, Measured
from runtime.memory.ledger import (
    ACTOR,
    NAMESPACE,
    Device,
    DeviceState,
    Lease,
    Ledger,
    Refusal,
    Report,
    Snapshot,
    Terms,
    Word,
)
from runtime.memory.meter import Meter
from runtime.memory.plan import DevicePlan, pools_of, share_out
from runtime.memory.policy import MemoryPolicy
from runtime.metrics import MEMORY
from runtime.settings import Settings

logger = logging.getLogger("ray.serve")

_ROUND_S = 1.0  # how often it looks who has died
_NODES_S = 5.0  # how often it looks for nodes that have joined
_WORD_S = 5.0  # how long a replica waits for news before it reports again
_TURN_S = 4.0  # between one deployment's turn to park and the next one's
_LAST_ROUNDS = 5
_STORE = b"speech-memory-leases"


def ensure_ledger(policy: MemoryPolicy) -> Any:
    """The cluster's ledger, started if there is none; it has looked at this node's devices.

    A policy that says nothing leaves that of a running ledger as it is.

    Raises:
        MemoryUnknown: A device's total cannot be known.
    """
    head = next((n["NodeID"] for n in ray.nodes() if _is_head(n)), None)
    where = NodeAffinitySchedulingStrategy(head, soft=False) if head else "DEFAULT"
    actor = (
        ray.remote(MemoryLedger)
        .options(
            name=ACTOR,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=10_000,  # each replica has a call waiting for news
            num_cpus=0,
            scheduling_strategy=where,
        )
        .remote()
    )
    ray.get(actor.configure.remote(policy))
    return actor


def _is_head(node: dict[str, Any]) -> bool:
    return bool(node["Alive"]) and "node:__internal_head__" in node["Resources"]


class MemoryLedger:
    """See the module. All methods but the loops answer at once, on one event loop."""

    def __init__(self) -> None:
        """Take up the leases that were written down, if this is a restart."""
        self._node = ray.get_runtime_context().get_node_id()
        self._ledger = Ledger()
        self._policy = MemoryPolicy()
        self._configured = asyncio.Event()
        self._history = History.kept_in(Settings())
        self._plans: dict[Device, DevicePlan] = {}
        self._meters: dict[Device, Meter] = {}
        self._reports: dict[str, Report] = {}
        self._written: object = None
        self._heard: dict[str, int] = {}  # the last news that each replica has acted upon
        self._withholding = asyncio.Lock()
        self._number = 0
        self._changed = asyncio.Event()
        self._holds: tuple[str, ...] = ()
        self._metrics = Instruments(MEMORY)
        self._counted: dict[str, int] = {}
        self._observed: dict[tuple[str, Device], dict[str, str]] = {}
        self._counted_leases: set[tuple[Device, str]] = set()
        if (stored := _internal_kv_get(_STORE, namespace=NAMESPACE)) is not None:
            policy, leases, holds = pickle.loads(stored)
            for lease in leases:
                self._ledger.adopt(lease)
            for name in holds:  # whoever holds has five seconds to say so again
                self._ledger.hold(name)
            self._configure(policy)
        loop = asyncio.get_running_loop()
        self._loops = [loop.create_task(self._look_after(self._bury, _ROUND_S))]
        self._loops.append(loop.create_task(self._look_after(self._survey, _NODES_S)))

    async def configure(self, policy: MemoryPolicy) -> None:
        """Follow a policy; one that says nothing only makes sure that there is one."""
        if not self._configured.is_set() or policy not in (MemoryPolicy(), self._policy):
            self._configure(policy)
            self._write()
        async with self._withholding:
            plans = [plan for device, plan in self._plans.items() if device[0] == self._node]
            await asyncio.to_thread(withhold, self._node, plans)

    def _configure(self, policy: MemoryPolicy) -> None:
        self._policy = policy
        self._plan_node(self._node, devices(read()))
        self._configured.set()

    def _plan_node(self, node: str, found: tuple[DeviceMemory, ...]) -> None:
        """Budgets of a node's devices; the placeholder for what is not ours comes after."""
        sharing = share_out(pools_of(found), self._policy, ())
        for device, plan in zip(found, sharing.devices, strict=True):
            self._plans[node, device.key] = plan
            self._ledger.set_budget((node, device.key), plan.budget)
            if node == self._node:
                self._meters[node, device.key] = Meter(device)

    # --- replicas

    async def reserve(self, wanted: tuple[Lease, ...]) -> Refusal | Terms:
        """Lease what a replica wants, or say why not; see ``Ledger.reserve``."""
        available = {}
        for device, meter in self._meters.items():
            if not isinstance(free := meter.read(), Unknown):
                available[device] = free
        floors = self._policy.floors
        stay = {device: floors.soft(plan.pool.kind) for device, plan in self._plans.items()}
        refusal = self._ledger.reserve(wanted, available, stay)
        self._write()
        if refusal is not None:
            return refusal
        kinds = {lease.device[1]: self._plans[lease.device].pool.kind for lease in wanted}
        return Terms(
            {key: (floors.soft(kind), floors.hard(kind)) for key, kind in kinds.items()},
            floors.clear_s,
            self._turn(wanted[0].deployment) * _TURN_S,
        )

    async def measured(
        self, replica: str, device: Device, size: int | None, signature: str
    ) -> LeaseExceeded | None:
        """Note what a replica measured, None if it could not; the error says that it is too much.

        The figure is kept for the next plan, too much or not.
        """
        for lease in self._ledger.leases:
            if (lease.replica, lease.device) == (replica, device) and size is not None:
                claim = lease.claim
                figure = Measured.of(size, claim.context, claim.state, claim.host)
                self._history.note(signature, self._plans[device].pool.name, figure)
        try:
            self._ledger.measured(replica, device, size)
        except LeaseExceeded as error:
            return error
        finally:
            self._write()
        return None

    async def overran(self, replica: str, device: Device) -> LeaseExceeded:
        """A replica could not even load within its lease; returns what it is to raise."""
        return self._ledger.overran(replica, device)

    async def keep(self, leases: tuple[Lease, ...], report: Report, known: int) -> Word:
        """A replica's report; answers when there is news beyond number ``known``, or in 5 s.

        The leases come along so that a ledger that has lost them has them again.
        """
        for lease in leases:
            self._ledger.adopt(lease)
            if lease.device[1] in report.held:
                self._ledger.report(lease.replica, lease.device, report.held[lease.device[1]])
            if lease.state == "parked":
                self._ledger.parked_already(lease.replica)
        if leases:
            self._reports[leases[0].replica] = report
            self._heard[leases[0].replica] = known
        if known == self._number:
            try:
                async with asyncio.timeout(_WORD_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return Word(self._number, self._ledger.holds)

    async def park(self, replica: str) -> None:
        """A replica has given its memory back."""
        self._ledger.park(replica)
        self._write()

    # --- operators

    async def hold(self, name: str) -> bool:
        """Lease nothing for the next five seconds; True once nobody loads and all have heard."""
        self._ledger.hold(name)
        self._tell()
        self._write()
        return self._ledger.still and all(
            self._heard.get(lease.replica) == self._number for lease in self._ledger.leases
        )

    async def unhold(self, name: str) -> None:
        """Go on."""
        self._ledger.unhold(name)
        self._tell()
        self._write()

    async def dissolve(self) -> bool:
        """Forget everything and hold nothing back in Ray, unless somebody still has a lease."""
        for _ in range(_LAST_ROUNDS):  # the cluster may not know yet who has just ended
            await self._bury()
            if not self._ledger.owners:
                break
            await asyncio.sleep(_ROUND_S)
        else:
            return False
        for loop in self._loops:
            loop.cancel()
        give_back()
        _internal_kv_del(_STORE, namespace=NAMESPACE)
        return True

    async def snapshot(self) -> Snapshot:
        """The ledger as it stands."""
        return Snapshot(
            devices=tuple(self._state(device) for device in self._ledger.budgets),
            leases=self._ledger.leases,
            waiting=self._ledger.waiting,
            pressures={replica: r.pressure for replica, r in self._reports.items()},
            holds=self._ledger.holds,
            refusals={str(reason): n for reason, n in self._ledger.refusals.items()},
        )

    def _state(self, device: Device) -> DeviceState:
        plan = self._plans[device]
        available = self._known_available(device)
        return DeviceState(
            device,
            plan.pool.name,
            plan.pool.kind,
            plan.pool.total,
            available,
            plan.budget,
            tuple((share.name, share.bytes, share.overhead) for share in plan.neighbours),
            plan.host_reserve,
            plan.pool.huge_pages,
        )

    def _known_available(self, device: Device) -> int | None:
        """From our own meter on this node; elsewhere from what a replica there has reported."""
        if device in self._meters:
            free = self._meters[device].read()
            return None if isinstance(free, Unknown) else free
        for lease in self._ledger.leases:
            report = self._reports.get(lease.replica)
            if lease.device == device and report is not None:
                return report.available.get(device[1])
        return None

    def _turn(self, deployment: str) -> int:
        """How many turns pass before a deployment has to park; the least important has none."""
        priority = self._policy.priority
        name = deployment.rpartition(": ")[2]
        return len(priority) - 1 - priority.index(name) if name in priority else 0

    # --- loops

    async def _look_after(self, work: Any, every_s: float) -> None:
        while True:
            try:
                await work()
            except Exception:
                logger.exception("the memory ledger's round failed; it goes on")
            await asyncio.sleep(every_s)

    async def _bury(self) -> None:
        """Release the leases of replicas that are dead, and tell of holds that have lapsed."""
        dead = await asyncio.to_thread(_dead, self._ledger.owners)
        for replica in dead:
            self._ledger.release(replica)
            self._reports.pop(replica, None)
            self._heard.pop(replica, None)
        if dead:
            self._write()
        self._tell()
        self._observe()

    async def _survey(self) -> None:
        """Budgets and placeholders of nodes that have joined; leases of those that left end."""
        alive = {node["NodeID"] for node in await asyncio.to_thread(ray.nodes) if node["Alive"]}
        known = {device[0] for device in self._ledger.budgets}
        for node in known - alive:
            self._ledger.forget_node(node)
        await self._configured.wait()
        for node in alive - known:
            look = ray.remote(num_cpus=0)(lambda: devices(read()))
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            try:
                found = await look.options(scheduling_strategy=there).remote()
                self._plan_node(node, found)
                plans = [plan for device, plan in self._plans.items() if device[0] == node]
                async with self._withholding:
                    await asyncio.to_thread(withhold, node, plans)
            except MemoryUnknown as error:
                logger.error("nothing is leased on node %s: %s", node, error)

    def _tell(self) -> None:
        """Wake the replicas if it has changed who holds."""
        if self._ledger.holds != self._holds:
            self._holds = self._ledger.holds
            self._number += 1
            self._changed.set()
            self._changed = asyncio.Event()

    def _write(self) -> None:
        state = (self._policy, self._ledger.leases, self._ledger.holds)
        if state != self._written:
            _internal_kv_put(_STORE, pickle.dumps(state), overwrite=True, namespace=NAMESPACE)
            self._written = state

    def _observe_lease(self, tags: dict[str, str], claim: int, measured: int, peak: int) -> None:
        self._metrics.claimed.set(claim, tags=tags)
        self._metrics.measured.set(measured, tags=tags)
        self._metrics.peak.set(peak, tags=tags)

    def _observe(self) -> None:
        metrics, states = self._metrics, Counter[tuple[Device, str]]()
        for lease in self._ledger.leases:
            tags = _tags(lease.device, deployment=lease.deployment, replica=lease.replica)
            self._observe_lease(tags, lease.bytes, lease.measured or 0, lease.peak or 0)
            self._observed[lease.replica, lease.device] = tags
            states[lease.device, lease.state] += 1
        held = {(lease.replica, lease.device) for lease in self._ledger.leases}
        for gone in self._observed.keys() - held:  # or sums over replicas would count them on
            self._observe_lease(self._observed.pop(gone), 0, 0, 0)
        self._counted_leases |= states.keys()
        for device, state in self._counted_leases:
            metrics.leases.set(states[device, state], tags=_tags(device, state=state))
        for device, budget in self._ledger.budgets.items():
            tags, floors = _tags(device), self._policy.floors
            kind = self._plans[device].pool.kind
            metrics.budget.set(budget, tags=tags)
            metrics.floor.set(floors.soft(kind), tags={**tags, "floor": "soft"})
            metrics.floor.set(floors.hard(kind), tags={**tags, "floor": "hard"})
            if (available := self._known_available(device)) is not None:
                metrics.available.set(available, tags=tags)
        for reason, count in self._ledger.refusals.items():
            if news := count - self._counted.get(reason, 0):
                metrics.refusals.inc(news, tags={"reason": reason})
                self._counted[reason] = count


def _tags(device: Device, **others: str) -> dict[str, str]:
    return {"node": device[0], "device": device[1], **others}


def _dead(actors: dict[str, str]) -> list[str]:
    """Those replicas whose actors the cluster knows to be dead."""
    # Ray has no public way to ask this without its dashboard.
    from ray._private.state import state

    return [
        replica
        for replica, actor in actors.items()
        if state.actor_table(actor).get("State", "DEAD") == "DEAD"
    ]
