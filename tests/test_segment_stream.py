"""A stream over a model: what is pushed comes back as partials and finals, in order.

The model says how many samples it was given, and loud frames are speech, so that a
test can tell exactly what was decoded, and how often.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from runtime.engines.embedded.segmenter import FRAME, SAMPLE_RATE, Segmenter, SegmentRules
from runtime.engines.embedded.stream import Decoded, SegmentStream
from runtime.engines.worker import ModelWorker
from runtime.errors import EngineFailed, Overloaded, SessionClosed
from runtime.speech import (
    FinalTranscript,
    PartialTranscript,
    RecognitionEvent,
    Samples,
    Word,
)

LIVE = SegmentRules(silence_ms=500, max_s=10.0)
TURN = SegmentRules(silence_ms=500, max_s=10.0, closes=False)
TAIL = 8
FRAME_S = FRAME / SAMPLE_RATE


class Loudness:
    """How likely a frame is speech: as likely as it is loud."""

    def __call__(self, frame: Samples) -> float:
        return float(np.abs(frame).mean())

    def reset(self) -> None:
        pass


def speech(frames: float) -> Samples:
    return np.full(round(frames * FRAME), 0.9, dtype=np.float32)


def silence(frames: float) -> Samples:
    return np.zeros(round(frames * FRAME), dtype=np.float32)


class Model:
    """Says how many samples it was given; may be held, and may fail."""

    def __init__(self) -> None:
        self.decoded: list[int] = []
        self.failure: Exception | None = None
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, samples: Samples) -> Decoded:
        self.begun.set()
        assert self.may_go_on.wait(60), "a test has held the model and not let it go"
        if self.failure is not None:
            raise self.failure
        self.decoded.append(len(samples))
        words = (Word("first", 0.0, 0.1), Word("last", 0.2, len(samples) / SAMPLE_RATE))
        return Decoded(str(len(samples)), words)


class Fixture:
    """A stream with its model, and what it told of its slot."""

    def __init__(self, rules: SegmentRules, *, partials: bool) -> None:
        self.model = Model()
        self.gate = ModelWorker("gate")
        self.worker = ModelWorker("scripted")
        self.freed: list[SegmentStream] = []
        self.stream = SegmentStream(
            self.gate,
            Segmenter(Loudness(), rules),
            self.worker,
            self.model,
            partials=partials,
            on_close=self.freed.append,
        )

    async def events(self) -> list[RecognitionEvent]:
        """All events to the end of the stream."""
        return [event async for event in self.stream.events()]

    async def finals(self) -> list[FinalTranscript]:
        return [event for event in await self.events() if isinstance(event, FinalTranscript)]

    async def model_is_busy(self) -> None:
        await asyncio.to_thread(self.model.begun.wait, 60)


Script = Callable[[Fixture], Coroutine[Any, Any, None]]


def play(script: Script, rules: SegmentRules = LIVE, *, partials: bool = False) -> Fixture:
    """Run a script on a stream; whatever it does, the model is let go afterwards."""

    async def main() -> Fixture:
        fixture = Fixture(rules, partials=partials)
        try:
            async with asyncio.timeout(60):
                await script(fixture)
        finally:
            fixture.model.may_go_on.set()
            await fixture.stream.close()
            fixture.worker.close()
        return fixture

    return asyncio.run(main())


async def turns_of_the_loop(count: int = 10) -> None:
    """Let everything that can run do so; the model, which is held, cannot."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until_decoded(f: Fixture, count: int) -> None:
    """Return once so many segments are decoded and what was said of them has arrived."""
    while len(f.model.decoded) < count:  # noqa: ASYNC110  # the model's thread sets no asyncio.Event
        await asyncio.sleep(0.001)
    await f.worker.run(len, "")  # behind the decoding in the same queue
    await turns_of_the_loop()


async def start(call: Awaitable[Any]) -> asyncio.Future[Any]:
    """Begin a call and give it every chance to end."""
    future = asyncio.ensure_future(call)
    await turns_of_the_loop()
    return future


