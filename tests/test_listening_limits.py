"""What a session bounds: audio on its way, and audio kept.

Replicas are real sessions over scripted engines, in this process; time passes only where
the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio
import logging

import pytest
from fake_asr import Fixture, pcm, play
from scripted_engines import RATE

from runtime.client.recognition import RecognitionSession
from runtime.speech import FinalTranscript, RecognitionEvent

SECOND = RATE  # samples


async def last_event(session: RecognitionSession) -> RecognitionEvent:
    await session.finish()
    return await anext(session)


# --- replicas that take less than they are given -----------------------------


@pytest.mark.parametrize("appetite", [0, 1, 700, 100_000])
def test_what_a_replica_did_not_take_comes_again_in_order(appetite: int) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].appetite = appetite
            await session.push(pcm(0, 5_000))
            asking = [asyncio.create_task(session.finalize())]
            await asyncio.sleep(0.5)
            await session.push(pcm(5_000, 5_000))
            asking.append(asyncio.create_task(session.finalize()))
            await asyncio.sleep(0.5)
            f.asr["a"].appetite = None
            finals = await asyncio.gather(*asking)
            assert [final.text for final in finals] == ["5000 samples"] * 2
            assert [final.request for final in finals] == [1, 2]
            assert f.asr["a"].heard == pcm(0, 10_000)
            assert session.moves == 0

    play(script)


def test_a_session_that_was_finished_ends_though_its_replica_did_not_take_that_at_first() -> None:
    async def script(f: Fixture) -> None:
        async with f.session(partials=False) as session:
            f.asr["a"].appetite = 700
            await session.push(pcm(0, 5_000))
            final = await last_event(session)
            assert isinstance(final, FinalTranscript)
            assert final.text == "5000 samples"
            assert [event async for event in session] == []

    play(script)


def test_a_replica_that_is_behind_is_offered_more_ten_times_a_second() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].appetite = 0
            await session.push(pcm(0, 5_000))
            await asyncio.sleep(2.0)
            assert 15 <= len(f.asr["a"].blocks) <= 25

    play(script)


def test_an_engine_slower_than_speech_hears_everything_in_order() -> None:
    async def script(f: Fixture) -> None:
        async with f.session(partials=False) as session:
            f.asr["a"].slowness = 3.0
            for second in range(90):
                await session.push(pcm(SECOND * second, SECOND))
            assert f.time.now > 1_100.0, "push() waited"
            final = await session.finalize()
            assert final.text == f"{90 * SECOND} samples"
            assert f.asr["a"].heard == pcm(0, 90 * SECOND)
            assert session.moves == 0

    play(script, replay_s=200.0)


@pytest.mark.parametrize("finishes", [False, True])
def test_the_end_of_an_utterance_reaches_a_replica_that_takes_no_more_audio(finishes: bool) -> None:
    async def script(f: Fixture) -> None:
        async with f.session(partials=False) as session:
            f.asr["a"].slowness = 1.0
            await session.push(pcm(0, 40 * SECOND))
            await session.flush()
            assert f.time.now < 1_001.0, "the engine has most of it before it"
            async with asyncio.timeout(120):
                final = await (last_event(session) if finishes else session.finalize())
            assert final.text == f"{40 * SECOND} samples"

    play(script)


def test_push_waits_while_ten_seconds_are_on_their_way() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].appetite = 0
            await session.push(pcm(0, 10 * SECOND))
            pushing = asyncio.create_task(session.push(pcm(10 * SECOND, 1)))
            await asyncio.sleep(5.0)
            assert not pushing.done()
            f.asr["a"].appetite = None
            await asyncio.sleep(0.2)
            assert pushing.done()
            assert (await session.finalize()).text == f"{10 * SECOND + 1} samples"

    play(script)


def test_push_waits_through_a_change_of_replicas() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["b"].appetite = 0
            await session.push(pcm(0, 5 * SECOND))
            await session.flush()
            f.asr["a"].die()
            pushing = asyncio.create_task(session.push(pcm(5 * SECOND, 40 * SECOND)))
            flushing = asyncio.create_task(session.flush())
            await asyncio.sleep(5.0)
            assert not pushing.done()
            f.asr["b"].appetite = None
            await asyncio.gather(pushing, flushing)
            assert (await session.finalize()).text == f"{45 * SECOND} samples"

    play(script)


def test_what_the_next_replica_has_to_hear_again_is_on_its_way_too() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["b"].appetite = 0
            await session.push(pcm(0, 6 * SECOND))
            await session.flush()
            f.asr["a"].die()
            await asyncio.sleep(1.0)
            pushing = asyncio.create_task(session.push(pcm(6 * SECOND, 5 * SECOND)))
            flushing = asyncio.create_task(session.flush())
            await asyncio.sleep(1.0)
            assert not pushing.done()
            assert not flushing.done()
            f.asr["b"].appetite = None
            await asyncio.gather(pushing, flushing)

    play(script)


# --- audio that is kept ------------------------------------------------------


def test_of_audio_without_a_final_the_last_is_kept_and_the_rest_told_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            for second in range(20):
                await session.push(pcm(SECOND * second, SECOND))
            await session.flush()
            buffer = session._listening.buffer
            assert buffer.end - buffer.first == 4 * SECOND
            assert caplog.records == [], "nothing is lost yet"
            f.asr["a"].die()
            await asyncio.sleep(1.0)
            f.asr["b"].die()
            f.asr.serve("c")
            final = await session.finalize()
            assert final.text == f"{4 * SECOND} samples"
            assert (final.start_s, final.end_s) == (16.0, 20.0)
            (record,) = caplog.records
            assert record.levelno == logging.WARNING
            assert "16.0 s are lost" in record.message

    play(script, replay_s=4.0)


def test_audio_that_got_its_final_is_not_told_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            for second in range(20):
                await session.push(pcm(SECOND * second, SECOND))
            assert (await session.finalize()).text == f"{20 * SECOND} samples"
            f.asr["a"].die()
            assert (await session.finalize()).text == "0 samples"
            assert caplog.records == []

    play(script, replay_s=4.0)


def test_nothing_is_dropped_that_another_replica_has_yet_to_hear() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            for second in range(20):
                await session.push(pcm(SECOND * second, SECOND))
            await session.flush()
            f.asr["b"].appetite = 0
            f.asr["a"].die()
            await asyncio.sleep(0.5)
            pushing = asyncio.create_task(session.push(pcm(20 * SECOND, 500)))
            await asyncio.sleep(0.5)
            f.asr["b"].appetite = None
            async with asyncio.timeout(60):
                await pushing
                assert (await session.finalize()).text == f"{4 * SECOND + 500} samples"

    play(script, replay_s=4.0)
