"""Slots and steps under any order of events: no sample lost, doubled, or heard by another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engines.parakeet.scheduler import Lane, Scheduler, Work
from runtime.errors import Overloaded
from runtime.speech import Samples

SLOTS, MOST, CHUNK, TAIL, LEAST = 3, 2, 100, 30, 10


@dataclass
class Caller:
    """A stream, what it pushed, and what a model heard of it, utterance by utterance."""

    name: int
    lane: Lane
    pushed: list[list[float]] = field(default_factory=lambda: [[]])
    heard: list[list[float]] = field(default_factory=lambda: [[]])
    asked: int = 0
    answered: list[int] = field(default_factory=list)
    finished: bool = False
    over: bool = False


class Room:
    """A scheduler, its callers, and a model that remembers what each slot heard."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(SLOTS, CHUNK, TAIL, LEAST)
        self.callers: list[Caller] = []
        self.left: list[Caller] = []
        self.slots: dict[int, list[float]] = {}
        self.step: list[Work] = []
        self.opened = 0

    def open(self) -> None:
        held = len(self.callers) + sum(work.lane._closed for work in self.step)
        if held >= SLOTS:
            with pytest.raises(Overloaded, match="All 3 recognition slots are taken"):
                self.scheduler.open(None)
            return
        lane = self.scheduler.open(None)
        self.opened += 1
        self.callers.append(Caller(self.opened, lane))
        lane.owner = self.callers[-1]

    def push(self, caller: Caller, count: int) -> None:
        begun = sum(map(len, caller.pushed))
        # Of which stream a sample is, and which of its samples, never 0.
        samples = caller.name * 10_000 + np.arange(begun + 1, begun + count + 1)
        caller.pushed[-1] += samples.tolist()
        self.scheduler.push(caller.lane, samples.astype(np.float32))

    def end(self, caller: Caller, *, last: bool) -> None:
        caller.asked += not last
        caller.finished |= last
        self.scheduler.end(caller.lane, 0 if last else caller.asked, last=last)
        caller.pushed.append([])

    def close(self, caller: Caller) -> None:
        self.scheduler.close(caller.lane)
        self.scheduler.close(caller.lane)
        self.callers.remove(caller)
        self.left.append(caller)
        caller.over = True

    def begin_step(self) -> None:
        if self.step:
            return
        self.step = self.scheduler.take(MOST)
        rows = Counter(work.lane.row for work in self.step)
        assert not rows or max(rows.values()) == 1, "a slot is in a step once"
        for work in self.step:
            if work.chunk is not None:
                assert work.chunk.row == work.lane.row
                assert LEAST <= len(work.chunk.samples) <= CHUNK
                self.hear(work.chunk.row, work.chunk.samples, fresh=work.chunk.fresh)

    def hear(self, row: int, samples: Samples, *, fresh: bool) -> None:
        if fresh:
            self.slots[row] = []
        self.slots[row] += samples.tolist()

    def end_step(self) -> None:
        step, self.step = self.step, []
        self.scheduler.done(step)
        for work in step:
            caller = work.lane.owner
            assert isinstance(caller, Caller)
            if caller.over:
                continue
            if work.chunk is not None:
                assert work.start == len(self.slots[work.lane.row]) - len(work.chunk.samples)
                caller.heard[-1] = list(self.slots[work.lane.row])
            if work.request is not None:
                caller.answered.append(work.request)
                caller.heard.append([])
                if work.last:
                    self.check(caller)
                    self.close(caller)

    def run_dry(self) -> None:
        while self.step or self.scheduler.waiting:
            self.begin_step()
            self.end_step()

    def check(self, caller: Caller) -> None:
        """What a caller was heard saying is what it said, with silence after each utterance."""
        for said, heard in zip(caller.pushed, caller.heard, strict=True):
            whole = [*said, *[0.0] * TAIL] if said else []
            rest = len(whole) % CHUNK
            assert heard == whole[: len(whole) - rest if rest < LEAST else None]
        finals = [*range(1, caller.asked + 1), *([0] if caller.finished else [])]
        assert caller.answered == finals


@settings(max_examples=2000, deadline=None)
@given(st.binary(max_size=60))
def test_every_stream_is_heard_as_if_it_were_alone(program: bytes) -> None:
    room = Room()
    for byte in program:
        what, which = byte % 8, byte // 8
        caller = room.callers[which % len(room.callers)] if room.callers else None
        if what == 0 or caller is None:
            room.open()
        elif what in (1, 2) and not caller.finished:
            room.push(caller, (1, 7, 99, 100, 101, 250, 70, 5)[which % 8])
        elif what == 3 and not caller.finished:
            room.end(caller, last=False)
        elif what == 4 and not caller.finished and which % 2:
            room.end(caller, last=True)
        elif what == 5 and which % 2:
            room.close(caller)
        elif what == 6:
            room.begin_step()
        elif what == 7:
            room.end_step()
    room.end_step()
    for caller in list(room.callers):
        if not caller.finished:
            room.end(caller, last=True)
    room.run_dry()
    assert room.callers == []
    assert room.scheduler.taken == 0
    assert sorted(room.scheduler._free) == list(range(SLOTS)), "each slot is free once"


def test_a_step_takes_all_who_have_a_chunk_and_nobody_else() -> None:
    room = Room()
    for count in (CHUNK, CHUNK - 1, 3 * CHUNK):
        room.open()
        room.push(room.callers[-1], count)
    room.begin_step()
    assert [work.lane.owner for work in room.step] == [room.callers[0], room.callers[2]]
    room.end_step()
    room.begin_step()
    assert [work.lane.owner for work in room.step] == [room.callers[2]]


def test_a_slot_that_is_left_within_a_step_is_free_after_it() -> None:
    room = Room()
    for _ in range(SLOTS):
        room.open()
    leaver = room.callers[1]
    room.push(leaver, CHUNK)
    room.begin_step()
    room.close(leaver)
    with pytest.raises(Overloaded):
        room.scheduler.open(None)
    room.end_step()
    room.open()
    assert room.callers[-1].lane.row == leaver.lane.row


def test_the_end_of_an_utterance_costs_no_step_where_nothing_is_left_to_hear() -> None:
    room = Room()
    room.open()
    (caller,) = room.callers
    room.end(caller, last=False)
    room.begin_step()
    assert [(work.chunk, work.request) for work in room.step] == [(None, 1)]
    room.end_step()
    room.push(caller, 2 * CHUNK - TAIL + LEAST - 1)  # the last step's rest is too short
    room.end(caller, last=False)
    room.begin_step()
    room.end_step()
    room.begin_step()
    assert [work.request for work in room.step] == [2]
    room.end_step()
    assert not room.scheduler.waiting


def test_a_thousand_dropped_callers_leak_no_slot() -> None:
    room = Room()
    for number in range(1000):
        room.open()
        caller = room.callers[-1]
        room.push(caller, 40 * (number % 7))
        if number % 3:
            room.end(caller, last=bool(number % 2))
        room.begin_step()
        room.close(caller)
        room.end_step()
    assert room.scheduler.taken == 0
    assert sorted(room.scheduler._free) == list(range(SLOTS))
