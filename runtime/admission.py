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

from runtime.errors import DaemonUnavailable, Overloaded

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
        self._ahead: deque[asyncio.Future[None]] = deque()
        self._queue: deque[asyncio.Future[None]] = deque()
        self._full_since: float | None = None  # or since when the last slot became free, if full
        self._interval_s: float | None = None
        self._closed = ""
        self._paused: tuple[str, float, bool] | None = None  # why, retry after, for everybody

    @property
    def taken(self) -> int:
        """Slots in use."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._ahead) + len(self._queue)

    @asynccontextmanager
    async def slot(self, *, ahead: bool = False) -> AsyncIterator[float]:
        """Hold a slot while the context lasts; yields the seconds spent waiting for it.

        Args:
            ahead: Wait before all others, and without regard to the queue's length.

        Raises:
            Overloaded: Slots and queue are full, or none became free in time.
            DaemonUnavailable: After ``close``.
        """
        waited = await self._take(ahead)
        try:
            yield waited
        finally:
            self._free()

    def close(self, reason: str) -> None:
        """Let nobody begin any more; those that wait and those that come are told why."""
        self._closed = reason
        for queue in (self._ahead, self._queue):
            while queue:
                place = queue.popleft()
                if not place.done():
                    place.set_exception(DaemonUnavailable(reason))

    def pause(self, reason: str, retry_after_s: float, *, everybody: bool = False) -> None:
        """Refuse new calls until ``resume``; those that were under way elsewhere may go on here.

        Args:
            reason: What refusals say.
            retry_after_s: When to come back, in seconds.
            everybody: Refuse those too, and all that wait.
        """
        self._paused = (reason, retry_after_s, everybody)
        for queue in (self._ahead, self._queue) if everybody else ():
            while queue:
                place = queue.popleft()
                if not place.done():
                    place.set_exception(Overloaded(reason, retry_after_s))

    def resume(self) -> None:
        """Take calls again."""
        self._paused = None

    @property
    def retry_after_s(self) -> float:
        """When a slot can be hoped for by who comes now: the mean interval, for each in the queue.

        An interval that lasts longer counts as long as it is, so that the estimate grows
        while nothing moves.
        """
        if self._full_since is None or self._interval_s is None:
            return _FIRST_GUESS_S
        interval = max(self._interval_s, self._clock() - self._full_since)
        return min(max(interval * (self.waiting + 1), _SHORTEST_RETRY_S), _LONGEST_RETRY_S)

    async def _take(self, ahead: bool) -> float:
        if self._closed:
            raise DaemonUnavailable(self._closed)
        if self._paused is not None:
            reason, retry_after_s, everybody = self._paused
            if everybody or not ahead:
                raise Overloaded(reason, retry_after_s)
        if self._taken < self.slots:
            self._taken += 1
            if self._taken == self.slots:
                self._full_since = self._clock()
            return 0.0
        if self.waiting >= self.limits.waiting and not ahead:
            raise Overloaded(
                f"All {self.slots} {self._what} slots are taken and {self.waiting} wait.",
                self.retry_after_s,
            )
        queue = self._ahead if ahead else self._queue
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(place)
        began = self._clock()
        try:
            async with asyncio.timeout(self.limits.wait_s):
                await place
        except BaseException as error:
            if place in queue:
                queue.remove(place)
            elif place.done() and not place.cancelled() and place.exception() is None:
                self._free()  # the slot came in the moment in which the caller left
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"No {self._what} slot became free within {self.limits.wait_s:g} s.",
                    self.retry_after_s,
                    waited_s=self._clock() - began,
                ) from None
            if isinstance(error, Overloaded):  # a pause for everybody
                error.waited_s = self._clock() - began
            raise
        return self._clock() - began

    def _free(self) -> None:
        now = self._clock()
        if self._full_since is not None:
            newest = now - self._full_since
            mean = newest if self._interval_s is None else self._interval_s
            self._interval_s = mean + _SMOOTHING * (newest - mean)
        for queue in (self._ahead, self._queue):
            while queue:
                place = queue.popleft()
                if not place.done():
                    place.set_result(None)  # the slot passes on; it stays taken
                    self._full_since = now
                    return
        self._full_since = None
        self._taken -= 1
