"""Which replica this process is."""

from __future__ import annotations

import os

from ray import serve

from runtime.memory.process import resident_bytes
from runtime.replica import EngineInfo, ReplicaInfo
from runtime.speech import PROTOCOL_VERSION


def replica_info(engines: tuple[EngineInfo, ...]) -> ReplicaInfo:
    """Describe the replica that calls this."""
    context = serve.get_replica_context()
    return ReplicaInfo(
        deployment=context.deployment,
        replica=context.replica_id.unique_id,
        pid=os.getpid(),
        resident_bytes=resident_bytes(os.getpid()),
        protocol=PROTOCOL_VERSION,
        engines=engines,
    )
