"""Floors on available memory: when it is short, and when that is over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.memory.device import Unknown
from runtime.memory.watch import Pressure, Watch

NONE, SOFT, HARD = Pressure.NONE, Pressure.SOFT, Pressure.HARD


class Watched:
    """A watch with floors of 4 and 2 and 30 s to be clear, and a clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0
        self.watch = Watch(4, 2, 30.0, lambda: self.now)

    def after(self, seconds: float, available: int | None) -> Pressure:
        """The pressure with so much available so much later; None is unknown."""
        self.now += seconds
        return self.watch.update(Unknown("no driver") if available is None else available)


@pytest.mark.parametrize(
    ("available", "pressure"), [(5, NONE), (4, NONE), (3, SOFT), (2, SOFT), (1, HARD), (0, HARD)]
)
def test_a_floor_is_passed_below_it_and_at_once(available: int, pressure: Pressure) -> None:
    assert Watched().after(0, available) is pressure


def test_pressure_rises_at_once_from_any_floor() -> None:
    watched = Watched()
    assert [watched.after(1, size) for size in (9, 3, 1)] == [NONE, SOFT, HARD]


def test_a_floor_is_left_once_it_has_been_clear_for_its_time() -> None:
    watched = Watched()
    watched.after(0, 3)
    assert watched.after(100, 4) is SOFT, "the time counts from when it is first seen clear"
    assert watched.after(29.9, 4) is SOFT
    assert watched.after(0.1, 4) is NONE


def test_the_time_begins_anew_if_it_is_short_again() -> None:
    watched = Watched()
    watched.after(0, 3)
    watched.after(1, 5)
    watched.after(29, 3)
    assert watched.after(1, 5) is SOFT
    assert watched.after(29, 5) is SOFT
    assert watched.after(1, 5) is NONE


def test_each_floor_needs_its_own_clear_time() -> None:
    watched = Watched()
    assert watched.after(0, 1) is HARD
    assert watched.after(1, 3) is HARD
    assert watched.after(29, 5) is HARD
    assert watched.after(1, 5) is SOFT, "the soft floor has been clear for 1 s only"
    assert watched.after(28, 5) is SOFT
    assert watched.after(1, 5) is NONE


def test_floors_that_are_clear_together_are_left_together() -> None:
    watched = Watched()
    watched.after(0, 0)
    watched.after(1, 9)
    assert watched.after(30, 9) is NONE


def test_between_the_floors_it_stays_soft() -> None:
    watched = Watched()
    watched.after(0, 1)
    watched.after(0, 3)
    assert [watched.after(30, 3) for _ in range(5)] == [SOFT] * 5


def test_what_is_unknown_changes_nothing() -> None:
    watched = Watched()
    assert watched.after(0, None) is NONE
    watched.after(0, 1)
    assert watched.after(500, None) is HARD
    watched.after(0, 9)
    assert watched.after(29, None) is HARD
    assert watched.after(1, None) is HARD
    assert watched.after(0, 9) is NONE


def test_time_below_the_hard_floor_ends_at_once_though_the_pressure_lasts() -> None:
    watched = Watched()
    watched.after(7, 9)
    assert watched.watch.below_hard_s is None
    watched.after(1, 1)
    assert watched.watch.below_hard_s == 0
    watched.after(3, 0)
    assert watched.watch.below_hard_s == 3
    watched.after(1, None)
    assert watched.watch.below_hard_s == 4
    watched.after(1, 3)
    assert (watched.watch.pressure, watched.watch.below_hard_s) == (HARD, None)
    watched.after(1, 1)
    assert watched.watch.below_hard_s == 0


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6) | st.none()), max_size=60))
def test_pressure_is_never_below_what_is_seen_and_never_falls_too_early(
    play: list[tuple[int, int | None]],
) -> None:
    watched = Watched()
    below: dict[Pressure, float] = {}  # when each floor was last seen passed
    for seconds, available in play:
        before = watched.watch.pressure
        after = watched.after(seconds, available)
        if available is None:
            assert after is before
            continue
        for pressure, floor in ((SOFT, 4), (HARD, 2)):
            if available < floor:
                below[pressure] = watched.now
                assert after >= pressure
        for pressure, last in below.items():
            assert watched.now - last >= 30 or after >= pressure
        assert after is NONE or after in below
