"""How long a call that lost its replica looks for another, and how often it asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from runtime.client.replicas import Replicas
from runtime.errors import DaemonUnavailable, Overloaded, ReplicaLost

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5


class Patience:
    """Counts from the first trouble on, and starts over once there is an answer."""

    def __init__(
        self,
        limit_s: float,
        replicas: Replicas,
        check_alive: Callable[[], None] = lambda: None,
    ) -> None:
        """``limit_s`` seconds without an answer are the end, or what ``check_alive`` raises."""
        self._check_alive = check_alive
        self._limit_s = limit_s
        self._replicas = replicas
        self._deadline: float | None = None
        self._pause_s = 0.0
        self._refused: set[str] = set()

    @property
    def left_s(self) -> float:
        """Seconds left; all of them while there is no trouble."""
        if self._deadline is None:
            return self._limit_s
        return max(0.0, self._deadline - time.monotonic())

    def begin(self) -> None:
        """There is trouble: the time runs from now on, if it does not already."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._limit_s

    def answered(self) -> None:
        """All is well again."""
        self._deadline = None
        self._pause_s = 0.0
        self._refused.clear()

    async def wait(self, error: Overloaded | ReplicaLost, *, begun: bool) -> None:
        """Wait for as long as it makes sense before asking again.

        At first not at all, then until replicas change or a pause is over, which grows.

        Args:
            error: What the last call met.
            begun: The call had begun, and is to go on elsewhere.

        Raises:
            Overloaded: ``error``, where the time is over, or where a call that has not
                begun was refused by every replica or has waited in a queue in vain.
            DaemonUnavailable: The time is over.
        """
        if isinstance(error, Overloaded):
            self._replicas.refused(error)
            self._refused.add(error.replica)
            everybody = "" in self._refused or self._replicas.serving <= self._refused
            if not begun and (everybody or error.waited_s):
                raise error
        elif error.replica:
            self._replicas.lost(error.replica)
        self.begin()
        self._check_alive()
        if self._pause_s and self.left_s:
            changed = asyncio.Event()
            unsubscribe = self._replicas.subscribe(changed.set)
            try:
                async with asyncio.timeout(min(self._pause_s, self.left_s)):
                    await changed.wait()
            except TimeoutError:
                pass
            finally:
                unsubscribe()
            self._check_alive()
        if self.left_s == 0:
            if isinstance(error, Overloaded):
                raise error
            raise DaemonUnavailable(
                f"No replica answered for {self._limit_s:g} s; see `speech status`. The last "
                f"one: {error}"
            ) from error
        self._pause_s = min(max(_FIRST_PAUSE_S, 2 * self._pause_s), _LONGEST_PAUSE_S)
