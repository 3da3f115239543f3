"""What a session bounds: audio on its way, audio kept, and how long it looks for a replica.

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
from runtime.errors import DaemonUnavailable, InvalidRequest, Overloaded
from runtime.speech import FinalTranscript, RecognitionEvent

SECOND = RATE  # samples


def full(replica: str, waited_s: float = 0.0) -> Overloaded:
    return Overloaded("All slots are taken.", 0.5, waited_s=waited_s, replica=replica)


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


# --- refusals and silence ----------------------------------------------------


def test_a_session_that_every_replica_refuses_does_not_begin() -> None:
    async def script(f: Fixture) -> None:
        f.asr["a"].refusal, f.asr["b"].refusal = full("a"), full("b")
        with pytest.raises(Overloaded) as caught:
            async with f.session():
                pytest.fail("it began")
        assert caught.value is f.asr["b"].refusal
        assert f.asr.opened == ["a", "b"]
        assert f.time.now == 1_000.0

    play(script)


def test_a_session_that_waited_in_a_queue_in_vain_does_not_begin() -> None:
    async def script(f: Fixture) -> None:
        f.asr["a"].refusal = full("a", waited_s=3.0)
        with pytest.raises(Overloaded):
            async with f.session():
                pytest.fail("it began")
        assert f.asr.opened == ["a"]

    play(script)


def test_a_session_that_one_replica_refuses_begins_on_another() -> None:
    async def script(f: Fixture) -> None:
        f.asr["a"].refusal = full("a")
        async with f.session() as session:
            assert (session.replica, session.moves) == ("b", 0)

    play(script)


def test_what_the_replica_finds_wrong_with_the_request_is_raised_at_once() -> None:
    async def script(f: Fixture) -> None:
        f.asr["a"].refusal = InvalidRequest("No engine is configured for mode 'live'.")
        with pytest.raises(InvalidRequest, match="No engine"):
            async with f.session():
                pytest.fail("it began")
        assert f.asr.opened == ["a"]

    play(script)


def test_a_session_that_has_begun_tries_again_where_it_is_refused() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 5_000))
            await session.flush()
            f.asr["b"].refusal = full("b", waited_s=1.0)
            f.asr["a"].die()
            await asyncio.sleep(9.0)
            f.asr["b"].refusal = None
            assert (await session.finalize()).text == "5000 samples"
            assert (session.replica, session.moves) == ("b", 1)
            assert all(f.asr.resumed[1:])

    play(script)


def test_each_replica_that_is_lost_is_another_reason_to_be_patient() -> None:
    async def script(f: Fixture) -> None:
        f.asr.serve("abc")
        async with f.session() as session:
            await session.push(pcm(0, 5_000))
            f.asr["a"].die()
            await asyncio.sleep(20.0)
            f.asr["c"].refusal = full("c")
            f.asr["b"].die()
            asyncio.get_running_loop().call_later(9.0, setattr, f.asr["c"], "refusal", None)
            assert (await session.finalize()).text == "5000 samples"
            assert session.replica == "c"

    play(script)


def test_a_replica_that_ends_the_call_before_it_began_is_asked_again() -> None:
    async def script(f: Fixture) -> None:
        f.asr["a"].hangs_up = True
        asyncio.get_running_loop().call_later(3.0, setattr, f.asr["a"], "hangs_up", False)
        async with f.session() as session:
            assert session.replica == "a"
            assert 1_003.0 <= f.time.now <= 1_003.5
            assert not any(f.asr.resumed)

    play(script)


@pytest.mark.parametrize("refuses", [True, False])
def test_all_who_wait_for_a_session_are_told_that_it_found_no_replica(refuses: bool) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 5_000))
            await session.flush()
            began = f.time.now
            if refuses:
                f.asr["b"].refusal = full("b")
            else:
                f.asr["b"].beginning.clear()
            f.asr["a"].die()
            await session.push(pcm(0, 1))
            errors = await asyncio.gather(
                session.push(pcm(0, 20 * SECOND)),
                session.flush(),
                session.finalize(),
                anext(session),
                return_exceptions=True,
            )
            assert f.time.now - began == pytest.approx(10.0, abs=0.1)
            expected = Overloaded if refuses else DaemonUnavailable
            assert [type(error) for error in errors] == [expected] * 4
            with pytest.raises(expected):
                await session.push(pcm(0, 1))
        f.asr["b"].beginning.set()

    play(script)


@pytest.mark.parametrize("serving", ["ab", ""])
def test_a_session_that_no_replica_begins_fails_in_time(serving: str) -> None:
    async def script(f: Fixture) -> None:
        f.asr.serve(serving)
        for replica in "ab":
            f.asr[replica].beginning.clear()
        with pytest.raises(DaemonUnavailable, match="No replica answered for 10 s"):
            async with f.session():
                pytest.fail("it began")
        assert 10.0 <= f.time.now - 1_000 <= 10.0 + 4.0 + 0.1  # and answer_timeout_s
        f.asr["a"].beginning.set()
        f.asr["b"].beginning.set()

    play(script)


def test_a_session_that_left_its_replica_looks_for_another_within_bounds() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["b"].beginning.clear()
            f.asr.serve("b")
            with pytest.raises(DaemonUnavailable):
                await session.finalize()
            assert 10.0 <= f.time.now - 1_000 <= 10.0 + 4.0 + 0.1  # and answer_timeout_s
        f.asr["b"].beginning.set()

    play(script)


def test_a_daemon_that_has_gone_is_not_waited_for() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 5_000))
            await session.flush()
            f.asr.daemon_lives = False
            f.asr["a"].die()
            with pytest.raises(DaemonUnavailable, match="The daemon is gone"):
                await session.finalize()
            assert f.time.now < 1_000.1

    play(script)
