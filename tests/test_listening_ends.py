"""The end of a session, whoever ends it, and what its caller sees of events.

Replicas are real sessions over scripted engines, in this process; time passes only where
the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio
import gc

import pytest
from fake_asr import CALL_S, Fixture, Reader, pcm, play
from scripted_engines import RATE

from runtime.errors import SessionClosed
from runtime.speech import FinalTranscript, PartialTranscript

SECOND = RATE  # samples

# --- the end of a session ----------------------------------------------------


def test_a_session_that_has_ended_takes_nothing_more() -> None:
    async def script(f: Fixture) -> None:
        session = f.session()
        with pytest.raises(SessionClosed, match="not open yet"):
            await session.push(pcm(0, 1))
        async with session:
            await session.push(pcm(0, 5_000))
            await session.finish()
            for call in (session.push(pcm(0, 1)), session.finalize(), session.finish()):
                with pytest.raises(SessionClosed, match="has ended"):
                    await call
            (final,) = [event async for event in session]
            assert isinstance(final, FinalTranscript)
        with pytest.raises(SessionClosed):
            await session.push(pcm(0, 1))

    play(script)


def test_who_waits_for_a_session_that_is_closed_is_told() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].telling.clear()
            f.asr["a"].appetite = 0
            waiting = [
                asyncio.create_task(session.finalize()),
                asyncio.create_task(session.push(pcm(0, 20 * SECOND))),
                Reader(session).done,
            ]
            await asyncio.sleep(1.0)
            await session.aclose()
            finalized, pushed, read = await asyncio.gather(*waiting, return_exceptions=True)
            assert isinstance(finalized, SessionClosed)
            assert isinstance(pushed, SessionClosed)
            assert read is None

    play(script)


@pytest.mark.parametrize("moving", [False, True])
def test_a_session_that_was_dropped_frees_its_slot(moving: bool) -> None:
    async def script(f: Fixture) -> None:
        session = f.session()
        await session.__aenter__()
        await session.push(pcm(0, 5_000))
        await session.flush()
        if moving:
            f.asr["b"].beginning.clear()
            f.asr["a"].die()
            await asyncio.sleep(0.1)
        assert f.asr.slots_taken == 1
        del session
        gc.collect()
        await asyncio.sleep(CALL_S)
        assert f.asr.slots_taken == 0

    play(script)


def test_a_session_that_is_closed_while_it_is_opened_frees_its_slot() -> None:
    async def script(f: Fixture) -> None:
        session = f.session()
        f.asr["a"].beginning.clear()
        opening = asyncio.create_task(session.__aenter__())
        await asyncio.sleep(1.0)
        session.cancel()
        await asyncio.sleep(CALL_S)
        assert isinstance(opening.exception(), SessionClosed)
        assert f.asr.slots_taken == 0

    play(script)


def test_a_session_that_is_closed_while_it_looks_for_a_replica_is_not_opened() -> None:
    async def script(f: Fixture) -> None:
        session = f.session()
        f.asr["a"].hangs_up = True
        opening = asyncio.create_task(session.__aenter__())
        await asyncio.sleep(3.0)
        session.cancel()
        f.asr["a"].hangs_up = False
        await asyncio.sleep(1.0)
        assert isinstance(opening.exception(), SessionClosed)
        assert f.asr.slots_taken == 0

    play(script)


def test_who_is_cancelled_while_a_session_is_opened_leaves_no_call_behind() -> None:
    async def script(f: Fixture) -> None:
        f.asr["a"].beginning.clear()
        opening = asyncio.create_task(f.session().__aenter__())
        await asyncio.sleep(1.0)
        opening.cancel()
        await asyncio.wait({opening})
        await asyncio.sleep(CALL_S)
        assert f.asr.slots_taken == 0

    play(script)


# --- how late an event is ----------------------------------------------------


@pytest.mark.parametrize("moves", [False, True])
def test_latency_counts_from_the_push_of_the_audio_an_event_has_heard(moves: bool) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            pushed = []
            for second in range(3):
                pushed.append(f.time.now)
                await session.push(pcm(SECOND * second, SECOND))
                await asyncio.sleep(1.0)
            if moves:
                f.asr["a"].die()
            final = await session.finalize()
            await asyncio.sleep(10.0)
            assert session.latency_s(final) == pytest.approx(f.time.now - pushed[2])
            for second in range(3):
                for heard_s in (second + 0.01, second + 1.0):
                    partial = PartialTranscript("", 0, 0.0, heard_s)
                    latency_s = session.latency_s(partial)
                    assert latency_s == pytest.approx(f.time.now - pushed[second])

    play(script)


# --- events that nobody has read yet -----------------------------------------


def test_an_unread_partial_gives_way_to_a_newer_one_and_a_final_stays() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            for utterance in range(2):
                for second in range(3):
                    await session.push(pcm(SECOND * second, SECOND))
                    await session.flush()
                assert (await session.finalize()).utterance == utterance
            await session.finish()
            events = [event async for event in session]
            kinds = [PartialTranscript, FinalTranscript] * 2
            assert [type(event) for event in events] == kinds
            assert [event.end_s for event in events] == [3, 3, 6, 6]

    play(script)
