"""Who may begin: slots, a short queue before them, and refusals that say when to come back.

Calls that run are never touched for the sake of new ones. A call that had to leave
a lost replica goes ahead of those that have not begun.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from runtime.errors import Overloaded, SpeechError

_SHORTEST_RETRY_S = 0.1
_LONGEST_RETRY_S = 30.0
_FIRST_GUESS_S = 1.0
_SMOOTHING = 0.2  # weight of the newest interval in the mean interval between freed slots


@dataclass(frozen=True, slots=True)
class Limits:
    """How many calls may wait for a slot, and for how long (seconds)."""

    waiting: int
    wait_s: float


class Admission:
    """The slots of an engine and the queue before them; used on one event loop."""

    def __init__(
        self, slots: int, what: str, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``what`` the slots are for is named in refusals; ``clock`` is in seconds."""
        self.slots = slots
        self.limits = limits
        self._what = what
        self._clock = clock
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._freed_at: float | None = None
        self._interval_s: float | None = None
        self._closed: SpeechError | None = None

    @property
    def taken(self) -> int:
        """Slots in use."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    @asynccontextmanager
    async def slot(self, *, ahead: bool = False) -> AsyncIterator[float]:
        """Hold a slot while the context lasts; yields the seconds spent waiting for it.

        Args:
            ahead: Wait before all others, and without regard to the queue's length.

        Raises:
            Overloaded: Slots and queue are full, or none became free in time.
            SpeechError: What ``close`` was given.
        """
        waited = await self._take(ahead)
        try:
            yield waited
        finally:
            self._free()

    def close(self, reason: SpeechError) -> None:
        """Let nobody begin any more: those that wait and those that come get ``reason``."""
        self._closed = reason
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_exception(reason)

    @property
    def retry_after_s(self) -> float:
        """When a slot can be hoped for by who comes now: the mean interval, for each in the queue.

        Slots that have been held for longer than that count with the time since the
        last one became free, so that the estimate grows while nothing moves.
        """
        if self._freed_at is None or self._interval_s is None:
            return _FIRST_GUESS_S
        interval = max(self._interval_s, self._clock() - self._freed_at)
        return min(max(interval * (len(self._queue) + 1), _SHORTEST_RETRY_S), _LONGEST_RETRY_S)

    async def _take(self, ahead: bool) -> float:
        if self._closed is not None:
            raise self._closed
        if self._taken < self.slots:
            self._taken += 1
            return 0.0
        if len(self._queue) >= self.limits.waiting and not ahead:
            raise Overloaded(
                f"All {self.slots} {self._what} slots are taken and {len(self._queue)} wait.",
                self.retry_after_s,
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if ahead:
            self._queue.appendleft(place)
        else:
            self._queue.append(place)
        began = self._clock()
        try:
            async with asyncio.timeout(self.limits.wait_s):
                await place
        except BaseException as error:
            if place in self._queue:
                self._queue.remove(place)
            elif place.done() and not place.cancelled() and place.exception() is None:
                self._free()  # the slot came in the moment in which the caller left
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"No {self._what} slot became free within {self.limits.wait_s:g} s.",
                    self.retry_after_s,
                ) from None
            raise
        return self._clock() - began

    def _free(self) -> None:
        now = self._clock()
        full = self._taken == self.slots
        if full and self._freed_at is not None:
            newest = now - self._freed_at
            mean = newest if self._interval_s is None else self._interval_s
            self._interval_s = mean + _SMOOTHING * (newest - mean)
        self._freed_at = now if full else None  # intervals between busy times say nothing
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)  # the slot passes on; it stays taken
                return
        self._taken -= 1
