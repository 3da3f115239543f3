"""A stream over a model: what is pushed comes back as partials and finals, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from segment_streams import FRAME_S, TAIL, TURN, Fixture, play, silence, speech, until_decoded

from runtime.engines.embedded.segmenter import FRAME, PAUSE
from runtime.speech import FinalTranscript, PartialTranscript

PAUSED = PAUSE // FRAME

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
        assert final.end_s == pytest.approx((50 + PAUSED) * FRAME_S), "not what was added"

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


def test_what_may_be_final_is_decoded_as_soon_as_speech_has_paused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.engines.embedded.stream.time", Clock(step=0.0))

    async def script(f: Fixture) -> None:
        await f.stream.push(speech(20))
        await until_decoded(f, 1)
        await f.stream.push(silence(PAUSED))  # the next partial is not due
        await until_decoded(f, 2)
        await f.stream.push(silence(10))
        await f.stream.finalize()
        await f.stream.finish()
        *_, final = await f.finals()
        assert final.text == str((20 + TAIL) * FRAME)
        assert f.model.decoded == [20 * FRAME, (20 + TAIL) * FRAME]

    play(script, TURN, partials=True)


@pytest.mark.parametrize("sizes", [(320, 640), (333, 333), (FRAME // 2, FRAME)])
def test_partials_come_however_pushes_and_frames_lie(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]
) -> None:
    monkeypatch.setattr("runtime.engines.embedded.stream.time", Clock(step=1.0))

    async def script(f: Fixture) -> None:
        sound = speech(100)
        await f.stream.push(sound[: sizes[0]])
        for count, start in enumerate(range(sizes[0] + 4 * sizes[1], 30 * sizes[1], 4 * sizes[1])):
            for at in range(start - 4 * sizes[1], start, sizes[1]):
                await f.stream.push(sound[at : at + sizes[1]])
            await until_decoded(f, count + 1)  # the model has had something new each time

    play(script, TURN, partials=True)


def test_while_speech_may_be_pausing_the_model_is_kept_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.engines.embedded.stream.time", Clock(step=1.0))

    async def script(f: Fixture) -> None:
        await f.stream.push(speech(20))
        await until_decoded(f, 1)
        for _ in range(PAUSED - 1):
            await f.stream.push(silence(1))
        await f.stream.push(speech(1))
        await until_decoded(f, 2)
        await f.stream.finish()
        await f.events()
        assert f.model.decoded == [20 * FRAME, (20 + PAUSED) * FRAME], "and reused for the final"

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
