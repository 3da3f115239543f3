"""One call for all sessions on a replica: how often, how large, and what becomes of failures.

Time passes only where the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualTime, run_virtually

from runtime.client.pusher import Pusher
from runtime.errors import ReplicaLost
from runtime.replica import Acknowledgement, Block

if TYPE_CHECKING:
    from runtime.client.calls import DeploymentCalls  # imports Ray

MIB = 1 << 20


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


# --- who shares a call -------------------------------------------------------


def test_sources_woken_together_share_one_call() -> None:
    async def script(f: Fixture) -> None:
        sources = f.sources(50)
        for source in sources:
            source.add(640)
            source.pusher.wake(source)  # again: still one block
        await f.idle()
        (call,) = f.calls.made
        assert call.replica == "a"
        assert call.sessions == [source.name for source in sources]
        assert f.pusher.calls == 1
        for source, block in zip(sources, call.blocks, strict=True):
            assert source.answers == [(block, Acknowledgement(320))]

    play(script)


def test_who_wakes_it_while_a_call_is_under_way_goes_with_the_next() -> None:
    async def script(f: Fixture) -> None:
        first, *others = f.sources(3)
        first.add(2, 4)
        await asyncio.sleep(0)
        for source in others:
            source.add(2)
        await f.idle()
        assert [call.sessions for call in f.calls.made] == [["0"], ["1", "2", "0"]]

    play(script)


def test_who_has_left_or_has_no_block_is_left_out() -> None:
    async def script(f: Fixture) -> None:
        gone, silent, here = f.sources(3)
        gone.add(2)
        silent.add()
        here.add(2)
        f.pusher.forget(gone)
        f.pusher.forget(gone)  # harmless
        await f.idle()
        assert [call.sessions for call in f.calls.made] == [["2"]]
        assert silent.answers == []

    play(script)


def test_with_nothing_to_push_there_is_no_call_and_no_task() -> None:
    async def script(f: Fixture) -> None:
        (source,) = f.sources(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        source.add()
        await f.idle()
        source.add(2)
        f.pusher.forget(source)
        await f.idle()
        assert f.calls.made == []

    play(script)


# --- how often ---------------------------------------------------------------


def test_after_a_pause_a_block_goes_at_once() -> None:
    async def script(f: Fixture) -> None:
        (source,) = f.sources(1)
        await f.pushed(source)
        await asyncio.sleep(1.0)
        await f.pushed(source)
        assert f.calls.intervals == [pytest.approx(1.001)]

    play(script)


def test_calls_follow_each_other_no_faster_than_the_tick() -> None:
    async def script(f: Fixture) -> None:
        sources = f.sources(3)
        for source in sources:
            source.add(*[640] * 20)
        await f.idle()
        assert f.calls.intervals == pytest.approx([0.020] * 19)
        assert all(call.sessions == ["0", "1", "2"] for call in f.calls.made)

    play(script)


def test_what_is_urgent_does_not_wait_for_the_tick() -> None:
    async def script(f: Fixture) -> None:
        source, other = f.sources(2)
        await f.pushed(source)
        await f.pushed(source, urgent=True)
        other.add(2)  # waits for the tick, with a call that goes earlier
        asyncio.get_running_loop().call_later(0.005, lambda: source.add(2, urgent=True))
        await f.idle()
        assert f.calls.intervals == pytest.approx([0.001, 0.006])
        assert f.calls.made[-1].sessions == ["1", "0"]
        await f.pushed(source)
        assert f.calls.intervals[-1] == pytest.approx(0.020), "it was urgent once"

    play(script)


def test_an_urgent_source_that_leaves_takes_its_urgency_along() -> None:
    async def script(f: Fixture) -> None:
        source, other = f.sources(2)
        await f.pushed(source)
        other.add(2, urgent=True)
        f.pusher.forget(other)
        await f.idle()
        await f.pushed(source)
        assert f.calls.intervals == pytest.approx([0.020])

    play(script)


def test_what_is_urgent_waits_for_the_call_under_way() -> None:
    async def script(f: Fixture) -> None:
        source, other = f.sources(2)
        f.calls.takes_s = 0.008
        other.add(2)
        asyncio.get_running_loop().call_later(0.002, lambda: source.add(2, urgent=True))
        await f.idle()
        assert f.calls.intervals == pytest.approx([0.008])

    play(script)


@pytest.mark.parametrize(
    ("takes_s", "tick_s"), [(0.0, 0.020), (0.004, 0.020), (0.0075, 0.030), (0.2, 0.040)]
)
def test_the_tick_is_four_calls_long_within_its_bounds(takes_s: float, tick_s: float) -> None:
    async def script(f: Fixture) -> None:
        (source,) = f.sources(1)
        f.calls.takes_s = takes_s
        ticks = []
        for _ in range(40):
            ticks.append(f.pusher.tick_s)
            await f.pushed(source)
        assert ticks == sorted(ticks), "it grows as calls turn out to be slow"
        assert ticks[0] == 0.020
        assert f.pusher.tick_s == pytest.approx(tick_s, rel=0.01)
        assert f.calls.intervals[-1] == pytest.approx(max(tick_s, takes_s), rel=0.01)

    play(script)


# --- how large ---------------------------------------------------------------


def test_more_than_two_mebibytes_take_several_calls() -> None:
    async def script(f: Fixture) -> None:
        sources = f.sources(7)
        for source in sources:
            source.add(MIB)
        await f.idle()
        assert [call.sessions for call in f.calls.made] == [
            ["0", "1"],
            ["2", "3"],
            ["4", "5"],
            ["6"],
        ]
        assert f.calls.intervals == pytest.approx([0.020] * 3)
        assert [len(source.answers) for source in sources] == [1] * 7

    play(script)


def test_what_no_longer_fits_into_a_call_goes_with_the_next() -> None:
    async def script(f: Fixture) -> None:
        for source in f.sources(3):
            source.add(3 * MIB // 2)
        await f.idle()
        assert [call.sizes for call in f.calls.made] == [
            [3 * MIB // 2, MIB // 2],
            [3 * MIB // 2, MIB // 2],
            [MIB // 2],
        ]
        assert [call.sessions for call in f.calls.made] == [["0", "1"], ["2", "1"], ["1"]]

    play(script)


def test_a_source_with_much_to_push_does_not_keep_others_waiting() -> None:
    async def script(f: Fixture) -> None:
        greedy, modest = f.sources(2)
        greedy.add(*[2 * MIB] * 2)
        modest.add(2, 2)
        await f.idle()
        assert [call.sessions for call in f.calls.made] == [["0"], ["1", "0"], ["1", "0"]]

    play(script)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3 * MIB // 2), max_size=4), max_size=6))
def test_all_audio_is_pushed_once_in_calls_of_two_mebibytes(sizes: list[list[int]]) -> None:
    async def script(f: Fixture) -> None:
        sources = f.sources(len(sizes))
        for source, halves in zip(sources, sizes, strict=True):
            source.add(*(2 * half for half in halves))
        await f.idle()
        for source, halves in zip(sources, sizes, strict=True):
            assert sum(len(block.pcm) for block, _ in source.answers) == 2 * sum(halves)
        assert all(sum(call.sizes) <= 2 * MIB for call in f.calls.made)
        assert all(interval >= 0.0199 for interval in f.calls.intervals)

    play(script)


# --- failures ----------------------------------------------------------------


@pytest.mark.parametrize("failure", [ReplicaLost("The replica went away."), ValueError("what?")])
def test_every_source_hears_of_a_call_that_failed_however_it_failed(failure: Exception) -> None:
    async def script(f: Fixture) -> None:
        sources = f.sources(3)
        f.calls.failure = failure
        for source in sources:
            source.add(2)
        await f.idle()
        assert [source.errors for source in sources] == [[failure]] * 3
        assert [source.answers for source in sources] == [[]] * 3

    play(script)


def test_a_replica_that_does_not_answer_in_ten_seconds_is_lost() -> None:
    async def script(f: Fixture) -> None:
        source, late = f.sources(2)
        f.calls.takes_s = 60.0
        source.add(2)
        await asyncio.sleep(0)
        late.add(2)
        await asyncio.sleep(9.9)
        assert source.errors == []
        f.calls.takes_s = 0.001
        await f.idle()
        assert [type(error) for error in source.errors] == [ReplicaLost]
        assert f.calls.intervals == [pytest.approx(10.0)]
        assert (len(late.errors), len(late.answers)) == (0, 1)

    play(script)


def test_after_a_failed_call_the_next_is_made_as_if_nothing_had_happened() -> None:
    async def script(f: Fixture) -> None:
        source, late = f.sources(2)
        f.calls.failure = ReplicaLost("The replica went away.")
        source.add(2)
        await asyncio.sleep(0)
        late.add(2)  # is not in the call that fails
        await asyncio.sleep(0.002)
        f.calls.failure = None
        await f.idle()
        await f.pushed(source)
        assert [call.sessions for call in f.calls.made] == [["0"], ["1"], ["0"]]
        assert f.calls.intervals == pytest.approx([0.020] * 2)
        assert (len(source.errors), len(source.answers)) == (1, 1)
        assert (len(late.errors), len(late.answers)) == (0, 1)

    play(script)
