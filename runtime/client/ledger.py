"""The memory ledger of a running daemon, for commands and tests."""

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


class LedgerClient:
    """Calls the ledger of the cluster that this process is in."""

    async def snapshot(self) -> Snapshot:
        """The ledger as it stands."""
        snapshot: Snapshot = await self._call("snapshot")
        return snapshot

    async def reserve(self, wanted: tuple[Lease, ...]) -> Refusal | Terms:
        """Lease what a replica wants; what it has already is granted again."""
        answer: Refusal | Terms = await self._call("reserve", wanted)
        return answer

    async def hold(self, name: str) -> bool:
        """Hold, for five seconds more; True once nothing loads any more."""
        return bool(await self._call("hold", name))

    async def unhold(self, name: str) -> None:
        """Go on."""
        await self._call("unhold", name)

    async def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            actor = await asyncio.to_thread(ray.get_actor, ACTOR, NAMESPACE)
            async with asyncio.timeout(_ANSWER_S):
                return await getattr(actor, method).remote(*arguments)
        except (ValueError, TimeoutError, ray.exceptions.RayError) as error:
            raise DaemonUnavailable(f"The memory ledger does not answer: {error}") from error


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
