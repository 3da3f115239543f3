"""The memory ledger of a running daemon, for replicas, commands and tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from runtime.client.connection import attach
from runtime.errors import DaemonUnavailable
from runtime.memory.ledger import ACTOR, NAMESPACE, Lease, Refusal, Snapshot, Terms
from runtime.settings import Settings

_ANSWER_S = 10.0


class LedgerActor:
    """The actor that keeps the ledger: looked up by its name once, and again once it is another.

    A ledger that Ray restarts keeps its handle; one that took the place of another does not.
    """

    def __init__(self) -> None:
        """Nothing is looked up yet."""
        self._handle: Any = None

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call one of its methods; all of them may be repeated.

        Raises:
            ValueError: There is no ledger.
            RayActorError: There was one, and it is gone or about to be restarted.
        """
        import ray

        if (known := self._handle) is not None:
            try:
                return await getattr(known, method).remote(*arguments)
            except ray.exceptions.ActorUnavailableError:
                raise  # it is being restarted, or out of reach: still the same one
            except ray.exceptions.RayActorError:
                self._handle = None  # another may have its name by now
        self._handle = actor = await asyncio.to_thread(ray.get_actor, ACTOR, NAMESPACE)
        return await getattr(actor, method).remote(*arguments)


class LedgerClient:
    """Calls the ledger of the cluster that this process is in."""

    def __init__(self) -> None:
        """It is looked up by the first call."""
        self._actor = LedgerActor()

    async def snapshot(self) -> Snapshot:
        """The ledger as it stands."""
        snapshot: Snapshot = await self._call("snapshot")
        return snapshot

    async def reserve(self, wanted: tuple[Lease, ...]) -> Refusal | Terms:
        """Lease what a replica wants; what it has already is granted again."""
        answer: Refusal | Terms = await self._call("reserve", wanted)
        return answer

    async def park(self, replica: str) -> None:
        """A replica keeps nothing but its process; the rest of its lease is free."""
        await self._call("park", replica)

    async def hold(self, name: str) -> bool:
        """Hold, for five seconds more; True once nothing loads any more."""
        return bool(await self._call("hold", name))

    async def unhold(self, name: str) -> None:
        """Go on."""
        await self._call("unhold", name)

    async def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._actor.call(method, *arguments)
        except (ValueError, TimeoutError, ray.exceptions.RayError) as error:
            why = str(error) or f"nothing came within {_ANSWER_S:g} s"
            raise DaemonUnavailable(f"The memory ledger does not answer: {why}") from error


@asynccontextmanager
async def ledger_of(settings: Settings) -> AsyncIterator[LedgerClient]:
    """The ledger of the daemon with these settings, while the context lasts.

    Raises:
        DaemonUnavailable: No daemon runs, or it does not answer.
    """
    attachment = await attach(settings, None)
    try:
        yield LedgerClient()
    finally:
        await attachment.detach()