# --- utterances --------------------------------------------------------------


def test_speech_that_ends_in_silence_gets_a_final_of_its_own() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(np.concatenate([silence(20), speech(30), silence(30)]))
        await f.stream.finish()
        (final,) = await f.events()
        assert isinstance(final, FinalTranscript)
        assert final.text == str((10 + 30 + TAIL) * FRAME)
        assert (final.utterance, final.request) == (0, 0)
        assert final.start_s == pytest.approx(10 * FRAME_S)
        assert final.end_s == pytest.approx((50 + TAIL) * FRAME_S)

    play(script)


def test_times_of_words_count_from_the_start_of_the_stream() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(np.concatenate([silence(20), speech(30), silence(30)]))
        await f.stream.finish()
        (final,) = await f.finals()
        assert [word.text for word in final.words] == ["first", "last"]
        assert final.words[0].start_s == pytest.approx(final.start_s)
        assert final.words[1].end_s == pytest.approx(final.end_s)

    play(script)


def test_utterances_are_counted_from_zero() -> None:
    async def script(f: Fixture) -> None:
        for _ in range(3):
            await f.stream.push(np.concatenate([speech(30), silence(30)]))
        await f.stream.finish()
        assert [final.utterance for final in await f.finals()] == [0, 1, 2]

    play(script)


def test_segments_of_one_utterance_are_joined_and_their_words_in_order() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(np.concatenate([speech(20), silence(30), speech(40), silence(30)]))
        request = await f.stream.finalize()
        await f.stream.finish()
        (final,) = await f.events()
        assert isinstance(final, FinalTranscript)
        assert final.request == request
        assert final.text == f"{(20 + TAIL) * FRAME} {(10 + 40 + TAIL) * FRAME}"
        times = [time for word in final.words for time in (word.start_s, word.end_s)]
        assert len(final.words) == 4
        assert times == sorted(times)

    play(script, TURN)


def test_silence_never_reaches_the_model() -> None:
    async def script(f: Fixture) -> None:
        for _ in range(20):
            await f.stream.push(silence(60))
        await f.stream.finish()
        assert await f.events() == []
        assert f.model.decoded == []

    play(script, partials=True)


def test_an_utterance_that_a_forced_cut_leaves_in_silence_still_ends() -> None:
    # The cut falls into the pause: what is left of the utterance is silence alone.
    fading = np.concatenate([np.full(FRAME, 0.1 - 0.001 * i, dtype=np.float32) for i in range(60)])

    async def script(f: Fixture) -> None:
        await f.stream.push(np.concatenate([speech(303), fading]))
        await f.stream.finish()
        (final,) = await f.finals()
        assert final.text == str(313 * FRAME)
        assert f.model.decoded == [313 * FRAME]

    play(script)


# --- partials ----------------------------------------------------------------


def test_partials_come_before_the_final_of_their_utterance() -> None:
    async def script(f: Fixture) -> None:
        events = f.stream.events()
        await f.stream.push(np.concatenate([silence(20), speech(30)]))
        partial = await anext(events)
        assert partial == PartialTranscript(
            str(40 * FRAME), 0, pytest.approx(10 * FRAME_S), pytest.approx(50 * FRAME_S)
        )
        await f.stream.push(np.concatenate([speech(10), silence(30)]))
        await f.stream.finish()
        *_, final = [event async for event in events]
        assert isinstance(final, FinalTranscript)
        assert final.text == str((10 + 40 + TAIL) * FRAME)
        assert final.utterance == partial.utterance

    play(script, partials=True)


def test_a_partial_holds_the_whole_utterance_so_far() -> None:
    async def script(f: Fixture) -> None:
        events = f.stream.events()
        await f.stream.push(np.concatenate([speech(20), silence(20), speech(12)]))
        partial = await anext(events)
        assert partial.text == f"{(20 + TAIL) * FRAME} {(10 + 12) * FRAME}"
        assert (partial.start_s, partial.end_s) == (0.0, pytest.approx(52 * FRAME_S))

    play(script, TURN, partials=True)


