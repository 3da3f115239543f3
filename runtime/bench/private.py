"""A daemon of one's own: on free ports, in a folder of its own, gone when done, or killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import SpeechError
from runtime.settings import Settings

_SPEECH = [sys.executable, "-m", "runtime.cli.main"]
_STOP_AT_END = """
import shutil, subprocess, sys
sys.stdin.read()
subprocess.run(sys.argv[2:])
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def place(settings: Settings) -> dict[str, str]:
    """The variables with which a process finds the daemon of these settings."""
    variables = {"SPEECH_STATE_DIR": str(settings.state_dir)}
    if settings.temp_dir is not None:
        variables["SPEECH_TEMP_DIR"] = str(settings.temp_dir)
    return variables


@contextmanager
def private_daemon(document: dict[str, Any]) -> Iterator[Settings]:
    """Run a daemon on a Serve configuration while the context lasts.

    Yields:
        Settings with which ``SpeechClient.connect`` finds it.

    Raises:
        SpeechError: It did not start; the message holds what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="speech-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        settings = Settings(state_dir=Path(folder) / "state", temp_dir=Path(folder) / "ray")
        environment = os.environ | place(settings)
        with _ending_with_this_process(folder, environment):
            started = subprocess.run(
                [*_SPEECH, "up", str(config), "--detach"],
                env=environment,
                capture_output=True,
                text=True,
            )
            if started.returncode:
                raise SpeechError(f"The daemon did not start:\n{started.stderr}")
            try:
                yield settings
            finally:
                subprocess.run([*_SPEECH, "down"], env=environment, capture_output=True)


@contextmanager
def _ending_with_this_process(folder: str, environment: dict[str, str]) -> Iterator[None]:
    """Have the daemon stopped, and its folder removed, should this process be killed meanwhile.

    It would keep a GPU's memory, and nobody knows where to find it.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _STOP_AT_END, folder, *_SPEECH, "down"],
        stdin=subprocess.PIPE,  # which ends with this process, whatever ends it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    ) as watching:
        try:
            yield
        finally:
            watching.kill()
