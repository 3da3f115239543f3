"""Long recordings: no sample lost or heard twice, and no word where two windows meet."""

from __future__ import annotations

import asyncio
import math
import tracemalloc
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.engines.parakeet.recording import RecordingStream
from runtime.engines.parakeet.windows import SAMPLE_RATE, Layout, Window, Windower, quietest, seam
from runtime.errors import EngineFailed, SessionClosed
from runtime.speech import FinalTranscript, Samples, Word

LAYOUT = Layout(window=10 * SAMPLE_RATE, context=2 * SAMPLE_RATE, search=2 * SAMPLE_RATE)
SMALL = Layout(window=10_000, context=1_000, search=3_200)


def counted(samples: int) -> Samples:
    """Each sample says where it is, as float32 can up to 2**24."""
    return np.arange(samples, dtype=np.float32)


def windows_of(samples: Samples, layout: Layout, *sizes: int) -> list[Window]:
    windower, found, at = Windower(layout), [], 0
    for size in sizes:
        found += windower.push(samples[at : at + size])
        at += size
    found += windower.push(samples[at:])
    return [*found, windower.flush()]


# --- cutting -----------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(length=st.integers(0, 60_000), sizes=st.lists(st.integers(0, 20_000), max_size=8))
def test_every_sample_lies_between_two_cuts_once_and_in_its_place(
    length: int, sizes: list[int]
) -> None:
    windows = windows_of(counted(length), SMALL, *sizes)
    begin = 0
    for window in windows:
        assert len(window.samples) <= SMALL.window
        np.testing.assert_array_equal(
            window.samples, counted(window.start + len(window.samples))[window.start :]
        )
        end = window.start + len(window.samples)
        assert window.start == max(0, begin - SMALL.context)
        assert end == (length if window.last else window.cut + SMALL.context)
        begin = window.cut
    assert begin == length
    assert [window.last for window in windows] == [False] * (len(windows) - 1) + [True]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(length=st.integers(0, 60_000), sizes=st.lists(st.integers(0, 20_000), max_size=8))
def test_where_it_is_cut_does_not_depend_on_how_it_was_pushed(
    length: int, sizes: list[int]
) -> None:
    sound = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    once, pieces = windows_of(sound, SMALL), windows_of(sound, SMALL, *sizes)
    assert [(w.start, w.cut) for w in once] == [(w.start, w.cut) for w in pieces]


def test_what_follows_a_flush_is_a_recording_of_its_own() -> None:
    windower = Windower(SMALL)
    windower.push(counted(5_000))
    first = windower.flush()
    windower.push(counted(3_000))
    second = windower.flush()
    assert (first.start, first.cut) == (0, 5_000)
    assert (second.start, second.cut) == (5_000, 8_000)
    assert windower.position == 8_000


@pytest.mark.parametrize("pause_at", [0.3, 1.0, 1.9])
def test_a_cut_falls_into_the_pause(pause_at: float) -> None:
    sound = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    middle = round(pause_at * SAMPLE_RATE)
    sound[max(0, middle - 2_400) : middle + 2_400] *= 0.01
    assert abs(quietest(sound) - middle) <= 1_600


def test_a_constant_sound_is_cut_as_late_as_can_be() -> None:
    assert quietest(np.ones(SAMPLE_RATE, dtype=np.float32)) == SAMPLE_RATE - 2_400


# --- where two windows meet --------------------------------------------------

TEXTS = ("a", "the", "cat", "Sat", "mat", "seven")


@st.composite
def speeches(draw: Any) -> list[Word]:
    """Words of 150 to 500 ms, some of them the same, with pauses of up to half a second."""
    words, at = [], draw(st.floats(0, 1))
    for _ in range(draw(st.integers(0, 60))):
        length = draw(st.floats(0.15, 0.5))
        words.append(Word(draw(st.sampled_from(TEXTS)), at, at + length))
        at += length + draw(st.floats(0.05, 0.5))
    return words


