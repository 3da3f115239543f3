"""A plan and a ledger as people read them, and as programs do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from runtime.memory.claims import Claim
from runtime.memory.footprint import GIB
from runtime.memory.ledger import DeviceState, Lease, Snapshot
from runtime.memory.plan import DeploymentPlan, DevicePlan, Plan
from runtime.memory.watch import Pressure

_WIDTH = 24  # of the longest bar, in characters
_EIGHTHS = " ▏▎▍▌▋▊▉"

Row: TypeAlias = tuple[str, int, str]
"""An owner, its bytes, and a remark."""


def gib(size: int) -> float:
    """Bytes as GiB with two decimals."""
    return round(size / GIB, 2)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan; figures at the top are of the first device in use, ``devices`` has them all."""
    first = next((d for d in plan.devices if _concerned(d, plan)), plan.devices[0])
    return {
        **_device_json(first, plan),
        "deployments": [_deployment_json(deployment) for deployment in plan.deployments],
        "fits": plan.fits,
        "remedies": list(plan.remedies),
        "devices": [_device_json(device, plan) for device in plan.devices],
    }


def as_text(plan: Plan) -> str:
    """The plan as a table with a bar for each owner."""
    parts = []
    for device in plan.devices:
        if not _concerned(device, plan):
            continue
        pool = device.pool
        parts.append(f"{pool.name} ({pool.kind} memory), {pool.total / GIB:.2f} GiB")
        parts.append(bars(_rows(device, plan), pool.total))
    if not plan.fits:
        parts.append(_refusal(plan))
    return "\n".join(parts)


def snapshot_text(snapshot: Snapshot) -> str:
    """The ledger with a bar for each lease."""
    parts = []
    for state in snapshot.devices:
        leases = [lease for lease in snapshot.leases if lease.device == state.device]
        if not leases and state.kind == "host" and len(snapshot.devices) > 1:
            continue
        total = state.total or state.budget
        available = "unknown" if state.available is None else f"{state.available / GIB:.2f} GiB"
        parts.append(
            f"{state.name} ({state.kind} memory), {total / GIB:.2f} GiB, {available} available now"
        )
        parts.append(bars(_snapshot_rows(state, leases, snapshot), total))
    parts += [f"{w.deployment} waits: {w.refusal.message}" for w in snapshot.waiting]
    if snapshot.holds:
        parts.append(f"held still by {', '.join(snapshot.holds)}: nothing loads, frees or grows")
    return "\n".join(parts)


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    """The ledger; sizes in GiB, ``null`` is unknown."""
    return {
        "devices": [
            {
                "node": state.device[0],
                "device": state.device[1],
                "name": state.name,
                "kind": state.kind,
                "total_gib": None if state.total is None else gib(state.total),
                "available_gib": None if state.available is None else gib(state.available),
                "budget_gib": gib(state.budget),
                "neighbours": [
                    {"name": name, "gib": gib(size), "overhead_gib": gib(overhead)}
                    for name, size, overhead in state.neighbours
                ],
                "host_reserve_gib": gib(state.host_reserve),
            }
            for state in snapshot.devices
        ],
        "leases": [
            {
                "deployment": lease.deployment,
                "replica": lease.replica,
                "device": lease.device[1],
                "node": lease.device[0],
                "pid": lease.pid,
                "state": lease.state,
                "claim_gib": gib(lease.claim.total),
                "measured_gib": None if lease.measured is None else gib(lease.measured),
                "peak_gib": None if lease.peak is None else gib(lease.peak),
                "pressure": _pressure(snapshot, lease),
            }
            for lease in snapshot.leases
        ],
        "waiting": [
            {
                "deployment": waiting.deployment,
                "replica": waiting.replica,
                "claim_gib": gib(waiting.claim),
                "reason": waiting.refusal.reason,
                "message": waiting.refusal.message,
            }
            for waiting in snapshot.waiting
        ],
        "holds": list(snapshot.holds),
        "refusals": snapshot.refusals,
    }


def bars(rows: Iterable[Row], total: int) -> str:
    """A line for each row: owner, bar, GiB, remark. A bar of the full width is ``total``."""
    rows = tuple(rows)
    width = max(len(name) for name, _, _ in rows)
    lines = []
    for name, size, remark in rows:
        eighths = round(8 * _WIDTH * max(0, min(size, total)) / max(total, 1))
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        if not bar and size > 0:
            bar = _EIGHTHS[1]
        first, *more = remark.split("\n")
        head = f"  {name:<{width}}  {bar:<{_WIDTH}} {size / GIB:7.2f}  "
        lines.append(f"{head}{first}".rstrip())
        lines += [" " * len(head) + line for line in more]
    return "\n".join(lines)


def missing(plan: Plan, device: DevicePlan) -> int:
    """Bytes claimed by replicas for which the device has no room, if it is the one for them."""
    return sum(
        (deployment.demand.replicas - deployment.placed) * claim.total
        for deployment in plan.deployments
        if (claim := _claim(deployment, device)) is not None and device is _about(deployment, plan)
    )


def _about(deployment: DeploymentPlan, plan: Plan) -> DevicePlan:
    """The device that would be asked first."""
    gpu = deployment.gpu is not None
    return next(d for d in plan.devices if (d.pool.index is not None) == gpu)


def _concerned(device: DevicePlan, plan: Plan) -> bool:
    """Whether anybody of ours, or a neighbour, wants a part of the device."""
    wanted = any(_claim(deployment, device) is not None for deployment in plan.deployments)
    return wanted or bool(device.neighbours)


