"""Mel features of live streams, chunk by chunk, each frame computed once.

A chunk's frames see one hop of samples before it and none after it, and the encoder sees the
last frames before them again. That is how NeMo 3.0.0's streaming pipeline computes them
(nemo/collections/asr/inference/streaming/buffering/cache_feature_bufferer.py): not to the
last bit what one would get from the whole recording, and what its text is compared with.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_SILENCE = math.log(2.0**-24)  # the features of zeros, which come before a stream


class StreamingFeatures:
    """What each slot heard last, and the features of its next chunk."""

    def __init__(self, featurizer: Any, rows: int, chunk: int, overlap: int) -> None:
        """Take NeMo's ``FilterbankFeatures`` on its device; it is set to what streaming needs.

        Args:
            featurizer: Of the model's preprocessor.
            rows: Slots.
            chunk: Samples of a step, whole frames of features.
            overlap: Frames of features before a chunk that the encoder sees again.
        """
        # A stream's mean and deviation are not known: as NeMo's pipeline has it.
        featurizer.normalize, featurizer.dither, featurizer.pad_to = None, 0.0, 0
        self._featurizer = featurizer
        self._hop = int(featurizer.hop_length)
        self._frames = chunk // self._hop
        self._overlap = overlap
        device = featurizer.fb.device
        mels = int(featurizer.nfilt)
        self._samples = torch.zeros(rows, self._hop, device=device)
        self._features = torch.full((rows, mels, overlap), _SILENCE, device=device)

    def reset(self, rows: Tensor) -> None:
        """Let these slots begin after silence."""
        self._samples.index_fill_(0, rows, 0.0)
        self._features.index_fill_(0, rows, _SILENCE)

    def step(self, samples: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the next chunk of some slots.

        Args:
            samples: ``(batch, chunk)``, zeros after ``lengths``.
            lengths: Samples of each, ``(batch,)``.
            rows: Their slots, ``(batch,)``.

        Returns:
            Features ``(batch, mels, overlap + frames)``, and how many frames of each count.
        """
        heard = torch.cat([self._samples.index_select(0, rows), samples], dim=1)
        new, _ = self._featurizer(heard, lengths + self._hop)
        new = new[:, :, 1 : self._frames + 1]
        features = torch.cat([self._features.index_select(0, rows), new], dim=2)
        self._samples.index_copy_(0, rows, samples[:, -self._hop :])
        self._features.index_copy_(0, rows, features[:, :, -self._overlap :])
        return features, self._overlap + lengths // self._hop
