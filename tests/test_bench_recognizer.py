"""`speech bench asr --engine`: an engine that listens in this process, without a daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.bench import in_process_asr
from runtime.bench.babble import babble
from runtime.bench.engines import CountingRecognizer
from runtime.cli.bench_engine import bench_live_parakeet, bench_recognizer
from runtime.errors import InvalidRequest
from runtime.speech import RecognizerCapabilities

COUNTING = "runtime.bench.engines:CountingRecognizer"


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process_asr, "_TURN_S", (0.2, 0.4))


class Offline(CountingRecognizer):
    """Takes recordings only."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = RecognizerCapabilities(("en",), 16_000, False, False, 8)


def measure(name: str, streams: list[int], utterances: int = 1, **options: Any) -> dict[str, Any]:
    return bench_recognizer(name, options, streams, utterances, lambda row: None)


def test_live_streams_and_recordings_have_a_row_each() -> None:
    report = measure(COUNTING, [1, 3], utterances=6)
    rows = report["rows"]
    assert [(row["streams"], row["path"]) for row in rows] == [
        (1, "in process, live"),
        (1, "in process, file"),
        (3, "in process, live"),
        (3, "in process, file"),
    ]
    assert [row["final_ms"]["n"] for row in rows] == [6] * 4
    live, file = rows[2:]
    assert live["x_realtime"] <= 3
    assert file["x_realtime"] > 3, "recordings are not paced"
    assert live["late_ms"]["n"] > 6
    assert (live["words"], live["slots"]) == (6, 256)
    assert "words do not" in report["note"]


def test_recordings_are_left_out_if_only_live_streams_are_asked_for() -> None:
    rows = bench_recognizer(COUNTING, {}, [2], 4, lambda row: None, block_s=0.02, live_only=True)[
        "rows"
    ]
    (live,) = rows
    assert live["path"] == "in process, live"
    assert live["late_ms"]["n"] >= 4 * 0.2 / 0.02 - 4, "blocks of 20 ms"
    assert "step_ms" not in live, "it does not tell of steps"


def test_steps_of_an_engine_and_of_nemos_pipeline_are_in_the_rows(
    tiny_parakeet: Callable[..., Path],
) -> None:
    pytest.importorskip("nemo", reason="needs the extra `nemo`")
    options = {"weights": str(tiny_parakeet(streaming=True)), "slots": 2, "dtype": "float32"}
    report = bench_live_parakeet(options, [1, 2], 2, 3, lambda row: None, live_only=True)
    assert [(row["streams"], row["path"]) for row in report["rows"]] == [
        (1, "in process, live"),
        (2, "in process, live"),
        (1, "NeMo's pipeline"),
        (2, "NeMo's pipeline"),
    ]
    assert all(row["step_ms"]["n"] > 2 and 1 <= row["batch"] <= 2 for row in report["rows"][:2])
    assert [row["step_ms"]["n"] for row in report["rows"][2:]] == [3, 3]
    assert "2: " in report["details"]["steps"]


def test_an_engine_that_does_not_stream_has_no_live_row() -> None:
    (row,) = measure(f"{__name__}:Offline", [2])["rows"]
    assert row["path"] == "in process, file"
    with pytest.raises(InvalidRequest, match="recordings only"):
        bench_recognizer(f"{__name__}:Offline", {}, [2], 1, lambda row: None, live_only=True)


def test_more_streams_than_slots_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(InvalidRequest, match=r"300 streams are more than the 256 .* slots=300"):
        measure(COUNTING, [1, 300])


def test_babble_is_what_it_was_and_as_long_as_it_was_asked_for() -> None:
    one, again, other = babble(1.3, 1), babble(1.3, 1), babble(1.3, 2)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.dtype == np.float32
    assert len(one) == 20_800
    assert 0.01 < np.abs(one).mean() < np.abs(one).max() < 1.5
    assert not len(babble(0))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--engine", "moonshin"], "Did you mean 'moonshine'"),
        (["--engine", "moonshine", "--overhead", "2"], "--overhead"),
        (["--weights", "x.nemo"], "--engine"),
        (["--live-only"], "--live-only"),
        (["--engine", "parakeet", "--block-ms", "20"], "--block-ms"),
        (["--engine", "moonshine", "--nemo-steps", "3"], "parakeet-streaming"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    names: str,
) -> None:
    from runtime.cli import main

    monkeypatch.setattr("sys.argv", ["speech", "bench", "asr", *arguments, "--json"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert names in capsys.readouterr().err
