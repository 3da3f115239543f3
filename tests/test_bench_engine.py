"""`speech bench tts --engine`: an engine in this process, without a daemon."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from scripted_engines import ScriptedSynthesizer

from runtime import errors
from runtime.bench import in_process, recordings
from runtime.bench.corpus import SENTENCES
from runtime.bench.in_process import Peak
from runtime.cli.bench_engine import bench_synthesizer, engine_options, summary
from runtime.engines import cuda, make_recognizer
from runtime.engines.steps import StepLog
from runtime.errors import ConfigError, EngineFailed, InvalidRequest
from runtime.speech import AudioChunk, Step, SynthesisRequest

FIGURES = {"first_audio_ms", "utterance_ms", "rtf", "x_realtime", "underruns", "peak_gib"}
GIB = 2**30


class Witness(ScriptedSynthesizer):
    """Knows what it was asked, and how much at a time; with ``fail`` it fails."""

    def __init__(self, *, slots: int = 2, fail: bool = False) -> None:
        super().__init__(slots=slots)
        self._fail = fail
        asked.clear()
        most.clear()
        self._active = 0

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        if self._fail:
            raise EngineFailed("it was told to fail")
        self._active += 1
        asked.append(request)
        most.append(self._active)
        try:
            async for chunk in super().synthesize(request, more):
                yield chunk
        finally:
            self._active -= 1

    async def close(self) -> None:
        most.append(-1)


asked: list[SynthesisRequest] = []
most: list[int] = []


def measure(name: str, streams: list[int], utterances: int = 1, **options: Any) -> dict[str, Any]:
    return bench_synthesizer(name, options, streams, utterances, None, lambda row: None)


def test_an_engine_in_a_wheel_is_measured_without_a_daemon(speech: Any) -> None:
    pytest.importorskip("hibari", reason="needs the extra `embedded`")
    arguments = ("--engine", "hibari", "--option", "threads=1", "--streams", "1")
    result = speech("bench", "tts", *arguments, "--utterances", "1", "--json")
    assert result.code == 0, result.err
    assert result.json["engine"] == "hibari"
    assert result.json["load_s"] > 0
    assert result.json["warmup_ms"] > 0
    assert "note" not in result.json
    throughput, paced, dropped = result.json["rows"]
    as_they_came = [json.loads(line) for line in result.err.splitlines() if line[:1] == "{"]
    assert as_they_came == result.json["rows"], "kept by who is interrupted"
    assert not FIGURES - set(throughput)
    assert (throughput["path"], throughput["slots"]) == ("in process", 16)
    assert (throughput["pacing"], paced["pacing"][:7]) == ("off", "Poisson")
    assert throughput["first_audio_ms"]["n"] == 1
    assert throughput["utterance_ms"]["min"] >= throughput["first_audio_ms"]["min"]
    assert throughput["audio_s"] > 3
    assert 0.05 < throughput["peak_gib"] < 2
    assert dropped["path"] == "in process, dropped at first audio"
    assert dropped["after_ms"]["n"] == 10


def test_streams_beyond_the_slots_wait_and_the_report_says_so() -> None:
    report = measure(f"{__name__}:Witness", [2, 5], utterances=4, slots=2)
    assert max(most) == 2
    assert most[-1] == -1  # closed
    assert {row["slots"] for row in report["rows"]} == {2}
    assert "serves 2 at a time" in report["note"]
    off = [row for row in report["rows"] if row["pacing"] == "off"]
    assert [row["utterance_ms"]["n"] for row in off] == [4, 5]


def test_sentences_and_voices_are_those_of_the_language() -> None:
    measure(f"{__name__}:Witness", [2], utterances=3)
    assert [request.text for request in asked[:3]] == list(SENTENCES[:3])
    assert {request.voice for request in asked} == {"ada"}  # bo speaks Chinese
    assert all(40 <= len(sentence) <= 200 for sentence in SENTENCES)


class Lingering(ScriptedSynthesizer):
    """Goes on for some steps after its listener has left; each is told of once it has ended."""

    AFTER = 5

    def __init__(self) -> None:
        super().__init__()
        self._log = StepLog()
        self._going_on: set[asyncio.Task[None]] = set()

    def take_steps(self) -> Sequence[Step]:
        return self._log.take()

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        self._log.add("decode", 40.0)
        try:
            async for chunk in super().synthesize(request, more):
                yield chunk
        finally:
            task = asyncio.create_task(self._go_on())
            self._going_on.add(task)
            task.add_done_callback(self._going_on.discard)

    async def _go_on(self) -> None:
        for _ in range(self.AFTER):
            await asyncio.sleep(0.04)
            self._log.add("decode", 40.0)


def test_what_is_still_done_for_a_dropped_utterance_is_counted_to_its_last_step() -> None:
    rows = bench_synthesizer(f"{__name__}:Lingering", {}, [1], 1, 0, lambda row: None)["rows"]
    assert rows[-1]["path"] == "in process, dropped at first audio"
    assert rows[-1]["steps_after"] == Lingering.AFTER
    assert rows[-1]["after_ms"]["min"] == Lingering.AFTER * 40.0


def test_an_engine_without_an_estimate_claims_nothing_and_is_measured_all_the_same() -> None:
    assert in_process.claim_gib(f"{__name__}:Unestimated", {}) is None


class Unestimated:
    """Made by somebody who names what it needs in the configuration."""


class Slow(ScriptedSynthesizer):
    """Slower than anybody listens."""

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        await asyncio.sleep(0.05)
        yield AudioChunk(bytes(160), 8_000, 0, end=True)


def test_an_engine_slower_than_its_listeners_is_not_paced() -> None:
    report = measure(f"{__name__}:Slow", [1], utterances=2)
    (row,) = report["rows"]
    assert row["pacing"] == "off"
    assert row["x_realtime"] < 1
    assert "No rows with Poisson arrivals at 1 streams" in report["note"]


def test_a_failing_engine_is_one_error_of_its_own() -> None:
    with pytest.raises(EngineFailed, match="told to fail"):
        measure(f"{__name__}:Witness", [2], fail=True)
    assert most == [-1]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--engine", "hibary"], "Did you mean 'hibari'"),
        (["--engine", "collections:Counter"], "not a synthesizer"),
        (["--engine", "hibari", "--option", "threats=1"], "threats"),
        (["--engine", "magpie-reference", "--option", "top_q=1"], "Did you mean 'top_k'"),
        (["--engine", "hibari", "--option", "threads"], "KEY=VALUE"),
        (["--engine", "hibari", "--overhead", "2"], "--overhead"),
        (["--weights", "x.nemo"], "--engine"),
        (["--option", "threads=1"], "--engine"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    names: str,
) -> None:
    from runtime.cli import main

    monkeypatch.setattr("sys.argv", ["speech", "bench", "tts", *arguments, "--json"])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert exit_.value.code == 2
    error = json.loads(capsys.readouterr().out)
    assert names in error["error"]
    assert issubclass(getattr(errors, error["type"]), InvalidRequest)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--weights", "x.nemo"], "--engine"),
        (["--engine", "parakeet", "--option", "window=1"], "Did you mean 'window_s'"),
        (["--engine", "parakeet", "--option", "slots"], "KEY=VALUE"),
    ],
)
def test_recordings_that_cannot_be_measured_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    names: str,
) -> None:
    from runtime.cli import main

    monkeypatch.setattr("sys.argv", ["speech", "bench", "asr", *arguments, "--json"])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert exit_.value.code == 2
    assert names in json.loads(capsys.readouterr().out)["error"]


def test_recordings_are_measured_beside_nemos_own_transcribe(
    request: pytest.FixtureRequest, run: Callable[..., Any]
) -> None:
    pytest.importorskip("nemo", reason="needs the extra `nemo`")
    tiny_parakeet: Callable[..., Path] = request.getfixturevalue("tiny_parakeet")
    weights = tiny_parakeet(streaming=False)
    shown: list[dict[str, Any]] = []
    nemo = recordings.by_nemo(weights, [2], 1, 1.0, "float32", shown.append)
    options = {"weights": str(weights), "device": "cpu", "slots": 2, "window_s": 10}
    engine = make_recognizer("parakeet", options)

    async def measure() -> list[dict[str, Any]]:
        await engine.load()
        try:
            return await recordings.in_process(engine, [1, 2], 2, 1.0, shown.append)
        finally:
            await engine.close()

    rows = run(measure())
    assert shown == [*nemo, *rows]
    assert [row["path"][:4] for row in shown] == ["NeMo", "in p", "in p"]
    assert [row["final_ms"]["n"] for row in shown] == [3, 3, 6]
    assert all(row["x_realtime"] > 0 for row in shown)
    assert all(row["recording_s"] == 1.0 for row in shown)
    assert 0 < in_process.claim_gib("parakeet", options) < 1


def test_values_of_options_are_those_of_a_configuration() -> None:
    given = ["cfg=false", "top_k=3", "dtype=bfloat16", "temperature=0.5", "codec=a=b"]
    assert engine_options(given) == {
        "cfg": False,
        "top_k": 3,
        "dtype": "bfloat16",
        "temperature": 0.5,
        "codec": "a=b",
    }
    with pytest.raises(InvalidRequest, match="twice"):
        engine_options(["a=1", "a=2"])
    with pytest.raises(InvalidRequest, match="YAML"):
        engine_options(["a=[1"])


def test_a_torch_that_is_still_being_imported_holds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for half in (ModuleType("torch"), SimpleNamespace(cuda=ModuleType("torch.cuda"))):
        monkeypatch.setitem(sys.modules, "torch", half)
        assert cuda.allocator_reserved() == cuda.allocator_peak() == cuda.allocator_limit() == 0
        cuda.release_cached()


def test_the_gpu_counts_where_there_is_one_and_the_driver_before_the_allocator() -> None:
    assert Peak(host=GIB).figures() == {"peak_gib": 1.0}
    assert Peak().figures() == {"peak_gib": None}
    seen = Peak(host=GIB, device=3 * GIB, allocator=2 * GIB).figures()
    assert seen == {"peak_gib": 3.0, "allocator_gib": 2.0, "driver_gib": 3.0, "host_gib": 1.0}
    unseen = Peak(host=GIB, allocator=2 * GIB).figures()  # a container's own PID namespace
    assert (unseen["peak_gib"], unseen["driver_gib"]) == (2.0, None)


def test_people_get_a_small_table() -> None:
    table = summary(measure(f"{__name__}:Witness", [1, 2]))
    assert [column.header for column in table.columns] == [
        "streams", "load s", "warm-up ms", "mean ms", "min ms", "max ms", "RTF",
    ]  # fmt: skip
    assert table.row_count == 2


def test_magpie_is_measured_with_what_its_checkpoint_says_of_itself(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nemo", reason="needs the extra `nemo`")
    monkeypatch.setattr(in_process, "SENTENCES", ("Hello world.",))
    tiny_magpie: Callable[..., Path] = request.getfixturevalue("tiny_magpie")
    report = measure(
        "magpie-reference",
        [1],
        weights=str(tiny_magpie(stacking=2, max_decoder_steps=40, eos_bias=-100.0)),
        codec=str(request.getfixturevalue("tiny_codec")),
        device="cpu",
        normalizer="off",
        cfg=False,
        max_utterance_s=8,
    )
    assert report["details"]["dtype"] == "float32, codec float32"
    assert "stacking 2" in report["details"]["geometry"]
    assert report["warmup_ms"] > 0
    row = report["rows"][0]
    assert (row["streams"], row["slots"], row["utterance_ms"]["n"]) == (1, 1, 1)
    assert row["audio_s"] > 1


def test_options_that_an_engine_refuses_are_its_own_error() -> None:
    with pytest.raises(ConfigError, match="does not take these options"):
        measure(f"{__name__}:Witness", [1], nonsense=1)
