"""A session whose replica is lost: another goes on, and callers see one stream.

Replicas are real sessions over scripted engines, in this process; time passes only where
the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio
from string import ascii_letters

import pytest
from fake_asr import CALL_S, Fixture, Reader, pcm, play
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_engines import RATE

from runtime.client.recognition import RecognitionSession

SECOND = RATE  # samples

# --- in the middle of an utterance -------------------------------------------


def test_audio_since_the_last_final_is_heard_again_by_another_replica() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 20_000))
            assert (await session.finalize()).text == "20000 samples"
            await session.push(pcm(20_000, 30_000))
            await session.flush()
            f.asr["a"].die()
            await session.push(pcm(50_000, 5_000))
            assert (await session.finalize()).text == "35000 samples"
            assert f.asr["b"].heard == pcm(20_000, 35_000)
            assert (session.moves, session.replica) == (1, "b")
            assert f.asr.resumed == [False, True]

    play(script)


def test_times_utterances_and_requests_count_from_the_start_of_the_session() -> None:
    async def script(f: Fixture) -> None:
        f.asr.serve("abc")
        async with f.session(words=True) as session:
            reader = Reader(session)
            for utterance in range(4):
                await session.push(pcm(0, SECOND * (1 + utterance)))
                await session.flush()
                if utterance in (1, 2):
                    f.asr[session.replica].die()
                await session.finalize()
            await session.finish()
            await reader.done
        assert session.moves == 2
        assert [final.utterance for final in reader.finals] == [0, 1, 2, 3]
        assert [final.request for final in reader.finals] == [1, 2, 3, 4]
        assert reader.texts == [f"{SECOND * n} samples" for n in (1, 2, 3, 4)]
        spans = [(0, 1), (1, 3), (3, 6), (6, 10)]
        assert [(final.start_s, final.end_s) for final in reader.finals] == spans
        assert [final.settled_s for final in reader.finals] == [1, 3, 6, 10]
        words = [word for final in reader.finals for word in final.words]
        assert [(word.start_s, word.end_s) for word in words] == spans

    play(script)


@pytest.mark.parametrize(
    ("blocks", "appetite"),
    [
        (25, None),
        (29, None),
        (24, None),
        (29, 1_000),
    ],
)
def test_what_was_heard_before_is_not_told_again(blocks: int, appetite: int | None) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            reader = Reader(session)
            f.asr["b"].appetite = appetite
            for block in range(40):
                if block == blocks:
                    f.asr["a"].die()
                    await asyncio.sleep(4.0)
                await session.push(pcm(1_000 * block, 1_000))
                await asyncio.sleep(0.125)
            ends = [partial.end_s for partial in reader.partials]
            assert ends == sorted({*ends, 1, 2, 3, 4, 5})
            assert {partial.utterance for partial in reader.partials} == {0}
            assert {partial.start_s for partial in reader.partials} == {0}
            await session.finish()
            await reader.done
            assert reader.texts == ["40000 samples"]

    play(script)


def test_what_was_heard_before_is_not_told_again_a_rounding_later() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            reader = Reader(session)
            first, second = 1_002, 8_002
            assert first / RATE + second / RATE > (first + second) / RATE
            await session.push(pcm(0, first))
            await session.finalize()
            await session.push(pcm(first, second))
            await asyncio.sleep(0.1)
            assert len(reader.partials) == 1
            f.asr["a"].die()
            await asyncio.sleep(0.1)
            assert len(reader.partials) == 1
            await session.finish()
            await reader.done

    play(script)


def test_a_replica_may_be_lost_while_another_is_still_being_caught_up_with() -> None:
    async def script(f: Fixture) -> None:
        f.asr.serve("abcd")
        async with f.session() as session:
            reader = Reader(session)
            await session.push(pcm(0, 30_000))
            await session.flush()
            f.asr["b"].dies_in_push = True
            f.asr["c"].slowness = 0.5
            f.asr["d"].appetite = 1_000
            f.asr["a"].die()
            await asyncio.sleep(1.0)
            f.asr["c"].die()
            assert (await session.finalize()).text == "30000 samples"
            assert f.asr.opened == ["a", "b", "c", "d"]
            assert session.moves == 3
            ends = [partial.end_s for partial in reader.partials]
            assert ends == sorted(ends)
            await session.finish()
            await reader.done

    play(script)


def test_a_block_that_was_taken_by_a_dying_replica_is_not_lost() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].dies_in_push = True
            await session.push(pcm(0, 5_000))
            assert (await session.finalize()).text == "5000 samples"
            assert f.asr["b"].heard == pcm(0, 5_000)

    play(script)


# --- at other moments --------------------------------------------------------


def test_between_two_utterances_nothing_has_to_be_heard_again() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            await session.push(pcm(0, 20_000))
            await session.finalize()
            f.asr["a"].die()
            await asyncio.sleep(1.0)
            assert session.replica == "b"
            assert f.asr["b"].blocks == []
            await session.push(pcm(20_000, 500))
            assert (await session.finalize()).text == "500 samples"

    play(script)


def test_before_any_audio_a_session_can_move_too() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].die()
            assert (await session.finalize()).text == "0 samples"
            assert session.moves == 1

    play(script)


@pytest.mark.parametrize("heard", [True, False])
def test_finals_that_the_lost_replica_owed_come_from_another(heard: bool) -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            f.asr["a"].telling.clear()
            asking = []
            for utterance in range(3):
                await session.push(pcm(10_000 * utterance, 10_000 + utterance))
                asking.append(asyncio.create_task(session.finalize()))
                await asyncio.sleep(0)
            if heard:
                await asyncio.sleep(1.0)
            f.asr["a"].die()
            finals = await asyncio.gather(*asking)
            assert [final.text for final in finals] == [f"{10_000 + n} samples" for n in range(3)]
            assert [final.request for final in finals] == [1, 2, 3]
            assert [final.utterance for final in finals] == [0, 1, 2]

    play(script)


def test_of_several_finals_only_those_still_owed_are_asked_for_again() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            reader = Reader(session)
            await session.push(pcm(0, 1_000))
            asking = [asyncio.create_task(session.finalize()) for _ in range(3)]
            await asking[0]
            await asyncio.sleep(0.001)
            f.asr["a"].telling.clear()
            await session.push(pcm(1_000, 2_000))
            asking.append(asyncio.create_task(session.finalize()))
            await asyncio.sleep(0.5)
            f.asr["a"].die()
            texts = [final.text for final in await asyncio.gather(*asking)]
            assert texts == ["1000 samples", "0 samples", "0 samples", "2000 samples"]
            await session.finish()
            await reader.done
            assert [final.request for final in reader.finals] == [1, 2, 3, 4]
            assert f.asr["b"].heard == pcm(1_000, 2_000)

    play(script)


def test_a_session_that_was_finished_still_gets_its_last_final() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            reader = Reader(session)
            f.asr["a"].telling.clear()
            await session.push(pcm(0, 12_000))
            await session.finish()
            await asyncio.sleep(1.0)
            assert f.asr["a"].blocks[-1].finish
            f.asr["a"].die()
            await reader.done
            assert reader.texts == ["12000 samples"]
            assert session.moves == 1
            assert not f.asr.replicas._listeners

    play(script)


def test_after_its_last_final_a_session_ends_quietly_though_its_replica_is_lost() -> None:
    async def script(f: Fixture) -> None:
        async with f.session() as session:
            reader = Reader(session)
            await session.push(pcm(0, 12_000))
            await session.finalize()
            f.asr["a"].telling.clear()
            await session.finish()
            await asyncio.sleep(1.0)
            f.asr["a"].die()
            await reader.done
            assert reader.texts == ["12000 samples"]

    play(script)


@pytest.mark.parametrize("longest", [1_000, 1_001])
def test_utterances_that_ended_by_themselves_are_not_heard_again(longest: int) -> None:
    async def script(f: Fixture) -> None:
        f.asr["a"].longest = longest
        async with f.session() as session:
            reader = Reader(session)
            await session.push(pcm(0, 2 * longest + 500))
            await session.flush()
            f.asr["a"].die()
            final = await session.finalize()
            assert reader.texts[:2] == [f"{longest} samples"] * 2
            assert (final.text, final.utterance) == ("500 samples", 2)
            assert f.asr["b"].heard == pcm(2 * longest, 500)
            await session.finish()
            await reader.done
            assert [final.request for final in reader.finals] == [0, 0, 1]

    play(script)


# --- whatever happens --------------------------------------------------------

steps = st.one_of(
    st.tuples(st.just("push"), st.integers(0, 20_000)),
    st.tuples(st.just("finalize"), st.just(0)),
    st.tuples(st.sampled_from(["die", "die in push"]), st.just(0)),
    st.tuples(st.sampled_from(["hold back", "tell", "forget", "stop"]), st.just(0)),
    st.tuples(st.sampled_from(["bite", "slow down"]), st.integers(0, 3_000)),
    st.tuples(st.just("pass"), st.integers(0, 60)),
)


async def take(f: Fixture, session: RecognitionSession, step: str, value: int) -> None:
    """One step of a play, other than to push and to finalize."""
    replica = f.asr[session.replica]
    if step == "pass":
        await asyncio.sleep(value / 1_000)
    elif step == "hold back":
        replica.telling.clear()
    elif step == "tell":
        replica.telling.set()
    elif step == "bite":
        replica.appetite = 1 + value
    elif step == "slow down":
        replica.slowness = value / 1_000
    elif step == "stop":
        f.asr.serve("".join(f.asr.serving - {replica.name}))
    elif step == "forget":
        replica.forget_sessions()
    elif step == "die in push":
        replica.dies_in_push = True
    else:
        replica.die()


@settings(deadline=None)
@given(st.lists(steps, max_size=25))
def test_every_sample_is_in_one_final(play_of: list[tuple[str, int]]) -> None:
    async def script(f: Fixture) -> None:
        f.asr.serve(ascii_letters)
        async with f.session() as session:
            reader = Reader(session)
            asking, pushed, total = [], [0], 0
            for step, value in play_of:
                if step == "push":
                    await session.push(pcm(total, value))
                    pushed[-1], total = pushed[-1] + value, total + value
                elif step == "finalize":
                    asking.append(asyncio.create_task(session.finalize()))
                    await asyncio.sleep(0)
                    pushed.append(0)
                else:
                    await take(f, session, step, value)
            await asyncio.sleep(2 * CALL_S)
            f.asr[session.replica].telling.set()
            await session.finish()
            await reader.done
            finals = [final for final in reader.finals if final.request]
            assert [await asked for asked in asking] == finals
            last = [pushed[-1]] if pushed[-1] else []
            assert reader.texts == [f"{count} samples" for count in pushed[:-1] + last]
            assert [final.request for final in finals] == list(range(1, len(pushed)))
            assert [final.utterance for final in reader.finals] == list(range(len(reader.finals)))
            ends = [round(event.end_s * RATE) for event in reader.events]
            assert ends == sorted(ends)

    play(script)
