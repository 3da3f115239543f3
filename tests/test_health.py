"""Whether a daemon serves, as health checks and supervisors are told."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.cli.health import STALE_S, check_health, notify, troubles
from runtime.daemon import sole_daemon, write_record
from runtime.errors import DaemonUnavailable


def seen(settings, *, ago: float = 0.0, troubles: tuple[str, ...] = ()) -> None:
    fields = {"at": time.time() - ago, "troubles": troubles}
    (settings.state_dir / "health.json").write_text(json.dumps(fields))


def application(**deployments: dict[str, int]) -> SimpleNamespace:
    return SimpleNamespace(
        deployments={
            name: SimpleNamespace(replica_states=states, message="")
            for name, states in deployments.items()
        }
    )


@pytest.fixture
def daemon_in(settings, record) -> Any:
    with sole_daemon(settings):
        write_record(settings, record)
        yield settings


def test_a_daemon_that_serves_is_healthy(daemon_in) -> None:
    seen(daemon_in)
    check_health(daemon_in)


def test_no_daemon_and_one_that_starts_are_not(settings, record) -> None:
    with pytest.raises(DaemonUnavailable, match="speech up"):
        check_health(settings)
    with sole_daemon(settings):
        write_record(settings, replace(record, ready_s=None))
        with pytest.raises(DaemonUnavailable, match="starting"):
            check_health(settings)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda settings: seen(settings, ago=STALE_S + 5), "has not looked .* 35 s"),
        (lambda settings: seen(settings, troubles=("speech: TTS gone",)), "speech: TTS gone"),
        (lambda settings: (settings.state_dir / "health.json").write_text("{"), "health.json"),
        (lambda settings: None, "health.json"),
    ],
    ids=["hangs", "troubles", "damaged", "none"],
)
def test_a_daemon_that_hangs_or_whose_deployments_are_gone_is_not(
    daemon_in, wrong: Callable[[Any], None], says: str
) -> None:
    wrong(daemon_in)
    with pytest.raises(DaemonUnavailable, match=says):
        check_health(daemon_in)


def test_a_daemon_whose_process_cannot_be_seen_says_so(settings, record) -> None:
    with sole_daemon(settings):
        write_record(settings, replace(record, pid=2**22 + 1))  # beyond Linux's largest
        with pytest.raises(DaemonUnavailable, match="does not share"):
            check_health(settings)


def test_a_deployment_without_a_replica_that_runs_is_a_trouble() -> None:
    applications = {
        "speech": application(ASR={"RUNNING": 1, "STARTING": 1}, TTS={"STARTING": 2}),
        "asleep": application(TTS={}),  # scaled to none, on purpose
    }
    assert list(troubles(applications)) == ["speech: TTS has no replica that runs (2 starting)"]


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_it_on_its_socket(tmp_path, monkeypatch, abstract) -> None:
    name = f"@speech-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("\0" + name[1:] if abstract else name)
        supervisor.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert supervisor.recv(100) == b"READY=1"


def test_nobody_listening_is_no_error(monkeypatch, tmp_path) -> None:
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
