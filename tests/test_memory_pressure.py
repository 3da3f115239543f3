"""Floors: what a daemon does when somebody takes the memory that was not theirs to take."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import weighty_engines
import yaml
from daemons import SUPPORT, place

from runtime.memory.device import devices, read
from runtime.memory.meter import Meter
from runtime.settings import Settings

pytestmark = [pytest.mark.cluster, pytest.mark.apart, pytest.mark.timed]

SPEECH = [sys.executable, "-m", "runtime.cli.main"]
GIB = 1 << 30
HOG_GIB = 5.0  # what the hog takes; the floors lie within


def config(available: int) -> dict[str, Any]:
    """Floors that are clear now, and far below once the hog is there."""
    weighty = {"options": {"claims_mib": 128, "holds_mib": 64}}
    floors = {
        "soft_gib": round(available / GIB - 0.5 * HOG_GIB, 2),
        "hard_gib": round(available / GIB - 0.6 * HOG_GIB, 2),
        "clear_s": 1,
    }
    memory = {"host_reserve_gib": 0.5, "floors": floors, "priority": ["TTS", "ASR"]}
    args = {
        "tts": {"engine": "weighty_engines:WeightySynthesizer", **weighty},
        "asr": {"live": {"engine": "weighty_engines:WeightyRecognizer", **weighty}},
    }
    return weighty_engines.document(memory, args)


@contextmanager
def hog() -> Any:
    """A process that takes memory and holds it."""
    code = f"b = b'1' * int({HOG_GIB} * 2**30); print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def test_engines_park_the_least_important_first_and_come_back(
    own: Settings, shell: dict[str, str], tmp_path: Path
) -> None:
    environment = shell | place(own) | {"PYTHONPATH": SUPPORT}
    (host,) = (device for device in devices(read()) if device.key == "host")
    available = Meter(host).read()
    assert isinstance(available, int)
    # The floors are met by real memory; on a machine this small the hog would meet the kernel's.
    if available < (HOG_GIB + 2) * GIB:
        pytest.skip(f"takes {HOG_GIB} GiB for a moment, and {available / GIB:.1f} are available")
    path = tmp_path / "config.yaml"

    def speech(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SPEECH, *arguments], env=environment, capture_output=True, text=True
        )

    def leases() -> dict[str, dict[str, Any]]:
        shown = json.loads(speech("memory", "show", "--json").stdout)
        return {lease["deployment"]: lease for lease in shown["leases"]}

    def until(look: Callable[[], bool], within_s: float = 40.0) -> None:
        deadline = time.monotonic() + within_s
        while not look():
            assert time.monotonic() < deadline, speech("memory", "show").stdout
            time.sleep(0.2)

    say = ("say", "Hello.", "-o", str(tmp_path / "said.wav"), "--json")
    path.write_text(yaml.safe_dump(config(available)))
    started = speech("up", str(path), "--detach")
    assert started.returncode == 0, started.stderr
    try:
        pids = {name: lease["pid"] for name, lease in leases().items()}
        assert speech(*say).returncode == 0
        with hog():
            looks: list[set[str]] = []

            def all_parked() -> bool:
                looks.append({name for name, one in leases().items() if one["state"] == "parked"})
                return len(looks[-1]) == 2

            until(all_parked)
            assert {"TTS"} not in looks  # ASR first; a look may come too late to see it alone
            assert {name: lease["pid"] for name, lease in leases().items()} == pids
            refused = json.loads(speech(*say).stdout)
            assert refused["type"] == "Overloaded"
            assert "Memory is short" in refused["error"]
        until(lambda: all(lease["state"] == "serving" for lease in leases().values()))
        assert {name: lease["pid"] for name, lease in leases().items()} == pids
        assert speech(*say).returncode == 0
    finally:
        assert speech("down").returncode == 0
