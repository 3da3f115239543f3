"""The accountant beside a neighbour that starts as vLLM does: who gets what, and who fails.

Replicas are ballast of the size of real engines. Each scenario starts the neighbour at
another moment; the last two show what happens without a hold, and with a leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

from runtime.bench.leases import on_gpu, serving, timed
from runtime.bench.private import place, private_daemon
from runtime.client import SpeechClient
from runtime.client.ledger import LedgerClient
from runtime.config import BUILDER
from runtime.errors import OutOfMemory, Overloaded, SpeechError
from runtime.memory.device import Unknown, devices, read
from runtime.memory.footprint import GIB
from runtime.settings import Settings

UTILISATION = 0.60
_STREAMS = 4
_TEXT = "Ballast goes on and on. " * 8
_SAMPLE_S = 0.25
_PATIENCE_S = 120.0
_REPLICAS = 3  # of the configuration
_DEAD_S = 2.0  # until the driver has given back what a dead process held


def document(slots: int = 16) -> dict[str, Any]:
    """The configuration: ears and a mouth of full size beside the neighbour."""
    application = {
        "name": "speech",
        "route_prefix": None,
        "import_path": BUILDER,
        "args": {
            "memory": {"neighbours": [{"name": "neighbour", "utilisation": UTILISATION}]},
            "asr": {
                "live": {
                    "engine": "runtime.bench.ballast:BallastRecognizer",
                    "options": {"like": "parakeet-streaming", "slots": 4 * slots},
                },
            },
            "tts": {
                "engine": "runtime.bench.ballast:BallastSynthesizer",
                "options": {"like": "magpie", "slots": slots},
            },
        },
        "deployments": [{"name": "TTS", "num_replicas": 2}],
    }
    return {"proxy_location": "Disabled", "applications": [application]}


class Watched:
    """The largest that each process was seen to hold of the GPU, by the driver's account."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.peaks: dict[int, int] = {}

    def look(self) -> None:
        """Note what each process holds now."""
        gpu = devices(read())[0]
        if not isinstance(gpu.processes, Unknown):
            for process in gpu.processes:
                if not isinstance(process.bytes, Unknown):
                    self.peaks[process.pid] = max(process.bytes, self.peaks.get(process.pid, 0))

    async def run(self) -> None:
        """Look four times a second."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(_SAMPLE_S)


class NeighbourProcess:
    """The neighbour as a process of its own; its URL is known before it starts."""

    def __init__(self) -> None:
        """Choose a port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[str] | None = None

    async def start(self, seconds: float) -> str:
        """Start it, loading for so many seconds; ``started``, or what it failed with."""
        self._process = await asyncio.to_thread(self._spawn, seconds)
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                assert self._process.stderr is not None
                lines = self._process.stderr.read().strip().splitlines()
                return lines[-1] if lines else "ended without a word"
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._get, "/health")
                return "started"
            await asyncio.sleep(_SAMPLE_S)
        return "did not start in time"

    def _spawn(self, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "runtime.bench.neighbour", "--port", str(self._port)]
        command += ["--utilisation", str(UTILISATION), "--seconds", str(seconds)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    async def state(self) -> dict[str, Any]:
        """How large its cache is, and whether all it holds is intact; empty if it does not run."""
        if self._process is None or self._process.poll() is not None:
            return {"cache_gib": None, "intact": None}
        return await asyncio.to_thread(self._get, "/check")

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=20) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


