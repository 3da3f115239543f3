"""One daemon a folder: who holds it keeps others out, and whoever dies lets go of it."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.daemon import DaemonRecord, read_record, sole_daemon, write_record
from runtime.errors import DaemonRunning
from runtime.settings import Settings

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
