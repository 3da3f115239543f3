"""Model work off the event loop: one thread per engine.

The models here are not safe to call from two threads at once, and two of them
at a time would only share the same cores. Callers queue in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from runtime.errors import EngineFailed, SpeechError

T = TypeVar("T")


class ModelWorker:
    """The thread on which an engine's model lives."""

    def __init__(self, name: str) -> None:
        """``name`` shows in thread lists and error messages."""
        self._name = name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run ``work(*args)`` on the thread.

        A caller that is cancelled while its work waits takes it out of the queue; work
        that has begun runs to its end, unobserved.

        Raises:
            EngineFailed: ``work`` raised something that is not one of our own errors.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except (SpeechError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise EngineFailed(f"{self._name} failed: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Take no more work; what is queued is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
