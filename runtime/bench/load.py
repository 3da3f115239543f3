"""Driving many streams at once, and watching what the replicas hold meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from runtime.memory.process import resident_bytes


async def closed_loop(streams: int, jobs: Sequence[Callable[[], Awaitable[None]]]) -> float:
    """Run jobs on ``streams`` workers, each starting its next when its last is done.

    Returns:
        Wall seconds from the first start to the last end.
    """
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            await job()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(worker())
    return time.perf_counter() - started


async def poisson_arrivals(
    rate: float, jobs: Sequence[Callable[[], Awaitable[None]]], seed: int = 0
) -> float:
    """Start jobs at exponentially distributed intervals, ``rate`` a second on average.

    Returns:
        Wall seconds from the first start to the last end.
    """
    intervals = random.Random(seed)
    started = time.perf_counter()
    due = started
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(_run(job))
            due += intervals.expovariate(rate)
    return time.perf_counter() - started


async def _run(job: Callable[[], Awaitable[None]]) -> None:
    await job()


def processor_ticks() -> tuple[int, int]:
    """Processor time of this host so far: in all, and stolen by others on the same hardware.

    Both are 0 where the system does not tell.
    """
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    except OSError:
        return 0, 0
    return sum(map(int, fields)), int(fields[7])


@asynccontextmanager
async def peak_memory(pids: Sequence[int], interval_s: float = 0.5) -> AsyncIterator[list[int]]:
    """Sample what processes of this host hold together; yields a list whose one item is the peak.

    The item is missing where the processes cannot be read (another host, another user).
    """
    peak: list[int] = []

    def sample() -> None:
        sizes = [resident_bytes(pid) for pid in pids]
        known = [size for size in sizes if size is not None]
        if len(known) == len(sizes) and known:
            peak[:] = [max([*peak, sum(known)])]

    async def watch() -> None:
        while True:
            await asyncio.to_thread(sample)
            await asyncio.sleep(interval_s)

    watching = asyncio.create_task(watch())
    try:
        yield peak
    finally:
        watching.cancel()
        sample()
