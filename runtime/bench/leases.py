"""The leases of a daemon that is measured: who serves, and how long a lease takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from runtime.bench.report import distribution
from runtime.client.ledger import LedgerActor, LedgerClient
from runtime.errors import DaemonUnavailable, SpeechError
from runtime.memory.claims import Claim
from runtime.memory.ledger import Lease, Refusal, Report

_PATIENCE_S = 120.0
_SAMPLE_S = 0.25
_ASKED = 500
_NOBODY = "0" * 32  # an actor that never was: the ledger buries its lease


async def on_gpu() -> list[Lease]:
    """The leases of the GPUs."""
    snapshot = await LedgerClient().snapshot()
    return [lease for lease in snapshot.leases if lease.device[1] != "host"]


async def on_device(key: str) -> list[Lease]:
    """The leases of a device such as ``cuda:0`` or ``host``."""
    snapshot = await LedgerClient().snapshot()
    return [lease for lease in snapshot.leases if lease.device[1] == key]


async def serving(replicas: int, key: str | None = None) -> list[Lease]:
    """The leases of a device, or of all GPUs, once so many replicas serve there.

    Raises:
        SpeechError: They did not within two minutes.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(DaemonUnavailable):
            leases = await (on_device(key) if key else on_gpu())
            if sum(lease.state == "serving" for lease in leases) >= replicas:
                return leases
        await asyncio.sleep(_SAMPLE_S)
    raise SpeechError(f"{replicas} replicas did not come to serve within {_PATIENCE_S:g} s.")


async def timed(held: Lease, asked: int = _ASKED) -> list[dict[str, Any]]:
    """How long the ledger takes: for a lease that is held already, and for one that is new.

    A new one is also written to the cluster's store. It is of nothing, for nobody, and of the
    device of the lease that is ``held``. First a call that asks for nothing: what is Ray's own.
    """
    ledger = LedgerClient()
    new = Lease("bench#0", "bench", held.device, Claim(), os.getpid(), _NOBODY)

    actor = LedgerActor()

    async def nothing() -> None:
        await actor.call("keep", (), Report({}, {}, 0), -1)

    async def again() -> None:
        await ledger.reserve((held,))

    async def anew() -> None:
        if isinstance(refusal := await ledger.reserve((new,)), Refusal):
            raise SpeechError(f"A lease of nothing was refused: {refusal.message}")

    async def forgotten() -> None:
        await ledger.park(new.replica)  # or it was buried meanwhile: new again either way

    await _no_hold(ledger)
    return [
        {"scenario": "a call of the ledger", "lease_ms": await _times(asked, nothing)},
        {
            "scenario": "a lease is asked for again",
            "lease_ms": await _times(asked, again),
        },
        {"scenario": "a new lease is granted", "lease_ms": await _times(asked, anew, forgotten)},
    ]


async def _no_hold(ledger: LedgerClient) -> None:
    """Return once nobody holds: the hold of a process that was killed ends a little later.

    Raises:
        SpeechError: Somebody still did after two minutes.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while holds := (await ledger.snapshot()).holds:
        if time.monotonic() > deadline:
            raise SpeechError(f"The ledger is still held: {holds}.")
        await asyncio.sleep(_SAMPLE_S)


_Call: TypeAlias = Callable[[], Awaitable[None]]


async def _times(asked: int, call: _Call, after: _Call | None = None) -> dict[str, float | int]:
    took_ms = []
    for _ in range(asked):
        began = time.perf_counter()
        await call()
        took_ms.append((time.perf_counter() - began) * 1e3)
        if after is not None:
            await after()
    return distribution(took_ms)
