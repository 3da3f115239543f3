"""Signals whose samples are known."""

from __future__ import annotations

import numpy as np

from runtime.speech import Samples

ALL_INT16 = np.arange(-32_768, 32_768, dtype="<i2")


def floats(*values: float) -> Samples:
    return np.array(values, dtype=np.float32)


def sine(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> Samples:
    time = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
