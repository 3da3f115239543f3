"""What a listener hears of audio that comes in pieces: whether it runs dry, and for how long."""

from __future__ import annotations


class Playback:
    """A listener's loudspeaker: audio plays from its arrival on, and can run dry.

    Attributes:
        underruns: How often it ran dry before the end.
        underrun_s: Seconds of silence that this made.
    """

    def __init__(self) -> None:
        """Silent so far."""
        self._plays_until: float | None = None
        self.underruns = 0
        self.underrun_s = 0.0

    def arrived(self, at: float, audio_s: float) -> None:
        """``audio_s`` seconds of audio have come at time ``at`` (seconds)."""
        if self._plays_until is None:
            self._plays_until = at
        if at > self._plays_until:
            self.underruns += 1
            self.underrun_s += at - self._plays_until
            self._plays_until = at
        self._plays_until += audio_s
