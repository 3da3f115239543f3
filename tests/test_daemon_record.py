"""How a client finds a daemon: its record, its token, its lock, Ray's environment."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from runtime.daemon import (
    SHARED_ENVIRONMENT,
    DaemonRecord,
    adopt_environment,
    check_versions,
    is_alive,
    is_loopback,
    joined_cluster_environment,
    make_token,
    own_cluster_environment,
    python_version,
    ray_version,
    read_record,
    remove_record,
    running_daemon,
    sole_daemon,
    token_path,
    write_record,
)
from runtime.errors import DaemonRunning, DaemonUnavailable
from runtime.settings import Settings
from runtime.speech import PROTOCOL_VERSION


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "state").mkdir()
    return Settings(state_dir=tmp_path / "state")


@pytest.fixture
def record(settings: Settings) -> DaemonRecord:
    """The record that this process would leave as a daemon."""
    make_token(settings)
    return DaemonRecord(
        pid=os.getpid(),
        address="127.0.0.1:6379",
        ready_s=1.5,
        started_at=1_700_000_000.25,
        config="embedded",
        python=python_version(),
        ray=ray_version(),
        environment=own_cluster_environment(settings),
        log="/tmp/speech/logs",
        protocol=PROTOCOL_VERSION,
    )


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


# --- the lock ----------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from runtime.daemon import sole_daemon
from runtime.settings import Settings
with sole_daemon(Settings(state_dir=Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the state folder."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(settings.state_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_a_second_daemon_is_kept_out(settings: Settings, record: DaemonRecord) -> None:
    with held_elsewhere(settings) as holder:
        write_record(settings, replace(record, pid=holder.pid))
        with pytest.raises(DaemonRunning, match="`speech down`") as caught, sole_daemon(settings):
            pytest.fail("two daemons in one folder")
        assert f"process {holder.pid}, embedded" in str(caught.value)
        assert "SPEECH_STATE_DIR" in str(caught.value)
        assert read_record(settings) is not None, "the record is the other's"


def test_a_second_daemon_is_kept_out_before_the_first_has_left_its_record(
    settings: Settings,
) -> None:
    with held_elsewhere(settings), pytest.raises(DaemonRunning), sole_daemon(settings):
        pytest.fail("two daemons in one folder")


def test_a_second_daemon_is_kept_out_though_the_record_cannot_be_read(settings: Settings) -> None:
    with held_elsewhere(settings):
        (settings.state_dir / "daemon.json").write_text("{")
        with pytest.raises(DaemonRunning, match="`speech down`"), sole_daemon(settings):
            pytest.fail("two daemons in one folder")


def test_a_killed_daemon_frees_the_folder(settings: Settings, record: DaemonRecord) -> None:
    with held_elsewhere(settings) as holder:
        write_record(settings, replace(record, pid=holder.pid))
        holder.kill()
        holder.wait()
    with sole_daemon(settings):
        assert read_record(settings) is None, "the record of the dead is gone"


def test_a_folder_can_be_held_again_after_it_was_let_go(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "not" / "yet")
    for _ in range(2):
        with sole_daemon(settings):
            assert settings.state_dir.is_dir()


def test_the_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "new")
    with sole_daemon(settings):
        assert stat.S_IMODE(settings.state_dir.stat().st_mode) == 0o700


def test_two_folders_hold_two_daemons(tmp_path: Path) -> None:
    with (
        sole_daemon(Settings(state_dir=tmp_path / "one")),
        sole_daemon(Settings(state_dir=tmp_path / "two")),
    ):
        pass


# --- Ray's environment -------------------------------------------------------

ADOPT = """
import os, sys
if sys.argv[1] == "first":
    import ray
from runtime.daemon import adopt_environment
from runtime.errors import DaemonUnavailable
try:
    adopt_environment({"RAY_SERVE_ROUTER": "yes", "RAY_AUTH_TOKEN_PATH": "/somewhere/token"})
except DaemonUnavailable as error:
    print(f"refused: {error}")
else:
    print("adopted:", os.environ["RAY_SERVE_ROUTER"], os.environ["RAY_AUTH_TOKEN_PATH"])
"""


def adopt(when_ray: str, **environment: str) -> str:
    """What happens in a process that imports Ray first or later, in this environment."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ADOPT, when_ray],
        env=own | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


def test_an_environment_is_adopted_before_ray_is_imported() -> None:
    assert adopt("later") == "adopted: yes /somewhere/token"


def test_after_ray_was_imported_an_environment_is_refused_with_what_to_set() -> None:
    said = adopt("first", RAY_SERVE_ROUTER="no")
    assert said.startswith("refused: Ray was imported before")
    assert said.endswith("RAY_SERVE_ROUTER=yes RAY_AUTH_TOKEN_PATH=/somewhere/token")


