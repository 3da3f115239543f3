"""Audio at the edges: PCM16 and float32, sample rates, framing, files.

Everything inside an engine is float32 mono at the engine's own rate; this module
is where other forms become that and back. Decoding is soundfile's (libsndfile),
resampling is soxr's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
import soxr

from runtime.errors import AudioFormatError
from runtime.speech import Samples

MIN_SAMPLE_RATE = 8_000
MAX_SAMPLE_RATE = 192_000
_FULL_SCALE = 32_768.0
_BLOCK_S = 1.0  # how much of a file is decoded at a time


def check_sample_rate(sample_rate: int) -> int:
    """Return the rate if audio at it can be taken.

    Raises:
        AudioFormatError: Not from 8,000 to 192,000 Hz.
    """
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioFormatError(
            f"A sample rate of {sample_rate} Hz is not supported; use {MIN_SAMPLE_RATE} to "
            f"{MAX_SAMPLE_RATE} Hz."
        )
    return sample_rate


def pcm16_to_float32(pcm: bytes | bytearray | memoryview) -> Samples:
    """PCM16 little-endian to float32: int16 / 32768, so in [-1, 1).

    Raises:
        AudioFormatError: An odd number of bytes.
    """
    size = memoryview(pcm).nbytes  # len() of a view counts its items, which need not be bytes
    if size % 2:
        raise AudioFormatError(
            f"{size} bytes are not PCM16: two bytes make a sample, so the count is even."
        )
    samples: Samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32)
    samples *= np.float32(1 / _FULL_SCALE)  # a power of two: as exact as a division
    return samples


def float32_to_pcm16(samples: Samples) -> bytes:
    """float32 to PCM16 little-endian: rounded to nearest, clipped at full scale, never wrapped.

    The exact inverse of ``pcm16_to_float32``.

    Raises:
        AudioFormatError: NaN or infinity among the samples.
    """
    if not np.isfinite(samples).all():
        raise AudioFormatError("The samples contain NaN or infinity.")
    clipped = np.clip(samples, -1.0, 1.0).astype(np.float32)  # first: scaling could overflow
    scaled = np.rint(clipped * np.float32(_FULL_SCALE))
    pcm: bytes = np.minimum(scaled, 32_767).astype("<i2").tobytes()
    return pcm


def in_blocks(pcm: bytes, samples: int) -> Iterator[tuple[bytes, bool]]:
    """PCM16 in blocks of so many samples, and whether each is the last; one if there are none."""
    size = 2 * samples
    for start in range(0, max(1, len(pcm)), size):
        yield pcm[start : start + size], start + size >= len(pcm)


def silence_invalid(samples: Samples) -> tuple[Samples, int]:
    """Replace NaN and infinite samples by silence; also return how many there were."""
    finite = np.isfinite(samples)
    invalid = int(samples.size - np.count_nonzero(finite))
    return (samples, 0) if not invalid else (np.where(finite, samples, np.float32(0)), invalid)


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """A whole signal at another rate (soxr, high quality); identity at equal rates."""
    if from_rate == to_rate:
        return samples
    return np.asarray(soxr.resample(samples, from_rate, to_rate, quality="HQ"), dtype=np.float32)


class Resampler:
    """A signal that arrives in blocks, at another rate, without seams between blocks."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        """Both rates in Hz."""
        self._stream = (
            None
            if from_rate == to_rate
            else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
        )

    def push(self, samples: Samples, last: bool = False) -> Samples:
        """Take a block and return what is ready; ``last`` flushes the filter's tail."""
        if self._stream is None:
            return samples
        return np.asarray(self._stream.resample_chunk(samples, last=last), dtype=np.float32)


class Framer:
    """Cuts a signal that arrives in blocks of any size into frames of one size."""

    def __init__(self, size: int) -> None:
        """``size`` in samples."""
        self._size = size
        self._rest: Samples = np.zeros(0, dtype=np.float32)

    def push(self, samples: Samples) -> Iterator[Samples]:
        """Yield each frame that is complete, in order; keep the remainder."""
        buffer = np.concatenate([self._rest, samples]) if self._rest.size else samples
        whole = len(buffer) - len(buffer) % self._size
        self._rest = buffer[whole:].copy()
        for start in range(0, whole, self._size):
            yield buffer[start : start + self._size]

    @property
    def rest(self) -> Samples:
        """The samples that do not fill a frame yet."""
        return self._rest


