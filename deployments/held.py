"""What this process holds of its devices, and giving it back."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping

import ray

from runtime.engines import cuda
from runtime.errors import LedgerUnavailable
from runtime.memory.claims import Claim
from runtime.memory.device import Bytes, DeviceMemory, Unknown, devices, read
from runtime.memory.process import peak_beyond_resident, release_heap, resident_bytes


def release_caches() -> None:
    """Give back what is cached and not in use: torch's blocks, and the C heap's free pages."""
    cuda.release_cached()
    release_heap()


def release_all() -> None:
    """Free what nobody refers to any more, in cycles too, and give it back.

    The engines were put out of the garbage collector's sight when they had been loaded.
    """
    gc.unfreeze()
    gc.collect()
    cuda.release_workspaces()
    release_caches()


def peak_of_host() -> Bytes:
    """The most that this process has held of the host's memory, in bytes: by its share."""
    resident, beyond = resident_bytes(os.getpid()), peak_beyond_resident(os.getpid())
    if resident is None or beyond is None:
        return Unknown("/proc does not tell what this process holds")
    return resident + beyond


def own_devices(claims: Mapping[str, Claim]) -> dict[str, DeviceMemory]:
    """The devices that this replica was given, for each of its claims.

    Raises:
        LedgerUnavailable: It claims a part of a GPU and was given none.
    """
    here = {device.key: device for device in devices(read())}
    own = {}
    for where in claims:
        if where == "host":
            own[where] = here["host"]
            continue
        given = ray.get_gpu_ids()
        key = f"cuda:{given[0]}" if given else "none"
        if key not in here:
            raise LedgerUnavailable(
                f"This replica claims a part of a GPU, and Ray gave it {given or 'none'}; devices "
                f"here: {', '.join(here)}. Let build_app set num_gpus."
            )
        own[where] = here[key]
    return own
