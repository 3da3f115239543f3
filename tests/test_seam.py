"""Where a second rendition goes on: no sample twice, none left out, and no click."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.client.seam import Splice
from runtime.speech import AudioChunk

Pcm = npt.NDArray[np.int16]

RATE = 24_000
FADE = 120  # samples: 5 ms
RATES = [8_000, 16_000, 22_050, 24_000, 44_100, 48_000]


def noise(samples: int, seed: int = 0, peak: int = 10_000) -> Pcm:
    """A signal in which no stretch is like another."""
    return np.random.default_rng(seed).integers(-peak, peak, samples, dtype=np.int16)


def sine(samples: int, *, phase: float = 0.0, peak: int = 10_000) -> Pcm:
    """200 Hz: neighbouring samples are less than 600 apart."""
    turns = np.arange(samples) * 200 / RATE + phase
    return np.round(peak * np.sin(2 * np.pi * turns)).astype(np.int16)


def chunks(signal: Pcm, cuts: list[int], *, empty_end: bool = True) -> list[AudioChunk]:
    """A rendition as an engine sends it: its samples count from its own start."""
    places = sorted({0, *(cut % len(signal) for cut in cuts if len(signal))})
    places.append(len(signal))
    whole = [
        AudioChunk(signal[start:end].tobytes(), RATE, start, piece=3)
        for start, end in pairwise(places)
        if start < end
    ]
    if empty_end or not whole:
        return [*whole, AudioChunk(b"", RATE, len(signal), 3, end=True)]
    last = whole.pop()
    return [*whole, AudioChunk(last.pcm, RATE, last.first_sample, last.piece, end=True)]


def spliced(
    heard: Pcm, second: Pcm, starts_at: int, cuts: list[int], *, empty_end: bool = True
) -> Pcm:
    """What follows on the samples heard; checks that each index comes once, and one end."""
    splice = Splice(starts_at, len(heard), int(heard[-1]) if len(heard) else 0)
    placed = [splice.place(chunk) for chunk in chunks(second, cuts, empty_end=empty_end)]
    new = [chunk for chunk in placed if chunk is not None]
    position = len(heard)
    for chunk in new:
        assert chunk.first_sample == position
        assert chunk.samples or chunk.end
        position = chunk.next_sample
    assert [chunk.end for chunk in new] == [False] * (len(new) - 1) + [True]
    return np.frombuffer(b"".join(chunk.pcm for chunk in new), dtype="<i2")


cut_lists = st.lists(st.integers(0, 10_000), max_size=10)


# --- the same rendition again ------------------------------------------------


@pytest.mark.parametrize("empty_end", [True, False])
@settings(deadline=None)
@given(data=st.data(), samples=st.integers(1, 400), cuts=cut_lists)
def test_the_same_rendition_goes_on_as_if_nothing_had_happened(
    data: st.DataObject, samples: int, cuts: list[int], empty_end: bool
) -> None:
    signal = noise(samples, seed=samples)
    heard = data.draw(st.integers(1, samples))
    starts_at = data.draw(st.integers(0, heard - 1))
    rest = spliced(signal[:heard], signal[starts_at:], starts_at, cuts, empty_end=empty_end)
    assert np.array_equal(rest, signal[heard:])


def test_where_nothing_was_heard_all_of_it_passes() -> None:
    signal = noise(500)
    assert np.array_equal(spliced(signal[:0], signal, 0, [100, 200]), signal)


def test_what_was_heard_passes_no_more() -> None:
    splice = Splice(1_000, 1_200, last=0)
    assert splice.place(AudioChunk(bytes(200), RATE, 0)) is None
    assert splice.place(AudioChunk(bytes(200), RATE, 100)) is None
    placed = splice.place(AudioChunk(bytes(200), RATE, 200))
    assert placed == AudioChunk(bytes(200), RATE, 1_200)


def test_a_chunk_keeps_what_is_said_of_it() -> None:
    splice = Splice(50, 60, last=0)
    placed = splice.place(AudioChunk(bytes(80), 16_000, 0, piece=3, piece_end=True))
    assert placed == AudioChunk(bytes(60), 16_000, 60, piece=3, piece_end=True)


# --- the end -----------------------------------------------------------------


@pytest.mark.parametrize("starts_at", [0, 40, 99])
def test_the_end_passes_even_if_all_of_its_samples_were_heard(starts_at: int) -> None:
    signal = noise(100)
    splice = Splice(starts_at, 100, int(signal[-1]))
    placed = splice.place(AudioChunk(signal[starts_at:].tobytes(), RATE, 0, piece=2, end=True))
    assert placed == AudioChunk(b"", RATE, 100, piece=2, end=True)


def test_an_empty_end_passes() -> None:
    splice = Splice(0, 100, last=7)
    assert splice.place(AudioChunk(noise(100).tobytes(), RATE, 0)) is None
    assert splice.place(AudioChunk(b"", RATE, 100, end=True)) == AudioChunk(
        b"", RATE, 100, end=True
    )


def test_a_shorter_rendition_with_sound_at_its_end_does_not_go_back() -> None:
    splice = Splice(0, 100, last=0)
    placed = splice.place(AudioChunk(bytes(2 * 80), RATE, 0, end=True))
    assert placed == AudioChunk(b"", RATE, 100, end=True)


def test_the_end_of_a_shorter_rendition_does_not_go_back() -> None:
    splice = Splice(1_000, 1_100, last=0)
    assert splice.place(AudioChunk(bytes(2 * 80), RATE, 0)) is None
    placed = splice.place(AudioChunk(b"", RATE, 80, end=True))
    assert placed == AudioChunk(b"", RATE, 1_100, end=True)


# --- another rendition -------------------------------------------------------


def test_a_shorter_rendition_tells_nevertheless_that_its_text_is_over() -> None:
    splice = Splice(0, 1100, 0)
    told = splice.place(AudioChunk(bytes(200), 24_000, 0, 3, piece_end=True, texts=2))
    assert told == AudioChunk(b"", 24_000, 1100, 3, piece_end=True, texts=2)


@pytest.mark.parametrize("shorter_by", [1, 20, 99])
def test_after_a_piece_that_has_become_shorter_the_next_is_whole(shorter_by: int) -> None:
    again, following = np.zeros(100 - shorter_by, dtype=np.int16), noise(250)
    rendition = np.concatenate([again, following])
    splice = Splice(1_000, 1_100, last=0)
    assert splice.place(AudioChunk(again.tobytes(), RATE, 0, 3, piece_end=True)) is None
    position, heard = 1_100, b""
    for start in range(len(again), len(rendition), 90):
        chunk = AudioChunk(rendition[start : start + 90].tobytes(), RATE, start, 4)
        placed = splice.place(chunk)
        assert placed is not None
        assert (placed.first_sample, placed.piece) == (position, 4)
        position, heard = placed.next_sample, heard + placed.pcm
    assert heard == following.tobytes()
    end = splice.place(AudioChunk(b"", RATE, len(rendition), 4, end=True))
    assert end == AudioChunk(b"", RATE, position, 4, end=True)


def test_where_another_piece_follows_nothing_is_corrected() -> None:
    loud = np.full(300, 20_000, dtype=np.int16)
    splice = Splice(1_000, 1_000, last=None)
    placed = splice.place(AudioChunk(loud.tobytes(), RATE, 0, 4))
    assert placed == AudioChunk(loud.tobytes(), RATE, 1_000, 4)


def test_a_rendition_without_correction_may_still_start_before_the_seam() -> None:
    signal = noise(300)
    splice = Splice(1_000, 1_100, last=None)
    placed = splice.place(AudioChunk(signal.tobytes(), RATE, 0))
    assert placed == AudioChunk(signal[100:].tobytes(), RATE, 1_100)


def largest_step(signal: Pcm) -> int:
    return int(np.abs(np.diff(signal.astype(int))).max())


@pytest.mark.parametrize("phase", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("heard", [301, 330, 390])
def test_there_is_no_click_between_renditions_that_differ(phase: float, heard: int) -> None:
    first, second = sine(1_000), sine(1_000, phase=phase)
    whole = np.concatenate([first[:heard], spliced(first[:heard], second, 0, [350, 400])])
    # The correction itself takes at most 20,000 / 121 a sample.
    assert largest_step(whole) <= largest_step(first) + 20_000 // FADE + 1
    assert np.array_equal(whole[heard + FADE :], second[heard + FADE :])


def test_a_sentence_said_again_takes_off_from_the_last_sample() -> None:
    heard, again = sine(330), sine(1_000)
    rest = spliced(heard, again, 330, [50])
    assert abs(int(rest[0]) - int(heard[-1])) <= 20_000 // FADE
    assert np.array_equal(rest[FADE:], again[FADE:])


@settings(deadline=None)
@given(st.data(), st.sampled_from(RATES), st.integers(1, 600), cut_lists)
def test_the_step_is_faded_out_evenly_and_is_gone_after_5_ms(
    data: st.DataObject, rate: int, samples: int, cuts: list[int]
) -> None:
    heard = data.draw(st.integers(1, samples))
    first, second = noise(samples, seed=1), noise(samples, seed=2)
    last, before = int(first[heard - 1]), int(second[heard - 1])
    splice = Splice(0, heard, last)
    placed = [
        splice.place(AudioChunk(chunk.pcm, rate, chunk.first_sample, end=chunk.end))
        for chunk in chunks(second, cuts)
    ]
    pcm = b"".join(chunk.pcm for chunk in placed if chunk is not None)
    correction = np.frombuffer(pcm, dtype="<i2").astype(int) - second[heard:]
    fade = round(rate * 0.005)
    expected = (last - before) * (1 - np.arange(1, len(correction) + 1) / (fade + 1))
    assert np.abs(correction[:fade] - expected[:fade]).max(initial=0) <= 0.5
    assert not correction[fade:].any()


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(0, 500), cut_lists)
def test_the_seam_does_not_depend_on_how_the_rendition_is_cut(
    heard: int, starts_before: int, cuts: list[int]
) -> None:
    starts_at = max(0, heard - starts_before)
    first, second = noise(heard, seed=3), noise(heard - starts_at + 300, seed=4)
    rest = spliced(first, second, starts_at, cuts)
    assert np.array_equal(rest, spliced(first, second, starts_at, []))
    assert len(rest) == 300


@pytest.mark.parametrize("sign", [1, -1])
def test_full_scale_is_clipped_not_wrapped(sign: int) -> None:
    loud = np.full(400, sign * 32_767, dtype=np.int16)
    quiet_before = np.concatenate([np.zeros(200, dtype=np.int16), loud[:200]])
    rest = spliced(loud[:200], quiet_before, 0, [])
    assert (np.abs(rest.astype(int)) >= 32_767).all()
    assert (np.sign(rest) == sign).all()
