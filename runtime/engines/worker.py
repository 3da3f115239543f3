"""Model work off the event loop: one thread per model, finals before partials.

The models here are not safe to call from two threads at once, and two calls at a
time would only share the same cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import PriorityQueue
from typing import Any, TypeVar

from runtime.engines.cuda import as_engine_error
from runtime.errors import EngineFailed, SpeechError, UnknownEngine

T = TypeVar("T")

_END_S = 10.0  # the longest that a piece of work is waited for once its worker is closed


@dataclass(slots=True)
class _Job:
    work: Callable[..., Any]
    args: tuple[Any, ...]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Answer the caller, from any thread; one that has gone is not missed."""
        with contextlib.suppress(RuntimeError):  # its loop has been closed
            self.loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(result)
        else:
            self.done.set_exception(error)


class _Nudge:
    """In place of a job: look whether there is something to do meanwhile."""


_NUDGE = _Nudge()
_IDLE = 2  # urgency: after all jobs


class ModelWorker:
    """The thread on which a model lives; work is done in order of urgency, then of arrival."""

    def __init__(self, name: str, extra: str = "embedded") -> None:
        """``name`` shows in thread lists and errors; ``extra`` is what its packages come with."""
        self._name = name
        self._extra = extra
        self._jobs: PriorityQueue[tuple[int, int, _Job | _Nudge | None]] = PriorityQueue()
        self._arrivals = itertools.count()
        self._thread: threading.Thread | None = None
        self._meanwhile: Callable[[], bool] | None = None
        self._closed = False

    async def run(self, work: Callable[..., T], *args: Any, background: bool = False) -> T:
        """Run ``work(*args)`` on the thread.

        A caller that is cancelled while its work waits takes it out of the queue; work
        that has begun runs to its end, unobserved. Background work waits for all other.

        Raises:
            EngineFailed: ``work`` raised something that is not one of our own errors, or the
                worker was closed.
            OutOfMemory: ``work`` wanted more memory than there is for it.
            UnknownEngine: A package is not installed.
        """
        if self._closed:
            raise EngineFailed(f"{self._name} has been closed.")
        self._start()
        loop = asyncio.get_running_loop()
        job = _Job(work, args, loop, loop.create_future())
        self._jobs.put((int(background), next(self._arrivals), job))
        try:
            result: T = await job.done
        except (SpeechError, asyncio.CancelledError):
            raise
        except ImportError as error:
            raise UnknownEngine(
                f"{self._name} cannot be loaded ({error}): "
                f"pip install 'speech-runtime[{self._extra}]'."
            ) from error
        except Exception as error:
            raise as_engine_error(error, self._name) from error
        return result

    def meanwhile(self, work: Callable[[], bool]) -> None:
        """Between jobs, call ``work`` for as long as it returns True, and again at each ``nudge``.

        It must not raise.
        """
        self._meanwhile = work
        self._start()
        self.nudge()

    def nudge(self) -> None:
        """There may be something to do meanwhile; from any thread."""
        if not self._closed and self._jobs.empty():  # else it is looked at anyway
            self._jobs.put((_IDLE, next(self._arrivals), _NUDGE))

    @property
    def has_jobs(self) -> bool:
        """Whether something waits for ``meanwhile``'s work to pause."""
        return not self._jobs.empty()

    def close(self) -> None:
        """Take no more work; callers whose work waits are told."""
        self._closed = True
        self._jobs.put((-1, 0, None))  # before everything else

    async def finished(self) -> None:
        """Return once the thread has ended after ``close``, and holds nothing any more."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _END_S)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()

    def _next(self) -> _Job | _Nudge | None:
        while self._jobs.empty() and self._meanwhile is not None and self._meanwhile():
            pass
        return self._jobs.get()[2]

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            if isinstance(job, _Nudge) or job.done.cancelled():
                continue
            result, failure = None, None
            try:
                result = job.work(*job.args)
            except Exception as error:
                failure = error
            job.settle(result, failure)
            del job, result, failure  # not to be held while waiting for the next
        while not self._jobs.empty():
            waiting = self._jobs.get()[2]
            if isinstance(waiting, _Job):
                waiting.settle(None, EngineFailed(f"{self._name} has been closed."))