class Load:
    """Utterances, one after the other on several streams, and how they end."""

    def __init__(self, client: SpeechClient) -> None:
        """Nothing said yet."""
        self._client = client
        self.done = self.refused = 0
        self.failed: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Speak while the context lasts."""
        tasks = [asyncio.create_task(self._speak()) for _ in range(_STREAMS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _speak(self) -> None:
        while True:
            try:
                async for _ in self._client.synthesize(_TEXT):
                    pass
                self.done += 1
            except Overloaded:
                self.refused += 1
                await asyncio.sleep(0.2)
            except SpeechError as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.2)


@contextmanager
def _hold(settings: Settings, url: str) -> Iterator[subprocess.Popen[str]]:
    """``speech memory hold`` until the URL answers, once it holds."""
    command = [sys.executable, "-m", "runtime.cli.main", "memory", "hold", "--until", url]
    with subprocess.Popen(
        command, env=os.environ | place(settings), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            while "holding" not in (line := process.stderr.readline()):
                if not line:
                    raise SpeechError("The hold did not begin.")
            yield process
        finally:
            process.kill()


async def run(seconds: float, show: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """All scenarios; ``seconds`` is how long the neighbour takes to load."""
    neighbour = NeighbourProcess()
    try:
        outcome = await neighbour.start(seconds)
        daemon = private_daemon(document())  # beside a neighbour that was there first
        settings = await asyncio.to_thread(daemon.__enter__)
        try:
            client = await SpeechClient.connect(settings=settings)
            try:
                bench = _Bench(client, settings, seconds, show)
                return await bench.run(neighbour, outcome)
            finally:
                await client.aclose()
        finally:
            await asyncio.to_thread(daemon.__exit__, None, None, None)
    finally:
        neighbour.stop()


class _Bench:
    """The scenarios, on one daemon."""

    def __init__(
        self,
        client: SpeechClient,
        settings: Settings,
        seconds: float,
        show: Callable[[dict[str, Any]], None],
    ) -> None:
        self._client = client
        self._settings = settings
        self._seconds = seconds
        self._show = show
        self._watched = Watched()
        self._rows: list[dict[str, Any]] = []

    async def run(self, neighbour: NeighbourProcess, outcome: str) -> list[dict[str, Any]]:
        """Every row; ``neighbour`` runs already, and ``outcome`` is how it started."""
        watching = asyncio.create_task(self._watched.run())
        try:
            leases = await serving(_REPLICAS)
            await self._add("neighbour first, then we start", neighbour, outcome, len(leases))
            neighbour.stop()
            await self._start_beside_us("we serve, then the neighbour starts; hold", hold=True)
            for hold in (True, False):
                await self._start_beside_us(
                    f"a replica dies before the neighbour starts; {'' if hold else 'no '}hold",
                    hold=hold,
                    kill=True,
                )
            await self._leak()
            await self._ledger()
        finally:
            watching.cancel()
        await self._replicas()
        return self._rows

    async def _start_beside_us(self, scenario: str, *, hold: bool, kill: bool = False) -> None:
        """Start the neighbour while we serve; ``kill`` a replica first, for Serve to replace."""
        neighbour = NeighbourProcess()
        load = Load(self._client)
        async with load.running():
            try:
                with ExitStack() as held:
                    if hold:
                        holding = _hold(self._settings, f"{neighbour.url}/health")
                        held.enter_context(holding)
                    if kill:
                        victim = next(x for x in await on_gpu() if x.deployment == "TTS")
                        os.kill(victim.pid, signal.SIGKILL)
                        await asyncio.sleep(_DEAD_S)
                    outcome = await neighbour.start(self._seconds)
                    waiting = (await LedgerClient().snapshot()).waiting
                leases = await serving(_REPLICAS)
                await self._add(
                    scenario,
                    neighbour,
                    outcome,
                    len(leases),
                    waited=len(waiting),
                    utterances=load.done,
                    refused=load.refused,
                    failed=len(load.failed),
                )
            finally:
                neighbour.stop()

    async def _leak(self) -> None:
        """A replica that allocates for ever, while the neighbour looks at its own."""
        neighbour = NeighbourProcess()
        try:
            with _hold(self._settings, f"{neighbour.url}/health"):
                outcome = await neighbour.start(self._seconds)
            before = {lease.pid for lease in await on_gpu()}
            try:
                async for _ in self._client.synthesize("leak"):
                    pass
                met = "nothing"
            except OutOfMemory as error:
                met = type(error).__name__
            async for _ in self._client.synthesize("And on."):
                pass
            after = await on_gpu()
            await self._add(
                f"a request leaks: {met}",
                neighbour,
                outcome,
                len(after),
                same_processes={lease.pid for lease in after} == before,
            )
        finally:
            neighbour.stop()

    async def _ledger(self) -> None:
        for row in await timed((await on_gpu())[0]):
            self._rows.append(row)
            self._show(row)

    async def _add(
        self, scenario: str, neighbour: NeighbourProcess, outcome: str, serving: int, **more: Any
    ) -> None:
        state = await neighbour.state()
        row = {"scenario": scenario, "neighbour": outcome, **state, "serving": serving, **more}
        self._rows.append(row)
        self._show(row)

    async def _replicas(self) -> None:
        """What the plan predicted of each replica, and what the driver showed of it.

        After the warm-up with all slots full, and at the most: a hold fills the lease up.
        """
        for lease in await serving(_REPLICAS):
            if lease.state != "serving":
                continue
            peak = self._watched.peaks.get(lease.pid)
            claim, measured = lease.claim.total, lease.measured
            row = {
                "scenario": f"replica of {lease.deployment}",
                "claim_gib": round(claim / GIB, 3),
                "measured_gib": None if measured is None else round(measured / GIB, 3),
                "error_percent": measured and round(100 * (claim / measured - 1), 1),
                "peak_gib": None if peak is None else round(peak / GIB, 3),
            }
            self._rows.append(row)
            self._show(row)
