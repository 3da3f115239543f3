"""Calls to a cluster of scripted engines, and what its replicas tell of themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from runtime.client import RecognitionSession, SpeechClient

RATE = 8_000
BLOCK = b"\0\0" * 640  # 80 ms
ENDLESS = "This goes on forever. "


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> bool:
    """Whether something becomes true in time; asks the daemon again and again."""
    deadline = time.monotonic() + within_s
    while not (found := await check()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)  # asking is work for the replicas, too
    return found


async def replicas(client: SpeechClient, deployment: str, count: int) -> None:
    """Return once a deployment has ``count`` replicas."""

    async def there() -> bool:
        return len(await client.replicas(deployment)) == count

    assert await eventually(there, within_s=40)


async def opened(client: SpeechClient, count: int) -> list[RecognitionSession]:
    """Sessions that have begun."""
    sessions = [client.open_recognition(sample_rate=RATE, endpoint_ms=None) for _ in range(count)]
    for session in sessions:
        await session.__aenter__()
    return sessions
