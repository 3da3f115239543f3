"""A daemon's replicas as a benchmark waits for them: there, gone, and with all slots free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from runtime.client import SpeechClient

_READY_S = 90.0  # for replicas to be started
_LOOK_S = 0.25  # if nothing is heard of them
_SETTLE_S = 5.0  # for slots to become free


async def replicas_are(client: SpeechClient, deployment: str, count: int) -> None:
    """Return once a deployment has so many replicas that answer, and takes calls on no other.

    Raises:
        TimeoutError: It had not within a minute and a half.
    """
    async with changes(client, deployment) as changed:
        while (
            len(await client.replicas(deployment)) != count
            or len(client.known_replicas(deployment).serving) != count
        ):
            await changed()


@asynccontextmanager
async def changes(
    client: SpeechClient, deployment: str
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Yields what waits for replicas to come or go, or for a moment; for a time in all."""
    news = asyncio.Event()
    end = client.known_replicas(deployment).subscribe(news.set)

    async def changed() -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await news.wait()
        except TimeoutError:
            return
        news.clear()

    try:
        async with asyncio.timeout(_READY_S):
            yield changed
    finally:
        end()


async def slots_left(client: SpeechClient, deployments: Sequence[str]) -> int:
    """Slots that are still taken after a while, though nobody calls."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        infos = [info for name in deployments for info in await client.replicas(name)]
        taken = sum(engine.active for info in infos for engine in info.engines)
        if not taken or time.monotonic() > deadline:
            return taken
        await asyncio.sleep(0.05)
