"""The daemon's own process: starts the cluster, deploys the configuration, waits, drains.

The cluster's processes are children of this one and end with it, even if it is
killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cli.room import all_that_fit, dissolve_ledger, planned, waiting_replicas
from runtime.client.connection import give_up
from runtime.config import (
    APPLICATION,
    ASR_DEPLOYMENT,
    TTS_DEPLOYMENT,
    SpeechAppArgs,
    check_keys,
    speech_applications,
    validate,
)
from runtime.daemon import (
    DaemonRecord,
    adopt_environment,
    is_alive,
    is_loopback,
    joined_cluster_environment,
    make_token,
    memory_environment,
    own_cluster_environment,
    python_version,
    ray_version,
    remove_record,
    sole_daemon,
    write_record,
)
from runtime.engines import make_recognizer, make_synthesizer
from runtime.errors import ConfigError, DaemonUnavailable, DoesNotFit, SpeechError
from runtime.memory.device import devices, read
from runtime.memory.plan import Plan, Pool, pools_of
from runtime.settings import Settings
from runtime.speech import PROTOCOL_VERSION

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

# Handles carry audio by value; the object store stays empty, and on unified memory it would be
# out of the same pool. Ray's own choice is 30 % of the machine.
_OBJECT_STORE_BYTES = 128 << 20
_MAX_RAY_DIR = 40  # Ray's socket names add up to 66 characters, and 107 is Linux's limit
_POLL_S = 0.1
_DRAIN_CALL_S = 5.0  # a replica that does not answer is not waited for
_OURS = re.compile(r"^runtime\.errors\.\w+: (.+)$", re.MULTILINE)
_COLOURS = re.compile("\x1b\\[[0-9;]*m")  # Ray colours its tracebacks
_KEPT_SESSIONS = 2  # logs of earlier runs that are not deleted


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the start is: what has just become ready, and after how many seconds."""

    what: str
    seconds: float


@contextmanager
def running(
    document: dict[str, Any],
    config_name: str,
    settings: Settings,
    *,
    address: str | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_shortage: Callable[[str], None] = lambda _: None,
) -> Iterator[DaemonRecord]:
    """Run a daemon while the context lasts.

    Args:
        document: A Serve configuration, read by ``runtime.config.read_config``.
        config_name: What to call it in the record.
        settings: Where its files are.
        address: A Ray cluster to deploy into instead of starting one.
        on_progress: Told of each step.
        on_shortage: Told the plan, as a table, if not all replicas have room, and why one waits.

    Raises:
        ConfigError: Serve does not take the configuration.
        DoesNotFit: Not even one replica of each deployment has room in memory.
        MemoryUnknown: How much memory there is cannot be known.
        DaemonRunning: A daemon runs in the state folder already.
        SpeechError: The cluster or a deployment did not start.
    """
    started = time.monotonic()
    own = address is None
    pools = pools_of(devices(read()))
    unified = any(pool.kind == "unified" for pool in pools)
    environment = own_cluster_environment(settings) if own else joined_cluster_environment()
    adopt_environment(environment | (memory_environment(unified=unified) if own else {}))
    schema = _schema(document, config_name)
    sharing = planned(document, config_name, pools, settings, on_shortage)
    ours: list[str] = []  # applications that are here because of us
    ready = False
    with sole_daemon(settings):
        make_token(settings)
        try:
            head = _start_head(settings, pools) if address is None else _join(address, schema)
            on_progress(Progress(f"cluster at {head}", time.monotonic() - started))
            record = DaemonRecord(
                pid=os.getpid(),
                address=head,
                ready_s=None,
                started_at=time.time(),
                config=config_name,
                python=python_version(),
                ray=ray_version(),
                environment=environment,
                log=str(settings.ray_dir / "session_latest" / "logs"),
                owns_cluster=own,
                protocol=PROTOCOL_VERSION,
            )
            write_record(settings, record)
            ours = [application.name for application in schema.applications]
            _deploy(schema, sharing, settings, started, on_progress, on_shortage)
            record = replace(record, ready_s=round(time.monotonic() - started, 2))
            write_record(settings, record)
            ready = True
            yield record
        finally:
            _stop(ours, settings, cluster=own, drain=ready)
            remove_record(settings)


