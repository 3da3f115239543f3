"""What happens to a stream whose caller leaves: it is noticed, timed and counted."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from types import AsyncGeneratorType
from typing import Any, TypeVar

from runtime.replica import AbortedStream

T = TypeVar("T")

_REMEMBERED = 1024


class Abort:
    """Whether and when a stream's caller has left."""

    def __init__(self) -> None:
        """Still there."""
        self.at: float | None = None  # time.monotonic()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note when the body is cancelled or its generator closed."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            if self.at is None:
                self.at = time.monotonic()
            raise


async def until_left(
    items: AsyncGenerator[T, None], abort: Abort, failure: asyncio.Future[None] | None = None
) -> AsyncGenerator[T, None]:
    """Pass items on until they end, the caller leaves, or ``failure`` has an exception.

    A cancelled call is cancelled where it waits. It has to wait here and not inside the
    engine: how long the engine takes to let go is what is to be measured.
    """
    async with aclosing(items):
        while True:
            upcoming = asyncio.ensure_future(anext(items, None))
            awaited: set[asyncio.Future[Any]] = {upcoming}
            if failure is not None:
                awaited.add(failure)
            try:
                with abort.noted():
                    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not upcoming.done():
                    upcoming.cancel()
                    await asyncio.wait({upcoming})
            if failure is not None and failure.done():
                # Before what the engine says of it: an engine that is being closed ends or fails.
                if not upcoming.cancelled():
                    upcoming.exception()  # seen
                failure.result()
            item = upcoming.result()
            if item is None:
                return
            yield item


class AbortLog:
    """Counts aborted streams and how long they went on working for nobody."""

    def __init__(self, orphaned: Any) -> None:
        """``orphaned`` is the histogram of those times, in ms."""
        self._recent: deque[AbortedStream] = deque(maxlen=_REMEMBERED)
        self._orphaned = orphaned

    def freed(self, stream: str, abort: Abort) -> None:
        """A stream's slot is free; does nothing if its caller stayed to the end."""
        if abort.at is not None:
            orphaned_ms = (time.monotonic() - abort.at) * 1e3
            self._orphaned.observe(orphaned_ms)
            self._recent.append(AbortedStream(stream, time.time(), orphaned_ms))

    def recent(self) -> tuple[AbortedStream, ...]:
        """The latest, oldest first; at most 1,024."""
        return tuple(self._recent)


def living_generators() -> int:
    """Async generators in this process; looks at every object, so it is for tests and benches."""
    gc.collect()
    return sum(isinstance(thing, AsyncGeneratorType) for thing in gc.get_objects())
