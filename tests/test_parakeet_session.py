"""Live streams share steps and nothing else: what is pushed comes back, in order, to its caller."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from parakeet_streams import (
    CHUNK,
    FRAME,
    RATE,
    TAIL,
    Fixture,
    events_of,
    finals_of,
    play,
    said,
    silence,
)

from runtime.errors import AudioFormatError, EngineFailed, Overloaded, SessionClosed
from runtime.speech import FinalTranscript, PartialTranscript

FRAME_S = FRAME / RATE


# --- utterances --------------------------------------------------------------


def test_the_last_word_is_in_the_final_wherever_the_audio_ends() -> None:
    async def script(f: Fixture) -> None:
        for frames in range(1, 6):
            for rest in (10, 40, 79):
                stream = f.open()
                words = list(range(1, frames + 1))
                await stream.push(said(*words))
                await stream.push(said(99)[:rest])
                await stream.finalize()
                await stream.finish()
                (final,) = await finals_of(stream)
                assert final.text == " ".join(map(str, [*words, 99]))
                assert final.settled_s == pytest.approx(frames * FRAME_S + rest / RATE)
                assert final.end_s <= final.settled_s

    play(script)


def test_audio_after_the_end_of_a_turn_is_the_next_utterance() -> None:
    async def script(f: Fixture) -> None:
        stream = f.open(words=True)
        f.model.may_go_on.clear()
        await stream.push(said(1, 2, 3))
        first = await stream.finalize()
        await stream.push(said(4))
        second = await stream.finalize()
        f.model.may_go_on.set()
        await stream.finish()
        one, two = await finals_of(stream)
        assert [(e.text, e.utterance, e.request) for e in (one, two)] == [
            ("1 2 3", 0, first),
            ("4", 1, second),
        ]
        assert (two.start_s, two.end_s) == (pytest.approx(3 * FRAME_S), pytest.approx(4 * FRAME_S))
        assert [word.start_s for word in one.words] == pytest.approx([0, FRAME_S, 2 * FRAME_S])

    play(script)


def test_ends_without_audio_are_answered_one_by_one() -> None:
    async def script(f: Fixture) -> None:
        stream = f.open()
        assert [await stream.finalize(), await stream.finalize()] == [1, 2]
        await stream.push(np.zeros(0, dtype=np.float32))
        await stream.finish()
        assert [(e.request, e.text) for e in await finals_of(stream)] == [(1, ""), (2, "")]
        assert f.model.batches == []

    play(script)


def test_a_caller_without_a_vad_gets_finals_by_silence_and_words_keep_their_places() -> None:
    async def script(f: Fixture) -> None:
        stream = f.open(endpoint_s=0.4, words=True)
        await stream.push(np.concatenate([said(1, 2), silence(8), said(3), silence(8), said(4)]))
        await stream.finish()
        finals = await finals_of(stream)
        assert [(e.text, e.request, e.utterance) for e in finals] == [
            ("1 2", 0, 0),
            ("3", 0, 1),
            ("4", 0, 2),
        ]
        starts = [word.start_s for final in finals for word in final.words]
        assert starts == pytest.approx([0, FRAME_S, 10 * FRAME_S, 19 * FRAME_S])

    play(script)


def test_partials_grow_until_their_final() -> None:
    async def script(f: Fixture) -> None:
        stream = f.open(partials=True)
        events = stream.events()
        await stream.push(said(1, 2))
        first = await anext(events)
        assert first == PartialTranscript("1 2", 0, 0.0, 2 * FRAME_S, stable=3)
        await stream.push(said(3, 0))
        assert (await anext(events)).text == "1 2 3"
        await stream.push(silence(4))
        await stream.finish()
        (final,) = [event async for event in events]
        assert isinstance(final, FinalTranscript)
        assert final.text == "1 2 3"

    play(script)


def test_an_unread_partial_makes_way_for_what_replaces_it() -> None:
    async def script(f: Fixture) -> None:
        stream = f.open(partials=True, endpoint_s=0.3)
        await stream.push(np.concatenate([said(1, 2, 3, 4), silence(6), said(5, 6)]))
        await stream.finish()
        await f.idle()
        assert [type(event) for event in await events_of(stream)] == [FinalTranscript] * 2

    play(script)


# --- steps -------------------------------------------------------------------


def test_streams_that_have_a_chunk_share_a_step() -> None:
    async def script(f: Fixture) -> None:
        streams = [f.open() for _ in range(4)]
        f.model.may_go_on.clear()
        await streams[0].push(said(1, 2))
        await f.model_is_busy()
        for number, stream in enumerate(streams):
            await stream.push(said(10 + number, 20 + number))
        f.model.may_go_on.set()
        for stream in streams:
            await stream.finish()
        texts = [[final.text for final in await finals_of(stream)] for stream in streams]
        assert texts == [["1 2 10 20"], ["11 21"], ["12 22"], ["13 23"]]
        assert f.model.batches[:2] == [1, 4]

    play(script)


def test_random_callers_get_their_own_words_all_of_them_and_in_order() -> None:
    async def caller(f: Fixture, seed: int) -> None:
        chance = random.Random(seed)
        stream, word, wanted = f.open(partials=chance.random() < 0.5), seed * 8, []
        reading = asyncio.create_task(events_of(stream))
        for _ in range(chance.randint(1, 4)):
            words = [word + i for i in range(chance.randint(0, 7))]
            audio = said(*words)
            while len(audio):
                size = chance.randint(1, 300)
                await stream.push(audio[:size])
                audio = audio[size:]
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
            if chance.random() < 0.2:
                await stream.close()
                reading.cancel()
                return
            await stream.finalize()
            wanted.append(" ".join(map(str, words)).removeprefix("0 "))
        await stream.finish()
        finals = [e for e in await reading if isinstance(e, FinalTranscript)]
        assert [final.text for final in finals] == [w if w != "0" else "" for w in wanted]

    async def script(f: Fixture) -> None:
        await asyncio.gather(*(caller(f, seed) for seed in range(1, 120)))
        await f.idle()
        assert f.steps.taken == 0
        assert len(f.over) == 119

    play(script, slots=128)


# --- what goes wrong ---------------------------------------------------------


def test_more_streams_than_slots_are_refused_and_a_slot_that_is_left_is_had_again() -> None:
    async def script(f: Fixture) -> None:
        streams = [f.open() for _ in range(4)]
        with pytest.raises(Overloaded, match="All 4 recognition slots are taken"):
            f.open()
        await streams[2].close()
        f.open()
        with pytest.raises(Overloaded):
            f.open()

    play(script)


def test_a_slot_is_only_said_to_be_free_once_the_step_that_it_is_in_has_ended() -> None:
    async def script(f: Fixture) -> None:
        stream, *_ = [f.open() for _ in range(4)]
        f.model.may_go_on.clear()
        await stream.push(said(1, 2))
        await f.model_is_busy()
        closing = asyncio.create_task(stream.close())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            f.open()
        assert not closing.done()
        f.model.may_go_on.set()
        await closing
        await f.open().close()

    play(script)


def test_a_gpu_that_is_lost_or_hangs_fails_the_check_and_a_failed_step_does_not() -> None:
    async def script(f: Fixture) -> None:
        for failure, lost in (("out of luck", False), ("CUDA error: unspecified launch", True)):
            stream = f.open()
            f.steps.check(hung_s=60)
            f.model.failure = RuntimeError(failure)
            await stream.push(said(1, 2))
            with pytest.raises(EngineFailed):
                await events_of(stream)
            if lost:
                with pytest.raises(EngineFailed, match="unspecified launch"):
                    f.steps.check(hung_s=60)

    async def hang(f: Fixture) -> None:
        f.model.may_go_on.clear()
        stream = f.open()
        await stream.push(said(1, 2))
        await f.model_is_busy()
        f.steps.check(hung_s=60)
        with pytest.raises(EngineFailed, match="has not answered"):
            f.steps.check(hung_s=0)
        f.model.may_go_on.set()
        await stream.close()
        f.steps.check(hung_s=0)

    play(script)
    play(hang)


def test_what_cannot_be_read_of_one_stream_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(f: Fixture) -> None:
        spoilt, sound = f.open(), f.open()
        monkeypatch.setattr(spoilt, "hear", lambda *_: {}["no such token"])
        f.model.may_go_on.clear()
        first = f.open()
        await first.push(said(9, 9))
        await f.model_is_busy()
        for stream in (spoilt, sound):  # for the same step
            await stream.push(said(1, 2))
            await stream.finish()
        f.model.may_go_on.set()
        with pytest.raises(EngineFailed, match="no such token"):
            await events_of(spoilt)
        assert [final.text for final in await finals_of(sound)] == ["1 2"]
        assert f.model.batches[1] == 2

    play(script)


def test_steps_are_noted_with_their_batches() -> None:
    async def script(f: Fixture) -> None:
        stream = f.open()
        await stream.push(said(1, 2))
        await f.idle()
        (step,) = f.steps.log.take()
        assert (step.stage, step.batch) == ("step", 1)
        assert step.ms > 0

    play(script)


def test_a_thousand_callers_that_drop_leave_no_slot_taken() -> None:
    async def script(f: Fixture) -> None:
        for number in range(1000):
            stream = f.open(partials=True)
            await stream.push(said(1, 2, 3)[: 40 * (number % 7)])
            if number % 3 == 0:
                await stream.finalize()
            if number % 5 == 0:
                reading = asyncio.create_task(anext(stream.events(), None))
                await asyncio.sleep(0)
                reading.cancel()
            await stream.close()
            if f.steps.taken == 4:  # dropped within a step
                await f.idle()
        await f.idle()
        assert f.steps.taken == 0

    play(script)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_samples_that_are_no_numbers_are_refused_whole_and_the_stream_goes_on(bad: float) -> None:
    async def script(f: Fixture) -> None:
        stream = f.open()
        await stream.push(said(1))
        spoilt = said(7, 8)
        spoilt[-1] = bad
        with pytest.raises(AudioFormatError, match="no numbers"):
            await stream.push(spoilt)
        await stream.push(said(2))
        await stream.finish()
        assert [final.text for final in await finals_of(stream)] == ["1 2"]

    play(script)


def test_samples_beyond_the_range_are_clipped() -> None:
    async def script(f: Fixture) -> None:
        stream = f.open()
        await stream.push(np.full(FRAME, 1e30, dtype=np.float32))
        await stream.finish()
        assert [final.text for final in await finals_of(stream)] == ["1000"]

    play(script)


def test_a_step_that_fails_ends_the_streams_in_it_and_no_others() -> None:
    async def script(f: Fixture) -> None:
        within, outside = f.open(), f.open()
        await outside.push(said(1))
        f.model.failure = RuntimeError("out of luck")
        await within.push(said(1, 2))
        with pytest.raises(EngineFailed, match="scripted failed: RuntimeError: out of luck"):
            await events_of(within)
        f.model.failure = None
        with pytest.raises(EngineFailed):
            await within.push(said(3))
        await outside.push(said(2))
        await outside.finish()
        assert [final.text for final in await finals_of(outside)] == ["1 2"]
        assert f.steps.taken == 0
        assert f.steps.failed_steps == 1

    play(script)


def test_steps_go_on_though_the_event_loop_of_a_stream_in_them_has_ended() -> None:
    fixture = Fixture(slots=4, batch=96)
    try:

        async def leaves() -> None:
            fixture.model.may_go_on.clear()
            stream = fixture.open()
            await stream.push(said(1, 2, 3, 4))
            await fixture.model_is_busy()
            await stream.close()

        async def stays() -> str:
            stream = fixture.open()
            await stream.push(said(5, 6))
            fixture.model.may_go_on.set()
            await stream.finish()
            async with asyncio.timeout(30):
                return (await finals_of(stream))[0].text

        asyncio.run(leaves())
        assert asyncio.run(stays()) == "5 6"
        assert fixture.steps.taken == 0
    finally:
        fixture.model.may_go_on.set()
        fixture.worker.close()


def test_other_work_of_the_model_has_its_turn_though_there_is_always_a_step_to_take() -> None:
    async def script(f: Fixture) -> None:
        streams = [f.open() for _ in range(2)]
        f.model.may_go_on.clear()
        for stream in streams:
            for _ in range(50):
                await stream.push(said(1, 2))
        await f.model_is_busy()
        steps = asyncio.create_task(f.worker.run(lambda: len(f.model.batches)))
        await asyncio.sleep(0)  # it is in the queue
        f.model.may_go_on.set()
        assert await steps <= 2, "of 50"
        for stream in streams:
            await stream.finish()
            assert len((await finals_of(stream))[0].text.split()) == 100

    play(script)


def test_a_stream_that_is_finished_or_closed_takes_nothing_more() -> None:
    async def script(f: Fixture) -> None:
        finished, closed = f.open(), f.open()
        await finished.finish()
        await closed.close()
        await closed.close()
        for stream in (finished, closed):
            with pytest.raises(SessionClosed, match="open another one"):
                await stream.push(said(1))
            with pytest.raises(SessionClosed):
                await stream.finalize()
            assert await events_of(stream) == []

    play(script)


def test_a_stream_that_comes_too_fast_waits_and_others_do_not() -> None:
    async def script(f: Fixture) -> None:
        fast, slow = f.open(), f.open()
        f.model.may_go_on.clear()
        flood = asyncio.create_task(fast.push(silence(120 * RATE / FRAME)))
        await f.model_is_busy()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not flood.done()
        held = fast.lane.backlog
        assert 30 * RATE <= held <= 33 * RATE
        await slow.push(said(5))
        await slow.finish()
        f.model.may_go_on.set()
        assert [final.text for final in await finals_of(slow)] == ["5"]
        await flood

    play(script)


def test_an_hour_of_silence_says_nothing_and_holds_nothing() -> None:
    async def script(f: Fixture) -> None:
        stream = f.open(endpoint_s=0.8, partials=True)
        minute = silence(60 * RATE / FRAME)
        for _ in range(60):
            await stream.push(minute)
        await stream.finish()
        assert await events_of(stream) == []
        assert stream.lane.backlog == 0
        assert sum(f.model.batches) == (3600 * RATE + TAIL) // CHUNK + 1

    play(script)