def wait_for_signal() -> None:
    """Return when the process is asked to stop, by Ctrl-C or SIGTERM."""
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    asked.wait()


def _schema(document: dict[str, Any], origin: str) -> Any:
    """The configuration as Serve understands it; raises a ConfigError for what it does not."""
    from ray.serve.schema import DeploymentSchema, ServeDeploySchema

    check_keys(ServeDeploySchema, document, origin)
    for name, args in speech_applications(document, origin).items():
        _check_engines(args)
        for deployment in ("asr", "tts"):
            passed_on = getattr(getattr(args, deployment), "deployment_config", {})
            check_keys(DeploymentSchema, passed_on, origin, (name, deployment, "deployment_config"))
    return validate(ServeDeploySchema, document, origin)


def _check_engines(args: SpeechAppArgs) -> None:
    """Make each engine, which loads nothing, to see that it exists and takes its options."""
    if args.tts is not None:
        make_synthesizer(args.tts.engine, args.tts.options)
    for engine in (args.asr.live, args.asr.file) if args.asr is not None else ():
        if engine is not None:
            make_recognizer(engine.engine, engine.options)


def _start_head(settings: Settings, pools: Sequence[Pool]) -> str:
    import ray

    _check_port(settings)
    if len(str(settings.ray_dir)) > _MAX_RAY_DIR:
        raise ConfigError(
            f"{settings.ray_dir} is longer than {_MAX_RAY_DIR} characters, and the names of Ray's "
            "sockets in it would be too long; set SPEECH_TEMP_DIR to a shorter folder."
        )
    _forget_old_sessions(settings.ray_dir)
    if settings.port:
        os.environ["RAY_GCS_SERVER_PORT"] = str(settings.port)
    context = ray.init(
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        # What is not ours of it is taken out of this count by a placeholder.
        _memory=next((pool.total for pool in pools if pool.kind == "host"), None),
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="speech",
        _node_ip_address="127.0.0.1",
        _temp_dir=str(settings.ray_dir),
    )
    return str(context.address_info["gcs_address"])


def _join(address: str, schema: Any) -> str:
    import ray
    from ray import serve

    options = {"_node_ip_address": "127.0.0.1"} if is_loopback(os.environ) else {}
    try:
        context = ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="speech",
            **options,
        )
    except Exception as error:
        raise DaemonUnavailable(f"The cluster at {address} cannot be joined: {error}") from error
    # Serve takes a configuration as the whole truth: it would delete what is not in it.
    ours = {application.name for application in schema.applications}
    if others := serve.status().applications.keys() - ours:
        raise ConfigError(
            f"The cluster at {address} runs other applications: {', '.join(sorted(others))}. "
            "Deploying this configuration would delete them. Put all applications into one file "
            "and use `serve deploy`."
        )
    return str(context.address_info["gcs_address"])


def _check_port(settings: Settings) -> None:
    """Ray would wait for minutes for a port that is taken."""
    if settings.port:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", settings.port))
            except OSError as error:
                raise ConfigError(
                    f"Port {settings.port} cannot be used ({error.strerror}); choose another with "
                    "--port, or 0 for a free one."
                ) from error


def _deploy(
    schema: Any,
    sharing: Plan,
    settings: Settings,
    started: float,
    on_progress: Callable[[Progress], None],
    on_shortage: Callable[[str], None],
) -> None:
    from ray import serve
    from ray.serve._private.api import serve_start  # the recipe of Ray's own `serve run`

    client = serve_start(
        http_options=schema.http_options.model_dump(), proxy_location=schema.proxy_location
    )
    client.deploy_apps(schema, _blocking=False)
    deadline = time.monotonic() + settings.start_timeout_s
    seen: set[str] = set()
    told: set[str] = set()
    waiting = {application.name for application in schema.applications}
    while waiting:
        applications = serve.status().applications
        for name in sorted(waiting & applications.keys()):
            application = applications[name]
            _report_healthy(name, application, seen, started, on_progress)
            if application.status == "RUNNING" or all_that_fit(name, application, sharing):
                waiting.discard(name)
            if application.status == "DEPLOY_FAILED":
                raise SpeechError(f"The deployment failed.\n{_why(application)}")
        short = waiting_replicas()
        if lasting := [one.refusal.message for one in short if one.refusal.lasting]:
            raise DoesNotFit("\n".join(lasting))
        for message in dict.fromkeys(one.refusal.message for one in short):
            if message not in told:
                told.add(message)
                on_shortage(f"waiting for memory: {message}")
        if time.monotonic() > deadline:
            reasons = [one.refusal.message for one in short]
            reasons += [_why(applications[name]) for name in waiting & applications.keys()]
            raise SpeechError(
                f"{', '.join(sorted(waiting))}: not ready within {settings.start_timeout_s:g} s.\n"
                + "\n".join(reasons)
            )
        time.sleep(_POLL_S)


