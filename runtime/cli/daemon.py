"""``speech up``, ``down`` and ``status``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from runtime.cli.head import Progress, running, wait_for_signal
from runtime.cli.health import check_health, reporting
from runtime.cli.output import console, notes, print_json, working
from runtime.config import config_label, find_config, read_config, speech_applications
from runtime.daemon import DaemonRecord, is_alive, read_record, running_daemon, sole_daemon
from runtime.errors import DaemonUnavailable, SpeechError
from runtime.memory.ledger import Snapshot
from runtime.memory.process import ProcessMemory, process_tree
from runtime.replica import EngineInfo, ReplicaInfo
from runtime.settings import Settings

_GIB = 1 << 30


def up(
    config: str = typer.Argument(
        "embedded", help="A Serve configuration file, or a shipped one's name."
    ),
    detach: bool = typer.Option(False, "--detach", help="Return once the daemon is ready."),
    address: str | None = typer.Option(
        None, help="Deploy into this Ray cluster (host:port or auto) instead of starting one."
    ),
    port: int | None = typer.Option(
        None, help="Port of the cluster's head on 127.0.0.1; by default a free one."
    ),
    first_words: Path | None = typer.Option(
        None, help="Once ready, speak a sentence into this WAV file and recognise it."
    ),
    once: bool = typer.Option(False, "--once", help="Stop once ready (and the first words said)."),
) -> None:
    """Start the daemon, in the foreground unless told to detach."""
    path = find_config(config)
    document = read_config(path)
    settings = Settings() if port is None else Settings(port=port)
    if detach:
        _up_detached(path, settings, address)
        return

    def report(progress: Progress) -> None:
        notes.print(f"[green]ready[/]  {progress.what}  [dim]{progress.seconds:.1f} s[/]")

    def warn(shortage: str) -> None:
        notes.print(f"[yellow]memory[/]  {escape(shortage)}", soft_wrap=True)

    label = config_label(path)
    notes.print(f"speech-runtime: starting {label} ({_engines(document, path)})")
    with ExitStack() as daemon:
        with working("starting ..."):
            daemon.enter_context(
                running(
                    document,
                    label,
                    settings,
                    address=address,
                    on_progress=report,
                    on_shortage=warn,
                )
            )
        daemon.enter_context(reporting(settings))
        if first_words is not None:
            from runtime.cli.first_words import exchange

            exchange(first_words)
        if once:
            return
        notes.print(
            'Running; Ctrl-C stops. In another terminal: [bold]speech say "Hello." -o hello.wav[/]'
        )
        wait_for_signal()
        notes.print("stopping ...")
    notes.print("stopped")


def _engines(document: dict[str, Any], path: Path) -> str:
    engines: list[str] = []
    for args in speech_applications(document, str(path)).values():
        engines += [args.tts.engine] if args.tts else []
        engines += [e.engine for e in (args.asr.live, args.asr.file) if e] if args.asr else []
    return ", ".join(engines)


def _up_detached(path: Path, settings: Settings, address: str | None) -> None:
    with sole_daemon(settings):
        pass  # raises before the log of one that runs is overwritten
    log_path = settings.state_dir / "daemon.log"
    command = [sys.executable, "-m", "runtime.cli.main", "up", str(path.absolute())]
    command += ["--port", str(settings.port)] if settings.port else []
    command += ["--address", address] if address else []
    started = time.monotonic()
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"SPEECH_STATE_DIR": str(settings.state_dir.absolute())},
        )
    with working("starting the daemon ..."):
        while (
            (record := read_record(settings)) is None
            or record.pid != process.pid
            or not record.ready
        ):
            if process.poll() is not None:
                _print_failure(log_path)
                raise typer.Exit(process.returncode)
            time.sleep(0.05)
    notes.print(
        f"[green]ready[/]  {record.config} at {record.address}, process {record.pid}, "
        f"{time.monotonic() - started:.1f} s. Stop it with [bold]speech down[/]."
    )


def _print_failure(log_path: Path) -> None:
    lines = log_path.read_text(errors="replace").splitlines()
    notes.print("\n".join(lines[-20:]), markup=False, soft_wrap=True)
    notes.print(f"[dim]log: {log_path}[/]")


def down() -> None:
    """Stop the daemon: requests that are running may end, new ones are refused."""
    settings = Settings()
    record = running_daemon(settings)
    os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + settings.stop_timeout_s
    with working("stopping the daemon ..."):
        while is_alive(record.pid):
            if time.monotonic() > deadline:
                os.kill(record.pid, signal.SIGKILL)  # its children end with it
                raise SpeechError(
                    f"The daemon (process {record.pid}) did not stop in time and was killed."
                )
            time.sleep(0.05)
    notes.print("stopped")


def status(
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    health: bool = typer.Option(
        False, "--health", help="Only whether all deployments serve: exit code 0, or 4 and why not."
    ),
) -> None:
    """Show the daemon, its deployments and what its processes hold of memory."""
    import asyncio

    if health:
        check_health(Settings())
        if as_json:
            print_json({"healthy": True})
        return
    record = running_daemon(Settings())
    processes = sorted(process_tree(record.pid), key=lambda p: -(p.resident_bytes or 0))
    deployments: list[dict[str, Any]] = []
    if record.ready:
        with working("asking the daemon ...", quiet=as_json):
            deployments = asyncio.run(_deployments())
    if as_json:
        print_json(_as_json(record, deployments, processes))
    else:
        _print_status(record, deployments, processes)


async def _deployments() -> list[dict[str, Any]]:
    from runtime.client import SpeechClient

    client = await SpeechClient.connect()
    from ray import serve

    from runtime.client.ledger import LedgerClient
    from runtime.config import APPLICATION

    try:
        application = serve.status().applications[APPLICATION]
        try:
            snapshot = await LedgerClient().snapshot()
        except DaemonUnavailable as error:
            snapshot, broken = None, [str(error)]
        rows = []
        for name, deployment in sorted(application.deployments.items()):
            row: dict[str, Any] = {
                "name": name,
                "status": str(deployment.status.value),
                "replicas": {str(k): v for k, v in deployment.replica_states.items()},
                "message": deployment.message,
                "engines": [],
            }
            starting = row["replicas"].get("STARTING", 0)
            row["memory"] = broken if snapshot is None else _shortage(name, starting, snapshot)
            if "RUNNING" in row["replicas"]:
                row["engines"] = _engines_of(await client.replicas(name))
            rows.append(row)
        return rows
    except DaemonUnavailable as error:
        raise DaemonUnavailable(f"The deployments do not answer: {error}") from error
    finally:
        await client.aclose()


def _shortage(deployment: str, starting: int, snapshot: Snapshot) -> list[str]:
    """Why replicas of a deployment wait, if it is for memory."""
    reasons = [w.refusal.message for w in snapshot.waiting if w.deployment == deployment]
    claims = {lease.device: lease for lease in snapshot.leases if lease.deployment == deployment}
    for state in snapshot.devices:
        leased = sum(lease.bytes for lease in snapshot.leases if lease.device == state.device)
        free = state.budget - leased
        lease = claims.get(state.device)
        # Ray starts no process for what has no room, so nobody is there to ask for a lease.
        if starting > len(reasons) and lease is not None and lease.claim.total > free:
            reasons.append(
                f"{starting} replica{'s' * (starting != 1)} of {deployment} without room: each "
                f"claims {lease.claim.total / _GIB:.2f} GiB of {state.device[1]} memory, and "
                f"{max(free, 0) / _GIB:.2f} of its budget of {state.budget / _GIB:.2f} are free. "
                "See `speech memory show`."
            )
    return reasons


def _engines_of(replicas: Sequence[ReplicaInfo]) -> list[dict[str, Any]]:
    """The engines of a deployment, with the slots of all its replicas together."""
    by_role: dict[str, list[EngineInfo]] = {}
    for replica in replicas:
        for engine in replica.engines:
            by_role.setdefault(engine.role, []).append(engine)
    return [
        {
            "role": role,
            "name": engines[0].name,
            "load_s": round(max(engine.load.seconds for engine in engines), 2),
            "active": sum(engine.active for engine in engines),
            "waiting": sum(engine.waiting for engine in engines),
            "slots": sum(engine.capabilities.slots for engine in engines),
        }
        for role, engines in by_role.items()
    ]


def metrics_url(record: DaemonRecord) -> str | None:
    """Where Prometheus finds the metrics of this host's node; None where Ray has not said."""
    for port_file in Path(record.log).parent.glob("metrics_export_port_*"):
        with suppress(OSError):
            host = record.address.rpartition(":")[0]
            return f"http://{host}:{port_file.read_text().strip()}/metrics"
    return None


