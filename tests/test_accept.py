"""`speech accept`: what each part finds, and a report that says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_hub import FakeHub
from pulling import CONTENT, NAME, REPO, catalogued, isolate, parakeets_hub
from tiny_models import pinned

from runtime.accept.memory import predicted_and_measured
from runtime.accept.models import access_and_pull, needed
from runtime.accept.page import page
from runtime.accept.section import Section
from runtime.accept.speaking import judged
from runtime.config import find_config
from runtime.engines.trials.line import Line
from runtime.memory.claims import Claim
from runtime.memory.footprint import GIB
from runtime.memory.ledger import DeviceState, Lease, Refusal, Snapshot, Waiting
from runtime.models.catalogue import CODEC, Model
from runtime.models.hub import Hub, Token
from runtime.settings import Settings

GPU = ("node", "cuda:0")


# --- checkpoints


def names_of(name: str, **tts: Any) -> list[str]:
    document: dict[str, Any] = yaml.safe_load(find_config(name).read_text())
    document["applications"][0]["args"]["tts"] |= tts
    return [model.name for model in needed(document, name)]


def test_what_a_configuration_needs_is_what_its_engines_open() -> None:
    assert names_of("embedded") == []
    assert sorted(names_of("dgx-spark")) == [
        "magpie_tts_multilingual_357m",
        CODEC,
        "nemotron-speech-streaming-en-0.6b",
        "parakeet-tdt-0.6b-v2",
    ]
    other = {
        "engine": "magpie-reference",
        "options": {"model": "magpie_tts_multilingual_357m@2025-12"},
    }
    assert names_of("embedded", **other) == ["magpie_tts_multilingual_357m@2025-12", CODEC]
    given = {"weights": "/m.nemo", "codec": "/c.nemo"}
    assert names_of("embedded", engine="magpie-reference", options=given) == []


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with parakeets_hub() as running:
        yield running


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Model:
    isolate(monkeypatch, tmp_path)
    return catalogued(monkeypatch, pinned(NAME, CONTENT))


def found(model: Model, settings: Settings, hub: FakeHub | None, token: str = "") -> Section:
    def make() -> Hub:
        url = hub.url if hub else "http://127.0.0.1:1"
        return Hub(Token("HF_TOKEN", token) if token else Token(), endpoint=url)

    return access_and_pull([model], settings, make, lambda *_: None)


def test_a_model_is_asked_for_pulled_and_then_here(
    model: Model, hub: FakeHub, tmp_path: Path
) -> None:
    settings = Settings(models_dir=tmp_path / "models")
    first = found(model, settings, hub)
    assert [(line.what, line.verdict) for line in first.lines] == [
        ("access", "pass"),
        ("pull", "pass"),
    ]
    asked = len(hub.requests)
    again = found(model, settings, None)  # there is no hub any more
    assert [line.what for line in again.lines] == ["pull"]
    assert "was here" in again.lines[0].found
    assert len(hub.requests) == asked


def test_a_gated_model_without_a_token_fails_and_says_what_to_do(
    model: Model, hub: FakeHub, tmp_path: Path
) -> None:
    hub.repositories[REPO].gated = True
    settings = Settings(models_dir=tmp_path / "models")
    section = found(model, settings, hub)
    assert section.verdict == "fail"
    assert [line.verdict for line in section.lines] == ["fail", "fail"]
    assert "HF_TOKEN" in section.lines[0].mend
    assert found(model, settings, hub, "good-token").verdict == "pass"


# --- memory


def snapshot(*leases: Lease, available: float, utilisation: float = 0.6, **more: Any) -> Snapshot:
    total = 80 * GIB
    state = DeviceState(
        GPU,
        "a GPU",
        "discrete",
        total,
        round(available * GIB),
        20 * GIB,
        (("vllm", round(utilisation * total), 0),) if utilisation else (),
        GIB,
        0,
    )
    nothing: dict[str, Any] = {"waiting": (), "pressures": {}, "holds": (), "refusals": {}}
    return Snapshot((state,), leases, **(nothing | more))


def lease(measured: float | None, peak: float | None) -> Lease:
    def size(gib: float | None) -> int | None:
        return None if gib is None else round(gib * GIB)

    claim = Claim(weights=4 * GIB)
    return Lease("TTS#1", "TTS", GPU, claim, 1, "a", "serving", size(measured), size(peak))


@pytest.mark.parametrize(
    ("measured", "peak", "verdict"),
    [(3.0, 3.5, "pass"), (3.9, 4.5, "fail"), (None, None, "warn")],
)
def test_a_lease_is_held_against_its_claim(
    measured: float | None, peak: float | None, verdict: str
) -> None:
    section = predicted_and_measured(snapshot(lease(measured, peak), available=29.0))
    assert section.lines[0].verdict == verdict


@pytest.mark.parametrize(
    ("available", "verdict", "says"),
    [
        (29.0, "pass", "vllm and the reserve"),
        (20.0, "fail", "planned"),  # it takes more than it said
        (75.0, "warn", "seems not to run"),
    ],
)
def test_what_the_neighbour_takes_is_held_against_its_plan(
    available: float, verdict: str, says: str
) -> None:
    line = predicted_and_measured(snapshot(lease(3.0, 3.5), available=available)).lines[-1]
    assert (line.verdict, says in line.found) == (verdict, True), line


def test_a_replica_without_room_fails() -> None:
    waiting = Waiting("ASR#1", "ASR", GIB, Refusal("full", "there is no room"), "b", "node")
    section = predicted_and_measured(snapshot(available=29.0, waiting=(waiting,)))
    assert section.lines[0].found == "there is no room"
    assert section.verdict == "fail"


# --- speech


@pytest.mark.parametrize(
    ("seconds", "loudness", "verdict", "says"),
    [
        (2.0, 0.1, "pass", "2.00 s"),
        (0.1, 0.1, "fail", "too short"),
        (2.0, 0.0, "fail", "silent"),
        (30.0, 0.1, "warn", "runs on"),
    ],
)
def test_what_is_spoken_has_to_sound_and_to_end(
    seconds: float, loudness: float, verdict: str, says: str
) -> None:
    tone = loudness * np.sin(np.arange(round(seconds * 8_000), dtype=np.float32))
    line = judged("de", "Aria", tone.astype(np.float32), 8_000, characters=40, took_s=1.0)
    assert (line.verdict, says in line.found) == (verdict, True), line


# --- the report


def test_the_page_says_what_the_object_says() -> None:
    rows = [{"streams": 1, "final_ms": {"n": 0}, "heard": "a | b"}]
    sections = [
        Section("Trials", [Line("m", "load", "fail", "no\nfile", "get it")]),
        Section("Latency", tables={"Rows": rows}),
    ]
    report = {
        "verdict": "fail",
        "config": "embedded",
        "daemon": "its own",
        "device": "a machine",
        "versions": {"python": "3.11"},
        "commit": "abc",
        "date": "2026-11-23",
        "command": "speech accept",
        "seconds": 3.2,
        "sections": [section.as_json() for section in sections],
    }
    said = page(report)
    assert said.startswith("# speech accept: **FAIL**")
    assert "| **FAIL** | m | load | no<br>file | get it |  |" in said
    assert "| 1 |  | a \\| b |" in said
    assert "| Latency | **warn** |" in said  # nothing was tried of it: no pass


@pytest.mark.cluster
def test_a_running_daemon_is_accepted_as_it_is(
    daemon: Settings, speech: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("--no-trials", "--streams", "1", "--utterances", "1", "-o", "made/of")
    done = speech("accept", *options, "--json", settings=daemon)
    report = done.json
    assert done.code == (report["verdict"] == "fail"), done.err
    assert report == json.loads((tmp_path / "made" / "of.json").read_text())
    assert report["daemon"] == "the running daemon"
    parts = {section["name"]: section for section in report["sections"]}
    assert [*parts] == [
        "Checkpoints",
        "Plan",
        "Languages",
        "English, there and back",
        "Latency",
        "Memory",
    ]
    for name in ("Checkpoints", "Plan", "Languages", "English, there and back"):
        assert parts[name]["verdict"] == "pass", parts[name]
    latency = parts["Latency"]["tables"]
    assert sorted(row["engine"] for row in latency["Start"]) == ["hibari", "moonshine", "whisper"]
    assert {len(rows) for rows in latency.values()} == {1, 2, 3}
    leases = parts["Memory"]["tables"]["Leases (GiB)"]
    assert all(0 < row["peak"] <= 1.2 * row["claimed"] for row in leases), leases
    assert "Languages" in (tmp_path / "made" / "of.md").read_text()


@pytest.mark.cluster
def test_another_configuration_than_the_running_ones_is_refused(
    daemon: Settings, speech: Callable[..., Any]
) -> None:
    refused = speech("accept", "dgx-spark", settings=daemon)
    assert refused.code == 2
    assert "speech down" in refused.err
