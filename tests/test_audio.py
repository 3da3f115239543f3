"""Audio at the edges: nothing wraps, nothing is lost, and what cannot be read says why."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.audio import (
    MAX_SAMPLE_RATE,
    MIN_SAMPLE_RATE,
    AudioFile,
    Framer,
    Resampler,
    WavWriter,
    check_sample_rate,
    float32_to_pcm16,
    pcm16_to_float32,
    resample,
    silence_invalid,
)
from runtime.errors import AudioFormatError
from runtime.speech import Samples

ALL_INT16 = np.arange(-32_768, 32_768, dtype="<i2")


def floats(*values: float) -> Samples:
    return np.array(values, dtype=np.float32)


def int16(pcm: bytes) -> list[int]:
    return np.frombuffer(pcm, dtype="<i2").tolist()


def sine(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> Samples:
    time = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


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


# --- files -------------------------------------------------------------------


def saved(
    folder: Path, samples: npt.ArrayLike, rate: int, subtype: str, name: str = "audio.wav"
) -> Path:
    path = folder / name
    soundfile.write(path, np.asarray(samples), rate, subtype=subtype)
    return path


def read(path: Path) -> Samples:
    return np.concatenate(list(AudioFile.open(path).blocks()))


def test_a_file_tells_its_rate_and_length_before_it_is_read(tmp_path: Path) -> None:
    file = AudioFile.open(saved(tmp_path, sine(48_000, 2.5), 48_000, "PCM_16"))
    assert (file.sample_rate, file.seconds, file.invalid_samples) == (48_000, 2.5, 0)


def test_pcm16_is_read_to_the_bit(tmp_path: Path) -> None:
    path = saved(tmp_path, ALL_INT16, 16_000, "PCM_16")
    assert float32_to_pcm16(read(path)) == ALL_INT16.tobytes()


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = sine(48_000, hertz=300), sine(48_000, hertz=700)
    path = saved(tmp_path, np.stack([left, right], axis=1), 48_000, "PCM_24")
    samples = read(path)
    assert samples.dtype == np.float32
    assert samples == pytest.approx((left + right) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("subtype", "name", "step"),
    [
        ("PCM_U8", "a.wav", 1 / 128),
        ("PCM_24", "a.wav", 1 / 2**23),
        ("FLOAT", "a.wav", 1e-7),
        ("PCM_16", "a.flac", 1 / 2**15),
        ("PCM_24", "a.flac", 1 / 2**23),
    ],
)
def test_each_bit_depth_and_format_is_read_to_its_own_precision(
    tmp_path: Path, subtype: str, name: str, step: float
) -> None:
    signal = sine(16_000)
    assert read(saved(tmp_path, signal, 16_000, subtype, name)) == pytest.approx(signal, abs=step)


def test_invalid_samples_of_a_float_file_are_read_as_silence_and_counted(tmp_path: Path) -> None:
    signal = sine(16_000, seconds=3)
    bad = [0, 20_000, 20_001, 47_999]
    signal[bad] = [np.nan, np.inf, -np.inf, np.nan]
    file = AudioFile.open(saved(tmp_path, signal, 16_000, "FLOAT"))
    samples = np.concatenate(list(file.blocks()))
    assert file.invalid_samples == 4
    assert samples[bad].tolist() == [0, 0, 0, 0]
    others = np.delete(np.arange(len(signal)), bad)
    assert np.array_equal(samples[others], signal[others])


def not_audio(folder: Path) -> Path:
    (folder / "notes.wav").write_text("Dear diary, today I recorded nothing.\n" * 50)
    return folder / "notes.wav"


def empty(folder: Path) -> Path:
    (folder / "empty.wav").touch()
    return folder / "empty.wav"


def cut_within_its_header(folder: Path) -> Path:
    path = saved(folder, sine(16_000), 16_000, "PCM_16", "stub.wav")
    path.write_bytes(path.read_bytes()[:30])
    return path


def a_folder(folder: Path) -> Path:
    (folder / "folder.wav").mkdir()
    return folder / "folder.wav"


UNREADABLE = {
    "not audio": (not_audio, "cannot be read as audio"),
    "empty": (empty, "is empty"),
    "header only": (lambda d: saved(d, floats(), 16_000, "PCM_16"), "holds no samples"),
    "half a header": (cut_within_its_header, "cannot be read as audio"),
    "missing": (lambda d: d / "nowhere.wav", "There is no file"),
    "folder": (a_folder, "is not a file"),
    "4 kHz": (lambda d: saved(d, sine(4_000), 4_000, "PCM_16"), "4000 Hz is not supported"),
    "named .raw": (lambda d: not_audio(d).rename(d / "notes.raw"), "cannot be read as audio"),
    "name too long": (lambda d: d / ("x" * 300), "cannot be read"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_with_its_path_and_the_reason(
    tmp_path: Path, kind: str
) -> None:
    make, reason = UNREADABLE[kind]
    path = make(tmp_path)
    with pytest.raises(AudioFormatError, match=reason) as caught:
        AudioFile.open(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).count(str(path)) == 1, "the path is said once"


def test_a_path_may_be_given_as_text(tmp_path: Path) -> None:
    path = saved(tmp_path, sine(16_000), 16_000, "PCM_16")
    assert AudioFile.open(str(path)) == AudioFile.open(path)


def test_a_name_that_is_no_utf8_is_a_name(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    with WavWriter(path, 16_000) as wav:
        wav.write(b"\x01\x00" * 100)
    assert len(read(path)) == 100


def test_a_file_that_breaks_off_says_so_after_what_could_be_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 80_000)
    path = saved(tmp_path, noise, 16_000, "PCM_16", "a.flac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    blocks = AudioFile.open(path).blocks()
    assert len(next(blocks)) == 16_000
    with pytest.raises(AudioFormatError, match="damaged") as caught:
        list(blocks)
    assert str(path) in str(caught.value)


def test_a_wav_file_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = saved(tmp_path, ALL_INT16, 16_000, "PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + 2 * 10_000 + 1])
    assert float32_to_pcm16(read(path)) == ALL_INT16[:10_000].tobytes()


def test_a_long_file_is_read_a_second_at_a_time(tmp_path: Path) -> None:
    rate, minutes = 16_000, 10
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(minutes * 60):
            file.write(np.zeros(rate, dtype=np.int16))
    tracemalloc.start()
    try:
        lengths = [len(block) for block in AudioFile.open(path).blocks()]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(lengths) == minutes * 60 * rate
    assert max(lengths) <= rate
    assert peak < 4 * rate * 10, "ten seconds of float32, of six hundred"


# --- writing -----------------------------------------------------------------


def write_all(target: Path | str | io.BytesIO, rate: int = 24_000) -> None:
    with WavWriter(target, rate) as wav:
        for start in range(0, len(ALL_INT16), 5_000):
            wav.write(ALL_INT16[start : start + 5_000].tobytes())


def check_written(source: Path | io.BytesIO) -> None:
    samples, rate = soundfile.read(source, dtype="int16")
    assert rate == 24_000
    assert np.array_equal(samples, ALL_INT16)


@pytest.mark.parametrize("kind", [str, Path])
def test_chunks_written_to_a_path_are_a_wav_file(tmp_path: Path, kind: type) -> None:
    write_all(kind(tmp_path / "out.wav"))
    check_written(tmp_path / "out.wav")


def test_the_name_does_not_choose_the_format(tmp_path: Path) -> None:
    write_all(tmp_path / "out.flac")
    assert (tmp_path / "out.flac").read_bytes()[:4] == b"RIFF"


def test_chunks_written_to_a_buffer_are_a_wav_file() -> None:
    buffer = io.BytesIO()
    write_all(buffer)
    buffer.seek(0)
    check_written(buffer)


def test_chunks_written_to_a_temporary_file_are_a_wav_file() -> None:
    with tempfile.TemporaryFile() as file:
        write_all(file)
        file.seek(0)
        check_written(io.BytesIO(file.read()))


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = saved(tmp_path, np.zeros(500_000), 48_000, "PCM_24")
    write_all(path)
    check_written(path)


def test_a_path_that_cannot_be_written_is_refused_with_its_path(tmp_path: Path) -> None:
    for path in (tmp_path / "no such folder" / "out.wav", tmp_path):
        with pytest.raises(AudioFormatError, match="cannot be written") as caught:
            WavWriter(path, 16_000)
        assert str(path) in str(caught.value)


FILL_THE_DISK = """
import resource, sys
from runtime.audio import WavWriter
from runtime.errors import AudioFormatError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
target = sys.argv[1] if sys.argv[2] == "path" else open(sys.argv[1], "wb+", buffering=0)
try:
    with WavWriter(target, 16_000) as wav:
        wav.write(bytes(100_000))
except AudioFormatError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["path", "file"])
def test_a_disk_that_runs_full_is_an_error_of_ours(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.wav"
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(path), kind],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "cannot be written" in done.stdout
    assert str(path) in done.stdout
