"""Floors: a neighbour takes what nobody planned for, and gives it back.

Below the soft floor new sessions are refused while one that runs goes on. Below the hard
floor the least important engine parks: what its process held is free, and the process stays.
Once the floors are clear it is loaded again. Nobody takes anything from the neighbour.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from runtime.bench.glutton import Glutton
from runtime.bench.leases import on_device, serving
from runtime.bench.private import place, private_daemon
from runtime.client import SpeechClient
from runtime.config import ASR_DEPLOYMENT, BUILDER
from runtime.errors import Overloaded, SpeechError
from runtime.memory.device import DeviceMemory, Unknown, devices, process_bytes, read
from runtime.memory.footprint import GIB
from runtime.memory.ledger import Lease
from runtime.memory.meter import Meter
from runtime.settings import Settings

T = TypeVar("T")

LAST = ASR_DEPLOYMENT
"""The deployment that parks first: the least important by default."""

_TEXT = "Ballast goes on and on. " * 100  # more than two minutes
_REPLICAS = 2
_LOOK_S = 0.05  # refusals are work for the replicas, too
_METER_S = 0.01  # how well it is known when a floor was passed
_PATIENCE_S = 30.0  # for each change, beyond the time that floors have to be clear


@dataclass(frozen=True, slots=True)
class Levels:
    """Floors in bytes, and how many bytes below each of them the neighbour goes.

    What the first engine frees when it parks has to be more than ``hard_by``, or the next one
    parks too, and less than ``hard_by + soft - hard``, or it comes back at once. Caches that
    engines give back below the soft floor are nobody's concern: sizes are taken anew.
    """

    soft: int
    hard: int
    clear_s: float
    soft_by: int
    hard_by: int

    def policy(self) -> dict[str, Any]:
        """The floors as a configuration has them."""
        sizes = {"soft_gib": round(self.soft / GIB, 3), "hard_gib": round(self.hard / GIB, 3)}
        return {**sizes, "clear_s": self.clear_s}


GPU = Levels(8 * GIB, 4 * GIB, 5.0, GIB, GIB // 2)
"""For ``document()``, whose recognition holds 2.9 GiB beside its context."""


def document() -> dict[str, Any]:
    """Ears and a mouth of full size, nobody planned beside them."""
    like = {"like": "parakeet-streaming", "slots": 64}
    ears = {"engine": "runtime.bench.ballast:BallastRecognizer", "options": like}
    mouth = {
        "engine": "runtime.bench.ballast:BallastSynthesizer",
        "options": {"like": "magpie", "slots": 16},
    }
    application = {
        "name": "speech",
        "route_prefix": None,
        "import_path": BUILDER,
        "args": {"memory": {"floors": GPU.policy()}, "asr": {"live": ears}, "tts": mouth},
    }
    return {"proxy_location": "Disabled", "applications": [application]}


def run(key: str, show: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """The row of a GPU such as ``cuda:0``, with a daemon of its own."""
    with private_daemon(document()) as settings:
        row = under(settings, key, GPU)
    show(row)
    return [row]


def under(settings: Settings, key: str, levels: Levels, text: str = _TEXT) -> dict[str, Any]:
    """``scenario`` under a daemon, in a process of its own: one is a driver of one cluster.

    Raises:
        SpeechError: It failed; the message is the last that it said.
    """
    asked = json.dumps({"key": key, "levels": asdict(levels), "text": text})
    done = subprocess.run(
        [sys.executable, "-m", "runtime.bench.floors"],
        input=asked,
        env=os.environ | place(settings),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SpeechError((done.stderr.strip().splitlines() or ["It ended without a word."])[-1])
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


async def scenario(
    client: SpeechClient, key: str, levels: Levels, text: str = _TEXT
) -> dict[str, Any]:
    """Pass both floors of a device and leave them again, under a daemon that has them.

    Seconds count from when the floor was passed, or the memory given back.

    Args:
        client: Of the daemon; nobody else speaks or listens.
        key: The device: a GPU such as ``cuda:0``, or ``host``.
        levels: The daemon's floors.
        text: Takes a minute to say, and more.

    Raises:
        SpeechError: Something did not happen in time.
    """
    leases = await serving(_REPLICAS, key)
    (last,) = (lease for lease in leases if lease.deployment == LAST)
    neighbour = Glutton("host" if key == "host" else "cuda")
    try:
        await neighbour.start()
        with Meter(_device(key)) as meter:
            return await _Passage(client, key, levels, neighbour, meter, last).run(text)
    finally:
        await neighbour.stop()


class _Passage:
    """One way down through the floors and up again."""

    def __init__(
        self,
        client: SpeechClient,
        key: str,
        levels: Levels,
        neighbour: Glutton,
        meter: Meter,
        last: Lease,
    ) -> None:
        self._client = client
        self._key = key
        self._levels = levels
        self._neighbour = neighbour
        self._meter = meter
        self._last = last

    async def run(self, text: str) -> dict[str, Any]:
        levels = self._levels
        held = self._held()
        async with self._talking(text) as goes_on:
            async with self._passing(levels.soft, levels.soft_by) as passed:
                refusals = await asyncio.gather(
                    self._refused(self._speak), self._refused(self._listen)
                )
                refused_s = time.monotonic() - passed
            await goes_on()
            async with self._passing(levels.hard, levels.hard_by) as passed:
                parked = await self._until(self._parked, "An engine did not park")
                parked_s = time.monotonic() - passed
            left = self._held()
            serving = [x for x in await on_device(self._key) if x.state == "serving"]
            await goes_on()
            most, intact = self._neighbour.held, await self._neighbour.intact()
            await self._neighbour.hold(0)
        free = time.monotonic()
        within_s = levels.clear_s + _PATIENCE_S
        await self._until(self._listens, f"{LAST} did not come back", within_s)
        back_s = time.monotonic() - free
        back = await self._lease()
        return {
            "scenario": f"floors of {self._key}",
            "neighbour": f"took {most / GIB:.1f} GiB and never failed",
            "intact": intact,
            "serving": len(serving),
            "refused_s": round(refused_s, 2),
            "retry_after_s": min(refusal.retry_after_s for refusal in refusals),
            "running": "went on",
            "parked": parked.deployment,
            "parked_s": round(parked_s, 2),
            "given_back_gib": None
            if held is None or left is None
            else round((held - left) / GIB, 2),
            "back_s": round(back_s, 2),
            "clear_s": levels.clear_s,
            "same_processes": back.pid == parked.pid == self._last.pid,
        }

    # --- the neighbour

    @asynccontextmanager
    async def _passing(self, floor: int, by: int) -> AsyncIterator[float]:
        """The neighbour takes until so much less than a floor is available.

        What is given back meanwhile it leaves. Yields when the floor was passed.
        """
        size = self._neighbour.held + self._available() - (floor - by)
        taking = asyncio.create_task(self._neighbour.hold(size))

        async def passed() -> float | None:
            if taking.done():
                taking.result()
            return time.monotonic() if self._available() < floor else None

        try:
            complaint = "Others gave back what was taken: no floor was passed"
            yield await self._until(passed, complaint, every_s=_METER_S)
            await taking
        finally:
            taking.cancel()

    def _available(self) -> int:
        available = self._meter.read()
        if isinstance(available, Unknown):
            raise SpeechError(f"What {self._key} has available is {available}")
        return available

    # --- callers

    @asynccontextmanager
    async def _talking(self, text: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """A caller listens to an utterance; yields what waits until more of it has come."""
        came = asyncio.Event()

        async def listen() -> None:
            async with self._client.synthesize(text) as stream:
                async for _ in stream:
                    came.set()
            raise SpeechError("The utterance was over too soon; take a longer text.")

        async def goes_on() -> None:
            came.clear()
            more = asyncio.create_task(came.wait())
            try:
                await asyncio.wait(
                    {more, listening}, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                more.cancel()
            if listening.done():
                listening.result()
            if not came.is_set():
                raise SpeechError("The utterance that ran did not go on.")

        listening = asyncio.create_task(listen())
        try:
            await goes_on()
            yield goes_on
        finally:
            listening.cancel()
            await asyncio.wait({listening})

    async def _refused(self, begin: Callable[[], Awaitable[None]]) -> Overloaded:
        """The refusal, once new sessions of a kind are refused."""

        async def refusal() -> Overloaded | None:
            try:
                await begin()
            except Overloaded as error:
                return error
            return None

        return await self._until(refusal, "New sessions were not refused")

    async def _speak(self) -> None:
        async with self._client.synthesize("Hello.") as stream:
            await anext(stream)

    async def _listen(self) -> None:
        async with self._client.open_recognition():
            pass

    async def _listens(self) -> bool | None:
        with contextlib.suppress(Overloaded):
            await self._listen()
            return True
        return None

    # --- the engine that parks

    async def _parked(self) -> Lease | None:
        lease = await self._lease()
        return lease if lease.state == "parked" else None

    async def _lease(self) -> Lease:
        leases = await on_device(self._key)
        return next(lease for lease in leases if lease.replica == self._last.replica)

    def _held(self) -> int | None:
        """What the process of the last engine holds of the device, by the driver's account."""
        held = process_bytes(_device(self._key), self._last.pid)
        return None if isinstance(held, Unknown) else held

    async def _until(
        self,
        look: Callable[[], Awaitable[T | None]],
        complaint: str,
        within_s: float = _PATIENCE_S,
        every_s: float = _LOOK_S,
    ) -> T:
        """What ``look`` finds, once it finds something."""
        deadline = time.monotonic() + within_s
        while (found := await look()) is None:
            if time.monotonic() > deadline:
                raise SpeechError(f"{complaint} within {within_s:g} s.")
            await asyncio.sleep(every_s)
        return found


def _device(key: str) -> DeviceMemory:
    return next(device for device in devices(read()) if device.key == key)


async def _connected(asked: dict[str, Any]) -> dict[str, Any]:
    client = await SpeechClient.connect()
    try:
        return await scenario(client, asked["key"], Levels(**asked["levels"]), asked["text"])
    finally:
        await client.aclose()


def main() -> None:
    """Answer what standard input asks for with a row."""
    try:
        row = asyncio.run(_connected(json.load(sys.stdin)))
    except SpeechError as error:
        sys.exit(" ".join(str(error).split()))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