def test_without_partials_only_finals_come() -> None:
    async def script(f: Fixture) -> None:
        for _ in range(30):
            await f.stream.push(speech(1))
        await f.stream.finish()
        assert [type(event) for event in await f.events()] == [FinalTranscript]
        assert f.model.decoded == [30 * FRAME]

    play(script)


def test_a_final_is_the_last_partial_where_nothing_was_said_since() -> None:
    async def script(f: Fixture) -> None:
        events = f.stream.events()
        await f.stream.push(np.concatenate([speech(30), silence(TAIL + 1)]))
        partial = await anext(events)
        await f.stream.push(silence(1))
        request = await f.stream.finalize()
        final = await anext(events)
        assert isinstance(final, FinalTranscript)
        assert (final.text, final.request) == (partial.text, request)
        assert f.model.decoded == [(30 + TAIL) * FRAME], "decoded once"

    play(script, TURN, partials=True)


def test_a_final_is_decoded_anew_where_something_was_said_since() -> None:
    async def script(f: Fixture) -> None:
        events = f.stream.events()
        await f.stream.push(speech(30))
        await anext(events)
        await f.stream.push(np.concatenate([speech(5), silence(TAIL)]))
        await f.stream.finalize()
        *_, final = [event async for event in _until_final(f)]
        assert final.text == str((35 + TAIL) * FRAME)

    async def _until_final(f: Fixture) -> Any:
        async for event in f.stream.events():
            yield event
            if isinstance(event, FinalTranscript):
                return

    play(script, TURN, partials=True)


class Clock:
    """Stands for the stream's module ``time``: goes on by so much each time it is read."""

    def __init__(self, step: float) -> None:
        self._now = 0.0
        self._step = step

    def monotonic(self) -> float:
        self._now += self._step
        return self._now


def test_an_unread_partial_makes_way_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engines.embedded.stream.time", Clock(step=1.0))

    async def script(f: Fixture) -> None:
        for count in (1, 2, 3):
            await f.stream.push(speech(10))
            await until_decoded(f, count)
        await f.stream.finalize()
        await f.stream.finish()
        partial, final = await f.events()
        assert isinstance(partial, PartialTranscript)
        assert isinstance(final, FinalTranscript)
        assert partial.text == final.text == str(30 * FRAME)

    play(script, TURN, partials=True)


def test_partials_wait_for_their_time_and_finals_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engines.embedded.stream.time", Clock(step=0.0))

    async def script(f: Fixture) -> None:
        for _ in range(20):
            await f.stream.push(speech(5))
            await until_decoded(f, 1)
        await f.stream.finalize()
        await f.stream.finish()
        await f.finals()
        assert f.model.decoded == [5 * FRAME, 100 * FRAME]

    play(script, TURN, partials=True)


# --- finalize ----------------------------------------------------------------


def test_the_end_of_a_turn_in_a_word_is_answered_with_all_that_was_said() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(speech(20.5))
        assert await f.stream.finalize() == 1
        final = await anext(f.stream.events())
        assert isinstance(final, FinalTranscript)
        assert (final.text, final.request, final.utterance) == (str(round(20.5 * FRAME)), 1, 0)

    play(script, TURN)


def test_the_end_of_a_turn_without_speech_is_answered_with_empty_text() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(silence(10))
        assert await f.stream.finalize() == 1
        final = await anext(f.stream.events())
        at = pytest.approx(10 * FRAME_S)
        assert final == FinalTranscript("", 0, at, at, request=1, settled_s=at)
        assert f.model.decoded == []

    play(script, TURN)


def test_the_end_of_a_turn_before_any_audio_is_answered() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.finalize()
        assert await anext(f.stream.events()) == FinalTranscript("", 0, 0.0, 0.0, request=1)

    play(script, TURN)


def test_two_ends_in_a_row_get_two_answers() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(speech(20))
        assert [await f.stream.finalize(), await f.stream.finalize()] == [1, 2]
        await f.stream.finish()
        answers = [(final.request, final.utterance, final.text) for final in await f.finals()]
        assert answers == [(1, 0, str(20 * FRAME)), (2, 1, "")]

    play(script, TURN)


