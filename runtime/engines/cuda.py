"""What all engines on a GPU share: torch's allocator within its lease, and its failures.

Torch is imported here only by ``cap_allocator``, which is called once there is a lease.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import Any

from runtime.errors import EngineFailed, OutOfMemory
from runtime.memory.footprint import GIB

HUNG_S = 10.0
"""Longer than ten times any piece of work on a GPU, what others do there included."""

_SWITCH_S = 0.0005
_SEGMENT = 2 << 20  # what the allocator rounds large blocks to


def share_interpreter() -> None:
    """Let a thread that has waited for the device have the interpreter soon.

    Torch gives it up in each call. While the event loop is busy each would else wait for 5 ms.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))


def cap_allocator(size: int) -> None:
    """Let torch's allocator hold at most ``size`` bytes of this process's GPU.

    An allocation beyond it raises ``torch.OutOfMemoryError``, however much the device has
    left. The CUDA context is not in it.
    """
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    # Torch multiplies again and cuts off: half a byte more keeps the very size.
    torch.cuda.set_per_process_memory_fraction(min(1.0, (size + 0.5) / total), 0)


def allocator_limit() -> int:
    """The most that torch's allocator may hold of this process's GPU, in bytes; 0 without one."""
    torch = _torch_in_use()
    if torch is None:
        return 0
    total = torch.cuda.get_device_properties(0).total_memory
    return int(total * torch.cuda.get_per_process_memory_fraction(0))


def fill_cache(size: int) -> None:
    """Let torch's allocator hold ``size`` bytes, the rest of them unused.

    Whatever requests need from now on comes out of that: the device's free memory stays as it is.
    """
    torch = _torch_in_use()
    if torch is None:
        return
    rest = size - torch.cuda.memory_reserved(0)
    rest -= rest % _SEGMENT
    if rest > 0:
        with contextlib.suppress(torch.OutOfMemoryError):  # somebody else has it already
            torch.empty(rest, dtype=torch.uint8, device="cuda")


@functools.cache
def side_stream() -> Any:
    """The stream on which work is run once before it is captured; one for all captures.

    Torch keeps a workspace of cuBLAS for every stream there has been: 32 MiB on Hopper, which
    nothing gives back.
    """
    import torch

    return torch.cuda.Stream()


def shared_memory(device: Any) -> int:
    """Bytes of shared memory that one program has on a ``torch.device``; unbounded on a CPU.

    CUDA keeps 1 KiB of a multiprocessor's for each program.
    """
    if device.type != "cuda":
        return sys.maxsize
    import torch

    return int(torch.cuda.get_device_properties(device).shared_memory_per_multiprocessor) - 1024


def forget_peak() -> None:
    """Count the allocator's peak from now on."""
    torch = _torch_in_use()
    if torch is not None:
        torch.cuda.reset_peak_memory_stats(0)


def allocator_peak() -> int:
    """The most that torch's allocator has held of the GPU, in bytes; 0 without torch."""
    torch = _torch_in_use()
    return 0 if torch is None else int(torch.cuda.max_memory_reserved(0))


def allocator_reserved() -> int:
    """What torch's allocator holds of the GPU now, in bytes; 0 without torch."""
    torch = _torch_in_use()
    return 0 if torch is None else int(torch.cuda.memory_reserved(0))


def release_cached() -> None:
    """Give back blocks that the allocator holds and nothing uses."""
    torch = _torch_in_use()
    if torch is not None:
        torch.cuda.empty_cache()


def release_workspaces() -> None:
    """Give up cuBLAS's workspaces, of all streams; only where no CUDA graph is left.

    Graphs hold their addresses. Torch keeps one for each stream and thread for good, and an
    engine that is loaded again takes others.
    """
    torch = _torch_in_use()
    if torch is not None:
        torch._C._cuda_clearCublasWorkspaces()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation was refused; torch's own error is known by its name, without torch."""
    return (
        isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError"
    )


def is_device_failure(error: Exception) -> bool:
    """Whether CUDA itself failed: after that it fails whatever this process asks for.

    Torch's errors are known by their names and words, without torch.
    """
    words = str(error)
    # A call that was wrong is its own failure, and memory may be there again.
    if is_out_of_memory(error) or "out of memory" in words or "CUDA error: invalid" in words:
        return False
    return isinstance(error, RuntimeError) and "CUDA error" in words


def as_engine_error(error: Exception, engine: str) -> EngineFailed:
    """The error that the caller of an engine sees for one that came out of its model."""
    if is_out_of_memory(error):
        limit = ""
        torch = _torch_in_use()
        if torch is not None:
            limit = f" Its allocator holds {torch.cuda.memory_reserved(0) / GIB:.2f} GiB."
        return OutOfMemory(
            f"{engine} needed more memory for this request than its lease allows.{limit} Ask for "
            "less at once, or give the engine more (see `speech memory show`)."
        )
    return EngineFailed(f"{engine} failed: {type(error).__name__}: {error}")


def _torch_in_use() -> Any:
    torch = sys.modules.get("torch")
    # While another thread imports it, it has not got everything yet.
    ready = getattr(getattr(torch, "cuda", None), "is_initialized", None)
    return torch if ready is not None and ready() else None
