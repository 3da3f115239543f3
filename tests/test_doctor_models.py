"""What `speech doctor --models` tries, and what becomes of trials that end badly."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from daemons import SUPPORT
from tiny_models import COMMIT, pinned

from runtime.engines.trials import matrix as trials
from runtime.engines.trials import nvrtc, triton
from runtime.engines.trials.group import Group, run
from runtime.engines.trials.line import Line
from runtime.engines.trials.matrix import MACHINE, matrix
from runtime.engines.trials.twice import twice
from runtime.models.catalogue import CODEC
from runtime.settings import Settings
from runtime.speech import LoadReport

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
MAGPIE = "magpie_tts_multilingual_357m"
PARAKEET = "parakeet-tdt-0.6b-v2"


def ending(function: str, limit_s: float = 60.0) -> list[Line]:
    group = Group("a model", ("first", "second", "third"), f"crashing_trials:{function}", mend="m")
    return list(run(group, limit_s))


def of_checkpoints(settings: Settings, **given: Path) -> list[Line]:
    """The lines before those of the machine, which is not tried."""
    return list(takewhile(lambda line: line.subject != MACHINE, matrix(settings, **given)))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of what is said without one, wherever they run."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def trials_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the processes of their own that they run in."""
    monkeypatch.setenv("PYTHONPATH", SUPPORT, prepend=os.pathsep)


@pytest.fixture
def store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[dict[str, bytes]], Settings]:
    """A catalogue of small models, all of which have been pulled."""

    def fill(contents: dict[str, bytes]) -> Settings:
        small = {name: pinned(name, content) for name, content in contents.items()}
        monkeypatch.setattr(trials, "CATALOGUE", small)
        for name, content in contents.items():
            folder = tmp_path / "models" / name / COMMIT
            folder.mkdir(parents=True)
            (folder / f"{name}.nemo").write_bytes(content)
        return Settings(models_dir=tmp_path / "models")

    return fill


@pytest.mark.parametrize(
    ("function", "found", "mend"),
    [
        ("segfault", "SIGSEGV: Fatal Python error: Segmentation fault", "speech doctor"),
        ("kill", "killed by SIGKILL", "memory"),
        ("leave", "exited with 7: the last words", "speech doctor"),
        ("complain", "It is cut off.", "m"),
        ("surprise", "ZeroDivisionError: by 0", ""),
    ],
)
def test_a_process_that_ends_early_fails_the_trial_that_it_was_at(
    function: str, found: str, mend: str
) -> None:
    first, second, third = ending(function)
    assert (first.what, first.verdict, first.found) == ("first", "pass", "went well")
    assert first.seconds is not None
    assert (second.what, second.verdict) == ("second", "fail")
    assert found in second.found
    assert mend in second.mend
    assert (third.verdict, third.ran, third.seconds) == ("warn", False, None)
    assert third.found == "did not run: second failed"


def test_a_trial_that_never_ends_is_ended() -> None:
    first, second, third = ending("hang", limit_s=2.0)
    assert first.verdict == "pass"
    assert (second.verdict, second.found) == ("fail", "took longer than 2 s, and was ended")
    assert not third.ran


def test_a_crash_after_the_last_trial_is_a_line_too() -> None:
    *trials, last = ending("crash_at_the_end")
    assert [line.verdict for line in trials] == ["pass"] * 3
    assert (last.what, last.verdict) == ("its end", "fail")
    assert "SIGABRT" in last.found


def test_trials_of_the_cpu_see_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    names = ("first", "second", "third")
    for gpu, seen in ((False, ""), (True, "0")):
        group = Group("a model", names, "crashing_trials:look_around", {"answer": 42}, gpu=gpu)
        first, second, third = run(group)
        assert (first.found, second.found) == (seen, "{'answer': 42}")
        assert (third.verdict, third.found, third.mend) == ("fail", "no good", "mend it")


