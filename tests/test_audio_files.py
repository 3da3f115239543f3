"""Audio files: what is read and written is whole, and what cannot be says why."""

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
from signals import ALL_INT16, floats, sine

from runtime.audio import AudioFile, WavWriter, float32_to_pcm16
from runtime.errors import AudioFormatError
from runtime.speech import Samples

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
