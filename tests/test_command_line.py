"""The commands against a daemon, and what they say when something is wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.cluster

AUDIO = Path(__file__).parent / "audio"


def test_say_writes_a_wav_and_reports_how_fast(speech, daemon, tmp_path) -> None:
    result = speech("say", "Hello there.", "-o", "hello.wav", "--json", settings=daemon)
    assert result.code == 0
    report = result.json
    assert set(report) == {"path", "sample_rate", "audio_s", "first_audio_ms", "rtf"}
    info = soundfile.info(tmp_path / "hello.wav")
    assert info.samplerate == report["sample_rate"] == 24_000
    assert abs(info.duration - report["audio_s"]) < 0.01
    assert 0 < report["first_audio_ms"] < 5_000


def test_say_to_standard_output_is_a_wav_and_nothing_else(daemon) -> None:
    command = [Path(sys.executable).parent / "speech", "say", "To standard output.", "-o", "-"]
    environment = os.environ | {"SPEECH_STATE_DIR": str(daemon.state_dir)}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    samples, rate = soundfile.read(io.BytesIO(done.stdout))
    assert rate == 24_000
    assert len(samples) > 12_000


def test_say_reads_the_text_from_standard_input(speech, daemon, tmp_path) -> None:
    result = speech("say", "-", "-o", "piped.wav", settings=daemon, input="From a pipe.")
    assert result.code == 0
    assert soundfile.info(tmp_path / "piped.wav").duration > 0.5


def test_transcribe_answers_with_one_object_for_any_number_of_files(speech, daemon, clips) -> None:
    paths = [clips[0].path, clips[5].path]
    result = speech("transcribe", *paths, "--words", "--json", settings=daemon)
    assert result.code == 0
    files = result.json["files"]
    assert [Path(entry["path"]) for entry in files] == paths
    assert [round(entry["seconds"], 1) for entry in files] == [1.1, 2.8]
    assert {"text", "start_s", "end_s", "confidence"} == set(files[0]["words"][0])


def test_transcribe_streams_live(speech, daemon, clips) -> None:
    result = speech("transcribe", clips[5].path, "--stream", "--pace", "2", settings=daemon)
    assert result.code == 0
    assert "forward" in result.out


def test_voices_and_status_answer_people_and_programs(speech, daemon) -> None:
    voices = speech("voices", "--json", settings=daemon).json
    assert voices["voices"][0]["name"] == "heart"
    assert voices["sample_rate"] == 24_000
    assert "heart" in speech("voices", settings=daemon).out
    status = speech("status", "--json", settings=daemon).json
    assert status["ready"] is True
    assert {row["name"]: row["status"] for row in status["deployments"]} == {
        "ASR": "HEALTHY",
        "TTS": "HEALTHY",
    }
    assert status["resident_gib"] > 0.3
    assert "hibari" in speech("status", settings=daemon).out
    health = speech("status", "--health", "--json", settings=daemon)
    assert (health.code, health.json) == (0, {"healthy": True}), health.err


def test_doctor_passes_on_this_machine_and_sees_the_daemon(speech, daemon) -> None:
    result = speech("doctor", "--json", settings=daemon)
    assert result.code == 0, result.out
    findings = {finding["what"]: finding for finding in result.json["findings"]}
    assert findings["daemon"]["verdict"] == "pass"
    assert findings["weights of hibari"]["verdict"] == "pass"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["say", ""], "empty"),
        (["say", "   "], "empty"),
        (["say", "\U0001f642"], "letter"),
        (["say", "Hello.", "--voice", "nobody"], "heart"),
        (["say", "Hallo.", "--language", "de"], "languages: en"),
        (["say", "Hello.", "--speed", "30"], "2.0"),
        (["say", "Hello.", "-o", "no/such/folder/a.wav"], "cannot be written"),
        (["say", "Hello.", "-o", "-", "--json"], "standard output"),
        (["transcribe", "missing.wav"], "missing.wav"),
        (["transcribe", "."], "not a file"),
        (["transcribe", "speech.txt"], "cannot be read as audio"),
        (["transcribe", "empty.wav"], "is empty"),
        (["transcribe", "header.wav"], "no samples"),
        (["transcribe", "speech.wav", "--stream", "--words"], "times of words"),
        (["bench", "tts", "--streams", "many"], "1,2,4"),
        (["up"], "already runs"),
        (["up", "no-such-config"], "embedded"),
        (["up", "broken.yaml"], "Did you mean 'engine'"),
        (["up", "serve.yaml"], "Did you mean 'applications'"),
        (["up", "passed.yaml"], "Did you mean 'num_replicas'"),
        (["no-such-verb"], "No such command"),
    ],
)
def test_bad_input_exits_with_2_and_says_what_is_wrong(
    speech, daemon, tmp_path, arguments, names
) -> None:
    (tmp_path / "speech.txt").write_text("These are words, not sounds.")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "header.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "speech.wav", np.zeros(1_600), 16_000)
    speech_app = "{name: speech, import_path: 'deployments.app:build_app', args: {tts: %s}}"
    (tmp_path / "broken.yaml").write_text("applications: [" + speech_app % "{engin: hibari}" + "]")
    (tmp_path / "serve.yaml").write_text(
        "aplications: []\napplications: [" + speech_app % "{engine: hibari}" + "]"
    )
    (tmp_path / "passed.yaml").write_text(
        "applications: ["
        + speech_app % "{engine: hibari, deployment_config: {num_replica: 2}}"
        + "]"
    )
    result = speech(*arguments, settings=daemon)
    assert result.code == 2, result.err
    assert names in result.err
    assert "Traceback" not in result.err


def test_a_file_that_is_refused_leaves_nothing_behind(speech, daemon, tmp_path) -> None:
    speech("say", "\U0001f642", "-o", "nothing.wav", settings=daemon)
    assert not (tmp_path / "nothing.wav").exists()


@pytest.mark.parametrize(
    "arguments", [["say", "Hello."], ["status"], ["down"], ["voices"], ["bench", "idle"]]
)
def test_without_a_daemon_the_exit_code_is_4_and_the_message_says_how_to_start_one(
    speech, arguments
) -> None:
    result = speech(*arguments)
    assert result.code == 4
    assert "speech up" in result.err


def test_errors_of_a_json_run_are_one_object_too(speech, daemon) -> None:
    result = speech("say", "Hello.", "--voice", "nobody", "--json", settings=daemon)
    assert result.code == 2
    assert json.loads(result.out)["type"] == "UnknownVoice"


def test_bench_reports_every_figure_with_its_circumstances(speech, daemon) -> None:
    common = {"device", "engine", "versions", "commit", "command", "load_s", "warmup_ms", "rows"}
    tts = speech(
        "bench", "tts", "--streams", "1,2", "--utterances", "2", "--json", settings=daemon
    ).json
    assert common <= set(tts)
    assert [row["streams"] for row in tts["rows"]] == [1, 1, 2, 2]
    for row in tts["rows"]:
        assert row["first_audio_ms"]["n"] == 2
        assert row["x_realtime"] > 0
        assert {"rtf", "underruns", "peak_gib"} <= set(row)
    turn = speech(
        "bench",
        "turn",
        "--streams",
        "1",
        "--utterances",
        "1",
        "--json",
        "--no-pipeline",
        settings=daemon,
    ).json
    assert turn["rows"][0]["turn_ms"]["p50"] > 200
    scores = speech("bench", "wer", AUDIO / "manifest.json", "--json", settings=daemon).json
    assert {row["mode"]: row["words"] for row in scores["rows"]} == {"file": 88, "live": 88}
    assert max(row["wer"] for row in scores["rows"]) <= 0.1
    asr = speech(
        "bench", "asr", "--streams", "1", "--utterances", "1", "--json", settings=daemon
    ).json
    assert [row["final_ms"]["n"] for row in asr["rows"]] == [1, 1]
