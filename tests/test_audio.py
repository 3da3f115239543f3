"""Audio at the edges: nothing wraps, nothing is lost, and streams have no seams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from signals import ALL_INT16, floats, sine

from runtime.audio import (
    MAX_SAMPLE_RATE,
    MIN_SAMPLE_RATE,
    Framer,
    Resampler,
    check_sample_rate,
    float32_to_pcm16,
    pcm16_to_float32,
    resample,
    silence_invalid,
)
from runtime.errors import AudioFormatError
from runtime.speech import Samples


def int16(pcm: bytes) -> list[int]:
    return np.frombuffer(pcm, dtype="<i2").tolist()


def snr_db(signal: Samples, reference: Samples) -> float:
    noise = signal.astype(np.float64) - reference
    return float(10 * np.log10(np.mean(reference.astype(np.float64) ** 2) / np.mean(noise**2)))


def pieces(signal: Samples, cuts: list[int]) -> list[Samples]:
    """The signal cut at these places, which may repeat: blocks may be empty."""
    return np.split(signal, sorted(cut % (len(signal) + 1) for cut in cuts))


cut_lists = st.lists(st.integers(0, 100_000), max_size=12)


# --- PCM16 and float32 -------------------------------------------------------


def test_every_int16_survives_the_way_to_float32_and_back() -> None:
    there = pcm16_to_float32(ALL_INT16.tobytes())
    assert there.dtype == np.float32
    assert float32_to_pcm16(there) == ALL_INT16.tobytes()


def test_int16_maps_to_the_half_open_range_from_minus_one_to_one() -> None:
    there = pcm16_to_float32(ALL_INT16.tobytes())
    assert (there[0], there[32_768], there[-1]) == (-1.0, 0.0, 32_767 / 32_768)


def test_pcm16_is_little_endian() -> None:
    assert pcm16_to_float32(b"\x00\x40").tolist() == [0.5]
    assert float32_to_pcm16(floats(0.5)) == b"\x00\x40"


def test_full_scale_float_is_clipped_not_wrapped() -> None:
    assert int16(float32_to_pcm16(floats(1.0, 1.5, 3e38, -1.0, -1.5, -3e38))) == [
        *[32_767] * 3,
        *[-32_768] * 3,
    ]


@given(st.lists(st.floats(-4, 4, width=32), max_size=50))
def test_each_float_becomes_the_nearest_int16_there_is(values: list[float]) -> None:
    for value, sample in zip(values, int16(float32_to_pcm16(floats(*values))), strict=True):
        wanted = min(max(value * 32_768, -32_768), 32_767)
        assert abs(sample - wanted) <= 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_as_samples(bad: float) -> None:
    with pytest.raises(AudioFormatError, match="NaN or infinity"):
        float32_to_pcm16(floats(0.0, bad))


@pytest.mark.parametrize("count", [1, 3, 999])
def test_an_odd_number_of_bytes_is_refused(count: int) -> None:
    with pytest.raises(AudioFormatError, match=f"^{count} bytes are not PCM16"):
        pcm16_to_float32(bytes(count))


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_buffer_of_bytes_is_taken(wrap: type) -> None:
    assert pcm16_to_float32(wrap(b"\x00\x40\x00\xc0")).tolist() == [0.5, -0.5]


def test_a_view_of_an_odd_number_of_int16_is_taken() -> None:
    view = memoryview(np.array([16_384, 0, -16_384], dtype="<i2"))
    assert pcm16_to_float32(view).tolist() == [0.5, 0.0, -0.5]


def test_no_bytes_are_no_samples() -> None:
    assert pcm16_to_float32(b"").size == 0
    assert float32_to_pcm16(floats()) == b""


def test_invalid_samples_become_silence_and_are_counted() -> None:
    samples, invalid = silence_invalid(floats(0.25, np.nan, np.inf, -np.inf, -0.25))
    assert samples.tolist() == [0.25, 0.0, 0.0, 0.0, -0.25]
    assert samples.dtype == np.float32
    assert invalid == 3


def test_valid_samples_are_handed_on_as_they_are() -> None:
    samples = floats(0.25, -0.25)
    assert silence_invalid(samples) == (samples, 0)


# --- sample rates ------------------------------------------------------------


@pytest.mark.parametrize("rate", [MIN_SAMPLE_RATE, 16_000, 44_100, MAX_SAMPLE_RATE])
def test_a_supported_rate_is_returned(rate: int) -> None:
    assert check_sample_rate(rate) == rate


@pytest.mark.parametrize("rate", [-1, 0, MIN_SAMPLE_RATE - 1, MAX_SAMPLE_RATE + 1])
def test_a_rate_out_of_range_is_refused_with_the_range(rate: int) -> None:
    with pytest.raises(AudioFormatError, match=f"{rate} Hz .* use 8000 to 192000 Hz"):
        check_sample_rate(rate)


# --- framing -----------------------------------------------------------------


@given(st.integers(0, 300), st.integers(1, 64), cut_lists)
@example(0, 1, [])
@example(64, 32, [32])
def test_frames_do_not_depend_on_how_the_signal_was_split(
    length: int, size: int, cuts: list[int]
) -> None:
    signal = np.arange(length, dtype=np.float32)
    framer = Framer(size)
    frames = [frame for block in pieces(signal, cuts) for frame in framer.push(block)]
    whole = length - length % size
    assert [frame.tolist() for frame in frames] == signal[:whole].reshape(-1, size).tolist()
    assert framer.rest.tolist() == signal[whole:].tolist()


def test_the_rest_of_a_block_is_safe_from_a_caller_that_uses_its_buffer_again() -> None:
    framer, buffer = Framer(4), floats(1, 2, 3)
    assert list(framer.push(buffer)) == []
    buffer[:] = 9
    assert [frame.tolist() for frame in framer.push(floats(4))] == [[1, 2, 3, 4]]


# --- resampling --------------------------------------------------------------

RATES = [(48_000, 16_000), (44_100, 16_000), (8_000, 16_000), (16_000, 24_000), (16_000, 16_000)]


@given(st.sampled_from(RATES), st.integers(0, 5_000), cut_lists)
def test_a_resampled_stream_has_no_seams(
    rates: tuple[int, int], length: int, cuts: list[int]
) -> None:
    signal = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    whole = Resampler(*rates)
    expected = np.concatenate([whole.push(signal), whole.push(floats(), last=True)])
    stream = Resampler(*rates)
    blocks = [stream.push(block) for block in pieces(signal, cuts)]
    assert np.array_equal(np.concatenate([*blocks, stream.push(floats(), last=True)]), expected)


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
def test_a_stream_is_as_long_as_the_whole_signal_resampled(from_rate: int, to_rate: int) -> None:
    signal = sine(from_rate, seconds=1.2345)
    stream = Resampler(from_rate, to_rate).push(signal, last=True)
    assert abs(len(stream) - len(resample(signal, from_rate, to_rate))) <= 3
    assert abs(len(stream) - len(signal) * to_rate / from_rate) <= 3


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES[:-1])
def test_a_sine_survives_resampling(from_rate: int, to_rate: int) -> None:
    blocks = np.array_split(sine(from_rate), 50)
    stream = Resampler(from_rate, to_rate)
    out = [stream.push(block, last=index == 49) for index, block in enumerate(blocks)]
    inner = slice(to_rate // 10, -to_rate // 10)  # the filter rings at the ends
    assert snr_db(np.concatenate(out)[inner], sine(to_rate)[inner]) > 50
    whole = resample(sine(from_rate), from_rate, to_rate)
    assert snr_db(whole[inner], sine(to_rate)[inner]) > 50


def test_what_lies_above_the_new_band_does_not_fold_into_it() -> None:
    inner = slice(1_600, -1_600)
    assert np.abs(resample(sine(48_000, hertz=12_000), 48_000, 16_000)[inner]).max() < 1e-3


def test_equal_rates_change_nothing() -> None:
    signal = sine(16_000)
    assert resample(signal, 16_000, 16_000) is signal
    assert Resampler(16_000, 16_000).push(signal) is signal
