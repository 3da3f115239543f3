"""An utterance at another sample rate than the engine's own."""

from __future__ import annotations

from dataclasses import replace

from runtime.audio import Resampler, check_sample_rate, float32_to_pcm16, pcm16_to_float32
from runtime.speech import AudioChunk


class Rerate:
    """Gives chunks of another rate, contiguous from sample 0, without seams between them."""

    def __init__(self, sample_rate: int) -> None:
        """``sample_rate`` in Hz.

        Raises:
            AudioFormatError: Not a rate from 8,000 to 192,000.
        """
        self._sample_rate = check_sample_rate(sample_rate)
        self._resampler: Resampler | None = None
        self._next = 0
        self._texts = 0

    def convert(self, chunk: AudioChunk) -> AudioChunk | None:
        """The chunk at the new rate; None if all is within the filter, and it tells nothing."""
        if self._resampler is None:
            self._resampler = Resampler(chunk.sample_rate, self._sample_rate)
        samples = self._resampler.push(pcm16_to_float32(chunk.pcm), last=chunk.end)
        news = chunk.end or chunk.piece_end or chunk.texts > self._texts
        if not len(samples) and not news:
            return None
        self._texts = chunk.texts
        converted = replace(
            chunk,
            pcm=float32_to_pcm16(samples),
            sample_rate=self._sample_rate,
            first_sample=self._next,
        )
        self._next = converted.next_sample
        return converted