def _report_healthy(
    name: str,
    application: Any,
    seen: set[str],
    started: float,
    on_progress: Callable[[Progress], None],
) -> None:
    for deployment, status in application.deployments.items():
        label = deployment if name == APPLICATION else f"{name}: {deployment}"
        if status.status == "HEALTHY" and label not in seen:
            seen.add(label)
            on_progress(Progress(label, time.monotonic() - started))


def _why(application: Any) -> str:
    """All that Serve tells, and last the errors of this project that its tracebacks are about."""
    parts = {name: _COLOURS.sub("", d.message) for name, d in application.deployments.items()}
    parts = {name: message for name, message in parts.items() if message}
    reasons = [f"{name}: {m[-1]}" for name, part in parts.items() if (m := _OURS.findall(part))]
    told = [_COLOURS.sub("", application.message)]
    told += [f"{name}: {message}" for name, message in parts.items()]
    return "\n".join([*filter(None, told), *reasons])


def _stop(applications: list[str], settings: Settings, *, cluster: bool, drain: bool) -> None:
    """Delete these applications, or stop Serve and the cluster; ``drain`` lets utterances end."""
    import ray

    if not ray.is_initialized():
        return
    from ray import serve

    # A second Ctrl-C must not leave half a cluster behind.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    # Ray reports on standard output that the controller, which was asked to end, has ended.
    with _running_loop() as loop, contextlib.redirect_stdout(io.StringIO()):
        if drain:
            draining = _drain(applications, settings.drain_timeout_s)
            with contextlib.suppress(Exception):  # what is broken has to end all the same
                asyncio.run_coroutine_threadsafe(draining, loop).result()
        if cluster:
            serve.shutdown()
        else:
            for name in applications:
                serve.delete(name)
            dissolve_ledger()
        ray.shutdown()


@contextmanager
def _running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs until Ray is left: what handles hear of meanwhile goes there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="speech-drain", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result(_DRAIN_CALL_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_DRAIN_CALL_S)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _drain(applications: list[str], timeout_s: float) -> None:
    """Begin nothing new, and return once all is said or ``timeout_s`` is over."""
    from ray import serve
    from ray.serve.handle import DeploymentHandle

    running = serve.status().applications
    # Made here and not by Serve, which would want to shut them down after their loop.
    handles = [
        DeploymentHandle(deployment, name)
        for name in applications
        if name in running
        for deployment in running[name].deployments
        if deployment in (ASR_DEPLOYMENT, TTS_DEPLOYMENT)
    ]
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            late = time.monotonic() >= deadline
            left = await asyncio.gather(*(_drain_replicas(handle, late) for handle in handles))
            if late or not sum(left):
                return
            await asyncio.sleep(_POLL_S)
    finally:
        await give_up(handles)


async def _drain_replicas(handle: DeploymentHandle, abort: bool) -> int:
    """How many streams are left on the replicas that answer; the others are not waited for."""
    answer = handle.broadcast("drain", abort)
    try:
        counts = await answer.results_async(timeout_s=_DRAIN_CALL_S, return_exceptions=True)
    except Exception:
        return 0
    return sum(count for count in counts if isinstance(count, int))


def _forget_old_sessions(ray_dir: Path) -> None:
    """Delete the logs of runs that ended, but for the latest few."""
    sessions = sorted(ray_dir.glob("session_2*"), key=lambda path: path.stat().st_mtime)
    for session in sessions[:-_KEPT_SESSIONS]:
        owner = session.name.rpartition("_")[2]
        if owner.isdigit() and not is_alive(int(owner)):
            shutil.rmtree(session, ignore_errors=True)
