"""Which device each replica goes to, as Ray would choose it: pure, in whole units."""

from __future__ import annotations

from collections.abc import Sequence


def assign(
    room: Sequence[int],
    groups: Sequence[Sequence[int]],
    needs: Sequence[Sequence[int | None]],
    replicas: Sequence[int],
) -> list[list[int]]:
    """Put replicas on devices, one of each deployment first, then the rest.

    Ray puts a fraction of a GPU on the fullest GPU that has room for it.

    Args:
        room: What each device has left, in its own units.
        groups: Devices that are alike: a replica needs one of each group that it needs at all.
        needs: What a replica of each deployment needs of each device; None is nothing.
        replicas: How many replicas each deployment wants.

    Returns:
        How many replicas of each deployment (outer) found room on each device (inner).
    """
    left = list(room)
    placed = [[0] * len(left) for _ in needs]

    def put(deployment: int) -> None:
        need = needs[deployment]
        chosen = []
        for group in groups:
            wanted = [device for device in group if need[device] is not None]
            fitting = [device for device in wanted if (need[device] or 0) <= left[device]]
            if wanted and not fitting:
                return
            chosen += [min(fitting, key=lambda device: left[device])] if fitting else []
        for device in chosen:
            left[device] -= need[device] or 0
            placed[deployment][device] += 1

    for deployment, wanted in enumerate(replicas):
        if wanted:
            put(deployment)
    for deployment, wanted in enumerate(replicas):
        for _ in range(wanted - 1):
            put(deployment)
    return placed
