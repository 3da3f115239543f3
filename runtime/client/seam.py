"""Going on with an utterance from another rendition of it, without a click."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime.speech import AudioChunk

_FADE_S = 0.005


class Splice:
    """Places the chunks of a second rendition behind the samples that were delivered.

    Where both renditions agree up to the seam, nothing is changed. Where they do not,
    the step between them is faded out over 5 ms.
    """

    def __init__(self, starts_at: int, delivered: int, last: int | None) -> None:
        """Say where the second rendition belongs.

        Args:
            starts_at: Index within the utterance of its first sample.
            delivered: Samples of the utterance that were delivered; those are left out.
            last: The last of them, as PCM16; None where the pieces of text before the seam
                and behind it differ, and nothing has to be made to fit.
        """
        self._starts_at = starts_at
        self._piece: int | None = None
        self._delivered = delivered
        self._last = last
        self._before = 0  # this rendition's sample before the next
        self._step = 0.0
        self._faded: int | None = None  # samples since the seam

    def place(self, chunk: AudioChunk) -> AudioChunk | None:
        """The part of a chunk that is new, in its place; None if there is none."""
        first = self._starts_at + chunk.first_sample
        self._piece = chunk.piece if self._piece is None else self._piece
        if first < self._delivered and chunk.piece != self._piece:
            # This rendition of the piece is shorter than what was delivered of the other.
            self._starts_at += self._delivered - first
            first = self._delivered
        known = min(max(0, self._delivered - first), chunk.samples)
        samples = np.frombuffer(chunk.pcm, dtype="<i2")
        if known:
            self._before = int(samples[known - 1])
        if known == chunk.samples and not chunk.end:
            if (chunk.piece_end and chunk.texts) or not chunk.samples:  # a text may be over
                return replace(chunk, pcm=b"", first_sample=self._delivered)
            return None
        pcm = self._faded_in(samples[known:], chunk.sample_rate)
        # An end that comes before the seam belongs to a shorter rendition, too.
        return replace(chunk, pcm=pcm, first_sample=max(first + known, self._delivered))

    def _faded_in(self, samples: np.ndarray, rate: int) -> bytes:
        if self._faded is None:
            self._faded = 0
            self._step = 0.0 if self._last is None else float(self._last - self._before)
        length = round(_FADE_S * rate)
        if self._step == 0 or self._faded >= length:
            return samples.tobytes()
        position = np.arange(self._faded, self._faded + len(samples))
        weight = np.clip(1.0 - (position + 1) / (length + 1), 0.0, 1.0)
        self._faded += len(samples)
        smooth = np.round(samples + self._step * weight)
        return np.clip(smooth, -32_768, 32_767).astype("<i2").tobytes()
