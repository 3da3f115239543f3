"""The budget on paper: pure arithmetic over one node's devices, in bytes until the last line.

    budget   = total - sum of (neighbour + its overhead) - huge pages - host reserve
    claim    = context + weights + workspace + slots x state + host
    fits     = each replica has a device with room for its claim
    num_gpus = claim / total, rounded up to 10^-4, which is what Ray is told

``host`` counts where the pool is the host's own: on unified memory, and without a GPU.
A machine with discrete GPUs has a pool for each and one for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from runtime.errors import ConfigError, MemoryUnknown
from runtime.memory.claims import Claim, Demand, claim_of
from runtime.memory.device import DeviceMemory, Kind, Unknown
from runtime.memory.footprint import GIB
from runtime.memory.placement import assign
from runtime.memory.policy import MemoryPolicy
from runtime.memory.slots import Slots, most_slots, slots_with

RAY_UNITS = 10_000
"""Ray counts fractions of a GPU in steps of 10^-4."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A device whose figures are known; all in bytes. ``index`` is Ray's number of a GPU."""

    key: str
    name: str
    kind: Kind
    total: int
    huge_pages: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """Somebody's part of a device, in bytes."""

    name: str
    bytes: int
    overhead: int = 0


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A pool and who gets what of it; ``replicas`` are (deployment, how many of them)."""

    pool: Pool
    neighbours: tuple[Share, ...]
    host_reserve: int
    replicas: tuple[tuple[str, int], ...]
    claimed: int

    @property
    def withheld(self) -> int:
        """Bytes that are not ours to claim."""
        others = sum(share.bytes + share.overhead for share in self.neighbours)
        return others + self.pool.huge_pages + self.host_reserve

    @property
    def budget(self) -> int:
        """Bytes that are; negative if the neighbours already have more than there is."""
        return self.pool.total - self.withheld

    @property
    def headroom(self) -> int:
        """What nobody claims."""
        return self.budget - self.claimed


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """What a deployment's replicas claim, each, and how many of them found room."""

    demand: Demand
    slots: tuple[int, ...]
    gpu: Claim | None  # of a device that is a GPU, unified memory included
    host: Claim | None  # of the host beside discrete GPUs, or where there is no GPU
    num_gpus: float
    placed: int

    @property
    def claim(self) -> Claim:
        """Of the device that the deployment is about."""
        claim = self.gpu or self.host
        assert claim is not None
        return claim


@dataclass(frozen=True, slots=True)
class Plan:
    """Where every byte goes. ``remedies`` are the smallest changes that would make it fit."""

    devices: tuple[DevicePlan, ...]
    deployments: tuple[DeploymentPlan, ...]
    remedies: tuple[str, ...] = field(default=())

    @property
    def fits(self) -> bool:
        """Whether each replica has room."""
        return all(d.placed == d.demand.replicas for d in self.deployments)

    @property
    def serves(self) -> bool:
        """Whether at least one replica of each deployment has room."""
        return all(d.placed for d in self.deployments)


def pools_of(devices: Sequence[DeviceMemory]) -> tuple[Pool, ...]:
    """The devices of a node as the plan takes them.

    Raises:
        MemoryUnknown: A device's total cannot be known; it is never taken for zero.
    """
    pools = []
    for device in devices:
        unknown = device.kind if isinstance(device.kind, Unknown) else device.total.value
        if isinstance(device.kind, Unknown) or isinstance(device.total.value, Unknown):
            assert isinstance(unknown, Unknown)
            raise MemoryUnknown(
                f"How much memory {device.key} ({device.name}) has cannot be known: "
                f"{unknown.reason}. Mend that, or plan for a recorded device with --device."
            )
        pages = device.huge_pages.value if device.huge_pages is not None else 0
        pools.append(
            Pool(
                device.key,
                device.name,
                device.kind,
                device.total.value,
                0 if isinstance(pages, Unknown) else pages,
                None if device.kind == "host" else int(device.key.partition(":")[2]),
            )
        )
    return tuple(pools)


def plan(pools: Sequence[Pool], policy: MemoryPolicy, demands: Sequence[Demand]) -> Plan:
    """Share the pools of a node out; ``slots: auto`` becomes numbers.

    Raises:
        ConfigError: An engine wants a GPU and there is none, or a neighbour is said to be on
            a device that is not there, or an engine may have less than one slot needs.
    """
    from runtime.memory.remedies import remedies

    check(pools, policy, demands)
    sharing = share_out(pools, policy, demands)
    return sharing if sharing.fits else with_remedies(sharing, remedies(pools, policy, demands))


def share_out(pools: Sequence[Pool], policy: MemoryPolicy, demands: Sequence[Demand]) -> Plan:
    """The plan without its remedies."""
    devices = [_withheld(pool, pools, policy) for pool in pools]
    slots = slots_with(demands, 0)
    if any(e.footprint.slots is None for d in demands for e in d.engines) and _room(
        devices, demands, slots
    ):
        spare = [d.budget - policy.headroom(d.pool.kind) for d in devices]
        everything = sum(pool.total for pool in pools)
        slots = most_slots(demands, everything, lambda slots: _room(devices, demands, slots, spare))
    return _place(devices, demands, slots)


def fits(pools: Sequence[Pool], policy: MemoryPolicy, demands: Sequence[Demand]) -> bool:
    """Whether all replicas have room, with one slot where the plan chooses their number."""
    devices = [_withheld(pool, pools, policy) for pool in pools]
    return _room(devices, demands, slots_with(demands, 0))


def with_remedies(sharing: Plan, remedies: tuple[str, ...]) -> Plan:
    """The same plan, saying what would make it fit."""
    return Plan(sharing.devices, sharing.deployments, remedies)


