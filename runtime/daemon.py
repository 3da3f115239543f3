"""How the processes of one daemon find and trust each other.

The daemon leaves a record in its state folder; drivers read it. Ray reads its
environment once, when it is imported, and every process of a cluster must have the
same: it is written down here and nowhere else. This module does not import Ray.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from runtime.errors import DaemonRunning, DaemonUnavailable
from runtime.memory.process import process_state
from runtime.replica import check_protocol
from runtime.settings import Settings
from runtime.speech import PROTOCOL_VERSION

SHARED_ENVIRONMENT: Mapping[str, str] = {
    # Handles and replicas on the caller's own event loop: a hop less each way. Model
    # work must then never block that loop, which is the rule here anyway.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A call that comes after the process has left its cluster must not start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # How long a handle waits to hear how busy a replica is; 0.1 s is short on a busy machine.
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1.0",
}
"""Ray's environment in every process that holds or serves handles."""

# Keeps a cluster on 127.0.0.1 instead of the first network card; one of several hosts
# cannot have it.
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_INHERITED = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", _LOOPBACK)


@dataclass(frozen=True, slots=True)
class DaemonRecord:
    """What a client must know of a running daemon.

    Attributes:
        pid: The daemon's process on this host.
        address: ``host:port`` of the cluster's head.
        ready_s: Seconds from its start until all deployments were running; None before.
        started_at: Unix time in seconds.
        config: The configuration it runs.
        python: Minor version, such as ``3.11``; clients must have the same.
        ray: Version of Ray; clients must have the same.
        environment: Ray's environment; clients must have the same.
        log: Where the daemon's and Ray's logs are.
        owns_cluster: Whether the cluster ends with the daemon's process.
        protocol: ``PROTOCOL_VERSION`` of the daemon; clients must have the same.
    """

    pid: int
    address: str
    ready_s: float | None
    started_at: float
    config: str
    python: str
    ray: str
    environment: dict[str, str]
    log: str
    owns_cluster: bool = True
    protocol: int = 1  # of daemons that did not record it

    @property
    def ready(self) -> bool:
        """Whether all deployments are running."""
        return self.ready_s is not None


def python_version() -> str:
    """This interpreter's minor version."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def ray_version() -> str:
    """The installed Ray, without importing it."""
    return version("ray")


def memory_environment(*, unified: bool) -> dict[str, str]:
    """Ray's own handling of memory, for the head alone: said outright, not left to its guesses.

    ``unified`` is whether the machine's GPU shares the host's memory.
    """
    return {
        # Ray counts a node's memory as a whole and kills workers above a threshold. On unified
        # memory that count has vLLM's weights and cache in it, and a Spark that is as full as
        # it was planned to be would lose its replicas: the floors of the memory policy act
        # there. Elsewhere it is the last resort before the kernel's.
        "RAY_memory_monitor_refresh_ms": "0" if unified else "250",
        "RAY_memory_usage_threshold": "0.95",
        # No worker waits idle for tasks that never come: 100 MiB each.
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_num_workers_soft_limit": "0",
        "RAY_idle_worker_killing_time_threshold_ms": "1000",
    }


def own_cluster_environment(settings: Settings) -> dict[str, str]:
    """Ray's environment for the cluster that a daemon starts: loopback, and a token."""
    return {
        **SHARED_ENVIRONMENT,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(settings)),
        _LOOPBACK: "0",
        # Ray runs its workers at niceness 15; speech that has to keep pace must not be the
        # first to wait when the machine is busy.
        "RAY_worker_niceness": "0",
        # Serve's controller looks at its few replicas 5 times a second instead of 10: it is
        # the largest part of what an idle daemon costs.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.2",
    }


def joined_cluster_environment() -> dict[str, str]:
    """Ray's environment for a cluster that others started: its token is theirs to set."""
    inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    return {**SHARED_ENVIRONMENT, **inherited}


def is_loopback(environment: Mapping[str, str]) -> bool:
    """Whether a cluster of this environment keeps to 127.0.0.1."""
    return environment.get(_LOOPBACK) == "0"


def token_path(settings: Settings) -> Path:
    """The file with the token that every caller must present."""
    return settings.state_dir.absolute() / "token"


_TOKEN_BYTES = 32


def make_token(settings: Settings) -> Path:
    """Write a token that only this user can read, unless there is one."""
    path = token_path(settings)
    if not path.exists() or path.stat().st_size != 2 * _TOKEN_BYTES:
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_TOKEN_BYTES))
        draft.replace(path)
    path.chmod(0o600)
    return path


