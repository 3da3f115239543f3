"""Slots and the queue before them: who begins, in which order, and that no slot is lost."""

from __future__ import annotations

import asyncio

import pytest
from admission_calls import Caller, come, leave, make, turns_of_the_loop
from fake_clock import Clock
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualTime, run_virtually

from runtime.admission import Admission, Limits
from runtime.errors import DaemonUnavailable, Overloaded

# --- slots and the queue -----------------------------------------------------


def test_those_that_wait_begin_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        clock = Clock()
        admission = make(slots=2, clock=clock)
        callers = [await come(admission) for _ in range(4)]
        assert (admission.taken, admission.waiting) == (2, 2)
        for index, caller in enumerate(callers):
            assert [c.holds for c in callers[index:]] == [True, True, False, False][: 4 - index]
            clock.now += 2.5
            await leave(caller)
        assert [caller.waited_s for caller in callers] == [0.0, 0.0, 2.5, 5.0]
        assert (admission.taken, admission.waiting) == (0, 0)

    asyncio.run(main())


def test_who_lost_a_replica_goes_ahead_of_those_that_have_not_begun() -> None:
    async def main() -> None:
        admission = make(waiting=1)
        first, second = await come(admission), await come(admission)
        moved = await come(admission, ahead=True)
        assert admission.waiting == 2, "the length of the queue does not count for it"
        await leave(first)
        assert (moved.holds, second.holds) == (True, False)
        await leave(moved)
        assert second.holds
        await leave(second)

    asyncio.run(main())


def test_those_that_go_ahead_begin_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        admission = make()
        first, waiting = await come(admission), await come(admission)
        moved = [await come(admission, ahead=True) for _ in range(3)]
        await leave(first)
        for index, caller in enumerate(moved):
            assert [c.holds for c in moved[index:]] == [True, False, False][: 3 - index]
            await leave(caller)
        assert waiting.holds
        await leave(waiting)

    asyncio.run(main())


def test_who_comes_to_a_full_queue_is_refused_at_once() -> None:
    async def main() -> None:
        admission = make(slots=2, waiting=1)
        callers = [await come(admission) for _ in range(3)]
        with pytest.raises(Overloaded, match="All 2 test slots are taken and 1 wait"):
            await (await come(admission)).task
        admission.limits = Limits(2, 60.0)  # holds for those that come from now on
        callers.append(await come(admission))
        assert admission.waiting == 2
        await leave(*callers)
        assert admission.taken == 0

    asyncio.run(main())


def test_a_slot_is_free_again_when_its_call_fails() -> None:
    async def main() -> None:
        admission = make()
        with pytest.raises(ZeroDivisionError):
            async with admission.slot():
                raise ZeroDivisionError
        assert admission.taken == 0

    asyncio.run(main())


# --- waiting that ends otherwise ---------------------------------------------


def test_a_call_that_waited_too_long_is_told_when_to_come_back() -> None:
    async def main(time: VirtualTime) -> None:
        admission = Admission(1, "test", Limits(10, 2.5), time.monotonic)
        async with admission.slot():
            with pytest.raises(Overloaded, match=r"within 2\.5 s") as caught:
                async with admission.slot():
                    pytest.fail("there was no slot")
            assert caught.value.waited_s == pytest.approx(2.5)
            assert caught.value.retry_after_s == admission.retry_after_s
            assert admission.waiting == 0
        assert admission.taken == 0

    run_virtually(main)


def test_a_call_that_was_refused_at_once_has_not_waited() -> None:
    async def main() -> None:
        admission = make(waiting=0)
        async with admission.slot():
            with pytest.raises(Overloaded) as caught:
                await (await come(admission)).task
            assert caught.value.waited_s == 0.0

    asyncio.run(main())


def test_a_call_cancelled_in_the_queue_leaves_its_place_to_the_next() -> None:
    async def main() -> None:
        admission = make()
        first, second, third = [await come(admission) for _ in range(3)]
        second.task.cancel()
        await turns_of_the_loop()
        assert second.task.cancelled()
        assert admission.waiting == 1
        await leave(first)
        assert third.holds
        await leave(third)
        assert admission.taken == 0

    asyncio.run(main())


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_a_slot_that_comes_in_the_moment_of_cancellation_is_passed_on(
    cancelled_first: bool,
) -> None:
    async def main() -> None:
        admission = make()
        held = admission.slot()
        await held.__aenter__()
        second, third = await come(admission), await come(admission)
        if cancelled_first:
            second.task.cancel()
        await held.__aexit__(None, None, None)  # returns before anybody else runs
        if not cancelled_first:
            second.task.cancel()
        await turns_of_the_loop()
        assert second.task.cancelled()
        assert (third.holds, admission.taken) == (True, 1)
        await leave(third)
        assert admission.taken == 0

    asyncio.run(main())


def test_a_slot_that_comes_in_the_moment_of_the_timeout_is_passed_on() -> None:
    async def main() -> None:
        admission = make()
        held = admission.slot()
        await held.__aenter__()
        third = await come(admission)

        async def free() -> int:
            await held.__aexit__(None, None, None)
            return admission.waiting

        admission.limits = Limits(10, 0.0)
        second = Caller(admission, ahead=True)  # its time is over in the next turn of the loop
        freed = asyncio.create_task(free())  # in the same turn, right behind the second
        assert await freed == 1, "the slot went to the second"
        with pytest.raises(Overloaded):
            await second.task
        await turns_of_the_loop()
        assert third.holds
        await leave(third)
        assert admission.taken == 0

    asyncio.run(main())