@dataclass(slots=True)
class AudioFile:
    """A recording on disk, read in blocks so that its length does not matter.

    Attributes:
        path: The file, in any format libsndfile reads, any channels and bit depth.
        sample_rate: Its own rate in Hz.
        seconds: Its length.
        invalid_samples: NaN and infinite samples met so far and read as silence.
    """

    path: Path
    sample_rate: int
    seconds: float
    invalid_samples: int = field(default=0)

    @classmethod
    def open(cls, path: str | Path) -> AudioFile:
        """Read the header.

        Raises:
            AudioFormatError: No such file, a folder, not audio, empty, or at a rate that
                is not supported.
        """
        path = Path(path)
        try:
            if not path.exists():
                raise AudioFormatError(f"There is no file {path}.")
            if not path.is_file():
                raise AudioFormatError(f"{path} is not a file.")
            if path.stat().st_size == 0:
                raise AudioFormatError(f"{path} is empty.")
        except OSError as error:  # a name too long, a folder we may not look into
            raise AudioFormatError(f"{path} cannot be read ({error.strerror}).") from error
        try:
            info = soundfile.info(os.fsencode(path))
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            # TypeError: soundfile takes a name that ends in .raw for headerless samples.
            raise AudioFormatError(
                f"{path} cannot be read as audio ({_reason(error)}). WAV, FLAC, Ogg and MP3 can; "
                "convert other formats first."
            ) from error
        if info.frames == 0:
            raise AudioFormatError(f"{path} holds no samples.")
        try:
            check_sample_rate(info.samplerate)
        except AudioFormatError as error:
            raise AudioFormatError(f"{path} cannot be used: {error}") from None
        return cls(path, info.samplerate, info.frames / info.samplerate)

    def blocks(self) -> Iterator[Samples]:
        """Yield mono float32 blocks of about a second; channels are averaged.

        Raises:
            AudioFormatError: The file breaks off or is damaged.
        """
        size = int(_BLOCK_S * self.sample_rate)
        try:
            with soundfile.SoundFile(os.fsencode(self.path)) as file:
                while len(block := file.read(size, dtype="float32", always_2d=True)):
                    mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
                    samples, invalid = silence_invalid(np.ascontiguousarray(mono))
                    self.invalid_samples += invalid
                    yield np.clip(samples, -1.0, 1.0)  # float files may go beyond full scale
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioFormatError(
                f"{self.path} is damaged and cannot be read to its end ({_reason(error)})."
            ) from error


class WavWriter:
    """Writes PCM16 chunks to a WAV file as they come."""

    def __init__(self, target: str | Path | IO[bytes], sample_rate: int) -> None:
        """``target`` is a path or a seekable binary file; the rate is in Hz."""
        self._target = target
        if isinstance(target, (str, Path)):
            _check_writable(Path(target))
        name = os.fsencode(target) if isinstance(target, (str, Path)) else target
        try:
            self._file = soundfile.SoundFile(
                name, "w", sample_rate, channels=1, subtype="PCM_16", format="WAV"
            )
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioFormatError(f"{target} cannot be written ({_reason(error)}).") from error

    def write(self, pcm: bytes) -> None:
        """Append PCM16 mono little-endian samples.

        Raises:
            AudioFormatError: They cannot be written: the disk is full, say.
        """
        try:
            self._file.buffer_write(pcm, dtype="int16")
        except (soundfile.LibsndfileError, AssertionError) as error:
            # AssertionError: how soundfile says that a file object took less than it was given.
            why = _reason(error) or "it took less than it was given"
            raise AudioFormatError(f"{self._target} cannot be written ({why}).") from error

    def close(self) -> None:
        """Complete the header."""
        self._file.close()

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise AudioFormatError(f"{path} cannot be written: it is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise AudioFormatError(f"{path} cannot be written: there is no folder {path.parent}.")


def _reason(error: BaseException) -> str:
    """The decoder's own words, without the path that it repeats."""
    return str(error).rsplit(": ", 1)[-1].rstrip(".").removeprefix("Error : ")
