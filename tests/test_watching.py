"""What an operator sees of a daemon: its metrics, and a line an utterance, without users' words."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from runtime.admission import Admission, Limits
from runtime.cli.daemon import metrics_url
from runtime.daemon import running_daemon
from runtime.engines.steps import StepLog
from runtime.errors import EngineFailed, InvalidRequest
from runtime.metrics import ASR, TTS, Metric
from runtime.settings import Settings
from runtime.speech import LoadReport, Step

pytestmark = pytest.mark.cluster

Run = Callable[[Any], Any]
SECRET = "Rumpelstiltskin"


@dataclass(frozen=True)
class Spoken:
    """What was said and heard for this file's tests, by a daemon that others have used too.

    ``samples`` are those of the first text.
    """

    logs: Path
    since: str
    samples: int

    def lines(self, application: str) -> list[dict[str, Any]]:
        """In order, from all replicas."""
        found = []
        for path in self.logs.glob(f"utterances_{application}_*.jsonl"):
            found += [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        found = [line for line in found if line["time"] >= self.since]
        return sorted(found, key=lambda line: str(line["time"]))

    def line(self, application: str, **wanted: Any) -> dict[str, Any]:
        """The latest with these values; it comes a moment after the caller has its answer."""
        deadline = time.monotonic() + 10
        while True:
            for line in reversed(self.lines(application)):
                if wanted.items() <= line.items():
                    return line
            assert time.monotonic() < deadline, wanted
            time.sleep(0.05)


async def speak(client: Any, text: str, **options: Any) -> int:
    async with client.synthesize(text, **options) as stream:
        return sum([chunk.samples async for chunk in stream])


@pytest.fixture(scope="module")
def spoken(daemon: Settings, client: Any, scripted: Any, pair_client: Any, run: Run) -> Spoken:
    """Something of each kind has been said and heard."""
    since = datetime.now(UTC).isoformat(timespec="milliseconds")
    samples: int = run(speak(client, f"Hello, {SECRET}."))
    with pytest.raises(EngineFailed, match="exploded"):
        run(speak(scripted, f"{SECRET} will explode."))
    with pytest.raises(InvalidRequest):
        run(speak(scripted, SECRET, voice="nobody"))
    run(speak(pair_client, f"Say {SECRET}."))
    run(pair_client.transcribe(np.zeros(8_000, dtype=np.float32), sample_rate=8_000))

    async def converse() -> None:
        async with scripted.open_recognition(sample_rate=8_000) as session:
            await session.push(np.zeros(8_000, dtype=np.float32))
            await session.finalize()

    run(converse())
    return Spoken(Path(running_daemon(daemon).log) / "serve", since, samples)


def test_an_utterance_has_one_line_with_its_numbers(daemon: Settings, spoken: Spoken) -> None:
    line = spoken.line("speech", event="synthesis", outcome="done", pieces=1)
    assert line["deployment"] == "TTS"
    assert line["audio_s"] == pytest.approx(spoken.samples / 24_000, abs=1e-3)
    assert line["first_audio_ms"] > 0 < line["rtf"]
    same = [x for x in spoken.lines("speech") if x.get("stream") == line["stream"]]
    assert len(same) == 1


def test_a_session_has_a_line_for_each_utterance_and_one_at_its_end(
    daemon: Settings, spoken: Spoken
) -> None:
    end = spoken.line("scripted", event="session")
    heard = spoken.line("scripted", event="recognition", stream=end["stream"])
    assert (heard["words"], heard["asked_for"]) == (2, True)  # "8000 samples"
    assert 0 < heard["final_ms"] < 5_000
    assert (end["audio_s"], end["utterances"]) == (1.0, 1)


def test_failures_have_lines_too(daemon: Settings, spoken: Spoken) -> None:
    assert spoken.line("scripted", outcome="EngineFailed")["queued_ms"] == 0
    assert spoken.line("scripted", outcome="UnknownVoice")["queued_ms"] is None


def test_words_are_written_down_by_none_but_who_was_asked_to(
    daemon: Settings, spoken: Spoken
) -> None:
    assert SECRET in spoken.line("pair", event="synthesis", outcome="done", pieces=1)["text"]
    assert spoken.line("pair", event="recording")["text"] == "8000 samples"
    spoken.line("scripted", outcome="EngineFailed")
    told = [
        path.name
        for path in Path(running_daemon(daemon).log).rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert told
    assert all(name.startswith("utterances_pair_") for name in told), told


def test_a_models_failure_keeps_its_traceback(daemon: Settings, spoken: Spoken) -> None:
    folder = Path(running_daemon(daemon).log) / "serve"
    spoken.line("scripted", outcome="EngineFailed")
    said = "".join(path.read_text() for path in folder.glob("replica_scripted_TTS*.log"))
    assert "RuntimeError (its message is left out)" in said
    assert "scripted_engines.py" in said
    assert "UnknownVoice" not in said  # of the caller's making: no traceback


def test_what_was_spoken_and_heard_is_among_the_metrics(daemon: Settings, spoken: Spoken) -> None:
    url = metrics_url(running_daemon(daemon))
    assert url is not None
    histograms = (TTS.first_audio, TTS.rtf, TTS.queue_wait, ASR.final, ASR.rtf)
    wanted = {f"ray_{metric.name}_bucket" for metric in histograms}
    wanted |= {f"ray_{metric.name}_bucket" for metric in (TTS.engine.step, TTS.engine.batch)}
    plain = (TTS.audio, TTS.aborted, TTS.engine.slots, TTS.engine.waiting, ASR.engine.slots)
    wanted |= {f"ray_{metric.name}" for metric in plain}
    parts = {'reason="EngineFailed"', 'stage="sentence"'}
    parts |= {f"{name}{{" for name in wanted}
    deadline = time.monotonic() + 60
    text = ""
    slots: list[str] = []
    while (missing := {part for part in parts if part not in text}) or not slots:
        assert time.monotonic() < deadline, missing
        time.sleep(0.2)  # Ray exports every few seconds, and tells nobody
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        of_slots = (x for x in text.splitlines() if x.startswith(f"ray_{TTS.engine.slots.name}{{"))
        slots = [line for line in of_slots if 'application="scripted"' in line]
    assert [float(line.split()[-1]) for line in slots] == [8]


class Talkative:
    """An engine that has counted and measured."""

    counts: ClassVar[dict[str, int]] = {"fallback:eager step": 2, "chunks_cut_short": 1}

    def __init__(self) -> None:
        self.log = StepLog()
        self.log.add("decode", 2.5, 16)

    def take_steps(self) -> list[Step]:
        return self.log.take()


def test_what_an_engine_tells_is_exported_once(
    daemon: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments import metrics as made

    seen: list[tuple[str, float, dict[str, str]]] = []

    class Recorder:
        def __init__(self, metric: Metric) -> None:
            def note(value: float, tags: dict[str, str]) -> None:
                seen.append((metric.name, value, tags))

            self.inc = self.set = self.observe = note

    monkeypatch.setattr(made, "instrument", Recorder)
    exporter = made.EngineExporter(ASR.engine, "talkative", {"mode": "live"})
    engine, slots = Talkative(), Admission(3, "live recognition", Limits(0, 1.0))
    for parked in (False, True):
        asyncio.run(exporter.export(engine, LoadReport(0.0, 0.0), slots, parked=parked))
    told = {name.removeprefix("speech_asr_"): (value, tags) for name, value, tags in seen}
    live = {"mode": "live"}
    assert told["fallbacks_total"] == (2, {**live, "fallback": "eager step"})
    assert told["engine_events_total"] == (1, {**live, "event": "chunks_cut_short"})
    assert told["step_ms"] == (2.5, {**live, "stage": "decode"})
    assert told["batch_size"] == (16, {**live, "stage": "decode"})
    assert told["slots"] == (0, live)  # parked
    names = [name for name, _, _ in seen]
    assert all(names.count(f"speech_asr_{once}") == 1 for once in ("fallbacks_total", "step_ms"))