def test_closing_turns_away_all_that_have_not_begun() -> None:
    async def main() -> None:
        admission = make()
        first, second, third = [await come(admission) for _ in range(3)]
        moved = await come(admission, ahead=True)
        third.task.cancel()
        admission.close("stopping")
        await turns_of_the_loop()
        assert third.task.cancelled()
        errors = []
        for caller in (second, moved, await come(admission), await come(admission, ahead=True)):
            with pytest.raises(DaemonUnavailable, match="stopping") as caught:
                await caller.task
            errors.append(caught.value)
        assert len(set(map(id, errors))) == 4, "each has its own traceback"
        assert first.holds, "what runs goes on"
        await leave(first)
        assert (admission.taken, admission.waiting) == (0, 0)

    asyncio.run(main())


# --- when to come back -------------------------------------------------------


async def use(admission: Admission, clock: Clock, seconds: float, times: int = 20) -> None:
    """One call after the other, each as long as this."""
    for _ in range(times):
        async with admission.slot():
            clock.now += seconds


@pytest.mark.parametrize(("queue", "retry_after_s"), [(0, 2.0), (1, 4.0), (3, 8.0)])
def test_each_in_the_queue_adds_the_time_between_two_freed_slots(
    queue: int, retry_after_s: float
) -> None:
    async def main() -> None:
        clock = Clock()
        admission = make(clock=clock)
        await use(admission, clock, 2.0)
        callers = [await come(admission) for _ in range(1 + queue)]
        assert admission.retry_after_s == pytest.approx(retry_after_s)
        await leave(*callers)

    asyncio.run(main())


def test_the_estimate_grows_while_no_slot_becomes_free() -> None:
    async def main() -> None:
        clock = Clock()
        admission = make(clock=clock)
        assert admission.retry_after_s == 1.0, "without experience"
        await use(admission, clock, 2.0)
        async with admission.slot():
            clock.now += 1.0
            assert admission.retry_after_s == pytest.approx(2.0)
            clock.now += 5.0
            assert admission.retry_after_s == pytest.approx(6.0)

    asyncio.run(main())


@pytest.mark.parametrize(("call_s", "retry_after_s"), [(1e-6, 0.1), (1e6, 30.0)])
def test_the_estimate_has_bounds(call_s: float, retry_after_s: float) -> None:
    async def main() -> None:
        clock = Clock()
        admission = make(clock=clock)
        await use(admission, clock, call_s)
        async with admission.slot():
            assert admission.retry_after_s == retry_after_s

    asyncio.run(main())


@pytest.mark.parametrize("slots", [1, 2])
def test_a_quiet_time_does_not_count_as_an_interval(slots: int) -> None:
    async def main() -> None:
        clock = Clock()
        admission = make(slots, clock=clock)
        for _ in range(20):
            callers = [await come(admission) for _ in range(slots)]  # full only since now
            assert admission.retry_after_s == pytest.approx(2.0 if clock.now > 1_000 else 1.0)
            clock.now += 2.0
            await leave(callers.pop())
            clock.now += 3_600  # with a slot that is free
            await leave(*callers)

    asyncio.run(main())


def test_while_others_wait_the_interval_is_that_between_two_freed_slots() -> None:
    async def main() -> None:
        clock = Clock()
        admission = make(slots=2, waiting=99, clock=clock)
        callers = [await come(admission) for _ in range(40)]
        for caller in callers[:20]:
            clock.now += 0.5  # each holds its slot for twice as long
            await leave(caller)
        assert admission.retry_after_s == pytest.approx(0.5 * (18 + 1))
        await leave(*callers)

    asyncio.run(main())


# --- whatever happens --------------------------------------------------------

moves = st.tuples(
    st.sampled_from(["come", "come", "come ahead", "leave", "leave", "cancel", "turn"]),
    st.integers(0, 99),
)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.lists(moves, max_size=40))
def test_slots_are_never_overdrawn_and_never_lost(
    slots: int, waiting: int, play: list[tuple[str, int]]
) -> None:
    async def main() -> None:
        admission = make(slots, waiting)
        callers: list[Caller] = []
        for move, number in play:
            if move.startswith("come"):
                callers.append(Caller(admission, ahead=move == "come ahead"))
            elif move == "turn":
                await turns_of_the_loop()
                assert admission.taken == sum(caller.holds for caller in callers)
                assert admission.taken == slots or admission.waiting == 0, "nobody waits in vain"
            elif callers:
                caller = callers[number % len(callers)]
                caller.leave.set() if move == "leave" else caller.task.cancel()
            if number % 2:  # or several things happen in the same turn
                await asyncio.sleep(0)
            assert sum(caller.holds for caller in callers) <= admission.taken <= slots
        for caller in callers:
            caller.leave.set()
        ends = await asyncio.gather(*(c.task for c in callers), return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError | Overloaded | None) for end in ends)
        assert (admission.taken, admission.waiting) == (0, 0)

    asyncio.run(main())
