"""Which replica this process is, and what it holds."""

from __future__ import annotations

import asyncio
import gc
import os

from ray import serve

from deployments.streams import living_generators
from runtime.memory.process import resident_bytes
from runtime.replica import Census, EngineInfo, ReplicaInfo
from runtime.speech import PROTOCOL_VERSION


def replica_id() -> str:
    """The address of this replica, as ``SessionRouter`` understands it."""
    return str(serve.get_replica_context().replica_id.unique_id)


def replica_info(engines: tuple[EngineInfo, ...]) -> ReplicaInfo:
    """Describe the replica that calls this."""
    context = serve.get_replica_context()
    return ReplicaInfo(
        deployment=context.deployment,
        replica=replica_id(),
        pid=os.getpid(),
        resident_bytes=resident_bytes(os.getpid()),
        protocol=PROTOCOL_VERSION,
        engines=engines,
    )


def settle_memory() -> None:
    """Call once everything is loaded: the garbage collector looks at none of it again.

    A full collection looks at all objects of Ray and of the model's libraries, which holds
    the event loop for 50 ms and more: audible, where forty streams of audio pass through it.
    """
    gc.collect()
    gc.freeze()


def census(streams: int) -> Census:
    """Count what this process holds beside its ``streams``."""
    return Census(
        streams=streams,
        tasks=len(asyncio.all_tasks()),
        generators=living_generators(),
        resident_bytes=resident_bytes(os.getpid()),
    )
