"""What would make a plan fit: single changes of one setting, the smallest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from runtime.memory.claims import Demand, EngineDemand
from runtime.memory.footprint import GIB
from runtime.memory.plan import Plan, Pool, fits, share_out
from runtime.memory.policy import MemoryPolicy, Neighbour

_SUGGESTED = 3

Settings: TypeAlias = tuple[MemoryPolicy, tuple[Demand, ...]]
"""What a plan is made of, beside the devices."""


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that can be lowered in steps, and what it is then.

    Attributes:
        key: Names the setting.
        now: What it is, in steps.
        least: The least that still makes sense, in steps.
        apply: The settings with another value of it.
        say: The same for people.
    """

    key: str
    now: int
    least: int
    apply: Callable[[Settings, int], Settings]
    say: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Remedy:
    """Changes that are enough together, and the value of each."""

    parts: tuple[tuple[Change, int], ...]

    @property
    def size(self) -> float:
        """How much of the settings goes."""
        return sum((change.now - value) / change.now for change, value in self.parts)

    @property
    def text(self) -> str:
        """What to do."""
        return " and ".join(change.say(value) for change, value in self.parts)

    def apply(self, settings: Settings) -> Settings:
        """The settings with all changes made."""
        for change, value in self.parts:
            settings = change.apply(settings, value)
        return settings


def remedies(
    pools: Sequence[Pool], policy: MemoryPolicy, demands: Sequence[Demand]
) -> tuple[str, ...]:
    """What to tell an operator: at most three remedies, or what remains too much."""
    found = find(pools, policy, demands)
    if found:
        return tuple(remedy.text for remedy in found)
    return (_all_at_their_least(pools, policy, tuple(demands)),)


