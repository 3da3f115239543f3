"""Floors on the memory that is available: when it is short, and when that is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum

from runtime.memory.device import Bytes, Unknown


class Pressure(IntEnum):
    """How short memory is: not, so that no new sessions are taken, so that engines park."""

    NONE = 0
    SOFT = 1
    HARD = 2


class Watch:
    """Two floors with hysteresis: each is left only once it has been clear for a while.

    A figure that is not known changes nothing.
    """

    def __init__(
        self,
        soft: int,
        hard: int,
        clear_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Floors in bytes, ``hard`` at most ``soft``; ``clear_s`` and ``clock`` in seconds."""
        self._floors = {Pressure.SOFT: soft, Pressure.HARD: hard}
        self._clear_s = clear_s
        self._clock = clock
        # The floors that were passed; since when each has been clear, None while it is not.
        self._passed: dict[Pressure, float | None] = {}
        self._below_hard_since: float | None = None
        self.pressure = Pressure.NONE

    @property
    def below_hard_s(self) -> float | None:
        """For how long less than the hard floor has been available; None if it is not now.

        Unlike the pressure it ends at once: whoever parks next looks at what the one before
        has given back.
        """
        since = self._below_hard_since
        return None if since is None else self._clock() - since

    def update(self, available: Bytes) -> Pressure:
        """Take note of the bytes available now; returns the pressure."""
        if isinstance(available, Unknown):
            return self.pressure
        now = self._clock()
        if available >= self._floors[Pressure.HARD]:
            self._below_hard_since = None
        elif self._below_hard_since is None:
            self._below_hard_since = now
        for pressure, floor in self._floors.items():
            if available < floor:
                self._passed[pressure] = None
            elif pressure in self._passed:
                since = self._passed[pressure]
                if since is None:
                    self._passed[pressure] = now
                elif now - since >= self._clear_s:
                    del self._passed[pressure]
        self.pressure = max(self._passed, default=Pressure.NONE)
        return self.pressure
