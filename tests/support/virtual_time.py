"""An event loop whose time passes only where all tasks wait, so that no test waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class VirtualTime(selectors.SelectSelector):
    """The time of an event loop, in seconds; also stands for a module's ``time``."""

    now = 1_000.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "all wait, and nothing will come"
        self.now += timeout
        assert self.now < 5_000.0, "this goes on for ever"
        return super().select(0)

    def monotonic(self) -> float:
        return self.now


def run_virtually(main: Callable[[VirtualTime], Coroutine[Any, Any, T]], *modules: str) -> T:
    """Run a coroutine in virtual time, which the named modules take for ``time``."""
    time = VirtualTime()
    loop = asyncio.SelectorEventLoop(time)
    loop.time = time.monotonic  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(f"{module}.time", time)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(main(time))
