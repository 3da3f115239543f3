"""A machine for Magpie's scheduler whose audio says what it is: utterance, part and frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from fake_clock import Clock

from runtime.engines.magpie.scheduler import Part
from runtime.engines.magpie.state import NEVER


@dataclass
class Script:
    """What the model makes of a part: so many frames; None goes on to the end of the slot."""

    utterance: int
    part: int
    frames: int | None


@dataclass
class Filled:
    script: Script
    made: int = 0
    decoded: int = 0


@dataclass
class ScriptedMachine:
    """Keeps the rules of a real one: nothing is stepped or decoded that is not there."""

    stacking: int = 2
    max_frames: int = 20
    sample_rate: int = 30
    samples_per_frame: int = 3
    quick: bool = False  # a step's time grows with its slots
    clock: Clock = field(default_factory=Clock)
    filled: dict[int, Filled] = field(default_factory=dict)
    steps: list[tuple[int, ...]] = field(default_factory=list)
    blocks: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    fills: list[int] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)

    def fill(self, parts: Sequence[tuple[int, Part]]) -> None:
        self.fills.append(len(parts))
        assert len({slot for slot, _ in parts}) == len(parts)
        for slot, part in parts:
            before = self.filled.get(slot)
            if part.carries:
                assert before is not None
                assert before.script.utterance == part.chunk.utterance
                assert before.script.part == part.chunk.part - 1
            self.filled[slot] = Filled(part.chunk)

    def step(self, slots: Sequence[int]) -> list[int]:
        assert slots
        assert len(set(slots)) == len(slots)
        self.steps.append(tuple(slots))
        self.clock.now += self.step_s(len(slots))
        ended = []
        for slot in slots:
            filled = self.filled[slot]
            assert filled.made < self.max_frames
            filled.made += self.stacking
            length = filled.script.frames
            if filled.script.utterance in self.broken:
                ended.append(-1)
            elif length is not None and self._ends(filled.script.utterance, length, filled.made):
                ended.append(length)
            else:
                ended.append(NEVER)
        return ended

    def _ends(self, utterance: int, length: int, made: int) -> bool:
        """A model says that speech is over in the step after it, or ends it with that step."""
        return length < made or (length == made and utterance % 2 == 1)

    def decode(self, where: Sequence[tuple[int, int]], frames: int) -> list[bytes | None]:
        self.blocks.append((tuple(slot for slot, _ in where), frames))
        blocks: list[bytes | None] = []
        for slot, first in where:
            filled = self.filled[slot]
            script = filled.script
            assert first == filled.decoded
            assert first + frames <= filled.made
            filled.decoded += frames
            named = [(script.utterance, script.part, first + n) for n in range(frames)]
            blocks.append(np.array(named, dtype="<i2").tobytes())
        return blocks

    def step_s(self, slots: int) -> float:
        return 0.001 * slots if self.quick else 0.004
