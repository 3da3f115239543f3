"""Replicas come and go while sessions run: who moves, when, and that others stay.

Replicas are real sessions over scripted engines, in this process; time passes only where
the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio

import pytest
from fake_asr import CALL_S, Fixture, Reader, pcm, play
from scripted_engines import RATE

SECOND = RATE  # samples

# --- from a replica that stops -----------------------------------------------


def test_a_session_between_two_utterances_moves_at_once() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 2 * SECOND))
            await session.finalize()
            f.asr.serve("b")
            await asyncio.sleep(CALL_S)
            assert (session.replica, session.moves) == ("b", 1)
            assert f.asr["a"].slots_taken == 0
            assert f.asr["b"].blocks == []

    play(script)


@pytest.mark.parametrize("after_s", [0.5, 4.9])
def test_a_session_within_an_utterance_moves_at_its_end(after_s: float) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 2 * SECOND))
            await session.flush()
            f.asr.serve("b")
            await asyncio.sleep(after_s)
            assert session.replica == "a"
            await session.push(pcm(2 * SECOND, 500))
            assert (await session.finalize()).text == f"{2 * SECOND + 500} samples"
            await asyncio.sleep(CALL_S)
            assert (session.replica, session.moves) == ("b", 1)
            assert f.asr["b"].heard == b""
            await asyncio.sleep(10.0)
            assert session.moves == 1

    play(script)


def test_a_session_whose_utterance_goes_on_moves_after_five_seconds() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            reader = Reader(session)
            await session.push(pcm(0, 2 * SECOND))
            await session.flush()
            f.asr.serve("b")
            await asyncio.sleep(4.99)
            assert session.replica == "a"
            await asyncio.sleep(0.02)
            assert session.replica == "b"
            await session.push(pcm(2 * SECOND, 2 * SECOND))
            assert (await session.finalize()).text == f"{4 * SECOND} samples"
            assert f.asr["b"].heard == pcm(0, 4 * SECOND)
            assert session.moves == 1
            await session.finish()
            await reader.done
            ends = [partial.end_s for partial in reader.partials]
            assert ends == sorted(ends)

    play(script)


def test_a_final_that_is_owed_is_waited_for() -> None:
    async def script(f: Fixture) -> None:
        async with f.session(partials=False) as session:
            f.asr["a"].telling.clear()
            await session.push(pcm(0, SECOND))
            asking = asyncio.create_task(session.finalize())
            await asyncio.sleep(0.5)
            f.asr.serve("b")
            await asyncio.sleep(2.0)
            f.asr["a"].telling.set()
            assert (await asking).text == f"{SECOND} samples"
            await asyncio.sleep(CALL_S)
            assert session.replica == "b"
            assert f.asr["b"].heard == b""

    play(script)


def test_several_finals_that_are_owed_come_though_the_session_moves_at_the_first() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].telling.clear()
            asking = []
            for _ in range(3):
                await session.push(pcm(0, SECOND))
                asking.append(asyncio.create_task(session.finalize()))
                await asyncio.sleep(0)
            await asyncio.sleep(0.5)
            f.asr.serve("b")
            f.asr["a"].telling.set()
            finals = await asyncio.gather(*asking)
            assert [final.text for final in finals] == [f"{SECOND} samples"] * 3
            assert [final.utterance for final in finals] == [0, 1, 2]

    play(script)


def test_a_session_that_began_on_a_replica_that_then_stopped_moves_too() -> None:
    async def script(f: Fixture) -> None:
        f.asr["a"].beginning.clear()
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, f.asr.serve, "b")
        loop.call_later(2.0, f.asr["a"].beginning.set)
        async with f.session() as session:
            await session.push(pcm(0, SECOND))
            assert (await session.finalize()).text == f"{SECOND} samples"
            assert session.replica == "b"

    play(script)


def test_what_the_replica_that_was_left_says_does_not_count_any_more() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["b"].appetite = 0
            await session.push(pcm(0, 500))
            flushing = asyncio.create_task(session.flush())
            await asyncio.sleep(0.75 * CALL_S)
            f.asr.serve("b")  # with a call under way
            await asyncio.sleep(1.0)
            assert session.replica == "b"
            assert f.asr["a"].heard == pcm(0, 500)
            assert not flushing.done()
            f.asr["b"].appetite = None
            await flushing
            assert (await session.finalize()).text == "500 samples"

    play(script)


def test_a_session_moves_on_if_its_next_replica_stops_too() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, SECOND))
            await session.flush()
            for serving in ("b", "c", "a"):
                f.asr.serve(serving)
                await asyncio.sleep(6.0)
                assert session.replica == serving
            assert (await session.finalize()).text == f"{SECOND} samples"
            assert session.moves == 3

    play(script)


def test_all_sessions_of_a_replica_move_and_those_of_others_stay() -> None:
    async def script(f: Fixture) -> None:
        sessions = []
        for index in range(6):
            f.asr.serve("a" if index < 4 else "b")
            sessions.append(await f.session().__aenter__())
            f.asr.serve("ab")
        f.asr.serve("bc")
        await asyncio.sleep(CALL_S)
        assert [session.moves for session in sessions] == [1, 1, 1, 1, 0, 0]
        assert f.asr["a"].slots_taken == 0
        for session in sessions:
            await session.aclose()

    play(script)


# --- a replica that was lost before its sessions had left it -----------------


def test_a_session_whose_stopping_replica_died_has_no_reason_to_leave_the_next() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, SECOND))
            await session.flush()
            f.asr.serve("bc")
            await asyncio.sleep(1.0)
            f.asr["a"].die()
            await asyncio.sleep(1.0)
            await session.finalize()
            await asyncio.sleep(CALL_S)
            assert (session.replica, session.moves) == ("b", 1)

    play(script)


def test_a_session_whose_stopping_replica_died_leaves_the_next_if_that_stops_too() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, SECOND))
            await session.flush()
            f.asr.serve("b")
            await asyncio.sleep(1.0)
            f.asr["a"].die()
            await asyncio.sleep(1.0)
            f.asr.serve("c")
            await asyncio.sleep(10.0)
            assert session.replica == "c"

    play(script)


# --- who stays ---------------------------------------------------------------


@pytest.mark.parametrize("busy", [True, False])
def test_nobody_moves_to_a_replica_that_was_added(busy: bool) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 2 * SECOND))
            if not busy:
                await session.finalize()
            f.asr.serve("abcd")
            await asyncio.sleep(10.0)
            f.asr.serve("acd")
            await asyncio.sleep(10.0)
            assert (session.replica, session.moves) == ("a", 0)

    play(script)


@pytest.mark.parametrize("lost", [False, True])
def test_nobody_moves_where_there_is_nowhere_to_go(lost: bool) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 2 * SECOND))
            await session.finalize()
            if lost:
                f.asr.replicas.lost("b")
            f.asr.serve("b" if lost else "")
            await asyncio.sleep(10.0)
            await session.push(pcm(0, 500))
            assert (await session.finalize()).text == "500 samples"
            assert (session.replica, session.moves) == ("a", 0)
            f.asr.serve("c")
            await asyncio.sleep(CALL_S)
            assert (session.replica, session.moves) == ("c", 1)

    play(script)


def test_a_session_that_has_been_closed_hears_of_no_replica_any_more() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 2 * SECOND))
            await session.flush()
            f.asr.serve("b")
        f.asr.serve("c")
        await asyncio.sleep(10.0)
        assert f.asr.opened == ["a"]
        assert not f.asr.replicas._listeners

    play(script)