def test_only_what_differs_is_to_be_set() -> None:
    said = adopt("first", RAY_SERVE_ROUTER="yes")
    assert said.endswith("start this program with: RAY_AUTH_TOKEN_PATH=/somewhere/token")


def test_after_ray_was_imported_under_the_same_environment_it_is_adopted() -> None:
    said = adopt("first", RAY_SERVE_ROUTER="yes", RAY_AUTH_TOKEN_PATH="/somewhere/token")
    assert said == "adopted: yes /somewhere/token"


def test_nothing_to_adopt_is_always_accepted() -> None:
    adopt_environment({})


def test_a_cluster_of_ones_own_has_a_token_and_keeps_to_this_host(settings: Settings) -> None:
    environment = own_cluster_environment(settings)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(token_path(settings))
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert is_loopback(environment)


def test_in_a_cluster_of_others_the_token_is_theirs_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/theirs")
    monkeypatch.setenv("RAY_SOMETHING_ELSE", "1")
    environment = joined_cluster_environment()
    assert environment["RAY_AUTH_TOKEN_PATH"] == "/theirs"
    assert "RAY_SOMETHING_ELSE" not in environment
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"} & joined_cluster_environment().keys()


def test_a_cluster_of_others_may_span_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    assert not is_loopback(joined_cluster_environment())
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    assert is_loopback(joined_cluster_environment())


def test_handles_behave_the_same_in_every_cluster(settings: Settings) -> None:
    assert SHARED_ENVIRONMENT.items() <= own_cluster_environment(settings).items()
    assert SHARED_ENVIRONMENT.items() <= joined_cluster_environment().items()


# --- settings ----------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without settings, and with a home of its own."""
    for key in [*os.environ]:
        if key.startswith("SPEECH_") or key == "XDG_STATE_HOME":
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_settings_have_defaults(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings()
    assert settings.state_dir == tmp_path / ".local" / "state" / "speech-runtime"
    assert settings.port == 0
    assert settings.connect_timeout_s > 0


def test_the_state_folder_follows_xdg(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("XDG_STATE_HOME", "/var/states")
    assert Settings().state_dir == Path("/var/states/speech-runtime")


def test_settings_are_read_from_the_environment(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("SPEECH_STATE_DIR", "/srv/speech")
    bare.setenv("SPEECH_TEMP_DIR", "/run/ray")
    bare.setenv("SPEECH_PORT", "7000")
    bare.setenv("SPEECH_CONNECT_TIMEOUT_S", "1.5")
    bare.setenv("SPEECH_START_TIMEOUT_S", "30")
    bare.setenv("SPEECH_ANSWER_TIMEOUT_S", "20")
    bare.setenv("SPEECH_TAKEOVER_TIMEOUT_S", "25")
    bare.setenv("SPEECH_REPLAY_S", "90")
    bare.setenv("SPEECH_DRAIN_TIMEOUT_S", "0")
    bare.setenv("SPEECH_STOP_TIMEOUT_S", "2")
    settings = Settings()
    assert settings.model_dump() == {
        "state_dir": Path("/srv/speech"),
        "temp_dir": Path("/run/ray"),
        "port": 7000,
        "connect_timeout_s": 1.5,
        "start_timeout_s": 30.0,
        "stop_timeout_s": 2.0,
        "answer_timeout_s": 20.0,
        "takeover_timeout_s": 25.0,
        "replay_s": 90.0,
        "drain_timeout_s": 0.0,
    }
    assert settings.ray_dir == Path("/run/ray")


def test_an_empty_variable_is_as_good_as_none(bare: pytest.MonkeyPatch) -> None:
    defaults = Settings()
    for name in Settings.model_fields:
        bare.setenv(f"SPEECH_{name.upper()}", "")
    bare.setenv("XDG_STATE_HOME", "")
    assert Settings() == defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPEECH_PORT", "-1"),
        ("SPEECH_PORT", "65536"),
        ("SPEECH_PORT", "http"),
        ("SPEECH_CONNECT_TIMEOUT_S", "0"),
        ("SPEECH_START_TIMEOUT_S", "-5"),
        ("SPEECH_STOP_TIMEOUT_S", "soon"),
    ],
)
def test_a_senseless_setting_is_refused(bare: pytest.MonkeyPatch, name: str, value: str) -> None:
    bare.setenv(name, value)
    with pytest.raises(ValidationError, match=name.removeprefix("SPEECH_").lower()):
        Settings()


def test_settings_do_not_change(settings: Settings) -> None:
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


def test_each_state_folder_has_a_ray_folder_with_room_for_socket_names(tmp_path: Path) -> None:
    deep = tmp_path / ("deep/" * 30)
    one, other = Settings(state_dir=tmp_path), Settings(state_dir=deep)
    assert one.ray_dir == Settings(state_dir=tmp_path).ray_dir != other.ray_dir
    for settings in (one, other):
        below = settings.ray_dir.relative_to(tempfile.gettempdir())
        assert len(f"/tmp/{below}") <= 40