def test_audio_after_the_end_of_a_turn_opens_the_next_utterance() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(speech(20.5))
        await f.stream.finalize()
        await f.stream.push(speech(10))
        await f.stream.finalize()
        await f.stream.finish()
        first, second = await f.finals()
        assert (first.utterance, second.utterance) == (0, 1)
        assert (first.request, second.request) == (1, 2)
        assert second.text == str(10 * FRAME)
        assert second.start_s == first.end_s == pytest.approx(20.5 * FRAME_S)

    play(script, TURN)


def test_an_answer_comes_also_where_the_stream_has_ended_the_utterance_itself() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        await f.stream.finalize()
        await f.stream.finish()
        assert [(final.request, bool(final.text)) for final in await f.finals()] == [
            (0, True),
            (1, False),
        ]

    play(script)


# --- the end of a stream -----------------------------------------------------


def test_a_finished_stream_says_what_was_said_and_its_events_end() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(speech(20))
        await f.stream.finish()
        (final,) = await f.events()
        assert isinstance(final, FinalTranscript)
        assert (final.text, final.request) == (str(20 * FRAME), 0)

    play(script)


@pytest.mark.parametrize("wait", [True, False])
def test_a_finished_stream_takes_nothing_more(wait: bool) -> None:
    async def script(f: Fixture) -> None:
        await f.stream.finish()
        if wait:
            assert await f.events() == []
        for call in (f.stream.push(speech(1)), f.stream.finalize(), f.stream.finish()):
            with pytest.raises(SessionClosed, match="open another one"):
                await call

    play(script)


def test_a_closed_stream_frees_its_slot_and_its_events_end() -> None:
    async def script(f: Fixture) -> None:
        reading = await start(f.events())
        assert not reading.done()
        assert f.freed == []
        await f.stream.close()
        assert f.freed == [f.stream]
        assert await reading == []
        with pytest.raises(SessionClosed):
            await f.stream.push(speech(1))

    play(script)


def test_a_stream_is_closed_while_its_model_works() -> None:
    async def script(f: Fixture) -> None:
        f.model.may_go_on.clear()
        reading = asyncio.create_task(f.events())
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        await f.model_is_busy()
        await f.stream.close()
        assert await reading == []

    play(script)


def test_closing_a_stream_again_is_harmless() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.close()
        await f.stream.close()
        assert await f.events() == []

    play(script)


def test_what_was_heard_before_a_stream_was_closed_can_be_read_afterwards() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        first = await anext(f.stream.events())
        await f.stream.push(np.concatenate([speech(30), silence(30)]))
        await until_decoded(f, 2)
        await f.stream.close()
        (second,) = await f.finals()
        assert isinstance(first, FinalTranscript)
        assert (first.utterance, second.utterance) == (0, 1)

    play(script)


# --- a model that fails ------------------------------------------------------


def test_a_failing_model_fails_the_events_and_every_call_after() -> None:
    async def script(f: Fixture) -> None:
        f.model.failure = ZeroDivisionError("no frames per second")
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        with pytest.raises(EngineFailed, match="scripted failed: ZeroDivisionError: no frames"):
            await f.events()
        for call in (f.stream.push(speech(1)), f.stream.finalize(), f.stream.finish()):
            with pytest.raises(EngineFailed, match="ZeroDivisionError"):
                await call

    play(script)


def test_events_before_the_failure_are_still_read() -> None:
    async def script(f: Fixture) -> None:
        events = f.stream.events()
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        assert (await anext(events)).text == str((20 + TAIL) * FRAME)
        f.model.failure = ZeroDivisionError()
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        with pytest.raises(EngineFailed):
            await anext(events)

    play(script)


def test_an_error_of_ours_is_not_wrapped() -> None:
    async def script(f: Fixture) -> None:
        f.model.failure = Overloaded("The device is full.", retry_after_s=3)
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        with pytest.raises(Overloaded, match="The device is full"):
            await f.events()

    play(script)


