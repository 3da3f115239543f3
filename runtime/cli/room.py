"""Whether a configuration has room on this machine, before and while it starts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from runtime.errors import DoesNotFit
from runtime.memory.demands import demands_of, label, policy_of
from runtime.memory.history import History
from runtime.memory.ledger import ACTOR, NAMESPACE, Snapshot, Waiting
from runtime.memory.plan import Plan, Pool, plan
from runtime.memory.table import as_text
from runtime.settings import Settings

_LEDGER_S = 5.0


def planned(
    document: dict[str, Any],
    origin: str,
    pools: Sequence[Pool],
    settings: Settings,
    on_shortage: Callable[[str], None],
) -> Plan:
    """The plan for a configuration, if at least one replica of each deployment has room.

    Raises:
        DoesNotFit: It has not; the message is the plan as a table.
    """
    demands = demands_of(document, origin, pools, History.kept_in(settings))
    sharing = plan(pools, policy_of(document, origin), demands)
    if not sharing.serves:
        raise DoesNotFit(f"{origin} does not fit.\n{as_text(sharing)}")
    if not sharing.fits:
        on_shortage(f"not all replicas fit; starting those that do\n{as_text(sharing)}")
    return sharing


def all_that_fit(name: str, application: Any, sharing: Plan) -> bool:
    """Whether those replicas run that have room, of deployments for which not all have."""
    if sharing.fits or not application.deployments:
        return False
    placed = {d.demand.deployment: d.placed for d in sharing.deployments}
    return all(
        status.replica_states.get("RUNNING", 0) >= placed.get(label(name, deployment), 1)
        for deployment, status in application.deployments.items()
    )


def waiting_replicas() -> list[Waiting]:
    """Replicas that wait for memory, of deployments of which none serves."""
    import ray

    try:
        ledger = ray.get_actor(ACTOR, NAMESPACE)
        snapshot: Snapshot = ray.get(ledger.snapshot.remote(), timeout=_LEDGER_S)
    except (ValueError, ray.exceptions.RayError):
        return []  # it starts with the first application, and may be restarting
    running = {lease.deployment for lease in snapshot.leases if lease.state == "serving"}
    return [waiting for waiting in snapshot.waiting if waiting.deployment not in running]


def dissolve_ledger() -> None:
    """End the ledger of a cluster that goes on without us, unless somebody else has a lease."""
    import ray

    with contextlib.suppress(ValueError, ray.exceptions.RayError):
        ledger = ray.get_actor(ACTOR, NAMESPACE)
        if ray.get(ledger.dissolve.remote(), timeout=4 * _LEDGER_S):
            ray.kill(ledger, no_restart=True)
