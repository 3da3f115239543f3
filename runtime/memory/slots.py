"""How many slots engines with ``slots: auto`` get: pure arithmetic over who has room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from runtime.memory.claims import Demand, EngineDemand

Slots: TypeAlias = tuple[tuple[int, ...], ...]
"""Slots of each engine of each deployment, in order."""


def slots_with(demands: Sequence[Demand], spare: int) -> Slots:
    """Slots of all engines if ``spare`` bytes are to be had for the smallest share."""
    shares = [e.share for d in demands for e in d.engines if e.footprint.slots is None]
    smallest = min(shares, default=1.0)

    def auto(engine: EngineDemand, replicas: int) -> int:
        footprint = engine.footprint
        per_slot = max(footprint.state_per_slot, 1)
        room = int(spare * (engine.share / smallest)) // (replicas * per_slot)
        if engine.limit is not None:
            room = min(room, (engine.limit - footprint.weights - footprint.workspace) // per_slot)
        return max(1, min(room, footprint.max_slots))

    return tuple(
        tuple(
            auto(engine, demand.replicas)
            if engine.footprint.slots is None
            else engine.footprint.slots
            for engine in demand.engines
        )
        for demand in demands
    )


def most_slots(
    demands: Sequence[Demand], everything: int, has_room: Callable[[Slots], bool]
) -> Slots:
    """As many slots as there is room for, by shares; one where there is none.

    What is too little for another slot of each engine, or on a device that not all can use,
    goes to the engines that can, the first one first.
    """

    def share_has_room(spare: int) -> bool:
        return has_room(slots_with(demands, spare))

    # Each engine's slots only grow with the share.
    slots = slots_with(demands, _largest(0, everything, share_has_room))
    most = slots_with(demands, everything)
    for index, row in enumerate(most):
        for which, limit in enumerate(row):

            def one_has_room(
                count: int, slots: Slots = slots, index: int = index, which: int = which
            ) -> bool:
                return has_room(_with(slots, index, which, count))

            count = _largest(slots[index][which], limit, one_has_room)
            slots = _with(slots, index, which, count)
    return slots


def _largest(low: int, high: int, has_room: Callable[[int], bool]) -> int:
    """The largest number up to ``high`` for which there is room; ``low`` is granted."""
    if low < high and not has_room(low + 1):
        return low
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if has_room(middle) else (low, middle - 1)
    return low


def _with(slots: Slots, index: int, which: int, count: int) -> Slots:
    """The same slots, but ``count`` for one engine."""
    row = slots[index]
    changed = (*row[:which], count, *row[which + 1 :])
    return (*slots[:index], changed, *slots[index + 1 :])
