"""A pusher without Ray: calls that take so long and may fail, and sessions that have audio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from virtual_time import VirtualTime, run_virtually

from runtime.client.pusher import Pusher
from runtime.replica import Acknowledgement, Block

if TYPE_CHECKING:
    from runtime.client.calls import DeploymentCalls  # imports Ray


@dataclass
class Call:
    """A push call that was made, and when."""

    at: float
    replica: str
    blocks: tuple[Block, ...]

    @property
    def sessions(self) -> list[str]:
        return [block.session for block in self.blocks]

    @property
    def sizes(self) -> list[int]:
        """Bytes of audio of each block."""
        return [len(block.pcm) for block in self.blocks]


class Calls:
    """Stands for ``DeploymentCalls``: takes so long, and may fail."""

    def __init__(self, time: VirtualTime) -> None:
        self.made: list[Call] = []
        self.takes_s = 0.001
        self.failure: Exception | None = None
        self._time = time
        self._running = False

    async def call(
        self, method: str, blocks: tuple[Block, ...], *, replica: str
    ) -> tuple[Acknowledgement, ...]:
        assert method == "push"
        assert not self._running, "one call at a time"
        self._running = True
        self.made.append(Call(self._time.now, replica, blocks))
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self._running = False
        if self.failure is not None:
            raise self.failure
        return tuple(Acknowledgement(block.next_sample) for block in blocks)

    @property
    def intervals(self) -> list[float]:
        """Seconds from each call to the next."""
        return [later.at - earlier.at for earlier, later in pairwise(self.made)]


@dataclass(eq=False)
class Source:
    """A session with audio to push; wakes the pusher again while it has more."""

    pusher: Pusher
    name: str
    audio: deque[bytes] = field(default_factory=deque)
    answers: list[tuple[Block, Acknowledgement]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def add(self, *sizes: int, urgent: bool = False) -> None:
        """Have stretches of so many bytes to push, none of which shares a block with another."""
        self.audio += [bytes(size) for size in sizes]
        self.pusher.wake(self, urgent=urgent)

    def next_block(self, most: int) -> Block | None:
        if not self.audio:
            return None
        pcm, rest = self.audio[0][: most // 2 * 2], self.audio[0][most // 2 * 2 :]
        self.audio.popleft()
        if rest:
            self.audio.appendleft(rest)
        return Block(self.name, 0, pcm)

    def acknowledged(self, block: Block, answer: Acknowledgement) -> None:
        self.answers.append((block, answer))
        if self.audio:
            self.pusher.wake(self)

    def push_failed(self, error: Exception) -> None:
        self.errors.append(error)


class Fixture:
    """A pusher to replica ``a``."""

    def __init__(self, time: VirtualTime) -> None:
        self.calls = Calls(time)
        self.pusher = Pusher(cast("DeploymentCalls", self.calls), "a")

    def sources(self, count: int) -> list[Source]:
        return [Source(self.pusher, str(index)) for index in range(count)]

    async def idle(self) -> None:
        """Return once no task is left but this one."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert len(others) <= 1
        await asyncio.gather(*others)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def pushed(self, source: Source, *, urgent: bool = False) -> None:
        """Push one block, from the beginning to the end."""
        source.add(2, urgent=urgent)
        await self.idle()


def play(script: Callable[[Fixture], Coroutine[Any, Any, None]]) -> None:
    async def main(time: VirtualTime) -> None:
        await script(Fixture(time))

    run_virtually(main, "runtime.client.pusher")
