"""Which recordings are recognised together."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.engines.parakeet.batches import PATIENCE_S, Heard, Job, Waiting, urgency
from runtime.engines.parakeet.offline_graphs import ladder, lengths_s

SECOND = 100  # samples: lengths are all that counts here
WINDOW = 30 * SECOND


def job(seconds: float, due: float = 0.0) -> Job:
    done: asyncio.Future[Heard] = asyncio.Future(loop=LOOP)
    return Job(np.zeros(round(seconds * SECOND), dtype=np.float32), None, due, done)


LOOP = asyncio.new_event_loop()


def waiting(*jobs: Job, rows: int = 4, free_s: float = 0.0, padded_s: float = 1000.0) -> Waiting:
    queue = Waiting(rows, WINDOW, round(padded_s * SECOND))
    queue.free = round(free_s * SECOND)
    for one in jobs:
        queue.put(one)
    return queue


def test_the_most_urgent_come_first_then_those_who_came_first() -> None:
    late, early, second = job(5, due=9), job(5, due=1), job(5, due=1)
    queue = waiting(late, early, second, rows=2)
    assert queue.take() == [early, second]
    assert queue.take() == [late]
    assert queue.take() == []


def test_a_short_one_does_not_pay_for_a_long_one_unless_padding_is_free() -> None:
    long, short = job(20), job(2)
    assert waiting(long, short).take() == [long]
    assert waiting(long, short, free_s=18).take() == [long, short]
    assert waiting(long, short, free_s=17.9).take() == [long]


def test_lengths_that_are_alike_go_together_though_others_came_between() -> None:
    jobs = [job(3), job(25), job(3), job(25), job(3)]
    queue = waiting(*jobs)
    assert queue.take() == [jobs[0], jobs[2], jobs[4]]
    assert queue.take() == [jobs[1], jobs[3]]


def test_what_is_longer_than_a_window_goes_alone_and_when_it_is_its_turn() -> None:
    short, long, other = job(30), job(31), job(30)
    queue = waiting(short, long, other, free_s=1000)
    assert queue.take() == [short, other]
    assert queue.take() == [long]


def test_a_batch_is_no_larger_than_there_is_memory_for() -> None:
    jobs = [job(10), job(10), job(25), job(10)]
    queue = waiting(*jobs, free_s=1000, padded_s=30)
    assert queue.take() == [jobs[0], jobs[1], jobs[3]]
    assert queue.take() == [jobs[2]]


def test_who_has_left_is_not_recognised() -> None:
    gone, here = job(3), job(3)
    queue = waiting(gone, here)
    gone.done.cancel()
    assert queue.take() == [here]
    assert len(queue) == 0


def test_no_deadline_is_as_urgent_as_one_in_five_seconds() -> None:
    assert urgency(100.0, None) == urgency(100.0, 60.0) == 100.0 + PATIENCE_S
    assert urgency(100.0, 0.5) == 100.5
    # So that whoever has waited five seconds goes before all who have just come.
    assert urgency(100.0, None) < urgency(105.1, 0.0)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.integers(1, 60), max_size=30),
    rows=st.integers(1, 8),
    free_s=st.integers(0, 300),
)
def test_each_is_taken_once_within_the_largest_batch(
    lengths: list[int], rows: int, free_s: int
) -> None:
    jobs = [job(length) for length in lengths]
    queue = waiting(*jobs, rows=rows, free_s=free_s)
    taken: list[Job] = []
    while batch := queue.take():
        longest = max(len(one.samples) for one in batch)
        assert len(batch) <= rows
        assert longest <= WINDOW or len(batch) == 1
        assert longest * len(batch) - sum(len(one.samples) for one in batch) <= queue.free
        taken += batch
    assert sorted(map(id, taken)) == sorted(map(id, jobs))


@given(st.lists(st.floats(0.1, 30.0), min_size=1, max_size=80))
def test_a_graph_holds_every_batch_of_the_shipped_slots(seconds: list[float]) -> None:
    lengths = [round(length * SECOND) for length in lengths_s(30.0)]
    queue = Waiting(48, WINDOW, 12 * WINDOW, lengths)
    queue.free = 12 * WINDOW
    for length in seconds:
        queue.put(job(length))
    sizes = ladder(48, 12, 30.0, SECOND)
    while batch := queue.take():
        longest = max(len(one.samples) for one in batch)
        assert any(size.rows >= len(batch) and size.samples >= longest for size in sizes)
