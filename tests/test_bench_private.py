"""A bench's own daemon ends with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.daemon import is_alive

pytestmark = pytest.mark.cluster

HOLD = """
from runtime.bench.private import private_daemon
from runtime.bench.transport import document
from runtime.daemon import running_daemon

with private_daemon(document(replicas=1)) as settings:
    print(settings.state_dir, running_daemon(settings).pid, flush=True)
    input()
"""


def test_the_daemon_of_a_bench_that_is_killed_is_stopped_and_its_folder_removed(
    shell: dict[str, str],
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=shell,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as bench:
        assert bench.stdout is not None
        state, daemon = bench.stdout.readline().split()
        assert is_alive(int(daemon))
        bench.send_signal(signal.SIGKILL)
    folder, deadline = Path(state).parent, time.monotonic() + 60
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists()
    assert not is_alive(int(daemon))
