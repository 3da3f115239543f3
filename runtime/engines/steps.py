"""Where an engine notes its steps, for ``Stepping``: cheap enough for each of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.speech import Step

_KEPT = 20_000  # steps, should nobody ask: ten seconds of the shortest there are


class StepLog:
    """The steps since they were last taken; any thread may add, one may take."""

    def __init__(self) -> None:
        """Empty."""
        self._steps: deque[Step] = deque(maxlen=_KEPT)

    def add(self, stage: str, ms: float, batch: int = 1) -> None:
        """Note a step; see ``Step``."""
        self._steps.append(Step(stage, ms, batch))

    @contextmanager
    def timed(self, stage: str, batch: int = 1) -> Iterator[None]:
        """Note the body as a step, unless it fails; a GPU that still works is not waited for."""
        started = time.perf_counter()
        yield
        self.add(stage, (time.perf_counter() - started) * 1e3, batch)

    def take(self) -> list[Step]:
        """The steps since the last call, oldest first."""
        taken = []
        while self._steps:
            taken.append(self._steps.popleft())
        return taken
