"""What a benchmark reports: figures with the machine, the versions and the command behind them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = (
    "speech-runtime",
    "ray",
    "numpy",
    "hibari-tts",
    "moonshine-voice",
    "faster-whisper",
    "nemo-toolkit",
    "torch",
    "pipecat-ai",
)


def distribution(values_ms: Sequence[float]) -> dict[str, float | int]:
    """Latencies in ms as ``{min, mean, p50, p90, p95, p99, max, n}``; percentiles interpolate."""
    if not values_ms:
        return {"n": 0}
    values = np.asarray(values_ms, dtype=np.float64)
    p50, p90, p95, p99 = np.percentile(values, (50, 90, 95, 99))
    figures = {
        "min": values.min(),
        "mean": values.mean(),
        "p50": p50,
        "p90": p90,
        "p95": p95,
        "p99": p99,
        "max": values.max(),
    }
    return {**{name: round(float(v), 2) for name, v in figures.items()}, "n": len(values)}


def report(
    engine: str, load_s: float, warmup_ms: float, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The report of one run, as ``--json`` prints it."""
    return {
        "device": device(),
        "engine": engine,
        "versions": versions(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["speech", *sys.argv[1:]]),
        "load_s": round(load_s, 2),
        "warmup_ms": round(warmup_ms, 1),
        "rows": rows,
    }


def device() -> str:
    """The machine in words: its processor, how many cores, and its system."""
    name = platform.processor() or platform.machine()
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = next(
            line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line
        )
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def versions() -> dict[str, str]:
    """Python and the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit, with ``+`` if it has changes; ``unknown`` outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "unknown"
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
