"""Which streams go into the next step, and what each hears in it: bookkeeping without a model.

A stream's samples are cut into utterances, and each utterance into chunks from its start; who
has a full chunk, or the end of an utterance, is in the next step. One step has at most one
chunk of a stream, so that what it says comes in order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from runtime.engines.parakeet.chunks import Chunk
from runtime.errors import Overloaded
from runtime.speech import Samples


@dataclass(slots=True)
class _End:
    """Where an utterance ends, in samples of the lane, and how many of its samples were heard."""

    position: int
    request: int
    last: bool


@dataclass(slots=True, eq=False)
class Lane:
    """One stream's place: a slot, and the samples that wait for it.

    Attributes:
        row: The slot.
        owner: Whose it is; not looked at here.
        backlog: Samples that wait.
    """

    row: int
    owner: object
    backlog: int = 0
    _blocks: deque[Samples] = field(default_factory=deque)
    _begun: int = 0  # samples taken of the first block
    _pushed: int = 0
    _taken: int = 0
    _start: int = 0  # of the utterance that is being taken
    _opened: int = 0  # start of the utterance that is being pushed
    _ends: deque[_End] = field(default_factory=deque)
    _fresh: bool = True
    _busy: bool = False
    _closed: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """A stream's part of a step.

    Attributes:
        lane: Whose.
        chunk: For the model; None where only the end of an utterance is left.
        start: Samples of the utterance before the chunk.
        end: Samples of the utterance up to the end of this part, its padding included.
        request: Where the utterance ends with it: which ``finalize()`` that answers, or 0 for
            the end of the stream. None where it goes on.
        last: Whether the stream ends with it.
    """

    lane: Lane
    chunk: Chunk | None
    start: int
    end: int
    request: int | None = None
    last: bool = False


class Scheduler:
    """Slots, and the samples that wait for them. Not to be called by two threads at once."""

    def __init__(self, slots: int, chunk: int, tail: int, least: int) -> None:
        """All slots are free.

        Args:
            slots: How many streams there can be.
            chunk: Samples of a step.
            tail: Silence after the last sample of an utterance, so that its last frame has
                the lookahead that every other has.
            least: What is shorter than that at the end of an utterance says nothing.
        """
        self._slots, self._chunk, self._least = slots, chunk, least
        self._tail: Samples = np.zeros(tail, dtype=np.float32)
        self._free = list(range(slots - 1, -1, -1))
        self._ready: dict[Lane, None] = {}  # in the order in which they became so

    @property
    def taken(self) -> int:
        """Slots that are not free."""
        return self._slots - len(self._free)

    @property
    def waiting(self) -> int:
        """How many streams have something for a step."""
        return len(self._ready)

    def open(self, owner: object) -> Lane:
        """Take a slot.

        Raises:
            Overloaded: There is none.
        """
        if not self._free:
            raise Overloaded(f"All {self._slots} recognition slots are taken.")
        return Lane(self._free.pop(), owner)

    def close(self, lane: Lane) -> bool:
        """Free the slot: now, or with the end of the step that it is in. Harmless again.

        Returns:
            Whether it is free.
        """
        if not lane._closed:
            lane._closed = True
            self._ready.pop(lane, None)
            lane._blocks.clear()
            lane.backlog = 0
            if not lane._busy:
                self._free.append(lane.row)
        return not lane._busy

    def push(self, lane: Lane, samples: Samples) -> None:
        """Add samples, which are kept as they are until they are taken."""
        if lane._closed or not len(samples):
            return
        lane._blocks.append(samples)
        lane._pushed += len(samples)
        lane.backlog += len(samples)
        self._note(lane)

    def end(self, lane: Lane, request: int, *, last: bool = False) -> None:
        """End the utterance with the samples so far; those that follow begin the next one."""
        if lane._closed:
            return
        if lane._pushed > lane._opened:
            self.push(lane, self._tail)
        lane._opened = lane._pushed
        lane._ends.append(_End(lane._pushed, request, last))
        self._note(lane)

    def take(self, most: int) -> list[Work]:
        """The next step: a part of each stream that has one, the longest waiting first.

        Streams in it wait until ``done`` is called; those beyond ``most`` are in the next one.
        """
        lanes = list(islice(self._ready, most))
        for lane in lanes:
            del self._ready[lane]
        return [self._next(lane) for lane in lanes]

    def done(self, works: list[Work]) -> None:
        """The step has ended; its streams go on, and slots of those that left are free."""
        for work in works:
            lane = work.lane
            lane._busy = False
            if lane._closed:
                self._free.append(lane.row)
            else:
                self._note(lane)

    def _note(self, lane: Lane) -> None:
        if not lane._busy and (lane._ends or lane._pushed - lane._taken >= self._chunk):
            self._ready[lane] = None

    def _next(self, lane: Lane) -> Work:
        lane._busy = True
        end = lane._ends[0] if lane._ends else None
        available = (lane._pushed if end is None else end.position) - lane._taken
        length, start = min(self._chunk, available), lane._taken - lane._start
        chunk = None
        if length >= self._least:
            chunk = Chunk(lane.row, self._cut(lane, length), lane._fresh)
            lane._fresh = False
        if end is None or end.position - lane._taken >= self._least:
            return Work(lane, chunk, start, lane._taken - lane._start)
        self._cut(lane, end.position - lane._taken)
        heard = lane._taken - lane._start
        lane._ends.popleft()
        lane._start, lane._fresh = lane._taken, True
        return Work(lane, chunk, start, heard, end.request, end.last)

    def _cut(self, lane: Lane, length: int) -> Samples:
        """Take so many samples."""
        lane._taken += length
        lane.backlog -= length
        parts = []
        while length:
            block = lane._blocks[0]
            part = block[lane._begun : lane._begun + length]
            parts.append(part)
            length -= len(part)
            lane._begun += len(part)
            if lane._begun == len(block):
                lane._blocks.popleft()
                lane._begun = 0
        if not parts:
            return self._tail[:0]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
