"""Callers barge in: how soon they are answered, and whether anything of them stays behind."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

import numpy as np

from runtime.bench.outcome import Outcome
from runtime.client import SpeechClient
from runtime.config import TTS_DEPLOYMENT
from runtime.replica import Census

_ONE_BY_ONE = 100
_CHUNKS = 4  # fewer than these are heard before a caller barges in
_BEFORE_ANY = 0.3  # of the callers also leave before there is an answer at all
_EARLY_S = 0.01  # within which they do
_LOOKS = 5
_LOOK_S = 0.05
_SETTLE_S = 5.0  # until what a caller left is gone


async def one_by_one(client: SpeechClient, text: str) -> Outcome:
    """A caller who interrupts a hundred answers and gets another to each."""
    moments = random.Random(0)
    outcome = Outcome()
    waits = []
    for _ in range(_ONE_BY_ONE):
        stream = client.synthesize(text)
        await anext(stream)
        await asyncio.sleep(moments.random() * 0.1)
        outcome.streams[stream.id] = time.time()
        began = time.monotonic()
        await stream.aclose()
        async with client.synthesize("Yes?") as answer:
            await anext(answer)
        waits.append((time.monotonic() - began) * 1e3)
    outcome.recovery_ms = float(np.median(waits))
    return outcome


@dataclass(slots=True)
class Leaks:
    """What is left of many barge-ins.

    Attributes:
        tasks: Tasks more than before, in the replicas and in this process.
        generators: Async generators more than before, in the replicas.
        growth: By which part of itself a replica's resident memory grew, at the most; None
            if it is not known.
        waits_ms: From a barge-in to the first audio of the same caller's next answer.
        streams: Those that were aborted once they had begun, and when (Unix time).
    """

    tasks: int = 0
    generators: int = 0
    growth: float | None = None
    waits_ms: list[float] = field(default_factory=list)
    streams: dict[str, float] = field(default_factory=dict)


async def thousand(
    client: SpeechClient, text: str, count: int = 1_000, warm_up: int = 300, callers: int = 16
) -> Outcome:
    """The row of ``leaks_of``."""
    leaks = await leaks_of(client, text, count, warm_up, callers)
    return Outcome(
        recovery_ms=float(np.median(leaks.waits_ms)),
        streams=leaks.streams,
        more={
            "barge_ins": count,
            "leaked_tasks": leaks.tasks,
            "leaked_generators": leaks.generators,
            "memory_growth": None if leaks.growth is None else round(leaks.growth, 4),
        },
    )


async def leaks_of(
    client: SpeechClient, text: str, count: int = 1_000, warm_up: int = 300, callers: int = 16
) -> Leaks:
    """What so many barge-ins at random moments leave behind.

    Args:
        client: Nobody else may use the daemon meanwhile.
        text: What is said each time; longer than anybody listens.
        count: Barge-ins.
        warm_up: Barge-ins before these, until caches and pools have their size.
        callers: Who barge in at the same time.
    """
    crowd = _Crowd(client, text)
    await crowd.barge_in(warm_up, callers)
    before, tasks = await _least(client), len(asyncio.all_tasks())
    leaks = crowd.leaks = Leaks()
    await crowd.barge_in(count, callers)
    deadline = time.monotonic() + _SETTLE_S
    while True:
        after = await client.census(TTS_DEPLOYMENT)
        pairs = list(zip(before, after, strict=True))
        here = max(0, len(asyncio.all_tasks()) - tasks)
        leaks.tasks = here + sum(max(0, late.tasks - early.tasks) for early, late in pairs)
        leaks.generators = sum(max(0, late.generators - early.generators) for early, late in pairs)
        leaks.growth = _growth(before, after)
        if not (leaks.tasks or leaks.generators) or time.monotonic() > deadline:
            return leaks
        await asyncio.sleep(_LOOK_S)


class _Crowd:
    """Callers who take turns at random moments, always the same ones."""

    def __init__(self, client: SpeechClient, text: str) -> None:
        self._client = client
        self._text = text
        self._moments = random.Random(0)
        self.leaks = Leaks()

    async def barge_in(self, count: int, callers: int) -> None:
        waiting = iter(range(count))

        async def caller() -> None:
            left: float | None = None
            for _ in waiting:
                left = await self._interrupt(left)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())

    async def _interrupt(self, left: float | None) -> float | None:
        """Barge in.

        ``left`` is when this caller did so before, if this answer is the next one; the same of
        this barge-in is returned.
        """
        stream = self._client.synthesize(self._text)
        heard = self._moments.randrange(_CHUNKS)
        for number in range(heard):
            await anext(stream)
            if number == 0 and left is not None:
                self.leaks.waits_ms.append((time.monotonic() - left) * 1e3)
        if heard:
            self.leaks.streams[stream.id] = time.time()
        left = time.monotonic()
        await stream.aclose()
        if self._moments.random() >= _BEFORE_ANY:
            return left
        starting = asyncio.ensure_future(anext(self._client.synthesize(self._text)))
        await asyncio.sleep(self._moments.random() * _EARLY_S)
        starting.cancel()
        await asyncio.wait({starting})
        return None


async def _least(client: SpeechClient) -> list[Census]:
    """Of several looks at each replica the least of tasks and generators, once nobody calls."""
    deadline = time.monotonic() + _SETTLE_S
    looks: list[tuple[Census, ...]] = []
    while len(looks) < _LOOKS:
        census = await client.census(TTS_DEPLOYMENT)
        if not any(one.streams for one in census) or time.monotonic() > deadline:
            looks.append(census)
        await asyncio.sleep(_LOOK_S)
    return [
        Census(
            streams=0,
            tasks=min(one.tasks for one in replica),
            generators=min(one.generators for one in replica),
            resident_bytes=replica[-1].resident_bytes,
        )
        for replica in zip(*looks, strict=True)
    ]


def _growth(before: list[Census], after: tuple[Census, ...]) -> float | None:
    growth = []
    for early, late in zip(before, after, strict=True):
        if not early.resident_bytes or late.resident_bytes is None:
            return None
        growth.append(late.resident_bytes / early.resident_bytes - 1)
    return max(growth, default=None)
