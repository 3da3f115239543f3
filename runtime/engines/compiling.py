"""Triton's kernels compiled side by side: one after the other a first start takes minutes."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_log = logging.getLogger(__name__)

_MOST = 16  # threads; half of the work holds the interpreter


class Kernels:
    """Which kernels some work launches, and with which shapes and types."""

    def __init__(self) -> None:
        """There are none yet."""
        self._wanted: dict[tuple[str, str, str], Any] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Kernels that would have to be compiled are noted, and neither compiled nor launched.

        What they would have written is not; other work is done.
        """
        from triton import knobs

        before = knobs.runtime.jit_cache_hook
        knobs.runtime.jit_cache_hook = self._note
        try:
            yield
        finally:
            knobs.runtime.jit_cache_hook = before

    def _note(self, *, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        self._wanted[fn.module, fn.name, compile["specialization_data"]] = fn.jit_function
        return True

    def compile(self) -> None:
        """Compile all of them, in as many threads as there are cores.

        What is on the disk already (``TRITON_CACHE_DIR``) is read. One that does not compile is
        left to whoever launches it, and the log says so.
        """
        threads = min(_MOST, len(os.sched_getaffinity(0)), len(self))
        with ThreadPoolExecutor(max(1, threads), "compiling") as pool:
            compiled = {
                pool.submit(function.preload, data): name
                for (_, name, data), function in self._wanted.items()
            }
        for future, name in compiled.items():
            if (error := future.exception()) is not None:
                _log.warning("kernel %s is compiled when it is launched: %s", name, error)
        self._wanted.clear()
