"""How a client finds a daemon: its record, its process, its versions and its token."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from runtime.daemon import (
    DaemonRecord,
    check_versions,
    is_alive,
    make_token,
    python_version,
    ray_version,
    read_record,
    remove_record,
    running_daemon,
    sole_daemon,
    token_path,
    write_record,
)
from runtime.errors import DaemonUnavailable
from runtime.settings import Settings


@pytest.fixture
def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


# --- the record --------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(settings: Settings, record: DaemonRecord) -> None:
    with sole_daemon(settings):
        write_record(settings, record)
        assert read_record(settings) == record
        assert running_daemon(settings) == record


def test_a_process_that_has_the_id_of_a_dead_daemon_is_no_daemon(
    settings: Settings, record: DaemonRecord
) -> None:
    with sole_daemon(settings):
        write_record(settings, replace(record, pid=os.getpid()))
    with pytest.raises(DaemonUnavailable, match="`speech up`"):
        running_daemon(settings)


def test_a_record_replaces_the_one_before(settings: Settings, record: DaemonRecord) -> None:
    write_record(settings, replace(record, ready_s=None, config="a much longer name " * 20))
    write_record(settings, record)
    assert read_record(settings) == record


def test_a_record_leaves_no_draft(settings: Settings, record: DaemonRecord) -> None:
    write_record(settings, record)
    assert sorted(path.name for path in settings.state_dir.iterdir()) == ["daemon.json", "token"]


def test_a_removed_record_is_none_and_removing_it_again_is_harmless(
    settings: Settings, record: DaemonRecord
) -> None:
    write_record(settings, record)
    remove_record(settings)
    remove_record(settings)
    assert read_record(settings) is None


@pytest.mark.parametrize("folder", ["state", "never made"])
def test_without_a_record_the_error_says_how_to_start_a_daemon(tmp_path: Path, folder: str) -> None:
    settings = Settings(state_dir=tmp_path / folder)
    with pytest.raises(DaemonUnavailable, match="`speech up`") as caught:
        running_daemon(settings)
    assert str(settings.state_dir) in str(caught.value)
    assert caught.value.exit_code == 4


def test_the_record_of_a_dead_daemon_is_as_good_as_none(
    settings: Settings, record: DaemonRecord, dead_pid: int
) -> None:
    with sole_daemon(settings):
        write_record(settings, replace(record, pid=dead_pid))
        assert read_record(settings) is not None
        with pytest.raises(DaemonUnavailable, match="`speech up`"):
            running_daemon(settings)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '"a daemon"',
        '{"pid": 1}',
        '{"unknown": 1}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_record_is_refused_with_its_path(settings: Settings, text: str | bytes) -> None:
    path = settings.state_dir / "daemon.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DaemonUnavailable, match="is not a daemon's record") as caught:
        running_daemon(settings)
    assert str(path) in str(caught.value)


def test_a_record_with_a_field_of_another_release_is_refused(
    settings: Settings, record: DaemonRecord
) -> None:
    fields = asdict(record) | {"colour": "green"}
    (settings.state_dir / "daemon.json").write_text(json.dumps(fields))
    with pytest.raises(DaemonUnavailable, match=r"colour.*another version"):
        read_record(settings)


# --- processes ---------------------------------------------------------------


def test_this_process_is_alive() -> None:
    assert is_alive(os.getpid())


def test_a_process_that_ended_is_not_alive(dead_pid: int) -> None:
    assert not is_alive(dead_pid)


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    try:
        assert Path(f"/proc/{child.pid}").exists()
        assert not is_alive(child.pid)
    finally:
        child.wait()


# --- versions and token ------------------------------------------------------


def test_a_daemon_of_the_same_versions_is_accepted(record: DaemonRecord) -> None:
    check_versions(record)


@pytest.mark.parametrize(
    ("what", "other"),
    [("Python", {"python": "3.8"}), ("Ray", {"ray": "1.2.3"})],
)
def test_another_version_is_named_with_both_numbers(
    record: DaemonRecord, what: str, other: dict[str, str]
) -> None:
    ours = {"Python": python_version(), "Ray": ray_version()}[what]
    theirs = next(iter(other.values()))
    with pytest.raises(DaemonUnavailable, match=f"runs {what} {theirs}, this process {ours}"):
        check_versions(replace(record, **other))  # type: ignore[arg-type]


def test_ray_is_not_imported_to_tell_its_version() -> None:
    code = "import sys, runtime.daemon as d; d.ray_version(); sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_missing_token_is_named(settings: Settings, record: DaemonRecord) -> None:
    token_path(settings).unlink()
    with pytest.raises(DaemonUnavailable, match="missing or not readable") as caught:
        check_versions(record)
    assert str(token_path(settings)) in str(caught.value)


AS_ANOTHER_USER = """
import os, sys
from types import SimpleNamespace
from runtime.daemon import check_versions, python_version, ray_version
from runtime.errors import DaemonUnavailable
from runtime.speech import PROTOCOL_VERSION
if os.getuid() == 0:  # nothing is out of root's reach: be nobody, as far as access() looks
    os.setgroups([])
    os.setresgid(65534, 0, 0)
    os.setresuid(65534, 0, 0)
record = SimpleNamespace(
    python=python_version(),
    ray=ray_version(),
    environment={"RAY_AUTH_TOKEN_PATH": sys.argv[1]},
    protocol=PROTOCOL_VERSION,
)
try:
    check_versions(record)
except DaemonUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize(("mode", "refused"), [(0o000, True), (0o444, False)])
def test_a_token_of_another_user_is_named(mode: int, refused: bool) -> None:
    with tempfile.NamedTemporaryFile() as token:  # anybody may look into the folder it is in
        os.chmod(token.name, mode)
        done = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, token.name],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert ("not readable for this user" in done.stdout) is refused
    assert (token.name in done.stdout) is refused


def test_only_this_user_can_read_the_token(settings: Settings) -> None:
    before = os.umask(0)
    try:
        path = make_token(settings)
    finally:
        os.umask(before)
    assert path == token_path(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_stays_the_same_for_one_folder_and_differs_between_two(tmp_path: Path) -> None:
    tokens = []
    for name in ("one", "one", "two"):
        (tmp_path / name).mkdir(exist_ok=True)
        tokens.append(make_token(Settings(state_dir=tmp_path / name)).read_text())
    assert tokens[0] == tokens[1] != tokens[2]
    assert len(tokens[0]) == 64


def test_the_token_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert token_path(Settings(state_dir=Path("state"))) == tmp_path / "state" / "token"
