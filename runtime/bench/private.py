"""A daemon of one's own: on free ports, in a folder of its own, gone when done, or killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from runtime.daemon import is_starting
from runtime.errors import SpeechError
from runtime.settings import Settings

_SPEECH = [sys.executable, "-m", "runtime.cli.main"]
_STARTING_S = 120.0


def place(settings: Settings) -> dict[str, str]:
    """The variables with which a process finds the daemon of these settings."""
    variables = {"SPEECH_STATE_DIR": str(settings.state_dir)}
    if settings.temp_dir is not None:
        variables["SPEECH_TEMP_DIR"] = str(settings.temp_dir)
    return variables


@contextmanager
def private_daemon(document: dict[str, Any]) -> Iterator[Settings]:
    """Run a daemon on a Serve configuration while the context lasts.

    It ends with this process, too, whatever ends that: it would keep a GPU's memory, and nobody
    would know where to find it.

    Yields:
        Settings with which ``SpeechClient.connect`` finds it.

    Raises:
        SpeechError: It did not start; the message holds what it printed.
    """
    folder = Path(tempfile.mkdtemp(prefix="speech-"))
    settings = Settings(state_dir=folder / "state", temp_dir=folder / "ray")
    environment = os.environ | place(settings)
    with subprocess.Popen(
        [sys.executable, "-m", "runtime.bench.private", str(folder)],
        stdin=subprocess.PIPE,  # it stops the daemon when this ends
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
        env=environment,
    ):
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        started = subprocess.run(
            [*_SPEECH, "up", str(config), "--detach"],
            env=environment,
            capture_output=True,
            text=True,
        )
        if started.returncode:
            raise SpeechError(f"The daemon did not start:\n{started.stderr}")
        yield settings


def main(folder: Path) -> None:
    """Wait for the end of standard input, then stop the daemon there and remove its folder."""
    sys.stdin.read()
    deadline = time.monotonic() + _STARTING_S
    while is_starting(Settings()) and time.monotonic() < deadline:
        time.sleep(0.1)  # one that cannot be reached yet
    subprocess.run([*_SPEECH, "down"])
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
