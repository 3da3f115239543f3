"""Chunks of an utterance at another sample rate."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.audio import float32_to_pcm16, pcm16_to_float32, resample
from runtime.client.rerate import Rerate
from runtime.errors import AudioFormatError
from runtime.speech import AudioChunk, Samples

RATE = 22_050


def tone(seconds: float) -> Samples:
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def chunks(samples: Samples, size: int) -> list[AudioChunk]:
    made = [
        AudioChunk(float32_to_pcm16(samples[at : at + size]), RATE, at, piece=at // (4 * size))
        for at in range(0, len(samples), size)
    ]
    return [*made, AudioChunk(b"", RATE, len(samples), made[-1].piece, end=True)]


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("size", [100, 1_024, 11_025])
def test_chunks_are_contiguous_and_as_of_the_whole(rate: int, size: int) -> None:
    samples = tone(1.0)
    rerate = Rerate(rate)
    heard = [c for chunk in chunks(samples, size) if (c := rerate.convert(chunk)) is not None]
    position = 0
    for chunk in heard:
        assert chunk.first_sample == position
        assert chunk.sample_rate == rate
        assert chunk.pcm or chunk.end
        position = chunk.next_sample
    assert [chunk.end for chunk in heard] == [False] * (len(heard) - 1) + [True]
    whole = resample(pcm16_to_float32(float32_to_pcm16(samples)), RATE, rate)
    together = pcm16_to_float32(b"".join(chunk.pcm for chunk in heard))
    assert abs(len(together) - len(whole)) <= 1
    shared = min(len(together), len(whole))
    assert float(np.abs(together[:shared] - whole[:shared]).max()) < 1e-3


def test_the_rate_of_the_engine_changes_nothing() -> None:
    given = chunks(tone(0.2), 1_000)
    rerate = Rerate(RATE)
    assert [rerate.convert(chunk) for chunk in given] == given


def test_a_rate_that_cannot_be_is_refused() -> None:
    with pytest.raises(AudioFormatError):
        Rerate(4_000)