def find(
    pools: Sequence[Pool], policy: MemoryPolicy, demands: Sequence[Demand]
) -> tuple[Remedy, ...]:
    """At most three remedies, each of which is enough by itself, the smallest first.

    A remedy changes one setting, or a neighbour's size and one of ours where too few single
    changes are enough. It is small if little of the settings' values goes, and no part of it
    could be a step less. Where none is enough, there is none.
    """

    def enough(change: Change, settings: Settings, least: int | None = None) -> int | None:
        """The largest value below the present one, and from ``least``, with which all fits."""
        low, high = change.least if least is None else least, change.now
        if low >= high or not fits(pools, *change.apply(settings, low)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            fitting = fits(pools, *change.apply(settings, middle))
            low, high = (middle, high) if fitting else (low, middle)
        return low

    settings = policy, tuple(demands)
    of_neighbours = [_of_neighbour(i, n) for i, n in enumerate(policy.neighbours)]
    of_ours = list(_changes_of_ours(*settings))
    singles = [
        (change, value)
        for change in (*of_neighbours, *of_ours)
        if (value := enough(change, settings)) is not None
    ]
    found = [Remedy((single,)) for single in singles]
    if len(found) < _SUGGESTED:
        alone = {change.key: value for change, value in singles}
        for ours in of_ours:
            if ours.least >= ours.now or ours.key in alone:
                continue
            with_least = ours.apply(settings, ours.least)
            for theirs in of_neighbours:
                # Only what is more than without the change of ours.
                least = alone.get(theirs.key, theirs.least - 1) + 1
                value = enough(theirs, with_least, least)
                if value is None:
                    continue
                own = enough(ours, theirs.apply(settings, value))
                assert own is not None
                found.append(Remedy(((theirs, value), (ours, own))))
    return tuple(sorted(found, key=lambda remedy: (remedy.size, remedy.text))[:_SUGGESTED])


def _changes_of_ours(policy: MemoryPolicy, demands: tuple[Demand, ...]) -> Iterator[Change]:
    for index, demand in enumerate(demands):
        yield _of_replicas(index, demand)
        for which, engine in enumerate(demand.engines):
            if engine.footprint.slots is not None and engine.footprint.state_per_slot:
                yield _of_slots(index, which, demand, engine, engine.footprint.slots)
            if len(demand.engines) > 1:
                yield _of_engine(index, which, demand, engine)
    if policy.host_reserve_gib:
        yield _of_reserve(policy.host_reserve_gib)


def _of_neighbour(index: int, neighbour: Neighbour) -> Change:
    by_utilisation = neighbour.utilisation is not None
    now = neighbour.utilisation if by_utilisation else neighbour.gib
    assert now is not None
    steps = 100 if by_utilisation else 10  # two decimals of a utilisation, tenths of a GiB
    key = "utilisation" if by_utilisation else "gib"

    def apply(settings: Settings, n: int) -> Settings:
        policy, demands = settings
        others = policy.neighbours
        lowered = neighbour.model_copy(update={key: n / steps})
        changed = (*others[:index], lowered, *others[index + 1 :])
        return policy.model_copy(update={"neighbours": changed}), demands

    return Change(
        f"neighbours.{neighbour.name}",
        _steps(now, steps),
        1,
        apply,
        lambda n: f"lower {key} of neighbour {neighbour.name} from {now:g} to {n / steps:g}",
    )


def _of_reserve(now: float) -> Change:
    tenths = _steps(now, 10)

    def apply(settings: Settings, n: int) -> Settings:
        policy, demands = settings
        return policy.model_copy(update={"host_reserve_gib": n / 10}), demands

    return Change(
        "host_reserve_gib",
        tenths,
        -(-tenths // 2),  # a system that is left with less is no remedy
        apply,
        lambda n: f"set host_reserve_gib to {n / 10:g} instead of {now:g}",
    )


def _of_replicas(index: int, demand: Demand) -> Change:
    return Change(
        f"{demand.deployment}.replicas",
        demand.replicas,
        1,
        lambda settings, n: _with(settings, index, lambda one: replace(one, replicas=n)),
        lambda n: (
            f"run {n} replica{'s' * (n != 1)} of {demand.deployment} instead of {demand.replicas}"
        ),
    )


def _of_slots(index: int, which: int, demand: Demand, engine: EngineDemand, now: int) -> Change:
    def fewer(one: Demand, n: int) -> Demand:
        engine = one.engines[which]
        changed = replace(engine, footprint=replace(engine.footprint, slots=n))
        return replace(one, engines=(*one.engines[:which], changed, *one.engines[which + 1 :]))

    return Change(
        f"{demand.deployment}.{engine.role}.slots",
        now,
        1,
        lambda settings, n: _with(settings, index, lambda one: fewer(one, n)),
        lambda n: (
            f"give {demand.deployment}'s {engine.engine} {n} slot{'s' * (n != 1)} instead of {now}"
        ),
    )


def _of_engine(index: int, which: int, demand: Demand, engine: EngineDemand) -> Change:
    def without(one: Demand) -> Demand:
        others = (*one.engines[:which], *one.engines[which + 1 :])
        return replace(one, engines=others, measured=None)

    return Change(
        f"{demand.deployment}.{engine.role}",
        1,
        0,
        lambda settings, n: settings if n else _with(settings, index, without),
        lambda n: f"leave out {demand.deployment}'s {engine.role} engine, {engine.engine}",
    )


def _steps(value: float, steps: int) -> int:
    """A setting in steps, rounded up: a utilisation of 0.605 may be lowered to 0.60."""
    return -int(-value * steps // 1)


def _with(settings: Settings, index: int, change: Callable[[Demand], Demand]) -> Settings:
    policy, demands = settings
    return policy, (*demands[:index], change(demands[index]), *demands[index + 1 :])


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
    claims, budgets = max(_of_gpus(sharing), _of_host(sharing), key=lambda it: it[0] - sum(it[1]))
    left = " and ".join(f"{budget / GIB:.2f}" for budget in budgets)
    return (
        "no single change is enough: one replica of each deployment with one slot claims "
        f"{claims / GIB:.2f} GiB, and the neighbours and the reserve leave {left}"
    )


def _of_gpus(sharing: Plan) -> tuple[int, list[int]]:
    """What all claim of GPUs, and the budget of each."""
    claims = sum(d.gpu.total for d in sharing.deployments if d.gpu is not None)
    return claims, [d.budget for d in sharing.devices if claims and d.pool.index is not None]


def _of_host(sharing: Plan) -> tuple[int, list[int]]:
    """The same of the host."""
    claims = sum(d.host.total for d in sharing.deployments if d.host is not None)
    return claims, [d.budget for d in sharing.devices if claims and d.pool.index is None]
