"""Who holds how much of which device: leases, holds and what was measured. Pure bookkeeping.

A lease goes reserve -> load -> measure -> hold -> release. ``deployments.ledger`` puts an
actor around this, which tells it what has died. Sizes are bytes, times seconds of a
monotonic clock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from runtime.errors import LeaseExceeded
from runtime.memory.claims import Claim
from runtime.memory.footprint import GIB

Device: TypeAlias = tuple[str, str]
"""A node's id, and the key of one of its devices."""

State: TypeAlias = Literal["loading", "serving", "parked"]
Reason: TypeAlias = Literal["full", "unavailable", "held", "overrun", "unknown"]

HOLD_GRACE_S = 5.0
"""A hold that is not renewed for so long has lost its holder."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What one replica may hold of one device.

    Attributes:
        replica: Its id; a replica has at most one lease of a device.
        deployment: Whose replica it is.
        device: Of which device.
        claim: What was reserved.
        pid: Its process, on the device's node.
        actor: Its Ray actor, to know when it is gone.
        state: ``loading`` until it has measured, ``parked`` while it has given all back but
            its process and context.
        measured: What it measured after its warm-up, None before.
        peak: The most it has reported.
    """

    replica: str
    deployment: str
    device: Device
    claim: Claim
    pid: int
    actor: str
    state: State = "loading"
    measured: int | None = None
    peak: int | None = None

    @property
    def bytes(self) -> int:
        """What it counts for."""
        if self.state == "parked":
            return self.claim.context + self.claim.host
        return self.claim.total


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a replica waits; ``lasting`` if nothing but another configuration will help."""

    reason: Reason
    message: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A replica that has no lease yet, and why; ``actor`` and ``node`` as in its lease."""

    replica: str
    deployment: str
    claim: int
    refusal: Refusal
    actor: str
    node: str


