"""Memory on paper against memory as it is, beside whoever else is on the device."""

from __future__ import annotations

from runtime.accept.section import Section
from runtime.engines.trials.line import Line, Verdict
from runtime.memory.footprint import GIB
from runtime.memory.ledger import DeviceState, Lease, Snapshot

_ABSENT = 0.5  # of what the configuration leaves to neighbours: less, and none is there


def predicted_and_measured(snapshot: Snapshot) -> Section:
    """Compare the ledger's claims with what replicas measured, and the rest with its plan.

    Args:
        snapshot: Of the ledger after the load, when everything has been at its peak.
    """
    section = Section(
        "Memory",
        about="claims are from the plan; measured is after warm-up, the peak that of the whole run",
    )
    section.lines += [_lease_line(lease) for lease in snapshot.leases]
    section.lines += [
        Line(waiting.deployment, "placed", "fail", waiting.refusal.message, "speech memory plan")
        for waiting in snapshot.waiting
    ]
    for state in snapshot.devices:
        section.lines.append(_others_line(state, snapshot))
    section.tables["Leases (GiB)"] = [
        {
            "deployment": lease.deployment,
            "device": lease.device[1],
            "claimed": _gib(lease.claim.total),
            "measured": _gib(lease.measured),
            "peak": _gib(lease.peak),
            "of claim": _share(lease.peak, lease.claim.total),
        }
        for lease in snapshot.leases
    ]
    section.tables["Devices (GiB)"] = [
        {
            "device": state.device[1],
            "name": state.name,
            "kind": state.kind,
            "total": _gib(state.total),
            "available": _gib(state.available),
            "budget": _gib(state.budget),
            "others, planned": _gib(_planned(state)),
            "others, measured": _gib(_others(state, snapshot)),
        }
        for state in snapshot.devices
    ]
    return section


def _lease_line(lease: Lease) -> Line:
    what = f"within its claim of {lease.device[1]}"
    claim, peak = lease.claim.total, lease.peak
    if lease.measured is None or peak is None:
        mend = "the driver does not tell what a process holds; see docs/memory.md"
        return Line(lease.deployment, what, "warn", f"{lease.state}, not measured", mend)
    found = (
        f"claimed {claim / GIB:.2f} GiB, measured {lease.measured / GIB:.2f}, at its peak "
        f"{peak / GIB:.2f} ({_share(peak, claim)})"
    )
    if peak > claim:
        mend = "give the engine more, and report this: its estimate is too low"
        return Line(lease.deployment, what, "fail", found, mend)
    return Line(lease.deployment, what, "pass", found)


def _others_line(state: DeviceState, snapshot: Snapshot) -> Line:
    subject, what = state.device[1], "what is not ours"
    planned, measured = _planned(state), _others(state, snapshot)
    if measured is None:
        return Line(subject, what, "warn", "unknown: the device does not tell", "speech doctor")
    names = ", ".join(name for name, _, _ in state.neighbours)
    who = f"{names} and the reserve" if names else "the reserve"
    found = f"{measured / GIB:.2f} GiB, of {planned / GIB:.2f} planned for {who}"
    neighbours = sum(size + overhead for _, size, overhead in state.neighbours)
    if measured > planned:
        # A host's other processes come and go; a device's budget is to hold.
        verdict: Verdict = "warn" if state.kind == "host" else "fail"
        mend = "give a neighbour overhead_gib, or plan a larger host_reserve_gib"
        return Line(subject, what, verdict, found, mend)
    if neighbours and measured < _ABSENT * neighbours:
        mend = f"start {names} before, so that this is measured beside it"
        return Line(subject, what, "warn", f"{found}: {names} seems not to run", mend)
    return Line(subject, what, "pass", found)


def _planned(state: DeviceState) -> int:
    return state.host_reserve + sum(size + overhead for _, size, overhead in state.neighbours)


def _others(state: DeviceState, snapshot: Snapshot) -> int | None:
    if state.total is None or state.available is None:
        return None
    ours = sum(
        lease.peak or lease.measured or 0
        for lease in snapshot.leases
        if lease.device == state.device
    )
    return max(0, state.total - state.available - ours)


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 2)


def _share(part: int | None, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if part and whole else ""
