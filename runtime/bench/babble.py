"""Sounds that change as those of speech do, for engines whose weights understand nothing."""

from __future__ import annotations

import numpy as np

from runtime.speech import Samples

_RATE = 16_000


def babble(seconds: float, seed: int = 0) -> Samples:
    """Sounds of 60 to 300 ms each, float32 at 16 kHz; the same for the same seed.

    A model with random weights answers stationary noise with the same token for ever.
    """
    draw = np.random.default_rng(seed)
    left, parts = round(seconds * _RATE), [np.zeros(0)]
    while left > 0:
        length = min(left, int(draw.integers(960, 4800)))
        times = np.arange(length) / _RATE
        pitch, formant = draw.uniform(80, 300), draw.uniform(300, 3500)
        sound = np.sin(2 * np.pi * pitch * times) * np.sin(2 * np.pi * formant * times)
        sound += draw.uniform(0.0, 0.6) * draw.standard_normal(length)
        parts.append(draw.choice([0.003, 0.03, 0.1, 0.3]) * sound)
        left -= length
    return np.concatenate(parts).astype(np.float32)
