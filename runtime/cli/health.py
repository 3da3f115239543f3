"""Whether the daemon serves: written down by the daemon, read without joining its cluster.

A container's health check and a supervisor ask every few seconds; a process that joined the
cluster for each question would cost seconds of processor time. So the daemon looks at Serve
itself and leaves what it saw, with the time, in its state folder.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.daemon import running_daemon
from runtime.errors import DaemonUnavailable
from runtime.settings import Settings

EVERY_S = 5.0
STALE_S = 30.0
"""A daemon that has not looked for so long hangs, or its cluster does not answer it."""


@dataclass(frozen=True, slots=True)
class Health:
    """What the daemon saw when it last looked.

    Attributes:
        at: Unix time in seconds.
        troubles: Deployments that nobody can call, each with the reason; none if all serve.
    """

    at: float
    troubles: tuple[str, ...]


def check_health(settings: Settings) -> None:
    """Return if the daemon runs and every deployment has a replica that serves.

    Raises:
        DaemonUnavailable: Otherwise; the message says what is wrong.
    """
    record = running_daemon(settings)
    if not record.ready:
        raise DaemonUnavailable(f"The daemon (process {record.pid}) is still starting.")
    try:
        fields = json.loads(_path(settings).read_text(encoding="utf-8"))
        health = Health(float(fields["at"]), tuple(fields["troubles"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DaemonUnavailable(f"The daemon has not written {_path(settings)}: {error}") from error
    age = time.time() - health.at
    if age > STALE_S:
        raise DaemonUnavailable(
            f"The daemon (process {record.pid}) has not looked at its deployments for {age:.0f} s: "
            "it hangs, or its cluster does not answer. Restart it; its logs are in " + record.log
        )
    if health.troubles:
        raise DaemonUnavailable("Not serving: " + "; ".join(health.troubles))


@contextmanager
def reporting(settings: Settings) -> Iterator[None]:
    """Look at the deployments every few seconds while the context lasts, and write down what is.

    The process has to be a driver of the cluster. A supervisor that gave ``NOTIFY_SOCKET``
    (systemd) is told that the daemon is ready, with each look that it is alive, and that it stops.
    """
    stop = threading.Event()
    _look(settings)
    notify("READY=1")
    thread = threading.Thread(target=_report, args=(settings, stop), name="speech-health")
    thread.daemon = True  # a cluster that does not answer must not keep the process
    thread.start()
    try:
        yield
    finally:
        stop.set()
        notify("STOPPING=1")
        _path(settings).unlink(missing_ok=True)


def notify(state: str) -> None:
    """Send a state to systemd, if it started this process and waits for it: see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract names begin with a zero
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.connect(address)
        supervisor.sendall(state.encode())


def _report(settings: Settings, stop: threading.Event) -> None:
    while not stop.wait(EVERY_S):
        with suppress(Exception):  # of a cluster that is gone: the file grows stale, and says so
            _look(settings)
            notify("WATCHDOG=1")


def _look(settings: Settings) -> None:
    from ray import serve

    health = Health(time.time(), tuple(troubles(serve.status().applications)))
    target = _path(settings)
    draft = target.with_suffix(".new")
    draft.write_text(json.dumps(asdict(health)), encoding="utf-8")
    draft.replace(target)


def troubles(applications: Mapping[str, Any]) -> Iterator[str]:
    """Deployments without a replica that runs; ``applications`` are of ``serve.status()``."""
    for name, application in applications.items():
        for deployment, status in application.deployments.items():
            states = {str(state): count for state, count in status.replica_states.items()}
            if states and not states.get("RUNNING"):  # none at all: scaled to nothing, on purpose
                reason = status.message or ", ".join(f"{n} {s.lower()}" for s, n in states.items())
                yield f"{name}: {deployment} has no replica that runs ({reason})"


def _path(settings: Settings) -> Path:
    return settings.state_dir / "health.json"