def heard(window: Window, truth: list[Word]) -> list[Word]:
    """What a model makes of a window: whole words at frames of 80 ms, halves as something else.

    Case and punctuation depend on what it saw before.
    """
    start_s, end_s = window.start / SAMPLE_RATE, (window.start + len(window.samples)) / SAMPLE_RATE
    found = []
    for word in truth:
        if word.end_s <= start_s or word.start_s >= end_s:
            continue
        whole = word.start_s >= start_s and word.end_s <= end_s
        text = (word.text.title() + "," if not found else word.text) if whole else "uh"
        times = [round((t - start_s) / 0.08) * 0.08 + start_s for t in (word.start_s, word.end_s)]
        found.append(Word(text, *times))
    return found


def folded(words: list[Word]) -> list[str]:
    return [word.text.casefold().strip(",") for word in words]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(truth=speeches(), seed=st.integers(0, 5))
def test_words_are_the_same_wherever_the_windows_are_cut(truth: list[Word], seed: int) -> None:
    length = math.ceil((truth[-1].end_s if truth else 1.0) * SAMPLE_RATE)
    sound = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
    joined: list[Word] = []
    cut_s = None
    for window in windows_of(sound, LAYOUT):
        words = heard(window, truth)
        if cut_s is not None:
            kept, first = seam(joined, words, cut_s, 2.0)
            joined, words = joined[:kept], words[first:]
        joined += words
        cut_s = window.cut / SAMPLE_RATE
    assert folded(joined) == folded(truth)


def test_without_a_word_in_common_each_side_keeps_its_own() -> None:
    left = [Word("one", 7.0, 7.4), Word("too", 7.9, 8.3)]
    right = [Word("won", 7.0, 7.4), Word("two", 7.8, 8.1), Word("three", 8.5, 9.0)]
    assert seam(left, right, 8.0, 2.0) == (1, 2)


# --- as a stream -------------------------------------------------------------

Recognize = Callable[[Samples], Awaitable[list[Word]]]


class Ears:
    """Recognises what ``counted`` samples say of where they are, and how many wait."""

    def __init__(self, truth: list[Word]) -> None:
        self.truth = truth
        self.windows: list[int] = []
        self.under_way = self.most = 0

    async def __call__(self, samples: Samples) -> list[Word]:
        start = round(float(samples[0]))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(len(self.windows) % 3):  # some take longer than those after them
            await asyncio.sleep(0)
        self.windows.append(len(samples))
        self.under_way -= 1
        found = heard(Window(samples, start, 0, False), self.truth)
        offset = start / SAMPLE_RATE
        return [Word(w.text, w.start_s - offset, w.end_s - offset) for w in found]


def stream_of(recognize: Recognize, freed: list[Any], ahead: int = 2) -> RecordingStream:
    return RecordingStream(LAYOUT, recognize, with_words=True, ahead=ahead, on_close=freed.append)


SPOKEN = [Word(f"w{n}" + ("." if n % 7 == 6 else ""), n * 0.5, n * 0.5 + 0.3) for n in range(360)]


def test_three_minutes_in_pieces_are_heard_in_order_with_few_windows_under_way() -> None:
    ears, freed = Ears(SPOKEN), []

    async def main() -> list[FinalTranscript]:
        stream = stream_of(ears, freed)
        sound = counted(180 * SAMPLE_RATE)

        async def push() -> None:
            for at in range(0, len(sound), 70_001):
                await stream.push(sound[at : at + 70_001])
            await stream.finish()

        pushing = asyncio.create_task(push())
        finals = [event async for event in stream.events()]
        await pushing
        await stream.close()
        return [event for event in finals if isinstance(event, FinalTranscript)]

    finals = asyncio.run(main())
    words = [word for final in finals for word in final.words]
    assert [word.text.strip(",").lower() for word in words] == [word.text for word in SPOKEN]
    assert max(abs(w.start_s - t.start_s) for w, t in zip(words, SPOKEN, strict=True)) < 0.08
    assert max(ears.windows) <= LAYOUT.window
    assert ears.most <= 2
    assert [final.utterance for final in finals] == list(range(len(finals)))
    # A replica that takes over starts at the first word that was not said yet.
    for final, following in pairwise(finals):
        assert final.end_s <= final.settled_s <= following.start_s
    assert all(final.text.endswith(".") for final in finals[:-1])
    assert freed == [freed[0]]