def _as_json(
    record: DaemonRecord, deployments: list[dict[str, Any]], processes: list[ProcessMemory]
) -> dict[str, Any]:
    return {
        "ready": record.ready,
        "ready_s": record.ready_s,
        "pid": record.pid,
        "address": record.address,
        "config": record.config,
        "uptime_s": round(time.time() - record.started_at, 1),
        "python": record.python,
        "ray": record.ray,
        "log": record.log,
        "metrics": metrics_url(record),
        "deployments": deployments,
        "processes": [
            {"pid": p.pid, "name": p.name, "resident_gib": _gib(p.resident_bytes)}
            for p in processes
        ],
        "resident_gib": _gib(_total(processes)),
    }


def _print_status(
    record: DaemonRecord, deployments: list[dict[str, Any]], processes: list[ProcessMemory]
) -> None:
    state = "[green]ready[/]" if record.ready else "[yellow]starting[/]"
    uptime = timedelta(seconds=round(time.time() - record.started_at))
    console.print(
        f"{state}  {record.config} at {record.address}, process {record.pid}, up {uptime}, "
        f"{_gib(_total(processes)):.2f} GiB",
        soft_wrap=True,
    )
    where = f"logs: {record.log}"
    if url := metrics_url(record):
        where += f"; metrics: {url}"
    console.print(f"[dim]{where}[/]", soft_wrap=True)
    if deployments:
        table = Table("deployment", "status", "replicas", "engine", "role", "in use", box=None)
        for row in deployments:
            replicas = ", ".join(f"{n} {s.lower()}" for s, n in row["replicas"].items())
            for engine in row["engines"] or [{}]:
                used = f"{engine['active']} of {engine['slots']}" if engine else ""
                if engine.get("waiting"):
                    used += f", {engine['waiting']} waiting"
                table.add_row(
                    row["name"],
                    row["status"].lower(),
                    replicas,
                    engine.get("name", ""),
                    engine.get("role", ""),
                    used,
                )
        console.print(table)
        for row in deployments:
            for reason in row["memory"]:
                console.print(f"[yellow]memory[/]  {escape(reason)}", soft_wrap=True)
            if row["message"]:
                console.print(f"{row['name']}: {row['message']}", markup=False)
    table = Table("process", "pid", "GiB", box=None)
    for process in processes:
        known = process.resident_bytes is not None
        table.add_row(
            process.name,
            str(process.pid),
            f"{_gib(process.resident_bytes):.2f}" if known else "unknown",
        )
    console.print(table)


def _total(processes: list[ProcessMemory]) -> int:
    return sum(process.resident_bytes or 0 for process in processes)


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / _GIB, 3)
