"""``speech memory``: the budget on paper, the ledger as it stands, and holding still."""

from __future__ import annotations

import asyncio
import http.client
import os
import time
import urllib.request
from contextlib import suppress

import typer

from runtime.cli.output import console, notes, print_json, working
from runtime.client.ledger import LedgerClient, ledger_of
from runtime.config import config_label, find_config, read_config
from runtime.daemon import is_starting, read_record, running_daemon
from runtime.errors import ConfigError, DaemonUnavailable, DoesNotFit, SpeechError
from runtime.memory import device as devices
from runtime.memory.demands import demands_of, policy_of
from runtime.memory.history import History
from runtime.memory.ledger import Snapshot
from runtime.memory.plan import plan as make_plan
from runtime.memory.plan import pools_of
from runtime.memory.table import as_json, as_text, snapshot_json, snapshot_text
from runtime.settings import Settings

app = typer.Typer(
    help="Where every GiB goes: on paper, and now.", no_args_is_help=True, add_completion=False
)

_EVERY_S = 1.0  # a hold lapses after five seconds
_ANSWER_S = 2.0
_AWAY_S = 15.0  # how long the ledger may not answer before a hold is given up


@app.command()
def plan(
    config: str = typer.Argument(
        "embedded", help="A Serve configuration file, or a shipped one's name."
    ),
    device: str = typer.Option(
        devices.AUTO, help="auto (this machine), gb10, h100-80g, or a recorded probe's file."
    ),
    as_json_: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Share a device out on paper; needs no GPU and no daemon. Exit code 3 if it does not fit."""
    path = find_config(config)
    document = read_config(path)
    origin = config_label(path)
    pools = pools_of(devices.devices(devices.recorded(device)))
    demands = demands_of(document, origin, pools, History.kept_in(Settings()))
    sharing = make_plan(pools, policy_of(document, origin), demands)
    if as_json_:
        print_json({"config": origin, **as_json(sharing)})
    else:
        console.print(as_text(sharing), markup=False, soft_wrap=True)
    if not sharing.fits:
        raise typer.Exit(DoesNotFit.exit_code)


@app.command()
def probe() -> None:
    """Print the readings of this machine's memory as JSON, to record them: `plan --device FILE`."""
    print_json(devices.read().to_json())


@app.command()
def show(as_json_: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """Show the daemon's ledger: who claims, measured and may have what."""
    running_daemon(Settings())
    with working("asking the ledger ...", quiet=as_json_):
        snapshot = asyncio.run(_snapshot())
    if as_json_:
        print_json(snapshot_json(snapshot))
    else:
        console.print(snapshot_text(snapshot), markup=False, soft_wrap=True)


@app.command()
def hold(
    until: str = typer.Option(..., help="Hold until this URL answers, say vLLM's /health."),
    timeout: float = typer.Option(600.0, min=1.0, help="Give up after so many seconds."),
) -> None:
    """Keep still while a neighbour starts: nothing here loads, frees or grows.

    Start the neighbour once this says that it holds. Without a daemon there is nothing to
    hold, and it only waits: `speech memory hold --until URL && speech up`.
    """
    if not until.startswith(("http://", "https://")):
        raise ConfigError(f"{until!r} is no URL; give one such as http://127.0.0.1:8000/health.")
    asyncio.run(_hold(until, time.monotonic() + timeout))
    notes.print(f"{until} answers")


async def _snapshot() -> Snapshot:
    async with ledger_of(Settings()) as ledger:
        return await ledger.snapshot()


async def _hold(url: str, deadline: float) -> None:
    settings = Settings()
    if read_record(settings) is None and not is_starting(settings):
        notes.print("no daemon runs here: nothing to hold. Waiting for the neighbour ...")
        await _until(url, deadline)
        return
    while is_starting(settings) or not running_daemon(settings).ready:
        await _rest(deadline, "the daemon did not become ready")
    async with ledger_of(settings) as ledger:
        name = f"{url.partition('://')[2]} (process {os.getpid()})"
        try:
            while not await ledger.hold(name):
                await _rest(deadline, "replicas here still load, or do not answer")
            notes.print("holding: nothing here loads, frees or grows. Start the neighbour now.")
            renewing = asyncio.create_task(_renew(ledger, name))
            waiting = asyncio.create_task(_until(url, deadline))
            try:
                await asyncio.wait({renewing, waiting}, return_when=asyncio.FIRST_COMPLETED)
                (renewing if renewing.done() else waiting).result()
            finally:
                renewing.cancel()
                waiting.cancel()
        finally:
            with suppress(DaemonUnavailable):
                await ledger.unhold(name)


async def _renew(ledger: LedgerClient, name: str) -> None:
    """Say each second that we still hold; a ledger may be away while it is restarted."""
    answered = time.monotonic()
    while True:
        try:
            await ledger.hold(name)
            answered = time.monotonic()
        except DaemonUnavailable:
            if time.monotonic() - answered > _AWAY_S:
                raise
        await asyncio.sleep(_EVERY_S)


async def _until(url: str, deadline: float) -> None:
    """Return once the URL answers."""
    while not await asyncio.to_thread(_answers, url):
        await _rest(deadline, f"{url} did not answer")


async def _rest(deadline: float, complaint: str) -> None:
    if time.monotonic() > deadline:
        raise SpeechError(f"Time is over: {complaint}.")
    await asyncio.sleep(_EVERY_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as response:
            return bool(200 <= response.status < 300)
    except (OSError, ValueError, http.client.HTTPException):
        return False
