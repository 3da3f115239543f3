"""Refusals and silence: what a session makes of them, and how long it looks for a replica.

Replicas are real sessions over scripted engines, in this process; time passes only where
the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio

import pytest
from fake_asr import Fixture, pcm, play
from scripted_engines import RATE

from runtime.errors import DaemonUnavailable, EngineFailed, InvalidRequest, Overloaded

SECOND = RATE  # samples


def full(replica: str, waited_s: float = 0.0) -> Overloaded:
    return Overloaded("All slots are taken.", 0.5, waited_s=waited_s, replica=replica)


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
        assert f.time.now == pytest.approx(1_010.0, abs=0.1)
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
            assert f.time.now == pytest.approx(1_010.0, abs=0.1)
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


def test_a_session_that_fells_replica_after_replica_is_given_up() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            for replica in f.asr:
                replica.push_failure = EngineFailed("It cannot be.")
            await session.push(pcm(0, 1_000))
            with pytest.raises(DaemonUnavailable, match="9 replicas in a row"):
                await session.finalize()

    play(script)