def test_a_failed_stream_frees_its_slot_when_it_is_closed() -> None:
    async def script(f: Fixture) -> None:
        f.model.failure = ZeroDivisionError()
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        with pytest.raises(EngineFailed):
            await f.events()
        await f.stream.close()
        assert f.freed == [f.stream]

    play(script)


# --- more than can be decoded ------------------------------------------------


async def fill(f: Fixture) -> None:
    """Hold the model at an utterance's end, and push as much as may wait behind it."""
    f.model.may_go_on.clear()
    await f.stream.push(np.concatenate([speech(20), silence(20)]))
    await f.model_is_busy()
    for _ in range(15):
        assert (await start(f.stream.push(silence(2 * SAMPLE_RATE / FRAME)))).done()


def test_a_push_waits_while_too_much_is_undecoded_and_goes_on_when_it_is_decoded() -> None:
    async def script(f: Fixture) -> None:
        await fill(f)
        waiting = await start(f.stream.push(silence(1)))
        assert not waiting.done()
        f.model.may_go_on.set()
        await waiting
        await f.stream.finish()
        assert len(await f.finals()) == 1

    play(script)


def test_one_push_of_more_than_may_wait_waits_too_and_is_heard_to_its_end() -> None:
    async def script(f: Fixture) -> None:
        f.model.may_go_on.clear()
        signal = np.concatenate([speech(20), silence(20), silence(2_000), speech(10)])
        waiting = await start(f.stream.push(signal))
        await f.model_is_busy()
        await turns_of_the_loop()
        assert not waiting.done()
        f.model.may_go_on.set()
        await waiting
        await f.stream.finish()
        assert [final.text for final in await f.finals()] == [
            str((20 + TAIL) * FRAME),
            str((10 + 10) * FRAME),
        ]

    play(script)


def test_a_waiting_push_is_let_go_when_the_stream_is_closed() -> None:
    async def script(f: Fixture) -> None:
        await fill(f)
        waiting = await start(f.stream.push(silence(1)))
        await f.stream.close()
        with pytest.raises(SessionClosed):
            await waiting

    play(script)


def test_a_waiting_push_is_let_go_when_the_model_fails() -> None:
    async def script(f: Fixture) -> None:
        await fill(f)
        waiting = await start(f.stream.push(silence(1)))
        f.model.failure = ZeroDivisionError()
        f.model.may_go_on.set()
        with pytest.raises(EngineFailed):
            await waiting

    play(script)


# --- the thread of the model -------------------------------------------------


def test_work_of_one_engine_runs_on_one_thread_in_order_of_arrival() -> None:
    async def main() -> tuple[list[int], set[str]]:
        worker = ModelWorker("scripted")
        order: list[int] = []
        threads: set[str] = set()

        def work(number: int) -> None:
            order.append(number)
            threads.add(threading.current_thread().name)

        await asyncio.gather(*(worker.run(work, number) for number in range(50)))
        worker.close()
        return order, threads

    order, threads = asyncio.run(main())
    assert order == list(range(50))
    assert len(threads) == 1
    assert threads.pop().startswith("scripted")


def test_cancelled_work_that_waits_is_never_begun() -> None:
    async def main() -> list[str]:
        worker, model, done = ModelWorker("scripted"), Model(), []
        model.may_go_on.clear()
        first = await start(worker.run(model, speech(1)))
        second = await start(worker.run(done.append, "second"))
        third = await start(worker.run(done.append, "third"))
        second.cancel()
        await turns_of_the_loop()
        model.may_go_on.set()
        await asyncio.gather(first, third)
        assert second.cancelled()
        worker.close()
        return done

    assert asyncio.run(main()) == ["third"]


def test_an_engine_that_was_closed_fails_its_calls() -> None:
    async def main() -> None:
        worker = ModelWorker("scripted")
        worker.close()
        with pytest.raises(EngineFailed, match="scripted has been closed"):
            await worker.run(len, "")

    asyncio.run(main())
