"""A replica that lives, and yet a session is over there: who finds out, and what follows.

Replicas are real sessions over scripted engines, in this process; time passes only where
the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio

import pytest
from fake_asr import Fixture, Reader, pcm, play

from runtime.errors import EngineFailed, ReplicaLost, SessionClosed, StreamStalled

# --- a replica that does not know the session --------------------------------


def test_a_replica_that_forgot_the_session_is_left_and_nothing_is_lost() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            reader = Reader(session)
            await session.push(pcm(0, 12_000))
            await session.flush()
            f.asr["a"].forget_sessions()
            for block in range(20):
                await session.push(pcm(12_000 + 1_000 * block, 1_000))
                await asyncio.sleep(0.125)
            assert session.moves == 1
            assert (await session.finalize()).text == "32000 samples"
            assert (await session.finalize()).text == "0 samples"
            await session.finish()
            await reader.done
            assert reader.texts == ["32000 samples", "0 samples"]

    play(script)


def test_a_push_that_failed_for_no_known_reason_is_made_elsewhere() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].push_failure = EngineFailed("The replica failed: what?")
            await session.push(pcm(0, 12_000))
            asking = asyncio.create_task(session.finalize())
            await asyncio.sleep(0.5)
            f.asr.serve("b")
            assert (await asking).text == "12000 samples"
            assert session.replica == "b"

    play(script)


def test_a_push_that_found_the_replica_gone_does_not_wait_for_the_event_stream() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].push_failure = ReplicaLost("The connection to the replica broke.")
            await session.push(pcm(0, 12_000))
            assert (await session.finalize()).text == "12000 samples"
            assert f.time.now < 1_000.1
            assert (session.replica, session.moves) == ("b", 1)

    play(script)


@pytest.mark.parametrize("error", [None, SessionClosed("The recognition stream has ended.")])
def test_a_stream_that_ended_too_early_goes_on_elsewhere(error: Exception | None) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 12_000))
            await session.flush()
            f.asr["a"].end_streams(error)
            assert (await session.finalize()).text == "12000 samples"
            assert session.moves == 1

    play(script)


@pytest.mark.parametrize("error", [StreamStalled("No audio."), EngineFailed("The model failed.")])
@pytest.mark.parametrize("push_finds_out_first", [True, False])
def test_why_the_event_stream_ended_is_told_and_nothing_is_opened_again(
    error: Exception, push_finds_out_first: bool
) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            reader = Reader(session)
            await session.push(pcm(0, 12_000))
            await session.flush()
            asking = asyncio.create_task(session.finalize())
            if push_finds_out_first:
                f.asr["a"].forget_sessions()
                await asyncio.sleep(0.8)
            f.asr["a"].end_streams(error)
            results = await asyncio.gather(reader.done, asking, return_exceptions=True)
            assert results == [error, error]
            with pytest.raises(type(error)):
                await session.push(pcm(0, 1))
            assert f.asr.opened == ["a"]

    play(script)
