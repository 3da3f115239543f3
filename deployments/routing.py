"""Which replica a call goes to: an address goes to its replica, the rest to the less loaded.

A session learns its replica with the first item of its stream and names it in every
later call, as ``handle.options(session_id=replica)``. The pin travels with the calls: no
table has to be kept, or agreed on between processes, and replicas that come move nobody.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from runtime.client.replicas import replicas_of
from runtime.errors import ReplicaLost

_REMEMBERED = 64  # replicas that are stopping, whose sessions may still finish there
_FULL_S = 0.01  # between tries of a call whose replica takes no more calls at the moment


class SessionRouter(RequestRouter):  # type: ignore[misc]  # Ray ships no types
    """Addressed calls go to their replica for as long as it lives, or fail at once.

    A replica that is stopping has left Serve's broadcast, but answers until it is gone:
    calls of its sessions still reach it, new sessions do not.
    """

    def initialize_state(self, **_: Any) -> None:
        """Called by Serve before anything else."""
        self._known = replicas_of(self._deployment_id.app_name, self._deployment_id.name)
        self._addresses: dict[str, RunningReplica] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called with the replicas that take new sessions, whenever they change."""
        super().update_replicas(replicas)
        self._note_replicas()

    def _note_replicas(self) -> None:
        for replica_id, replica in self._replicas.items():
            self._addresses[replica_id.unique_id] = replica
        serving = {replica_id.unique_id for replica_id in self._replicas}
        stopping = [address for address in self._addresses if address not in serving]
        for address in stopping[: max(0, len(stopping) - _REMEMBERED)]:
            del self._addresses[address]
        self._known.update(serving)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """A call, or Ray, found that a replica is dead."""
        super().on_replica_actor_died(replica_id)
        self._addresses.pop(replica_id.unique_id, None)
        self._known.lost(replica_id.unique_id)
        self._note_replicas()

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        """A call did not reach a replica."""
        super().on_replica_actor_unavailable(replica_id)
        self._known.lost(replica_id.unique_id)

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """A replica has taken a call, so it is there."""
        self._known.answered(replica_id.unique_id)

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        address = pending_request.metadata.session_id
        if not address:
            return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        replica = self._addresses.get(address)
        gone = replica is None or self._known.is_lost(address)
        if gone or (is_retry and self._known.is_leaving(address)):
            raise ReplicaLost(f"Replica {address} is gone.")
        if is_retry:  # it is there and refused: too many calls at a time
            await asyncio.sleep(_FULL_S)
        assert replica is not None
        return replica

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Two at random of those that are neither lost nor full; Serve takes the less loaded."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        preferred = sorted(self._known.preferred(by_id))
        chosen = random.sample(preferred, min(2, len(preferred)))
        return [[by_id[address] for address in chosen]]
