"""What would make a plan fit: single changes of one setting, the smallest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from runtime.memory.claims import Demand
from runtime.memory.footprint import GIB
from runtime.memory.plan import Pool, fits, share_out
from runtime.memory.policy import MemoryPolicy, Neighbour

_SUGGESTED = 3


@dataclass(frozen=True, slots=True)
class _Change:
    """A setting that can be lowered in steps, and what it is then; ``least`` still makes sense."""

    key: str
    now: int  # in steps
    least: int
    apply: Callable[[int], tuple[MemoryPolicy, tuple[Demand, ...]]]
    say: Callable[[int], str]

    def size(self, value: int) -> float:
        """How much of the setting goes if it becomes ``value``."""
        return (self.now - value) / self.now


def remedies(
    pools: Sequence[Pool], policy: MemoryPolicy, demands: Sequence[Demand]
) -> tuple[str, ...]:
    """At most three remedies, each of which is enough by itself, the smallest first.

    A remedy changes one setting, or a neighbour's size and one of ours where too few single
    changes are enough. It is small if little of the settings' values goes. Where none is
    enough, the one answer says what remains too much.
    """

    def largest(change: _Change) -> int | None:
        """The largest value below the present one with which all fits."""
        low, high = change.least, change.now
        if low >= high or not fits(pools, *change.apply(low)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(pools, *change.apply(middle)) else (low, middle)
        return low

    demands = tuple(demands)
    singles = [
        (change, value)
        for change in _changes(policy, demands)
        if (value := largest(change)) is not None
    ]
    found = [(change.size(value), change.say(value)) for change, value in singles]
    if len(found) < _SUGGESTED:
        alone = {change.key: value for change, value in singles}
        for first in _changes_of_ours(policy, demands):
            if first.least == first.now:
                continue
            for second in _changes_of_neighbours(*first.apply(first.least)):
                value = largest(second)
                if value is not None and value > alone.get(second.key, -1):
                    size = first.size(first.least) + second.size(value)
                    found.append((size, f"{second.say(value)} and {first.say(first.least)}"))
    if found:
        return tuple(text for _, text in sorted(found)[:_SUGGESTED])
    return (_all_at_their_least(pools, policy, tuple(demands)),)


def _changes(policy: MemoryPolicy, demands: tuple[Demand, ...]) -> Iterator[_Change]:
    yield from _changes_of_neighbours(policy, demands)
    yield from _changes_of_ours(policy, demands)


def _changes_of_neighbours(policy: MemoryPolicy, demands: tuple[Demand, ...]) -> Iterator[_Change]:
    for index, neighbour in enumerate(policy.neighbours):
        yield _of_neighbour(policy, demands, index, neighbour)


def _changes_of_ours(policy: MemoryPolicy, demands: tuple[Demand, ...]) -> Iterator[_Change]:
    for index, demand in enumerate(demands):
        yield _Change(
            f"{demand.deployment}.replicas",
            demand.replicas,
            1,
            lambda n, i=index: (policy, _with(demands, i, replicas=n)),  # type: ignore[misc]
            lambda n, d=demand: (  # type: ignore[misc]
                f"run {n} replica{'s' * (n != 1)} of {d.deployment} instead of {d.replicas}"
            ),
        )
        for which, engine in enumerate(demand.engines):
            slots = engine.footprint.slots
            if slots is not None and engine.footprint.state_per_slot:
                yield _Change(
                    f"{demand.deployment}.{engine.role}.slots",
                    slots,
                    1,
                    lambda n, i=index, w=which: (  # type: ignore[misc]
                        policy,
                        _with_slots(demands, i, w, n),
                    ),
                    lambda n, d=demand, e=engine: (  # type: ignore[misc]
                        f"give {d.deployment}'s {e.engine} {n} slot{'s' * (n != 1)} instead of "
                        f"{e.footprint.slots}"
                    ),
                )
            if len(demand.engines) > 1:
                yield _Change(
                    f"{demand.deployment}.{engine.role}",
                    1,
                    0,
                    lambda n, i=index, w=which: (  # type: ignore[misc]
                        policy,
                        demands if n else _without(demands, i, w),
                    ),
                    lambda n, d=demand, e=engine: (  # type: ignore[misc]
                        f"leave out {d.deployment}'s {e.role} engine, {e.engine}"
                    ),
                )
    if policy.host_reserve_gib:
        tenths = int(policy.host_reserve_gib * 10)
        yield _Change(
            "host_reserve_gib",
            tenths,
            tenths // 2,  # a system that is left with less is no remedy
            lambda n: (policy.model_copy(update={"host_reserve_gib": n / 10}), demands),
            lambda n: f"set host_reserve_gib to {n / 10:g} instead of {policy.host_reserve_gib:g}",
        )


def _of_neighbour(
    policy: MemoryPolicy, demands: tuple[Demand, ...], index: int, neighbour: Neighbour
) -> _Change:
    by_utilisation = neighbour.utilisation is not None
    now = neighbour.utilisation if by_utilisation else neighbour.gib
    assert now is not None
    steps = 100 if by_utilisation else 10  # two decimals of a utilisation, tenths of a GiB
    key = "utilisation" if by_utilisation else "gib"

    def apply(n: int) -> tuple[MemoryPolicy, tuple[Demand, ...]]:
        lowered = neighbour.model_copy(update={key: n / steps})
        others = policy.neighbours
        changed = (*others[:index], lowered, *others[index + 1 :])
        return policy.model_copy(update={"neighbours": changed}), demands

    return _Change(
        f"neighbours.{neighbour.name}",
        # Rounded up: a utilisation of 0.605 may be lowered to 0.60.
        -int(-now * steps // 1),
        1,
        apply,
        lambda n: f"lower {key} of neighbour {neighbour.name} from {now:g} to {n / steps:g}",
    )


def _with(demands: tuple[Demand, ...], index: int, *, replicas: int) -> tuple[Demand, ...]:
    changed = replace(demands[index], replicas=replicas)
    return (*demands[:index], changed, *demands[index + 1 :])


def _with_slots(
    demands: tuple[Demand, ...], index: int, which: int, slots: int
) -> tuple[Demand, ...]:
    demand = demands[index]
    engine = demand.engines[which]
    fewer = replace(engine, footprint=replace(engine.footprint, slots=slots))
    engines = (*demand.engines[:which], fewer, *demand.engines[which + 1 :])
    return (*demands[:index], replace(demand, engines=engines), *demands[index + 1 :])


def _without(demands: tuple[Demand, ...], index: int, which: int) -> tuple[Demand, ...]:
    demand = demands[index]
    engines = (*demand.engines[:which], *demand.engines[which + 1 :])
    changed = replace(demand, engines=engines, measured=None)
    return (*demands[:index], changed, *demands[index + 1 :])


def _all_at_their_least(
    pools: Sequence[Pool], policy: MemoryPolicy, demands: tuple[Demand, ...]
) -> str:
    least = tuple(
        replace(
            demand,
            replicas=1,
            engines=tuple(
                replace(e, footprint=replace(e.footprint, slots=1)) for e in demand.engines
            ),
        )
        for demand in demands
    )
    sharing = share_out(pools, policy, least)
    if sharing.fits:
        return "no single change is enough: run one replica of each deployment with one slot"
    claims = sum(d.claim.total for d in sharing.deployments)
    budget = max(device.budget for device in sharing.devices)
    return (
        "no single change is enough: one replica of each deployment with one slot claims "
        f"{claims / GIB:.2f} GiB, and the neighbours and the reserve leave {budget / GIB:.2f}"
    )