class Ledger:
    """The leases of a cluster. The sum of a device's leases never exceeds its budget."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; ``clock`` is in seconds."""
        self._clock = clock
        self._budgets: dict[Device, int] = {}
        self._leases: dict[tuple[str, Device], Lease] = {}
        self._waiting: dict[str, Waiting] = {}
        self._holds: dict[str, float] = {}  # name -> when it lapses
        # Bytes that a deployment's replicas measured, of a GPU or of the host.
        self._overruns: dict[tuple[str, str], int] = {}
        self.refusals: Counter[Reason] = Counter()

    # --- devices

    @property
    def budgets(self) -> Mapping[Device, int]:
        """What may be leased of each device, in bytes."""
        return self._budgets

    def set_budget(self, device: Device, size: int) -> None:
        """Let leases of a device add up to ``size`` bytes; those that are held stay."""
        self._budgets[device] = size

    def forget_node(self, node: str) -> None:
        """A node is gone, with its devices and all that was on them."""
        self._budgets = {d: size for d, size in self._budgets.items() if d[0] != node}
        self._leases = {k: lease for k, lease in self._leases.items() if lease.device[0] != node}
        self._waiting = {k: waiting for k, waiting in self._waiting.items() if waiting.node != node}

    def leased(self, device: Device) -> int:
        """The sum of a device's leases, in bytes."""
        return sum(lease.bytes for lease in self._leases.values() if lease.device == device)

    def free(self, device: Device) -> int:
        """What can still be leased, in bytes; negative after a budget was cut."""
        return self._budgets.get(device, 0) - self.leased(device)

    # --- leases

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All of them."""
        return tuple(self._leases.values())

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        """Replicas that were refused and still want a lease."""
        return tuple(self._waiting.values())

    @property
    def owners(self) -> dict[str, str]:
        """The actor of each replica that has a lease or waits for one."""
        waiting = {waiting.replica: waiting.actor for waiting in self._waiting.values()}
        return waiting | {lease.replica: lease.actor for lease in self._leases.values()}

    def reserve(
        self,
        wanted: Iterable[Lease],
        available: Mapping[Device, int] | None = None,
        floors: Mapping[Device, int] | None = None,
    ) -> Refusal | None:
        """Lease all that a replica wants, or nothing.

        Asking again for what it holds already changes nothing, so a call may be repeated; a
        parked lease becomes whole again.

        Args:
            wanted: A lease for each device, of one replica.
            available: What each device truly has free now, where that is known.
            floors: What has to stay available of each: who would have to park for want of it
                had better not load.

        Returns:
            None once it is granted, else why not; the replica counts as waiting then.
        """
        wanted = tuple(wanted)
        refusal = self._refusal(wanted, available or {}, floors or {})
        replica = wanted[0].replica
        if refusal is None:
            self._waiting.pop(replica, None)
            for lease in wanted:
                held = self._leases.get((replica, lease.device))
                if held is None or held.state == "parked":
                    self._leases[replica, lease.device] = lease
            return None
        before = self._waiting.get(replica)
        if before is None or before.refusal.reason != refusal.reason:
            self.refusals[refusal.reason] += 1
        claim = sum(lease.claim.total for lease in wanted)
        first = wanted[0]
        self._waiting[replica] = Waiting(
            replica, first.deployment, claim, refusal, first.actor, first.device[0]
        )
        return refusal

    def measured(self, replica: str, device: Device, size: int | None) -> None:
        """Note what a replica holds after its warm-up at full load; from now on it serves.

        ``size`` is None where that cannot be known. Nothing happens without a lease.

        Raises:
            LeaseExceeded: It is more than it claimed. Its lease stays until it is gone.
        """
        lease = self._leases.get((replica, device))
        if lease is None:
            return
        if size is None:
            self._leases[replica, device] = replace(lease, state="serving")
            return
        peak = max(size, lease.peak or 0)
        if size > lease.claim.total:
            self._leases[replica, device] = replace(lease, measured=size, peak=peak)
            self._overruns[_ran(lease)] = size
            raise LeaseExceeded(
                f"{lease.deployment} measured {size / GIB:.2f} GiB on {device[1]} and had claimed "
                f"{lease.claim.total / GIB:.2f}. Give it fewer slots, or set memory_gib beside its "
                "engine to what it needs."
            )
        self._overruns.pop(_ran(lease), None)
        self._leases[replica, device] = replace(lease, state="serving", measured=size, peak=peak)

    def overran(self, replica: str, device: Device) -> LeaseExceeded:
        """A replica could not even load within its claim; returns what to tell it."""
        lease = self._leases.get((replica, device))
        claim = 0 if lease is None else lease.claim.total
        if lease is not None:
            self._overruns[_ran(lease)] = claim + 1
        return LeaseExceeded(
            f"{replica.partition('#')[0]} needed more of {device[1]} to load than the "
            f"{claim / GIB:.2f} GiB it had claimed. Give it fewer slots, or correct its estimate."
        )

    def report(self, replica: str, device: Device, size: int) -> None:
        """Note what a replica holds now, for its peak."""
        lease = self._leases.get((replica, device))
        if lease is not None:
            self._leases[replica, device] = replace(lease, peak=max(size, lease.peak or 0))

    def park(self, replica: str) -> None:
        """A replica has given back all but its process and context."""
        for key, lease in self._leases.items():
            if lease.replica == replica:
                self._leases[key] = replace(lease, state="parked")

    def parked_already(self, replica: str) -> None:
        """A replica says that it is parked: believed of one that serves, for all we know."""
        for key, lease in self._leases.items():
            if lease.replica == replica and lease.state == "serving":
                self._leases[key] = replace(lease, state="parked")

    def adopt(self, lease: Lease) -> None:
        """Take over a lease that was granted before a restart, as its replica tells it."""
        self._leases.setdefault((lease.replica, lease.device), lease)

    def release(self, replica: str) -> None:
        """A replica is gone, or wants nothing any more; harmless if it had no lease."""
        self._waiting.pop(replica, None)
        self._leases = {k: lease for k, lease in self._leases.items() if lease.replica != replica}

    # --- holds

    def hold(self, name: str) -> None:
        """Nothing new is leased from now on; repeat it, as a hold lapses after five seconds."""
        self._holds[name] = self._clock() + HOLD_GRACE_S

    def unhold(self, name: str) -> None:
        """Go on; harmless if there is no such hold."""
        self._holds.pop(name, None)

    @property
    def holds(self) -> tuple[str, ...]:
        """Who holds now."""
        now = self._clock()
        return tuple(name for name, lapses in self._holds.items() if lapses > now)

    @property
    def still(self) -> bool:
        """Whether nothing loads: what a hold has to wait for."""
        return all(lease.state != "loading" for lease in self._leases.values())

    def _refusal(
        self,
        wanted: tuple[Lease, ...],
        available: Mapping[Device, int],
        floors: Mapping[Device, int],
    ) -> Refusal | None:
        new = [lease for lease in wanted if not self._has(lease)]
        if new and (holds := self.holds):
            return Refusal("held", f"nothing loads while {', '.join(holds)} starts")
        for lease in new:
            device, claim = lease.device, lease.claim.total
            if device not in self._budgets:
                return Refusal("unknown", f"the ledger knows no device {device[1]} there")
            name, budget = device[1], self._budgets[device]
            measured = self._overruns.get(_ran(lease))
            if measured is not None and measured > claim:
                return Refusal(
                    "overrun",
                    f"{lease.deployment} claims {claim / GIB:.2f} GiB of {name}, and measured "
                    f"{measured / GIB:.2f} when it was loaded last",
                    lasting=True,
                )
            parked = self._leases.get((lease.replica, device))
            need = claim - (parked.bytes if parked else 0)
            if need > self.free(device):
                return Refusal(
                    "full",
                    f"{lease.deployment} claims {claim / GIB:.2f} GiB of {name}, and "
                    f"{max(self.free(device), 0) / GIB:.2f} of its budget of {budget / GIB:.2f} "
                    f"are free. {self._holders(device)}",
                    lasting=claim > budget,
                )
            coming = sum(
                other.claim.total
                for other in self._leases.values()
                if other.device == device and other.state == "loading"
            )
            floor = floors.get(device, 0)
            if device in available and need > available[device] - coming - floor:
                return Refusal(
                    "unavailable",
                    f"{lease.deployment} claims {claim / GIB:.2f} GiB of {name}, which has "
                    f"{available[device] / GIB:.2f} available, {coming / GIB:.2f} of them promised "
                    f"to replicas that load now, and {floor / GIB:.2f} are to stay so. Somebody "
                    "takes more than the plan says. "
                    f"{self._holders(device)}",
                )
        return None

    def _has(self, lease: Lease) -> bool:
        held = self._leases.get((lease.replica, lease.device))
        return held is not None and held.state != "parked"

    def _holders(self, device: Device) -> str:
        there = [lease for lease in self._leases.values() if lease.device == device]
        if not there:
            return "Nobody holds any of it."
        listed = ", ".join(f"{one.deployment} {one.bytes / GIB:.2f}" for one in there)
        return f"Leases: {listed}."


def _ran(lease: Lease) -> tuple[str, str]:
    """What ran, and whether on a GPU or on the host: a replica has a lease of each."""
    return lease.deployment, lease.device[1].partition(":")[0]


ACTOR = "speech-memory-ledger"
"""The name of the actor that keeps the cluster's ledger, in Ray's namespace ``NAMESPACE``."""

NAMESPACE = "speech"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a granted replica has to keep to: floors in bytes of each device, and its turn.

    ``park_after_s`` is how long the hard floor must have been passed before it parks: the
    more important a deployment, the longer.
    """

    floors: dict[str, tuple[int, int]]
    clear_s: float
    park_after_s: float


@dataclass(frozen=True, slots=True)
class Word:
    """What the ledger tells a replica: who holds still, if anybody. ``number`` counts changes."""

    number: int
    holds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica tells of itself: bytes by device key, its pressure, what is available."""

    held: dict[str, int]
    available: dict[str, int]
    pressure: int


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device in a snapshot; ``None`` is unknown."""

    device: Device
    name: str
    kind: str
    total: int | None
    available: int | None
    budget: int
    neighbours: tuple[tuple[str, int, int], ...]  # name, bytes, overhead
    host_reserve: int
    huge_pages: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The ledger as it stands."""

    devices: tuple[DeviceState, ...]
    leases: tuple[Lease, ...]
    waiting: tuple[Waiting, ...]
    pressures: dict[str, int]  # by replica
    holds: tuple[str, ...]
    refusals: dict[str, int]
