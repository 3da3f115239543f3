"""What the budget on paper costs: the arithmetic, and the command from its start to its end.

Needs neither a GPU nor a daemon: the machines that are planned for come with the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtime.bench.report import distribution
from runtime.config import find_config, read_config
from runtime.errors import SpeechError
from runtime.memory.demands import demands_of, policy_of
from runtime.memory.device import devices, recorded
from runtime.memory.history import History
from runtime.memory.plan import plan, pools_of

CONFIGS = (("dgx-spark", "gb10"), ("h100", "h100-80g"))
"""Shipped configurations, and the recorded machines that they are for."""

HEAVY = ("torch", "nemo")
"""What a plan has no need of; importing one takes longer than the plan may."""

_REPEATS = 500
_RUNS = 5
_SPEECH = ("-m", "runtime.cli.main")
_NO_HISTORY = History(Path(os.devnull) / "measured.json")


def run(
    show: Callable[[dict[str, Any]], None], repeats: int = _REPEATS, runs: int = _RUNS
) -> list[dict[str, Any]]:
    """For each configuration a row of ``plan()``, and one of ``speech memory plan``."""
    rows = []
    for config, device in CONFIGS:
        for what, measure in (("plan", _arithmetic), ("plan command", _command)):
            count = repeats if measure is _arithmetic else runs
            row = {"scenario": f"{what}: {config} on {device}", **measure(config, device, count)}
            rows.append(row)
            show(row)
    return rows


def _arithmetic(config: str, device: str, repeats: int) -> dict[str, Any]:
    path = find_config(config)
    document = read_config(path)
    pools = pools_of(devices(recorded(device)))
    demands = demands_of(document, str(path), pools, _NO_HISTORY)
    policy = policy_of(document, str(path))
    took_ms = []
    for _ in range(repeats):
        began = time.perf_counter()
        plan(pools, policy, demands)
        took_ms.append((time.perf_counter() - began) * 1e3)
    return {"took_ms": distribution(took_ms)}


def _command(config: str, device: str, runs: int) -> dict[str, Any]:
    arguments = (*_SPEECH, "memory", "plan", config, "--device", device, "--json")
    with tempfile.TemporaryDirectory(prefix="speech-") as folder:  # nothing was measured there
        environment = os.environ | {"SPEECH_STATE_DIR": folder}
        found = imported(arguments, HEAVY, environment)  # the first run also warms the disk
        took_ms = []
        for _ in range(runs):
            began = time.perf_counter()
            _python(arguments, environment)
            took_ms.append((time.perf_counter() - began) * 1e3)
    return {
        "took_ms": distribution(took_ms),
        **{f"imports_{name}": name in found for name in HEAVY},
    }


def imported(
    arguments: Sequence[str], names: Sequence[str], environment: dict[str, str] | None = None
) -> set[str]:
    """Those of some packages that ``python`` with these arguments imports.

    Raises:
        SpeechError: It failed; the message holds what it printed.
    """
    told = _python(("-X", "importtime", *arguments), environment)
    lines = (line.split("|") for line in told.splitlines() if line.startswith("import time:"))
    modules = {parts[-1].strip().partition(".")[0] for parts in lines}
    return modules & set(names)


def _python(arguments: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Run it; what it printed on standard error."""
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SpeechError(f"python {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stderr
