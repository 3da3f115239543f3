"""What would make a plan fit: single changes of one setting, the smallest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from runtime.memory.footprint import GIB
from runtime.memory.plan import Demand, Pool, share_out
from runtime.memory.policy import MemoryPolicy, Neighbour

_SUGGESTED = 3


@dataclass(frozen=True, slots=True)
class _Change:
    """A setting that can be lowered in steps, and what it is then; ``least`` still makes sense."""

    now: int  # in steps
    least: int
    apply: Callable[[int], tuple[MemoryPolicy, tuple[Demand, ...]]]
    say: Callable[[int], str]


def remedies(
    pools: Sequence[Pool], policy: MemoryPolicy, demands: Sequence[Demand]
) -> tuple[str, ...]:
    """At most three changes, each of which is enough by itself, the smallest first.

    A change is small if little of the setting's value goes. Where no single one is enough,
    the one answer says what remains too much with everything at its least.
    """
    enough: list[tuple[float, str]] = []
    for change in _changes(policy, tuple(demands)):
        value = _largest(change, lambda new: share_out(pools, *new).fits)
        if value is not None:
            enough.append(((change.now - value) / change.now, change.say(value)))
    if enough:
        return tuple(text for _, text in sorted(enough)[:_SUGGESTED])
    return (_all_at_their_least(pools, policy, tuple(demands)),)


def _largest(
    change: _Change, fits: Callable[[tuple[MemoryPolicy, tuple[Demand, ...]]], bool]
) -> int | None:
    """The largest value below the present one with which all fits."""
    low, high = change.least, change.now
    if low >= high or not fits(change.apply(low)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(change.apply(middle)) else (low, middle)
    return low


def _changes(policy: MemoryPolicy, demands: tuple[Demand, ...]) -> Iterator[_Change]:
    for index, neighbour in enumerate(policy.neighbours):
        yield _of_neighbour(policy, demands, index, neighbour)
    for index, demand in enumerate(demands):
        yield _Change(
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
    if policy.host_reserve_gib:
        tenths = int(policy.host_reserve_gib * 10)
        yield _Change(
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
