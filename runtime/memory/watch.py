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
        self._since = clock()
        self.pressure = Pressure.NONE

    @property
    def seconds(self) -> float:
        """How long the present pressure has lasted."""
        return self._clock() - self._since

    def update(self, available: Bytes) -> Pressure:
        """Take note of the bytes available now; returns the pressure."""
        if isinstance(available, Unknown):
            return self.pressure
        now = self._clock()
        for pressure, floor in self._floors.items():
            if available < floor:
                self._passed[pressure] = None
            elif pressure in self._passed:
                since = self._passed[pressure]
                if since is None:
                    self._passed[pressure] = now
                elif now - since >= self._clear_s:
                    del self._passed[pressure]
        pressure = max(self._passed, default=Pressure.NONE)
        if pressure != self.pressure:
            self.pressure = pressure
            self._since = now
        return pressure
