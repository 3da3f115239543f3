"""How long callbacks hold an event loop: what a bot's other calls wait for meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from asyncio import events
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """A callback that held the loop.

    Attributes:
        ms: Milliseconds.
        what: The task and the innermost coroutines it waits in now, or the callback; and what
            Python took of ``ms`` to collect garbage, where it did.
    """

    ms: float
    what: str

    def __str__(self) -> str:
        """As in ``12.5 ms: Task-1: main > sleep``."""
        return f"{self.ms:g} ms: {self.what}"


class LoopWatch:
    """Durations of callbacks: of processor time and elapsed time the lesser.

    A busy machine does not count as a blocked loop, and so a callback that sleeps or waits for a
    lock does not either: that is what ruff's rules for asyncio are for. On a virtual machine the
    processor time of a thread now and then leaps by milliseconds within microseconds.

    Attributes:
        longest: The longest callbacks so far, longest first.
    """

    _KEPT = 20

    def __init__(self) -> None:
        """Nothing is measured before ``watching``."""
        self.longest: list[Held] = []
        self._collecting_since = 0.0
        self._collected_s = 0.0  # within the callback under way

    @property
    def worst_ms(self) -> float:
        """The longest of all; 0 if there was none."""
        return self.longest[0].ms if self.longest else 0.0

    def over(self, limit_ms: float) -> list[Held]:
        """The callbacks that took longer than ``limit_ms``, 20 at the most."""
        return [held for held in self.longest if held.ms > limit_ms]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure the callbacks of the running loop."""
        loop = asyncio.get_running_loop()
        thread = threading.get_ident()
        handles: Any = events.Handle
        run = handles._run

        def measured(handle: Any) -> None:
            if handle._loop is not loop:
                run(handle)
                return
            self._collected_s = 0.0
            began, started = time.monotonic(), time.thread_time()
            try:
                run(handle)
            finally:
                ran_s, took_s = time.thread_time() - started, time.monotonic() - began
                self._note(min(ran_s, took_s), handle)

        def collecting(phase: str, _: object) -> None:
            if threading.get_ident() != thread:
                return
            if phase == "start":
                self._collecting_since = time.thread_time()
            else:
                self._collected_s += time.thread_time() - self._collecting_since

        handles._run = measured
        gc.callbacks.append(collecting)
        try:
            yield
        finally:
            gc.callbacks.remove(collecting)
            handles._run = run

    def _note(self, seconds: float, handle: Any) -> None:
        ms = round(seconds * 1e3, 2)
        if len(self.longest) == self._KEPT and ms <= self.longest[-1].ms:
            return
        what = _name(handle)
        if self._collected_s:
            what += f" ({self._collected_s * 1e3:.2f} ms of it collecting garbage)"
        self.longest.append(Held(ms, what))
        self.longest.sort(reverse=True)
        del self.longest[self._KEPT :]


def _name(handle: Any) -> str:
    task = getattr(handle._callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return repr(handle)[:200]
    names: list[str] = []
    coroutine: Any = task.get_coro()
    while hasattr(coroutine, "cr_await"):
        names.append(coroutine.__qualname__.rpartition("<locals>.")[2])
        coroutine = coroutine.cr_await
    return f"{task.get_name()}: {' > '.join(names[-3:])}"
