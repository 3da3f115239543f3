"""Pauses: who is refused while memory is short, what it is told, and who goes on."""

from __future__ import annotations

import asyncio

import pytest
from admission_calls import Caller, come, leave, make
from fake_clock import Clock

from runtime.errors import DaemonUnavailable, Overloaded


async def refusal(caller: Caller) -> Overloaded:
    with pytest.raises(Overloaded) as caught:
        await caller.task
    return caught.value


def test_while_paused_new_calls_are_refused_with_the_reason_and_when_to_come_back() -> None:
    async def main() -> None:
        admission = make(slots=2)
        admission.pause("Memory is short.", 30.0)
        error = await refusal(await come(admission))
        assert (str(error), error.retry_after_s, error.waited_s) == ("Memory is short.", 30.0, 0.0)
        assert (admission.taken, admission.waiting) == (0, 0)

    asyncio.run(main())


def test_a_pause_leaves_alone_what_runs_what_waits_and_what_comes_from_elsewhere() -> None:
    async def main() -> None:
        admission = make(slots=1)
        first, second = await come(admission), await come(admission)
        admission.pause("Memory is short.", 30.0)
        moved = await come(admission, ahead=True)
        assert (first.holds, admission.waiting) == (True, 2)
        await leave(first)
        assert (moved.holds, second.holds) == (True, False)
        await leave(moved)
        assert second.holds
        await leave(second)
        assert (await come(admission, ahead=True)).holds

    asyncio.run(main())


def test_a_pause_for_everybody_ends_the_waiting_and_says_how_long_it_was() -> None:
    async def main() -> None:
        clock = Clock()
        admission = make(slots=1, clock=clock)
        first, second = await come(admission), await come(admission)
        moved = await come(admission, ahead=True)
        clock.now += 2.5
        admission.pause("Parked.", 7.0, everybody=True)
        late = await come(admission, ahead=True)
        errors = [await refusal(caller) for caller in (second, moved, late)]
        assert [error.waited_s for error in errors] == [2.5, 2.5, 0.0]
        assert {(str(error), error.retry_after_s) for error in errors} == {("Parked.", 7.0)}
        assert len(set(map(id, errors))) == 3, "each has its own traceback"
        assert (first.holds, admission.waiting) == (True, 0), "what runs goes on"
        await leave(first)
        assert admission.taken == 0

    asyncio.run(main())


def test_after_a_pause_calls_are_taken_again() -> None:
    async def main() -> None:
        admission = make(slots=1)
        admission.pause("Parked.", 7.0, everybody=True)
        admission.resume()
        admission.resume()
        first, second = await come(admission), await come(admission)
        assert (first.holds, admission.waiting) == (True, 1)
        await leave(first, second)
        assert admission.taken == 0

    asyncio.run(main())


def test_a_later_pause_takes_the_place_of_an_earlier_one() -> None:
    async def main() -> None:
        admission = make(slots=1)
        admission.pause("Parked.", 7.0, everybody=True)
        admission.pause("Memory is short.", 30.0)
        assert str(await refusal(await come(admission))) == "Memory is short."
        assert (await come(admission, ahead=True)).holds

    asyncio.run(main())


def test_a_call_that_left_in_the_moment_of_the_pause_is_not_told() -> None:
    async def main() -> None:
        admission = make(slots=1)
        first, second = await come(admission), await come(admission)
        second.task.cancel()
        admission.pause("Parked.", 7.0, everybody=True)
        with pytest.raises(asyncio.CancelledError):
            await second.task
        await leave(first)
        assert (admission.taken, admission.waiting) == (0, 0)

    asyncio.run(main())


def test_closing_goes_before_pausing() -> None:
    async def main() -> None:
        admission = make()
        admission.pause("Parked.", 7.0, everybody=True)
        admission.close("stopping")
        with pytest.raises(DaemonUnavailable, match="stopping"):
            await (await come(admission, ahead=True)).task

    asyncio.run(main())
