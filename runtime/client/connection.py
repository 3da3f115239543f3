"""Reaching the daemon from a driver, and saying within seconds why it cannot be reached."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
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
    from ray.serve.handle import DeploymentHandle

    from runtime.client.calls import DeploymentCalls

_LEAVING_S = 5.0
_GRACE_S = 5.0

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


class Attachment:
    """This process as a driver of a cluster.

    Attributes:
        alive: False once the daemon that the cluster lives and dies with has ended. Stays
            True where that is not known: a cluster that was joined, or on other hosts.
    """

    def __init__(self, *, ours: bool) -> None:
        """``ours`` if ``attach`` connected it, and not a replica or a driver of another's."""
        self.alive = True
        self._ours = ours
        self._clients = 0
        self._end: asyncio.TimerHandle | None = None
        self._daemon: int | None = None  # file descriptor of its process
        self._left: asyncio.Task[None] | None = None
        self._handles: list[DeploymentHandle] = []

    def joined(self) -> Attachment:
        """One client more; each has to ``detach``."""
        self._clients += 1
        return self

    def handle(self, deployment: str, application: str) -> DeploymentHandle:
        """A handle that is given up when the cluster is left."""
        from ray import serve

        handle = serve.get_deployment_handle(deployment, application)
        self._handles.append(handle)
        return handle

    def watch(self, daemon: int) -> None:
        """Notice the end of a process of this host, without asking again and again."""
        try:
            self._daemon = os.pidfd_open(daemon)
        except OSError:
            return  # a system without, or it has ended: calls will tell
        asyncio.get_running_loop().add_reader(self._daemon, self._ended)

    def _ended(self) -> None:
        self.alive = False
        self._unwatch()
        replicas.none_serves()
        # Ray ends a driver whose cluster has been gone for a minute. Leave before that, and
        # after calls under way have found out.
        self._end = asyncio.get_running_loop().call_later(_GRACE_S, self._begin_to_leave)

    def _unwatch(self) -> None:
        if self._daemon is not None:
            asyncio.get_running_loop().remove_reader(self._daemon)
            os.close(self._daemon)
            self._daemon = None

    async def detach(self) -> None:
        """One client less; the last leaves the cluster, if ``attach`` joined it."""
        self._clients -= 1
        if self._clients == 0:
            await self.leave()

    async def leave(self) -> None:
        """Leave the cluster, if ``attach`` joined it.

        Ray takes half a minute to leave one that is gone; it goes on doing so by itself.
        """
        if not self._ours:
            return
        self._unwatch()
        if self._end is not None:
            self._end.cancel()
        await asyncio.wait({self._begin_to_leave()}, timeout=_LEAVING_S)

    @property
    def ended(self) -> bool:
        """Whether nothing can be called here any more."""
        return self._left is not None or not self.alive

    def _begin_to_leave(self) -> asyncio.Task[None]:
        if self._left is None:
            self._left = asyncio.create_task(self._leave_cluster())
        return self._left

    async def _leave_cluster(self) -> None:
        global _attachment
        replicas.forget_all()
        try:
            await give_up(self._handles)
            await _in_daemon_thread(_leave)
        finally:
            if _attachment is self:
                _attachment = None


_attachment: Attachment | None = None
_attaching = asyncio.Lock()


async def attach(settings: Settings, address: str | None) -> Attachment:
    """Make this process a driver of the daemon's cluster, unless it is in it already.

    Raises:
        DaemonUnavailable: Not within ``settings.connect_timeout_s``; the message has the mend.
    """
    async with _attaching:
        return await _attach(settings, address)


async def _attach(settings: Settings, address: str | None) -> Attachment:
    global _attachment
    if _attachment is not None and _attachment.ended:
        await _attachment.leave()
        if _attachment is not None:
            raise DaemonUnavailable(
                "This process is still leaving the cluster of a daemon that has ended, which takes "
                "Ray half a minute. Connect again later."
            )
    if is_attached():
        # Inside a replica or a driver that has connected: what matters is that handles
        # here talk the way the daemon's do.
        adopt_environment(
            {key: value for key, value in SHARED_ENVIRONMENT.items() if "SERVE" in key}
        )
        return (_attachment or Attachment(ours=False)).joined()
    deadline = time.monotonic() + settings.connect_timeout_s
    daemon = None
    if address is None:
        record = running_daemon(settings)
        check_versions(record)
        _check_ready(record)
        address, environment = record.address, record.environment
        daemon = record.pid if record.owns_cluster else None
    else:
        environment = joined_cluster_environment()
    adopt_environment(environment)
    if address != "auto":
        await _check_listening(address, deadline)
    joining = _in_daemon_thread(_init_ray, address, is_loopback(environment))
    await asyncio.wait({joining}, timeout=max(0.0, deadline - time.monotonic()))
    if not joining.done():
        joining.add_done_callback(_leave_if_joined)  # too late: nobody would watch the daemon
        raise DaemonUnavailable(
            f"The cluster at {address} did not accept this process within "
            f"{settings.connect_timeout_s:g} s. Is there a raylet of that cluster on this host, "
            "and is the token the daemon's? See `speech doctor`."
        )
    joining.result()
    _attachment = Attachment(ours=True)
    if daemon is not None:
        _attachment.watch(daemon)
    return _attachment.joined()


def _leave_if_joined(joining: asyncio.Future[None]) -> None:
    if not joining.cancelled() and joining.exception() is None:
        _in_daemon_thread(_leave)


def _in_daemon_thread(work: Callable[..., None], *args: Any) -> asyncio.Future[None]:
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

    threading.Thread(target=run, name="speech-connection", daemon=True).start()
    return done


async def give_up(handles: Iterable[DeploymentHandle]) -> None:
    """End all that Serve does for these handles, and for others on the running loop.

    A router goes on asking the controller for changes when it is shut down. What comes, or is
    asked, once Ray has been left ends the process.
    """
    for handle in handles:
        with contextlib.suppress(Exception):
            _ask_no_more(handle)
        with contextlib.suppress(Exception):
            await handle.shutdown_async()
    await asyncio.sleep(0)  # what has come already, while Ray is still there


def _ask_no_more(handle: DeploymentHandle) -> None:
    from ray.serve._private.router import SharedRouterLongPollClient

    if handle._router is None:
        return  # it was never called
    router = handle._router._asyncio_router
    router.long_poll_client.stop()
    shared = SharedRouterLongPollClient.get_or_create(router._controller_handle, router._event_loop)
    shared.long_poll_client.stop()


def _leave() -> None:
    import ray
    from ray.serve._private.router import SharedRouterLongPollClient
    from ray.serve.context import _set_global_client

    ray.shutdown()
    _set_global_client(None)  # Serve would ask the controller of the cluster that we left
    SharedRouterLongPollClient.get_or_create.cache_clear()  # one that asks no more


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


async def deployments(application: str, attachment: Attachment) -> dict[str, DeploymentCalls]:
    """Calls to the deployments of a speech application, by name.

    Args:
        application: Its name.
        attachment: This process in the cluster.

    Raises:
        DaemonUnavailable: The cluster runs no speech application.
    """
    # Imports of a second, and a bot's loop may have calls on it already.
    serve, calls = await asyncio.to_thread(_import_serve)
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
    return {
        name: calls.DeploymentCalls(attachment.handle(name, application), attachment)
        for name in names
    }


def _import_serve() -> tuple[ModuleType, ModuleType]:
    from ray import serve

    from runtime.client import calls

    return serve, calls
