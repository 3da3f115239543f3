"""What is not ours of each device, held in Ray's own arithmetic by placement groups.

A placement group takes resources without a process. What does not fit beside it stays
pending in Ray, and is never started only to be refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import ray
from ray.util import placement_group_table
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    remove_placement_group,
)

from runtime.memory.plan import RAY_UNITS, DevicePlan, units

logger = logging.getLogger("ray.serve")

_WAIT_S = 5.0
_PREFIX = "speech-withheld"


def withhold(node: str, plans: Sequence[DevicePlan]) -> None:
    """Take out of Ray's count, on a node, what the plans leave to others; repeating is harmless.

    Takes seconds at most; where Ray has no room for it, because something of ours or of
    others runs already, it takes what is freed later, and the ledger alone guards until then.
    """
    gpus = {
        _name(node, plan, held): {"GPU": held / RAY_UNITS}
        for plan in plans
        if plan.pool.index is not None
        and (held := min(RAY_UNITS, units(plan.withheld, plan.pool.total)))
    }
    host = {}
    for plan in plans:
        if plan.pool.index is None:
            held = max(0, round(_memory_of(node)) - max(0, plan.budget))
            host = {_name(node, plan, held): {"memory": float(held)}} if held else {}
    there = _existing(node)
    for name in there - {*gpus, *host}:
        remove_placement_group(get_placement_group(name))
    missing = {name: bundle for name, bundle in gpus.items() if name not in there}
    # Ray puts a fraction on the fullest GPU that has room: two placeholders would share one.
    # So all GPUs are taken whole first, and freed one by one, each for its placeholder and for
    # a filler that takes the rest of it until all have theirs.
    whole = [_take(node, f"{_PREFIX}/whole/{i}", {"GPU": 1.0}) for i in range(len(missing))]
    exclusive = len(missing) < 2 or all(group.wait(_WAIT_S) for group in whole)
    if not exclusive:
        logger.warning("GPUs of node %s are in use: placeholders may share one", node)
    fillers = []
    for number, (group, (name, bundle)) in enumerate(zip(whole, missing.items(), strict=True)):
        remove_placement_group(group)
        _take(node, name, bundle).wait(_WAIT_S)
        rest = (RAY_UNITS - round(bundle["GPU"] * RAY_UNITS)) / RAY_UNITS
        if exclusive and rest and len(missing) > 1:
            fillers.append(_take(node, f"{_PREFIX}/rest/{number}", {"GPU": rest}))
            fillers[-1].wait(_WAIT_S)
    for group in fillers:
        remove_placement_group(group)
    for name, bundle in host.items():
        if name not in there and not _take(node, name, bundle).wait(_WAIT_S):
            logger.warning("Ray has no room on node %s for %s", node, bundle)


def give_back() -> None:
    """Take nothing out of Ray's count any more, on any node."""
    for group in placement_group_table().values():
        if group["name"].startswith(f"{_PREFIX}/") and group["state"] != "REMOVED":
            remove_placement_group(get_placement_group(group["name"]))


def _take(node: str, name: str, bundle: dict[str, float]) -> PlacementGroup:
    return placement_group(
        [bundle],
        name=name,
        lifetime="detached",
        bundle_label_selector=[{"ray.io/node-id": node}],
    )


def _name(node: str, plan: DevicePlan, held: int) -> str:
    return f"{_PREFIX}/{node}/{plan.pool.key}/{held}"


def _existing(node: str) -> set[str]:
    groups = placement_group_table().values()
    return {
        group["name"]
        for group in groups
        if group["name"].startswith(f"{_PREFIX}/{node}/") and group["state"] != "REMOVED"
    }


def _memory_of(node: str) -> float:
    """Bytes of the resource ``memory`` that a node has."""
    for known in ray.nodes():
        if known["NodeID"] == node:
            return float(known["Resources"].get("memory", 0.0))
    return 0.0
