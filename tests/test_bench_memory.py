"""The memory benchmark's parts that need no GPU: the plan's cost, and the floors of a host."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import weighty_engines
from daemons import SUPPORT
from typer.testing import CliRunner

from runtime.bench import floors, planning
from runtime.bench.glutton import BLOCK, Glutton
from runtime.bench.private import private_daemon
from runtime.cli import bench as cli
from runtime.errors import InvalidRequest, SpeechError
from runtime.memory.device import devices, read
from runtime.memory.footprint import GIB
from runtime.memory.meter import Meter

# --- the plan ----------------------------------------------------------------


def test_the_plan_and_its_command_are_timed_for_each_shipped_gpu_configuration() -> None:
    shown: list[dict[str, Any]] = []
    rows = planning.run(shown.append, repeats=3, runs=2)
    assert rows == shown
    assert [row["scenario"] for row in rows] == [
        "plan: dgx-spark on gb10",
        "plan command: dgx-spark on gb10",
        "plan: h100 on h100-80g",
        "plan command: h100 on h100-80g",
    ]
    assert [row["took_ms"]["n"] for row in rows] == [3, 2, 3, 2]
    for command in rows[1::2]:
        assert not command["imports_torch"]
        assert not command["imports_nemo"]
        # 1.5 s is what it may take on a machine of its own; this one runs other tests, too.
        assert command["took_ms"]["min"] < 3 * 1_500


def test_an_import_is_found_wherever_it_happens(tmp_path: Path) -> None:
    for package in ("torch", "nemo"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "torch" / "cuda.py").touch()
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    lazily = "def late():\n    import torch.cuda\nlate()\nimport torchless"
    (tmp_path / "torchless.py").touch()
    found = planning.imported(("-c", lazily), planning.HEAVY, os.environ | {"PYTHONPATH": path})
    assert found == {"torch"}


def test_a_command_that_fails_is_not_timed() -> None:
    with pytest.raises(SpeechError, match="nothing to see"):
        planning.imported(("-c", "raise SystemExit('nothing to see')"), planning.HEAVY)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The parts of the command that were run, which say so and measure nothing."""
    ran: list[Any] = []

    async def beside(seconds: float, show: Any) -> list[Any]:
        ran.append(("neighbour", seconds))
        return []

    monkeypatch.setattr(cli.planning_bench, "run", lambda show: ran.append("plan") or [])
    monkeypatch.setattr(cli.floors_bench, "run", lambda key, show: ran.append(key) or [])
    monkeypatch.setattr(cli.memory_bench, "run", beside)
    return ran


def bench_memory(monkeypatch: pytest.MonkeyPatch, kind: str, *arguments: str) -> Any:
    """What ``speech bench memory`` does on a machine of this kind."""
    first = SimpleNamespace(kind=kind, key="cuda:0", name="A GPU")
    monkeypatch.setattr(cli, "devices", lambda _: (first,))
    return CliRunner().invoke(cli.app, ["memory", *arguments, "--json"])


def test_without_a_gpu_the_bench_reports_the_plan_and_why_the_rest_is_left_out(
    parts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads(bench_memory(monkeypatch, "host").stdout)
    assert parts == ["plan"]
    assert "There is no GPU here" in told["note"]
    assert "note" not in json.loads(bench_memory(monkeypatch, "host", "--only", "plan").stdout)
    for part in ("neighbour", "floors"):
        refused = bench_memory(monkeypatch, "host", "--only", part)
        assert isinstance(refused.exception, InvalidRequest)
        assert "no GPU" in str(refused.exception)


def test_on_a_gpu_the_bench_measures_everything_or_the_part_that_was_asked_for(
    parts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads(bench_memory(monkeypatch, "discrete", "--seconds", "7").stdout)
    assert parts == ["plan", ("neighbour", 7.0), "cuda:0"]
    assert told["device"].startswith("A GPU; ")
    assert "note" not in told
    parts.clear()
    bench_memory(monkeypatch, "discrete", "--only", "floors")
    assert parts == ["cuda:0"]


# --- the neighbour that takes what nobody planned for -------------------------


def test_a_glutton_holds_what_it_is_told_to_and_gives_it_back() -> None:
    async def scenario() -> list[Any]:
        glutton = Glutton("host")
        try:
            await glutton.start()
            told: list[Any] = [glutton.held]
            for size in (2 * BLOCK + 1, 3 * BLOCK, BLOCK, 0):
                await glutton.hold(size)
                told += [glutton.held, await glutton.intact()]
            return told
        finally:
            await glutton.stop()

    assert asyncio.run(scenario()) == [0, 2 * BLOCK, True, 3 * BLOCK, True, BLOCK, True, 0, True]


def test_a_glutton_that_fails_says_why() -> None:
    async def scenario() -> None:
        glutton = Glutton("host")
        try:
            await glutton.start()
            await glutton.hold(-1)
            await glutton._tell("as much as there is")
        finally:
            await glutton.stop()

    with pytest.raises(SpeechError, match="invalid literal"):
        asyncio.run(scenario())


# --- floors ------------------------------------------------------------------

HOLDS_GIB = 0.6  # what each engine takes, and gives back when it parks
DAEMON_GIB = 2 * HOLDS_GIB + 1.5  # what is taken by it in all, about
SOFT = 1.0  # GiB that others may take before the soft floor is met
HARD = 1.7  # and the hard one
BELOW = (0.4, 0.3)  # how far the neighbour goes below each


@pytest.mark.apart
@pytest.mark.cluster
@pytest.mark.timed
def test_below_the_floors_sessions_are_refused_and_an_engine_parks_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (host,) = (device for device in devices(read()) if device.key == "host")
    with Meter(host) as meter:
        available = meter.read()
    assert isinstance(available, int)
    if available < (DAEMON_GIB + HARD + 2) * GIB:
        pytest.skip(f"takes {DAEMON_GIB + HARD + 1} GiB; {available / GIB:.1f} are available")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([SUPPORT, os.environ.get("PYTHONPATH", "")]))
    clear = available - round(DAEMON_GIB * GIB)
    soft_by, hard_by = (round(gib * GIB) for gib in BELOW)
    levels = floors.Levels(
        clear - round(SOFT * GIB), clear - round(HARD * GIB), 1.0, soft_by, hard_by
    )
    mib = {"claims_mib": 1024 * HOLDS_GIB + 64, "holds_mib": 1024 * HOLDS_GIB}
    weighty = {"options": {name: int(size) for name, size in mib.items()}}
    args = {
        "tts": {"engine": "weighty_engines:WeightySynthesizer", **weighty},
        "asr": {"live": {"engine": "weighty_engines:WeightyRecognizer", **weighty}},
    }
    memory = {"host_reserve_gib": 0.5, "floors": levels.policy()}
    with private_daemon(weighty_engines.document(memory, args)) as settings:
        row = floors.under(settings, "host", levels, "It is said slowly. " * 3_000)
    assert row["refused_s"] < 2, "what is available is read four times a second"
    assert row["retry_after_s"] == levels.clear_s
    assert (row["parked"], row["running"], row["intact"]) == (floors.LAST, "went on", True)
    assert row["parked_s"] < 5
    assert row["given_back_gib"] > 0.9 * HOLDS_GIB
    assert row["back_s"] > levels.clear_s
    assert row["same_processes"]
