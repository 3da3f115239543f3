"""What deployments without Ray have in common: event streams, and who is asked to begin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from runtime.client.recovery import Patience
from runtime.client.replicas import Replicas
from runtime.errors import DaemonUnavailable, ReplicaLost


class Living(Protocol):
    """A replica."""

    alive: bool


R = TypeVar("R", bound=Living)


class Stream:
    """Stands for ``CallStream``: items come from a replica until it ends, fails or is left."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self.over = False
        self.on_cancel: Callable[[], None] = lambda: None

    def put(self, item: Any) -> None:
        """An item, an exception to raise, or None for the end."""
        self._items.put_nowait(item)

    def break_off(self, error: Exception) -> None:
        """Items that are on their way are lost."""
        while not self._items.empty():
            self._items.get_nowait()
        self.put(error)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        if self.over:
            raise StopAsyncIteration
        try:
            item = await self._items.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.over or item is None:
            self.over = True
            raise StopAsyncIteration
        if isinstance(item, Exception):
            self.over = True
            raise item
        return item

    async def first(self, within_s: float) -> Any:
        try:
            async with asyncio.timeout(within_s):
                return await anext(self, None)
        except TimeoutError:
            raise ReplicaLost(f"No replica began the call within {within_s:g} s.") from None
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        if not self.over:
            self.over = True
            self.put(None)
            self.on_cancel()


class FakeDeployment(Generic[R]):
    """Stands for ``DeploymentCalls``; the first replica by name that may take a call does."""

    def __init__(self, clock: Callable[[], float], make: Callable[[str], R]) -> None:
        """Of replicas ``a`` and ``b``."""
        self.replicas = Replicas(clock)
        self.opened: list[str] = []  # replicas that were asked to begin
        self.resumed: list[bool] = []  # whether the call had begun elsewhere
        self.daemon_lives = True
        self._make = make
        self._all: dict[str, R] = {}
        self.serve("ab")

    def __getitem__(self, name: str) -> R:
        return self._all[name]

    def __iter__(self) -> Iterator[R]:
        return iter(self._all.values())

    def serve(self, names: str) -> None:
        """These take new calls, one letter each; those that leave live on."""
        self.serving = frozenset(names)
        for name in sorted(self.serving - self._all.keys()):
            self._all[name] = self._make(name)
        self.replicas.update(names)

    def patience(self, limit_s: float) -> Patience:
        return Patience(limit_s, self.replicas, self._check_alive)

    def _choose(self, resumed: bool) -> R | None:
        """Who is to begin a call; None where it has to wait for a replica."""
        self._check_alive()
        if not self.serving:
            return None
        name = min(self.replicas.preferred(self.serving))
        self.opened.append(name)
        self.resumed.append(resumed)
        if not self[name].alive:
            self.replicas.lost(name)
        return self[name]

    def _check_alive(self) -> None:
        if not self.daemon_lives:
            raise DaemonUnavailable("The daemon is gone.")
