"""What this process knows of a deployment's replicas, shared by routers and sessions.

Serve's broadcasts say which replicas take calls; calls themselves show which are lost
or full, and sooner. Used on one event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from runtime.errors import Overloaded

# A replica that was lost is named again by Serve until its controller has noticed.
_LOST_FOR_S = 30.0
_FULL_FOR_S = 1.0


class Replicas:
    """The replicas of one deployment, by their ids."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """None known yet."""
        self._clock = clock
        self._serving: frozenset[str] = frozenset()
        self._informed = False
        self._lost: dict[str, float] = {}
        self._full: dict[str, float] = {}
        self._listeners: set[Callable[[], None]] = set()

    @property
    def none_left(self) -> bool:
        """Whether there were replicas, and none takes calls now."""
        return self._informed and not self._serving

    @property
    def serving(self) -> frozenset[str]:
        """Those that take new sessions."""
        self._forget()
        return self._serving - self._lost.keys()

    def update(self, serving: Iterable[str]) -> None:
        """Serve has told which replicas run; those that stop are no longer among them."""
        serving = frozenset(serving)
        self._informed = self._informed or bool(serving)
        if serving != self._serving:
            self._serving = serving
            for listener in tuple(self._listeners):
                listener()

    def is_leaving(self, replica: str) -> bool:
        """Whether a replica is stopping, and others can take its sessions over."""
        serving = self.serving
        return bool(serving) and replica not in serving

    def lost(self, replica: str) -> None:
        """A call found the replica dead or out of reach."""
        self._lost[replica] = self._clock() + _LOST_FOR_S

    def answered(self, replica: str) -> None:
        """A call has reached the replica."""
        self._lost.pop(replica, None)

    def is_lost(self, replica: str) -> bool:
        """Whether a call has found the replica dead."""
        self._forget()
        return replica in self._lost

    def refused(self, error: Overloaded) -> None:
        """A replica has refused a call because its slots are taken; others go first for a while."""
        if error.replica:
            self._full[error.replica] = self._clock() + min(error.retry_after_s, _FULL_FOR_S)

    def preferred(self, replicas: Iterable[str]) -> set[str]:
        """Those of some replicas that are neither lost nor full; all, if that leaves none."""
        self._forget()
        everyone = set(replicas)
        alive = everyone - self._lost.keys()
        return alive - self._full.keys() or alive or everyone

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` when replicas come or go; returns what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def _forget(self) -> None:
        now = self._clock()
        for known in (self._lost, self._full):
            for replica in [replica for replica, until in known.items() if until < now]:
                del known[replica]


_deployments: dict[tuple[str, str], Replicas] = {}


def replicas_of(application: str, deployment: str) -> Replicas:
    """What this process knows of a deployment; one object for all its handles."""
    return _deployments.setdefault((application, deployment), Replicas())


def none_serves() -> None:
    """The cluster is gone."""
    for replicas in _deployments.values():
        replicas.update(())


def forget_all() -> None:
    """The process has left the cluster; what it knew means nothing in the next."""
    _deployments.clear()