def test_three_hours_are_heard_word_for_word_in_the_memory_of_a_few_windows() -> None:
    hours, every_s, piece = 3, 2.5, 30 * SAMPLE_RATE
    said = int(hours * 3600 / every_s) - 1

    def word(number: int) -> Word:
        end = "." if number % 7 == 6 else ""
        return Word(f"w{number}{end}", number * every_s, number * every_s + 0.3)

    async def recognize(samples: Samples) -> list[Word]:
        """Each sample says in which millisecond of the recording it is."""
        start = round(float(samples[0])) * (SAMPLE_RATE // 1000)
        first = max(0, int(start / SAMPLE_RATE / every_s) - 1)
        near = range(first, min(said, first + 3 + int(len(samples) / SAMPLE_RATE / every_s)))
        found = heard(Window(samples, start, 0, False), [word(number) for number in near])
        offset = start / SAMPLE_RATE
        return [Word(w.text, w.start_s - offset, w.end_s - offset) for w in found]

    async def main() -> int:
        stream = stream_of(recognize, [])

        async def push() -> None:
            for at in range(0, hours * 3600 * SAMPLE_RATE, piece):
                places = np.arange(at, at + piece) // (SAMPLE_RATE // 1000)
                await stream.push(places.astype(np.float32))
            await stream.finish()

        pushing = asyncio.create_task(push())
        number = 0
        async for final in stream.events():
            assert isinstance(final, FinalTranscript)
            for heard_word in final.words:
                expected = word(number)
                assert heard_word.text.strip(",").lower() == expected.text
                assert abs(heard_word.start_s - expected.start_s) < 0.09
                number += 1
        await pushing
        await stream.close()
        return number

    tracemalloc.start()
    try:
        assert asyncio.run(main()) == said
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A piece in integers and floats, and the windows: the whole recording would be 691 MB.
    assert peak < 20 * piece + 10 * 4 * LAYOUT.window


def test_finalize_ends_the_utterance_and_what_follows_is_another() -> None:
    async def main() -> list[Any]:
        stream = stream_of(Ears(SPOKEN), [])
        sound = counted(20 * SAMPLE_RATE)
        await stream.push(sound[: 3 * SAMPLE_RATE])
        assert await stream.finalize() == 1
        assert await stream.finalize() == 2
        await stream.push(sound[3 * SAMPLE_RATE : 4 * SAMPLE_RATE])
        await stream.finish()
        with pytest.raises(SessionClosed):
            await stream.push(sound)
        return [event async for event in stream.events()]

    finals = asyncio.run(main())
    assert [final.request for final in finals] == [1, 2, 0]
    assert finals[0].text.split()[-1] == "w5"
    assert finals[1].text == ""
    assert finals[2].text.split()[-1] == "w7"


def test_a_window_that_fails_ends_the_stream_with_what_it_failed_of() -> None:
    async def failing(samples: Samples) -> list[Word]:
        raise EngineFailed("no")

    async def main() -> None:
        stream = stream_of(failing, [])
        await stream.push(counted(SAMPLE_RATE))
        await stream.finish()
        with pytest.raises(EngineFailed, match="no"):
            _ = [event async for event in stream.events()]

    asyncio.run(main())


def test_a_closed_stream_stops_its_windows_and_lets_its_pusher_go() -> None:
    stopped: list[bool] = []

    async def never(samples: Samples) -> list[Word]:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)
        return []

    async def main() -> None:
        freed: list[Any] = []
        stream = stream_of(never, freed, ahead=2)
        pushing = asyncio.create_task(stream.push(counted(60 * SAMPLE_RATE)))
        while len(stream._under_way) < 2:  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await stream.close()
        with pytest.raises(SessionClosed):
            await pushing
        assert freed == [stream]
        await asyncio.sleep(0)

    asyncio.run(main())
    assert stopped == [True, True]
