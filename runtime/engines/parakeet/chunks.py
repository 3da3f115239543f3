"""What goes into a step and what comes out of it, for one stream; without torch."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.speech import Samples


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next samples of a slot.

    Attributes:
        row: The slot.
        samples: float32; as many as a step takes, or fewer at the end of an utterance.
        fresh: Whether an utterance begins with them.
    """

    row: int
    samples: Samples
    fresh: bool


@dataclass(frozen=True, slots=True)
class Said:
    """What a chunk said: token ids, and for each the frame within the chunk, from 0."""

    tokens: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()


NOTHING = Said()
