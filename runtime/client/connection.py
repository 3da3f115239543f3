"""Reaching the daemon from a driver, and saying within seconds why it cannot be reached."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime.client import replicas
from runtime.config import ASR_DEPLOYMENT, TTS_DEPLOYMENT
from runtime.daemon import (
    SHARED_ENVIRONMENT,
    DaemonRecord,
    adopt_environment,
    check_versions,
    is_loopback,
    joined_cluster_environment,
    running_daemon,
)
from runtime.errors import DaemonUnavailable, SpeechError
from runtime.settings import Settings

if TYPE_CHECKING:
    from runtime.client.calls import DeploymentCalls

_loop: weakref.ref[asyncio.AbstractEventLoop] | None = None


def claim_event_loop() -> None:
    """Tie this process's handles to the running event loop.

    Raises:
        SpeechError: Another loop of this process used handles before.
    """
    global _loop
    running = asyncio.get_running_loop()
    if _loop is not None and _loop() is not running:
        raise SpeechError(
            "Handles are tied to the first event loop that used them in this process. Use one "
            "loop for all SpeechClients, or BlockingSpeechClient, which keeps one of its own."
        )
    _loop = weakref.ref(running)


async def attach(settings: Settings, address: str | None) -> bool:
    """Make this process a driver of the daemon's cluster, unless it is in it already.

    Returns:
        True if this call connected the process.

    Raises:
        DaemonUnavailable: Not within ``settings.connect_timeout_s``; the message has the mend.
    """
    if is_attached():
        # Inside a replica or a driver that has connected: what matters is that handles
        # here talk the way the daemon's do.
        adopt_environment(
            {key: value for key, value in SHARED_ENVIRONMENT.items() if "SERVE" in key}
        )
        return False
    deadline = time.monotonic() + settings.connect_timeout_s
    if address is None:
        record = running_daemon(settings)
        check_versions(record)
        _check_ready(record)
        address, environment = record.address, record.environment
    else:
        environment = joined_cluster_environment()
    adopt_environment(environment)
    if address != "auto":
        await _check_listening(address, deadline)
    try:
        async with asyncio.timeout_at(
            asyncio.get_running_loop().time() + deadline - time.monotonic()
        ):
            await _in_daemon_thread(_init_ray, address, is_loopback(environment))
    except TimeoutError:
        raise DaemonUnavailable(
            f"The cluster at {address} did not accept this process within "
            f"{settings.connect_timeout_s:g} s. Is there a raylet of that cluster on this host, "
            "and is the token the daemon's? See `speech doctor`."
        ) from None
    return True


async def detach() -> None:
    """Leave the cluster."""
    import ray

    await asyncio.to_thread(ray.shutdown)
    replicas.forget_all()


async def _in_daemon_thread(work: Callable[..., None], *args: Any) -> None:
    """Like ``asyncio.to_thread``, but a thread that hangs does not keep the program from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        failure: Exception | None = None
        try:
            work(*args)
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, failure)

    threading.Thread(target=run, name="speech-connect", daemon=True).start()
    await done


def is_attached() -> bool:
    """Whether this process belongs to a Ray cluster already."""
    if "ray" not in sys.modules:
        return False
    import ray

    return bool(ray.is_initialized())


def _init_ray(address: str, loopback: bool) -> None:
    import ray

    options: Mapping[str, str] = {"_node_ip_address": "127.0.0.1"} if loopback else {}
    # Ray remarks that off the main thread it leaves the caller's SIGTERM handler alone: good.
    remarks = logging.getLogger("ray._private.worker")
    remarks.addFilter(_is_no_sigterm_remark)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="speech-client",
            configure_logging=False,
            **options,
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DaemonUnavailable(
            f"The cluster at {address} refused this process: {reason}. Is there a raylet of that "
            "cluster on this host? See `speech doctor`."
        ) from error
    finally:
        remarks.removeFilter(_is_no_sigterm_remark)


def _is_no_sigterm_remark(record: logging.LogRecord) -> bool:
    return "SIGTERM handler" not in record.getMessage()


async def _check_listening(address: str, deadline: float) -> None:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, ValueError, TimeoutError, socket.gaierror) as error:
        raise DaemonUnavailable(
            f"Nothing answers at {address} ({error or 'timed out'}). Start the daemon with "
            "`speech up`."
        ) from error
    writer.close()


def _check_ready(record: DaemonRecord) -> None:
    if not record.ready:
        raise DaemonUnavailable(
            f"The daemon (process {record.pid}) is still starting; `speech status` shows how far "
            "it is."
        )


async def deployments(application: str) -> dict[str, DeploymentCalls]:
    """Calls to the deployments of a speech application, by name.

    Raises:
        DaemonUnavailable: The cluster runs no speech application.
    """
    from ray import serve

    from runtime.client.calls import DeploymentCalls

    # Serve logs its own progress into the caller's terminal. Set the level again after
    # connecting to hear it.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)

    try:
        status = await asyncio.to_thread(serve.status)
    except Exception as error:
        raise DaemonUnavailable(f"The cluster runs no Serve: {error}") from error
    running = status.applications.get(application)
    if running is None:
        raise DaemonUnavailable(
            f"The cluster runs no application {application!r}; deploy it: `speech up --address`."
        )
    names = [name for name in (ASR_DEPLOYMENT, TTS_DEPLOYMENT) if name in running.deployments]
    return {name: DeploymentCalls(serve.get_deployment_handle(name, application)) for name in names}
