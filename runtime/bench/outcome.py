"""What a scenario of faults did to its callers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """What a scenario did to its callers.

    Attributes:
        words_lost: Words missing or changed against the undisturbed run.
        samples_doubled: Samples of audio heard or spoken twice.
        leaked_slots: Slots that nobody freed, where the scenario has looked itself.
        recovery_ms: Recognition: between the blow, or the last event that still came after
            it, and the first event of another replica. Synthesis: the longest wait for audio
            after the blow. Barge-in: to the first audio of the next answer, the median.
            Scaling: the longest wait for a final.
        streams: The streams that were aborted on purpose, and when (Unix time).
        more: Figures of this scenario alone, by their names.
    """

    words_lost: int = 0
    samples_doubled: int = 0
    leaked_slots: int = 0
    recovery_ms: float = 0.0
    streams: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
