"""Tests of Triton's kernels under its interpreter, which needs no GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether this process is of that kind; Triton reads it when it is imported."""

_ROOT = Path(__file__).parent.parent.parent


def assert_passes_interpreted(file: str) -> None:
    """Run a file of tests in a process of its own, where Triton is not imported yet."""
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    # A suite of its own: it waits for no test beside this one.
    ours = {name: v for name, v in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment = {**ours, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(run, env=environment, cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert re.search(r"[1-9]\d* passed", done.stdout)