def _claim(deployment: DeploymentPlan, device: DevicePlan) -> Claim | None:
    return deployment.host if device.pool.index is None else deployment.gpu


def _rows(device: DevicePlan, plan: Plan) -> list[Row]:
    rows: list[Row] = []
    for share in device.neighbours:
        rows.append((share.name, share.bytes, f"{share.bytes / device.pool.total:.2f} of it"))
        if share.overhead:
            rows.append((f"{share.name} overhead", share.overhead, "what it takes beyond that"))
    if device.pool.huge_pages:
        rows.append(("huge pages", device.pool.huge_pages, "reserved by the kernel"))
    rows.append(("host reserve", device.host_reserve, "the system and Ray"))
    here = dict(device.replicas)
    contexts = 0
    for deployment in plan.deployments:
        claim = _claim(deployment, device)
        count = here.get(deployment.demand.deployment, 0)
        if claim is None or not (count or deployment.placed < deployment.demand.replicas):
            continue
        contexts += count * claim.context
        several = deployment.demand.replicas > 1
        name = deployment.demand.deployment
        if count:
            label = f"{count} x {name}" if several else name
            rows.append((label, count * (claim.total - claim.context), _remark(deployment, claim)))
        if left_out := deployment.demand.replicas - deployment.placed:
            label = f"{left_out} x {name}" if several else name
            rows.append((f"{label}, no room", left_out * claim.total, _remark(deployment, claim)))
    if contexts:
        rows.append(("CUDA contexts", contexts, "one a replica"))
    left = device.headroom - missing(plan, device)
    rows.append(("headroom", left, "" if left >= 0 else "short of what all replicas claim"))
    return rows


def _remark(deployment: DeploymentPlan, claim: Claim) -> str:
    slots = ", ".join(
        f"{engine.engine} x{count}"
        for engine, count in zip(deployment.demand.engines, deployment.slots, strict=True)
    )
    gpus = f", num_gpus {deployment.num_gpus:.4f}" if claim is deployment.gpu else ""
    parts = []
    for name, size in (
        (f"weights ({deployment.demand.weights_from})", claim.weights),
        ("workspace", claim.workspace),
        ("state", claim.state),
        ("host", claim.host),
    ):
        if size:
            parts.append(f"{name} {size / GIB:.2f}")
    return f"{slots}{gpus}\n{' + '.join(parts)}"


def _refusal(plan: Plan) -> str:
    lines = []
    for deployment in plan.deployments:
        wanted = deployment.demand.replicas
        if deployment.placed < wanted:
            lines.append(
                f"{deployment.demand.deployment}: {wanted - deployment.placed} of {wanted} "
                f"replica{'s' * (wanted != 1)} of {deployment.claim.total / GIB:.2f} GiB without "
                "room."
            )
    lines += [f"  - {remedy}" for remedy in plan.remedies]
    if len(plan.remedies) > 1:
        lines.insert(len(lines) - len(plan.remedies), "One of these is enough:")
    return "\n".join(lines)


def _device_json(device: DevicePlan, plan: Plan) -> dict[str, Any]:
    return {
        "device": device.pool.key,
        "name": device.pool.name,
        "kind": device.pool.kind,
        "total_gib": gib(device.pool.total),
        "neighbours": [
            {"name": share.name, "gib": gib(share.bytes), "overhead_gib": gib(share.overhead)}
            for share in device.neighbours
        ],
        "huge_pages_gib": gib(device.pool.huge_pages),
        "host_reserve_gib": gib(device.host_reserve),
        "replicas": dict(device.replicas),
        "headroom_gib": gib(device.headroom - missing(plan, device)),
    }


def _deployment_json(deployment: DeploymentPlan) -> dict[str, Any]:
    demand, claim = deployment.demand, deployment.claim
    return {
        "name": demand.deployment,
        "replicas": demand.replicas,
        "placed": deployment.placed,
        "claim_gib": gib(demand.replicas * claim.total),
        "num_gpus": deployment.num_gpus,
        "slots": sum(deployment.slots),
        "engines": [
            {"role": engine.role, "engine": engine.engine, "slots": slots}
            for engine, slots in zip(demand.engines, deployment.slots, strict=True)
        ],
        "parts_gib": {
            "context": gib(claim.context),
            "weights": gib(claim.weights),
            "workspace": gib(claim.workspace),
            "state": gib(claim.state),
            "host": gib(claim.host),
        },
        "weights_from": demand.weights_from,
    }


def _snapshot_rows(state: DeviceState, leases: list[Lease], snapshot: Snapshot) -> list[Row]:
    rows: list[Row] = []
    for name, size, overhead in state.neighbours:
        rows.append((name, size + overhead, "by the plan; overhead included"))
    if state.huge_pages:
        rows.append(("huge pages", state.huge_pages, "reserved by the kernel"))
    rows.append(("host reserve", state.host_reserve, "the system and Ray"))
    for lease in leases:
        measured = "not measured yet"
        if lease.measured is not None:
            measured = f"measured {lease.measured / GIB:.2f}, peak {(lease.peak or 0) / GIB:.2f}"
        pressure = _pressure(snapshot, lease)
        short = f", below the {pressure} floor" if pressure != "none" else ""
        rows.append((lease.deployment, lease.bytes, f"{lease.state}, {measured}{short}"))
    leased = sum(lease.bytes for lease in leases)
    rows.append(("free to lease", state.budget - leased, ""))
    return rows


def _pressure(snapshot: Snapshot, lease: Lease) -> str:
    return Pressure(snapshot.pressures.get(lease.replica, 0)).name.lower()
