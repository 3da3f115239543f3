"""How long callbacks hold an event loop: what a bot's other calls wait for meanwhile."""

from __future__ import annotations

import asyncio
import time
from asyncio import events
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LoopWatch:
    """Durations of callbacks, in processor time: a busy machine does not count as a blocked loop.

    Attributes:
        held_ms: The longest callbacks so far and what they were, longest first.
    """

    _KEPT = 20

    def __init__(self) -> None:
        """Nothing is measured before ``watching``."""
        self.held_ms: list[tuple[float, str]] = []

    @property
    def worst_ms(self) -> float:
        """The longest of all; 0 if there was none."""
        return self.held_ms[0][0] if self.held_ms else 0.0

    def over(self, limit_ms: float) -> list[tuple[float, str]]:
        """The callbacks that took longer than ``limit_ms``, 20 at the most."""
        return [held for held in self.held_ms if held[0] > limit_ms]

    def note(self, seconds: float, what: str) -> None:
        """A callback took ``seconds``."""
        self.held_ms.append((round(seconds * 1e3, 2), what))
        self.held_ms.sort(reverse=True)
        del self.held_ms[self._KEPT :]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure the callbacks of the running loop."""
        loop = asyncio.get_running_loop()
        handles: Any = events.Handle
        run = handles._run

        def measured(handle: Any) -> None:
            if handle._loop is not loop:
                run(handle)
                return
            started = time.thread_time()
            try:
                run(handle)
            finally:
                took = time.thread_time() - started
                if len(self.held_ms) < self._KEPT or took * 1e3 > self.held_ms[-1][0]:
                    self.note(took, repr(handle)[:200])

        handles._run = measured
        try:
            yield
        finally:
            handles._run = run