def units(size: int, total: int) -> int:
    """Bytes in Ray's steps of a GPU, rounded up."""
    return -(-size * RAY_UNITS // total)


def check(pools: Sequence[Pool], policy: MemoryPolicy, demands: Sequence[Demand]) -> None:
    """Refuse what no change of sizes would mend; see ``plan``."""
    gpus = [pool for pool in pools if pool.index is not None]
    for demand in demands:
        for engine in demand.engines:
            footprint = engine.footprint
            least = footprint.weights + footprint.workspace + footprint.state_per_slot
            if engine.limit is not None and engine.limit < least:
                raise ConfigError(
                    f"{demand.deployment}: limit_gib of {engine.engine} is "
                    f"{engine.limit / GIB:.2f}, and a single slot needs {least / GIB:.2f} with "
                    "weights and workspace."
                )
            if engine.footprint.on_gpu and not gpus:
                raise ConfigError(
                    f"{demand.deployment} runs {engine.engine} on a GPU, and there is none here "
                    f"({', '.join(pool.key for pool in pools)}). Plan for another device with "
                    "--device, or choose the engines of config/embedded.yaml."
                )
    for neighbour in policy.neighbours:
        missing = set(neighbour.devices or ()) - {pool.index for pool in gpus}
        if missing:
            raise ConfigError(
                f"Neighbour {neighbour.name!r} is on devices {sorted(missing)}, which are not "
                f"there; devices: {', '.join(pool.key for pool in pools)}."
            )


def _withheld(pool: Pool, pools: Sequence[Pool], policy: MemoryPolicy) -> DevicePlan:
    """The pool before anything of ours is on it."""
    beside_gpus = pool.kind == "host" and len(pools) > 1
    shares = tuple(
        Share(n.name, n.size(pool.total), n.overhead(pool.kind))
        for n in policy.neighbours
        if not beside_gpus and (n.devices is None or pool.index in n.devices)
    )
    reserve = policy.host_reserve(pool.kind, beside_gpus=beside_gpus)
    return DevicePlan(pool, shares, reserve, (), 0)


def _assignment(
    devices: Sequence[DevicePlan], demands: Sequence[Demand], slots: Slots
) -> tuple[list[list[Claim | None]], list[list[int]]]:
    """What a replica of each demand claims of each device, and how many replicas it gets."""
    claims: list[list[Claim | None]] = []
    for demand, counts in zip(demands, slots, strict=True):
        by_kind = {d.pool.kind: claim_of(demand, counts, d.pool.kind) for d in devices}
        claims.append([by_kind[d.pool.kind] for d in devices])
    gpus = [i for i, d in enumerate(devices) if d.pool.index is not None]
    hosts = [i for i, d in enumerate(devices) if d.pool.index is None]
    room = [
        d.budget if d.pool.index is None else RAY_UNITS - units(d.withheld, d.pool.total)
        for d in devices
    ]
    needs = []
    for row in claims:
        units_ = _ray_units(row, devices)
        needs.append(
            [
                None if claim is None else claim.total if d.pool.index is None else units_
                for claim, d in zip(row, devices, strict=True)
            ]
        )
    return claims, assign(room, (gpus, hosts), needs, [demand.replicas for demand in demands])


def _ray_units(claims: Sequence[Claim | None], devices: Sequence[DevicePlan]) -> int:
    """What Ray counts for a replica on any GPU: it knows one fraction, the largest."""
    return max(
        (
            units(claim.total, d.pool.total)
            for claim, d in zip(claims, devices, strict=True)
            if claim is not None and d.pool.index is not None
        ),
        default=0,
    )


def _room(
    devices: Sequence[DevicePlan],
    demands: Sequence[Demand],
    slots: Slots,
    spare: Sequence[int] | None = None,
) -> bool:
    """Whether all replicas have room, and claim no more than ``spare`` of each device."""
    claims, placed = _assignment(devices, demands, slots)
    for demand, row, counts in zip(demands, claims, placed, strict=True):
        kinds = {d.pool.index is None for d, c in zip(devices, row, strict=True) if c is not None}
        if sum(counts) < demand.replicas * len(kinds):
            return False
    return spare is None or all(
        _claimed(index, claims, placed) <= most for index, most in enumerate(spare)
    )


def _claimed(
    device: int, claims: Sequence[Sequence[Claim | None]], placed: Sequence[Sequence[int]]
) -> int:
    return sum(
        counts[device] * claim.total
        for row, counts in zip(claims, placed, strict=True)
        if (claim := row[device]) is not None
    )


def _place(devices: Sequence[DevicePlan], demands: Sequence[Demand], slots: Slots) -> Plan:
    """The plan with these slots."""
    claims, placed = _assignment(devices, demands, slots)
    deployments = []
    for demand, counts, row, there in zip(demands, slots, claims, placed, strict=True):
        known = [(d.pool, c) for d, c in zip(devices, row, strict=True) if c is not None]
        gpu = [(pool, claim) for pool, claim in known if pool.index is not None]
        host = next((claim for pool, claim in known if pool.index is None), None)
        of_gpus = sum(n for n, d in zip(there, devices, strict=True) if d.pool.index is not None)
        deployments.append(
            DeploymentPlan(
                demand,
                counts,
                gpu[0][1] if gpu else None,
                host,
                _ray_units(row, devices) / RAY_UNITS,
                of_gpus if gpu else sum(there),
            )
        )
    return Plan(
        tuple(
            replace(
                device,
                replicas=tuple(
                    (demand.deployment, counts[index])
                    for demand, counts in zip(demands, placed, strict=True)
                    if counts[index]
                ),
                claimed=_claimed(index, claims, placed),
            )
            for index, device in enumerate(devices)
        ),
        tuple(deployments),
    )
