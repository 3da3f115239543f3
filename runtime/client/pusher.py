"""One push call for all sessions of this process that talk to the same replica.

Calls follow each other at 20 to 40 ms, one at a time, so their rate grows with
processes and not with streams. A block that comes after a pause goes at once, and
so does the end of an utterance.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from runtime.errors import ReplicaLost
from runtime.replica import Acknowledgement, Block

if TYPE_CHECKING:
    from runtime.client.calls import DeploymentCalls

_SHORTEST_TICK_S = 0.020
_LONGEST_TICK_S = 0.040
_SHARE = 4.0  # a tick lasts at least this many times as long as its call
_SMOOTHING = 0.2
_ANSWER_S = 10.0  # a replica answers a push at once, whatever its engine does
_MAX_CALL_BYTES = 2 << 20  # a handle call carries at most 4 MiB


class PushSource(Protocol):
    """A session with something to push."""

    def next_block(self, most: int) -> Block | None:
        """What to push next, of at most ``most`` bytes; None if there is nothing."""
        ...

    def acknowledged(self, block: Block, answer: Acknowledgement) -> None:
        """The replica has answered."""
        ...

    def push_failed(self, error: Exception) -> None:
        """The call that carried the block has failed."""
        ...


class Pusher:
    """Pushes to one replica; works while there is something to push, and idles without a task."""

    def __init__(self, calls: DeploymentCalls, replica: str) -> None:
        """Push to ``replica`` through ``calls``."""
        self._calls = calls
        self._replica = replica
        self._waiting: dict[PushSource, None] = {}
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._last_call = -_LONGEST_TICK_S
        self._call_s = 0.0  # mean duration of a call
        self.calls = 0

    def wake(self, source: PushSource, *, urgent: bool = False) -> None:
        """A session has something to push; ``urgent`` does not wait for the tick."""
        self._waiting[source] = None
        if urgent:
            self._urgent.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def forget(self, source: PushSource) -> None:
        """A session has left."""
        self._waiting.pop(source, None)

    @property
    def tick_s(self) -> float:
        """Seconds between two calls: longer where calls take long."""
        return min(max(_SHORTEST_TICK_S, _SHARE * self._call_s), _LONGEST_TICK_S)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._tick()
                await self._push()
        finally:
            self._urgent.clear()
            self._task = None

    async def _tick(self) -> None:
        pause = self._last_call + self.tick_s - time.monotonic()
        if pause > 0 and not self._urgent.is_set():
            try:
                async with asyncio.timeout(pause):
                    await self._urgent.wait()
            except TimeoutError:
                pass
        self._urgent.clear()

    async def _push(self) -> None:
        sources: list[PushSource] = []
        blocks: list[Block] = []
        size = 0
        while self._waiting and size < _MAX_CALL_BYTES - 1:
            source = next(iter(self._waiting))
            del self._waiting[source]
            block = source.next_block(_MAX_CALL_BYTES - size)
            if block is not None:
                sources.append(source)
                blocks.append(block)
                size += len(block.pcm)
        if not blocks:
            return
        self._last_call = started = time.monotonic()
        self.calls += 1
        try:
            async with asyncio.timeout(_ANSWER_S):
                answers = await self._calls.call("push", tuple(blocks), replica=self._replica)
        except TimeoutError:
            hangs = ReplicaLost(f"The replica did not answer a push within {_ANSWER_S:g} s.")
            for source in sources:
                source.push_failed(hangs)
            return
        except Exception as error:
            for source in sources:
                source.push_failed(error)
            return
        self._call_s += _SMOOTHING * (time.monotonic() - started - self._call_s)
        for source, block, answer in zip(sources, blocks, answers, strict=True):
            source.acknowledged(block, answer)
