"""One call for all sessions on a replica: who shares it, how large it is, and its failures.

Time passes only where the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio

import pytest
from fake_push import Fixture, play
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ReplicaLost
from runtime.replica import Acknowledgement

MIB = 1 << 20

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