def test_without_checkpoints_it_says_how_to_get_some(speech: Any, tmp_path: Path) -> None:
    where = {"SPEECH_MODELS_DIR": str(tmp_path / "none"), **NO_GPU}
    result = speech("doctor", "--models", "--json", env=where)
    assert result.code == 0, result.out
    assert result.json["ok"] is True
    pulled, graphs, nvrtc, triton = result.json["findings"]
    assert (pulled["verdict"], pulled["found"]) == ("warn", "none")
    assert "speech models pull" in pulled["mend"]
    assert (graphs["verdict"], graphs["ran"]) == ("warn", False)
    assert "no GPU (CUDA_VISIBLE_DEVICES is empty" in graphs["found"]
    assert (nvrtc["what"], triton["what"]) == ("NVRTC", "Triton")
    assert nvrtc["ran"]
    assert triton["verdict"] == "warn"
    text = speech("doctor", "--models", env=where).out
    assert "warn  this machine, CUDA-graph mode (torch): did not run" in text


def test_checkpoints_are_given_with_models_only(speech: Any) -> None:
    result = speech("doctor", "--weights", "x.nemo")
    assert result.code == 2
    assert "--models" in result.err


def test_a_checkpoint_that_is_cut_off_fails_with_the_mend(store: Any) -> None:
    whole = tiny_models.nemo(tiny_models.magpie(), weights=b"w" * 100_000)
    codec = tiny_models.nemo(tiny_models.codec())
    settings = store({MAGPIE: whole[:-60_000], CODEC: codec})
    good, archive, *rest = of_checkpoints(settings)
    assert (good.subject, good.verdict) == (CODEC, "pass")
    assert (archive.subject, archive.what, archive.verdict) == (MAGPIE, "archive", "fail")
    assert "no complete .nemo" in archive.found
    assert archive.mend == f"speech models pull {MAGPIE}"
    assert {(line.verdict, line.ran) for line in rest} == {("warn", False)}


def test_a_checkpoint_of_another_size_than_its_pin_fails(store: Any) -> None:
    settings = store({PARAKEET: tiny_models.nemo(tiny_models.parakeet())})
    (file,) = settings.models_dir.rglob("*.nemo")
    with file.open("ab") as appended:
        appended.write(b"more")
    archive, *_ = of_checkpoints(settings)
    assert (archive.subject, archive.verdict) == (PARAKEET, "fail")
    assert archive.mend == f"speech models pull {PARAKEET}"


def test_what_an_engine_refuses_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    weights, codec = tmp_path / "magpie.nemo", tmp_path / "codec.nemo"
    weights.write_bytes(tiny_models.nemo(tiny_models.magpie()))
    codec.write_bytes(tiny_models.nemo(tiny_models.codec()))
    lines = of_checkpoints(Settings(models_dir=tmp_path), weights=weights, codec=codec)
    found = {line.what: line for line in lines if line.subject == "magpie.nemo"}
    assert found["archive"].verdict == "pass"
    assert found["basic load"].verdict == "fail"
    assert "does not name its voices" in found["basic load"].found
    assert "fetch it again" in found["basic load"].mend
    assert not found["CPU inference"].ran


def test_a_missing_codec_fails_and_its_magpie_is_not_tried(store: Any) -> None:
    settings = store({MAGPIE: tiny_models.nemo(tiny_models.magpie())})
    codec, archive, *rest = of_checkpoints(settings)
    assert (codec.subject, codec.verdict, codec.found) == (CODEC, "fail", "it is not here")
    assert f"speech models pull {CODEC}" in codec.mend
    assert archive.verdict == "pass"
    assert {line.found for line in rest} == {"did not run: there is no codec for it"}


def test_a_parakeet_that_is_no_shape_that_is_known_is_not_tried(store: Any) -> None:
    settings = store({PARAKEET: tiny_models.nemo(tiny_models.codec())})
    archive, *rest = of_checkpoints(settings)
    assert (archive.subject, archive.what, archive.verdict) == (PARAKEET, "archive", "fail")
    assert archive.mend == f"speech models pull {PARAKEET}"
    assert [line.what for line in rest] == [*trials.ON_CPU, *trials.ON_GPU_AGAIN]
    assert {line.found for line in rest} == {"did not run: its archive failed"}


