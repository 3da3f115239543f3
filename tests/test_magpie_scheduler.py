"""Magpie's scheduler over a scripted machine: no frame lost or doubled, whatever happens."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `nemo`")

from fake_clock import Clock
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_machine import Script, ScriptedMachine

from runtime.engines.magpie.scheduler import (
    COMFORT_S,
    FILLS,
    Audio,
    Delivery,
    End,
    Part,
    Scheduler,
    Utterance,
)
from runtime.errors import EngineFailed


@dataclass
class Call:
    """An utterance, and all that it has been given."""

    number: int
    lengths: list[int | None]
    given: list[Delivery] = field(default_factory=list)
    added: int = 0
    heard_from: int = 0
    utterance: Utterance = field(init=False)

    def __post_init__(self) -> None:
        self.utterance = Utterance(self.given.append)

    def add(self) -> None:
        """One part more; the last one completes it."""
        if self.added < len(self.lengths):
            script = Script(self.number, self.added, self.lengths[self.added])
            self.utterance.parts.append(
                Part(
                    script,
                    piece=self.added,
                    carries=self.added > 0,
                    ends_piece=True,
                    heard=self.added >= self.heard_from,
                )
            )
            self.added += 1
        if self.added == len(self.lengths):
            self.utterance.complete = True

    def add_all(self) -> Call:
        while not self.utterance.complete:
            self.add()
        return self

    def read(self) -> None:
        self.utterance.read = self.utterance.delivered

    @property
    def over(self) -> bool:
        return bool(self.given) and not isinstance(self.given[-1], Audio)

    @property
    def audio(self) -> list[Audio]:
        return [item for item in self.given if isinstance(item, Audio)]

    def frames(self) -> list[tuple[int, ...]]:
        joined = b"".join(item.pcm for item in self.audio)
        return [tuple(row) for row in np.frombuffer(joined, "<i2").reshape(-1, 3).tolist()]

    def wanted(self, machine: ScriptedMachine) -> list[tuple[int, ...]]:
        return [
            (self.number, part, frame)
            for part, length in enumerate(self.lengths)
            if part >= self.heard_from
            for frame in range(machine.max_frames if length is None else length)
        ]


def scheduler_of(
    machine: ScriptedMachine, slots: int = 4, lead_s: float = 1000.0
) -> tuple[Scheduler, Clock, dict[str, int]]:
    clock = machine.clock
    counts = {"chunks_cut_short": 0, "requests_broken": 0}
    return Scheduler(machine, slots, lead_s=lead_s, clock=clock, counts=counts), clock, counts


def finish(scheduler: Scheduler, calls: list[Call]) -> None:
    """Turn until nothing is left to do, with everything read."""
    idle = 0
    while idle < 2:
        for call in calls:
            call.read()
        idle = 0 if scheduler.turn() else idle + 1


def play(chance: random.Random) -> None:
    """One random schedule, and what must hold at its end."""
    machine = ScriptedMachine(stacking=chance.choice((1, 2)), quick=chance.random() < 0.5)
    slots = chance.randint(1, 4)
    scheduler, clock, _ = scheduler_of(machine, slots, lead_s=chance.choice((0.3, 1.0, 9.0)))
    calls: list[Call] = []
    for _ in range(chance.randint(5, 40)):
        event = chance.random()
        if event < 0.25 and len(calls) < 9:
            lengths = [
                None if chance.random() < 0.1 else chance.randint(0, machine.max_frames)
                for _ in range(chance.randint(0, 3))
            ]
            call = Call(len(calls), lengths, heard_from=chance.choice((0, 0, 1)))
            calls.append(call)
            scheduler.submit(call.utterance)
        elif calls and event < 0.45:
            chance.choice(calls).add()
        elif calls and event < 0.5:
            chance.choice(calls).utterance.cancelled = True
        elif calls and event < 0.6:
            chance.choice(calls).read()
        else:
            clock.now += chance.choice((0.0, 0.01, 0.2))
            scheduler.turn()
    before = {call.number: len(call.given) for call in calls}
    for call in calls:
        call.add_all()
    finish(scheduler, calls)
    assert scheduler.free == slots
    assert scheduler.waiting == 0
    for call in calls:
        frames, wanted = call.frames(), call.wanted(machine)
        if call.utterance.cancelled:
            assert frames == wanted[: len(frames)]
            assert len(call.given) == before[call.number]
        else:
            assert frames == wanted
            assert isinstance(call.given[-1], End)
            assert sum(isinstance(item, End) for item in call.given) == 1
            ends = [item.piece for item in call.audio if item.piece_end]
            spoken = [
                part
                for part, length in enumerate(call.lengths)
                if part >= call.heard_from and (length is None or length > machine.stacking)
            ]
            assert set(spoken) <= set(ends)
            assert ends == sorted(set(ends))


def test_ten_thousand_random_schedules_lose_and_double_nothing() -> None:
    for seed in range(10_000):
        play(random.Random(seed))


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_random_schedules_that_hypothesis_makes_small(chance: random.Random) -> None:
    play(chance)


def test_the_first_block_is_one_step_and_later_ones_grow() -> None:
    machine = ScriptedMachine()
    scheduler, _, _ = scheduler_of(machine)
    call = Call(0, [20]).add_all()
    scheduler.submit(call.utterance)
    finish(scheduler, [call])
    sizes = [frames for _, frames in machine.blocks]
    assert sizes[0] == machine.stacking
    assert sizes[1:] == sorted(sizes[1:-2]) + sizes[-2:]
    assert max(sizes) == 8


def test_blocks_stay_small_where_steps_are_slow() -> None:
    """A block that takes longer than its utterance is ahead would leave a gap."""
    machine = ScriptedMachine(sample_rate=3000)  # a frame lasts 1 ms, a step takes 4
    scheduler, _, _ = scheduler_of(machine)
    call = Call(0, [20]).add_all()
    scheduler.submit(call.utterance)
    finish(scheduler, [call])
    assert {frames for _, frames in machine.blocks} == {machine.stacking}


def test_who_is_ahead_of_the_reader_rests() -> None:
    machine = ScriptedMachine()
    scheduler, _, _ = scheduler_of(machine, lead_s=1.0)  # ten frames
    call = Call(0, [20]).add_all()
    scheduler.submit(call.utterance)
    while scheduler.turn():
        pass
    assert 30 <= call.utterance.delivered < 60
    assert not call.over
    finish(scheduler, [call])
    assert isinstance(call.given[-1], End)


def test_who_is_comfortably_ahead_lets_a_newcomer_pass() -> None:
    machine = ScriptedMachine(quick=True)
    scheduler, _, _ = scheduler_of(machine)
    old = [Call(number, [20]).add_all() for number in range(3)]
    for call in old:
        scheduler.submit(call.utterance)
    while min(call.utterance.delivered for call in old) <= COMFORT_S * machine.sample_rate:
        scheduler.turn()
    new = Call(3, [20]).add_all()
    scheduler.submit(new.utterance)
    machine.steps.clear()
    machine.blocks.clear()
    scheduler.turn()
    assert new.utterance.delivered
    assert machine.steps == [(new.utterance.slot,)]
    assert [slots for slots, _ in machine.blocks] == [(new.utterance.slot,)]


def test_a_part_that_its_listener_waits_for_is_as_urgent_as_a_newcomers_first() -> None:
    machine = ScriptedMachine(stacking=1, quick=True)
    scheduler, clock, _ = scheduler_of(machine)
    grows = Call(0, [4, 15])
    grows.add()
    scheduler.submit(grows.utterance)
    finish(scheduler, [grows])
    assert len(grows.frames()) == 4
    clock.now += 60.0  # an LLM thinks
    others = [Call(number, [20]).add_all() for number in (1, 2)]
    for other in others:
        scheduler.submit(other.utterance)
    while scheduler._ahead_s(others[-1].utterance) < COMFORT_S:
        scheduler.turn()
    grows.add()
    before = len(grows.audio)
    while len(grows.audio) == before:
        scheduler.turn()
    first = grows.audio[before]
    assert len(first.pcm) == 2 * machine.samples_per_frame, "one step, as a newcomer's"
    assert scheduler._ahead_s(grows.utterance) == pytest.approx(
        machine.samples_per_frame / machine.sample_rate, abs=0.05
    ), "of a listener who begins to hear it now"
    finish(scheduler, [grows, *others])
    assert grows.frames() == grows.wanted(machine)


def test_all_step_together_where_a_smaller_step_is_not_quicker() -> None:
    machine = ScriptedMachine()
    scheduler, _, _ = scheduler_of(machine)
    old = [Call(number, [20]).add_all() for number in range(3)]
    for call in old:
        scheduler.submit(call.utterance)
    while min(call.utterance.delivered for call in old) <= COMFORT_S * machine.sample_rate:
        scheduler.turn()
    new = Call(3, [20]).add_all()
    scheduler.submit(new.utterance)
    machine.steps.clear()
    scheduler.turn()
    assert [len(slots) for slots in machine.steps] == [4]


def test_a_prefill_holds_those_who_speak_for_one_step_at_most() -> None:
    machine = ScriptedMachine()
    scheduler, _, _ = scheduler_of(machine, slots=3 * FILLS)
    calls = [Call(number, [20]).add_all() for number in range(3 * FILLS)]
    for call in calls:
        scheduler.submit(call.utterance)
    scheduler.turn()
    assert (len(machine.fills), len(machine.steps)) == (1, 1)
    scheduler.turn()
    assert machine.fills == [FILLS, FILLS]
    assert len(machine.steps) == 2


def test_who_is_cut_off_is_not_stepped_again() -> None:
    machine = ScriptedMachine()
    scheduler, _, _ = scheduler_of(machine)
    calls = [Call(number, [20]).add_all() for number in range(2)]
    for call in calls:
        scheduler.submit(call.utterance)
    scheduler.turn()
    gone = calls[0].utterance.slot
    calls[0].utterance.cancelled = True
    machine.steps.clear()
    scheduler.turn()
    assert all(gone not in slots for slots in machine.steps)
    assert scheduler.free == 3


def test_a_part_that_never_ends_is_cut_and_counted_and_the_next_goes_on() -> None:
    machine = ScriptedMachine()
    scheduler, _, counts = scheduler_of(machine)
    call = Call(0, [None, 4]).add_all()
    scheduler.submit(call.utterance)
    finish(scheduler, [call])
    assert call.frames() == call.wanted(machine)
    assert counts["chunks_cut_short"] == 1


def test_numbers_that_are_none_end_one_request_and_no_other() -> None:
    machine = ScriptedMachine(broken={1})
    scheduler, _, counts = scheduler_of(machine)
    calls = [Call(number, [20]).add_all() for number in range(3)]
    for call in calls:
        scheduler.submit(call.utterance)
    finish(scheduler, calls)
    assert isinstance(calls[1].given[-1], EngineFailed)
    assert counts["requests_broken"] == 1
    for call in (calls[0], calls[2]):
        assert call.frames() == call.wanted(machine)
    assert scheduler.free == 4


def test_a_pause_is_what_the_model_left_of_it() -> None:
    machine = ScriptedMachine()
    scheduler, _, _ = scheduler_of(machine)
    call = Call(0, [])
    # Every sample is far below what counts as loud, so all 12 of the last frames are silence.
    part = Part(Script(0, 0, 4), piece=0, carries=False, ends_piece=True, pause_s=1.0)
    call.utterance.parts.append(part)
    call.utterance.complete = True
    scheduler.submit(call.utterance)
    finish(scheduler, [call])
    assert call.utterance.delivered == 30
    assert call.audio[-1].piece_end


def test_a_failure_of_the_machine_is_told_to_everybody() -> None:
    machine = ScriptedMachine()
    scheduler, _, _ = scheduler_of(machine, slots=1)
    calls = [Call(number, [20]).add_all() for number in range(2)]
    for call in calls:
        scheduler.submit(call.utterance)
    scheduler.turn()
    scheduler.fail(EngineFailed("The device is lost."))
    assert all(isinstance(call.given[-1], EngineFailed) for call in calls)
    assert scheduler.free == 1
