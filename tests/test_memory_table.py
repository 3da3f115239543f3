"""A plan and a ledger as people read them, and as programs do."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_plans import HOST, UNIFIED, demand, engine, gpu, plan_of, shipped, vllm

from runtime.memory.claims import Claim
from runtime.memory.footprint import GIB
from runtime.memory.ledger import Device, DeviceState, Lease, Refusal, Snapshot, Waiting
from runtime.memory.plan import plan
from runtime.memory.policy import MemoryPolicy, Neighbour
from runtime.memory.table import as_json, as_text, bars, gib, snapshot_json, snapshot_text

CUDA: Device = ("node", "cuda:0")
TTS = Lease("TTS#1", "TTS", CUDA, Claim(weights=4 * GIB), 7, "actor")


def length(line: str, name: str) -> float:
    """How long the bar of a line is, in characters."""
    bar = line.removeprefix(f"  {name}").split()[0]
    return sum(1 if c == "█" else " ▏▎▍▌▋▊▉".index(c) / 8 for c in bar if c in "█▏▎▍▌▋▊▉")


# --- bars --------------------------------------------------------------------


def test_a_bar_is_as_long_as_its_part_of_the_whole() -> None:
    rows = [("all", 64 * GIB, ""), ("half", 32 * GIB, ""), ("bit", GIB, ""), ("none", 0, "")]
    lines = bars(rows, 64 * GIB).splitlines()
    assert [length(line, row[0]) for line, row in zip(lines, rows, strict=True)] == [
        24,
        12,
        0.375,
        0,
    ]
    assert lines[1].endswith("32.00")


def test_something_is_never_drawn_as_nothing_and_too_much_no_longer_than_the_whole() -> None:
    rows = [("mite", 1, ""), ("giant", 99 * GIB, ""), ("debt", -5 * GIB, "short")]
    mite, giant, debt = bars(rows, 64 * GIB).splitlines()
    assert length(mite, "mite") == 1 / 8
    assert length(giant, "giant") == 24
    assert debt.split() == ["debt", "-5.00", "short"]


@given(st.lists(st.integers(0, 1 << 40), min_size=2, max_size=2), st.integers(1, 1 << 40))
def test_the_larger_of_two_never_has_the_shorter_bar(sizes: list[int], total: int) -> None:
    small, large = sorted(sizes)
    first, second = bars([("a", small, ""), ("b", large, "")], total).splitlines()
    assert length(first, "a") <= length(second, "b") <= 24


# --- a plan ------------------------------------------------------------------


def test_a_plan_as_json_has_the_devices_figures_at_the_top() -> None:
    told = json.loads(json.dumps(as_json(plan_of(shipped("dgx-spark"), "gb10"))))
    assert (told["total_gib"], told["kind"], told["host_reserve_gib"]) == (121.69, "unified", 8)
    assert told["neighbours"] == [{"name": "vllm", "gib": 73.01, "overhead_gib": 4}]
    assert (told["fits"], told["remedies"]) == (True, [])
    ears, voice = told["deployments"]
    assert (ears["name"], ears["replicas"], ears["placed"], ears["slots"]) == ("ASR", 1, 1, 20)
    assert voice["weights_from"] == "table"
    taken = 73.01 + 4 + 8 + ears["claim_gib"] + voice["claim_gib"]
    assert told["headroom_gib"] == pytest.approx(121.69 - taken, abs=0.03)
    for deployment in (ears, voice):
        assert deployment["claim_gib"] == pytest.approx(
            sum(deployment["parts_gib"].values()), abs=0.03
        )
        assert deployment["num_gpus"] == pytest.approx(deployment["claim_gib"] / 121.69, abs=2e-4)


def test_a_claim_in_json_is_of_all_replicas_and_the_fraction_of_each() -> None:
    sharing = plan([gpu(), HOST], MemoryPolicy(), [demand(engine(weights=7.3), replicas=3)])
    (told,) = as_json(sharing)["deployments"]
    assert (told["claim_gib"], told["num_gpus"]) == (24, 0.1)


def test_the_gpu_is_at_the_top_if_it_is_in_use_and_else_the_host() -> None:
    ears = demand(engine(on_gpu=False))
    assert as_json(plan([gpu(), HOST], MemoryPolicy(), [demand()]))["device"] == "cuda:0"
    assert as_json(plan([gpu(), HOST], MemoryPolicy(), [ears]))["device"] == "host"
    beside = MemoryPolicy(neighbours=(Neighbour(name="vllm", gib=1),))
    told = as_json(plan([gpu(), HOST], beside, [ears]))
    assert [device["device"] for device in told["devices"]] == ["cuda:0", "host"]


def test_replicas_without_room_are_shown_with_what_is_missing_and_what_to_do() -> None:
    voices = demand(engine(weights=49.3, state=0), replicas=3)
    sharing = plan([gpu(), HOST], MemoryPolicy(), [voices])
    text = as_text(sharing)
    assert "2 x TTS, no room" in text
    assert "TTS: 2 of 3 replicas of 49.90 GiB without room." in text
    assert "-70.20  short of what all replicas claim" in text
    assert "- run 1 replica of TTS instead of 3" in text
    assert "One of these" not in text
    told = as_json(sharing)
    assert told["headroom_gib"] == -70.2
    assert (told["fits"], told["deployments"][0]["placed"]) == (False, 1)


def test_a_table_shows_each_owner_once_and_its_rows_sum_to_the_device() -> None:
    sharing = plan_of(shipped("dgx-spark"), "gb10")
    heading, *lines = as_text(sharing).splitlines()
    assert heading == "NVIDIA GB10 (unified memory), 121.69 GiB"
    owners = [line for line in lines if not line.startswith(" " * 20)]  # others are remarks
    figures = [float(re.findall(r"-?\d+\.\d\d", line)[0]) for line in owners]
    assert sum(figures) == pytest.approx(121.69, abs=0.05)
    assert "no room" not in as_text(sharing)


def test_several_remedies_are_introduced_and_huge_pages_are_shown() -> None:
    text = as_text(plan_of(shipped("dgx-spark", neighbours=vllm(0.97)), "gb10"))
    assert text.index("One of these is enough:") < text.index("  - lower utilisation")
    paged = replace(HOST, huge_pages=GIB)
    sharing = plan([paged], MemoryPolicy(), [demand(engine(on_gpu=False))])
    assert "huge pages" in as_text(sharing)


def test_a_device_that_nobody_uses_is_left_out_of_the_table() -> None:
    text = as_text(plan([gpu(), HOST], MemoryPolicy(), [demand(engine(on_gpu=False))]))
    assert "H100" not in text


# --- a ledger ----------------------------------------------------------------


def snapshot(*leases: Lease, available: int | None = 50 * GIB) -> Snapshot:
    device = DeviceState(
        CUDA,
        "NVIDIA GB10",
        "unified",
        128 * GIB,
        available,
        40 * GIB,
        (("vllm", 76 * GIB, 4 * GIB),),
        8 * GIB,
        0,
    )
    waiting = Waiting("ASR#1", "ASR", 50 * GIB, Refusal("full", "no room for ASR"), "actor", "node")
    return Snapshot((device,), leases, (waiting,), {"TTS#1": 1}, ("vllm:8000",), {"full": 2})


def test_a_ledger_shows_leases_what_they_measured_who_waits_and_who_holds() -> None:
    measured = Lease(
        "TTS#1", "TTS", CUDA, TTS.claim, 7, "a", "serving", 3 * GIB, 3 * GIB + GIB // 2
    )
    text = snapshot_text(snapshot(measured))
    assert "128.00 GiB, 50.00 GiB available now" in text
    assert "serving, measured 3.00, peak 3.50, below the soft floor" in text
    assert "36.00" in next(line for line in text.splitlines() if "free to lease" in line)
    assert "ASR waits: no room for ASR" in text
    assert "held still by vllm:8000" in text


def test_what_is_unknown_is_said_to_be_so_and_null_for_programs() -> None:
    unknown = snapshot(TTS, available=None)
    assert "unknown available now" in snapshot_text(unknown)
    assert "loading, not measured yet" in snapshot_text(unknown)
    told = json.loads(json.dumps(snapshot_json(unknown)))
    assert told["devices"][0]["available_gib"] is None
    assert told["leases"][0]["measured_gib"] is None


def test_a_ledger_as_json() -> None:
    told = json.loads(json.dumps(snapshot_json(snapshot(TTS))))
    assert told.keys() == {"devices", "leases", "waiting", "holds", "refusals"}
    (device,), (lease,), (waiting,) = told["devices"], told["leases"], told["waiting"]
    assert device["neighbours"] == [{"name": "vllm", "gib": 76, "overhead_gib": 4}]
    assert (device["total_gib"], device["budget_gib"], device["host_reserve_gib"]) == (128, 40, 8)
    assert (lease["deployment"], lease["claim_gib"], lease["state"]) == ("TTS", 4, "loading")
    assert (lease["node"], lease["device"], lease["pressure"]) == ("node", "cuda:0", "soft")
    assert (waiting["reason"], waiting["claim_gib"]) == ("full", 50)
    assert (told["holds"], told["refusals"]) == (["vllm:8000"], {"full": 2})


def test_sizes_are_gib_with_two_decimals() -> None:
    assert [gib(size) for size in (0, GIB, 5 * GIB // 3)] == [0, 1, 1.67]
    assert UNIFIED.total == 128 * GIB