@pytest.mark.skipif(find_spec("nemo") is None, reason="needs the extra `nemo`")
@pytest.mark.parametrize("streaming", [True, False])
def test_a_sound_parakeet_loads_and_listens(
    store: Any, tiny_parakeet: Callable[..., Path], streaming: bool
) -> None:
    settings = store({PARAKEET: tiny_parakeet(streaming=streaming).read_bytes()})
    found = {line.what: line for line in of_checkpoints(settings)}
    for what in ("archive", *trials.ON_CPU):
        assert found[what].verdict == "pass", found[what]
    assert "2 s of audio" in found["CPU inference"].found
    for what in trials.ON_GPU_AGAIN:
        assert found[what].found.startswith("did not run: no GPU")


@pytest.mark.skipif(find_spec("nemo") is None, reason="needs the extra `nemo`")
def test_a_sound_checkpoint_loads_and_speaks(
    speech: Any, tiny_magpie: Callable[..., Path], tiny_codec: Path
) -> None:
    weights = tiny_magpie(stacking=2, max_decoder_steps=40, eos_bias=-100.0)
    result = speech(
        *("doctor", "--models", "--weights", weights, "--codec", tiny_codec, "--json"), env=NO_GPU
    )
    assert result.code == 0, result.out
    found = {line["what"]: line for line in result.json["findings"] if line["subject"] != CODEC}
    for what in ("archive", "basic load", "CPU inference"):
        assert found[what]["verdict"] == "pass", found[what]
    assert found["basic load"]["seconds"] > 1  # NeMo's import
    assert "1.02 s of audio" in found["CPU inference"]["found"]  # 22 frames, two a step
    for what in ("GPU inference", "eager mode", "CUDA-graph mode (torch)"):
        assert found[what]["verdict"] == "warn"
        assert found[what]["found"].startswith("did not run: no GPU")


@pytest.mark.parametrize(("again", "verdict"), [("one", "pass"), ("other", "warn")])
def test_what_a_gpu_gives_is_compared_with_what_it_gives_again(again: str, verdict: str) -> None:
    given = iter([("one", 2.0), (again, 0.5)])
    first, second = twice(
        lambda: next(given),
        lambda what, seconds: f"{what} in {seconds} s",
        LoadReport(3.0, 1.0, {"dtype": "bfloat16"}),
        warm=", warm",
        same="the same",
        other="another",
        mend="a mend",
    )
    assert first.verdict == "pass"
    assert first.found.startswith("one in 2.0 s; bfloat16, restored in 3.0 s, torch held")
    assert (second.verdict, bool(second.mend)) == (verdict, verdict == "warn")
    assert second.found.startswith(f"{again} in 0.5 s, warm; ")


def test_an_overwritten_byte_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_through_bindings", lambda: "NVRTC 0.0 compiles")
    (outcome,) = nvrtc.compile_kernel({"gpu": False})
    assert outcome.verdict == "pass"
    assert "intact" in outcome.found
    assert "loading a kernel did not run: no GPU" in outcome.found
    monkeypatch.setattr(nvrtc, "shared_bytes_intact", lambda: False)
    (outcome,) = nvrtc.compile_kernel({"gpu": False})
    assert outcome.verdict == "fail"
    assert "HTTP" in outcome.mend


def test_a_compiler_that_is_nowhere_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise OSError("there is none")

    monkeypatch.setattr(nvrtc, "_through_bindings", missing)
    monkeypatch.setattr(nvrtc, "_through_ctypes", missing)
    (outcome,) = nvrtc.compile_kernel({"gpu": False})
    assert outcome.verdict == "warn"
    assert outcome.found == "not here: there is none; there is none"


def test_the_environments_ptxas_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(triton.PTXAS, str(tmp_path / "ptxas"))
    assert "missing" in triton.ptxas()
    (tmp_path / "ptxas").touch()
    assert triton.ptxas() == f"{tmp_path / 'ptxas'} ({triton.PTXAS})"
    monkeypatch.setenv(triton.PTXAS_BLACKWELL, str(tmp_path / "newer"))
    assert triton.ptxas().endswith(f"newer ({triton.PTXAS_BLACKWELL}), missing")