@contextmanager
def sole_daemon(settings: Settings) -> Iterator[None]:
    """Hold the state folder for this process; the lock dies with it, however it dies.

    Raises:
        DaemonRunning: Another daemon holds it.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(settings.state_dir / "lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            record = None
            with suppress(DaemonUnavailable):  # unreadable, and no less running for that
                record = read_record(settings)
            who = f"(process {record.pid}, {record.config}) " if record else ""
            raise DaemonRunning(
                f"A daemon {who}already runs in {settings.state_dir}. Stop it with `speech down`, "
                "or set SPEECH_STATE_DIR to run another beside it."
            ) from None
        remove_record(settings)  # whoever wrote it is gone
        yield


def write_record(settings: Settings, record: DaemonRecord) -> None:
    """Write the record in one piece."""
    target = _record_path(settings)
    draft = target.with_suffix(".new")
    draft.write_text(json.dumps(asdict(record), indent=2), encoding="utf-8")
    draft.replace(target)


def remove_record(settings: Settings) -> None:
    """Forget the daemon."""
    with suppress(FileNotFoundError):
        _record_path(settings).unlink()


def read_record(settings: Settings) -> DaemonRecord | None:
    """The record of the daemon in the state folder, or None; it may be of a dead one."""
    try:
        fields: dict[str, Any] = json.loads(_record_path(settings).read_text(encoding="utf-8"))
        return DaemonRecord(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DaemonUnavailable(
            f"{_record_path(settings)} is not a daemon's record ({error}); was it written by "
            "another version? Stop that daemon and delete the file."
        ) from error


def running_daemon(settings: Settings) -> DaemonRecord:
    """The record of the daemon that runs now.

    Raises:
        DaemonUnavailable: None runs; the message says how to start one.
    """
    record = read_record(settings)
    held = _is_held(settings)
    if record is None and held:
        raise DaemonUnavailable(
            f"A daemon is starting in {settings.state_dir}; ask again in a few seconds."
        )
    if record is not None and held and not is_alive(record.pid):
        raise DaemonUnavailable(
            f"A daemon holds {settings.state_dir}, but its process {record.pid} cannot be seen "
            "from here: it has just ended (start another with `speech up`), or runs in a container "
            "whose processes this one does not share (see docs/deployment.md)."
        )
    if record is None or not held:
        raise DaemonUnavailable(
            f"No daemon is running (looked in {settings.state_dir}). Start one with `speech up` "
            "or `make run`."
        )
    return record


def is_starting(settings: Settings) -> bool:
    """Whether a daemon holds the state folder that has not left its record yet."""
    return read_record(settings) is None and _is_held(settings)


def _is_held(settings: Settings) -> bool:
    """Whether a daemon holds the state folder; unlike a process id, a lock is never reused."""
    try:
        with open(settings.state_dir / "lock", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def is_alive(pid: int) -> bool:
    """Whether a process of this id exists and is no zombie."""
    return process_state(pid) not in (None, "Z")


def check_versions(record: DaemonRecord) -> None:
    """Compare this process with the daemon.

    Raises:
        ProtocolMismatch: They are of releases that do not understand each other.
        DaemonUnavailable: Python or Ray differ, or the token cannot be read.
    """
    check_protocol(PROTOCOL_VERSION, record.protocol)
    for what, ours, theirs in (
        ("Python", python_version(), record.python),
        ("Ray", ray_version(), record.ray),
    ):
        if ours != theirs:
            raise DaemonUnavailable(
                f"The daemon runs {what} {theirs}, this process {ours} "
                f"({platform.python_implementation()} at {sys.executable}); they must be the same. "
                "Use the environment that the daemon was started from."
            )
    token = record.environment.get("RAY_AUTH_TOKEN_PATH")
    if token and not os.access(token, os.R_OK):
        raise DaemonUnavailable(
            f"The daemon's token {token} is missing or not readable for this user. Run as the "
            "user who started the daemon, or start it again."
        )


def adopt_environment(environment: Mapping[str, str]) -> None:
    """Set Ray's environment in this process, before Ray is imported.

    Raises:
        DaemonUnavailable: Ray was imported already, under another environment.
    """
    different = {key: value for key, value in environment.items() if os.environ.get(key) != value}
    if different and "ray" in sys.modules:
        exports = " ".join(f"{key}={value}" for key, value in different.items())
        raise DaemonUnavailable(
            "Ray was imported before SpeechClient.connect() and under other settings than the "
            f"daemon's. Import ray later, or start this program with: {exports}"
        )
    os.environ.update(different)


def _record_path(settings: Settings) -> Path:
    return settings.state_dir / "daemon.json"
