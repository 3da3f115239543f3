"""Calls that want a slot, in this process."""

from __future__ import annotations

import asyncio
import math

from fake_clock import Clock

from runtime.admission import Admission, Limits


class Caller:
    """A call that keeps its slot until it is told to leave."""

    def __init__(self, admission: Admission, *, ahead: bool = False) -> None:
        self.holds = False
        self.waited_s = math.nan
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._call(admission, ahead))

    async def _call(self, admission: Admission, ahead: bool) -> None:
        async with admission.slot(ahead=ahead) as self.waited_s:
            self.holds = True
            try:
                await self.leave.wait()
            finally:
                self.holds = False


def make(
    slots: int = 1, waiting: int = 10, wait_s: float = 60.0, clock: Clock | None = None
) -> Admission:
    return Admission(slots, "test", Limits(waiting, wait_s), clock or Clock())


async def turns_of_the_loop() -> None:
    """Let everything that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def come(admission: Admission, *, ahead: bool = False) -> Caller:
    """A new call, which holds a slot, waits or was refused by now."""
    caller = Caller(admission, ahead=ahead)
    await turns_of_the_loop()
    return caller


async def leave(*callers: Caller) -> None:
    for caller in callers:
        caller.leave.set()
        await turns_of_the_loop()
