"""NeMo's grammars: compiled once and kept whole, run beside the process, replaced by the rules.

Chinese stands for the others: its grammars compile in 3 s, English ones in about 50.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ConfigError
from runtime.normalization import grammars, make_normalizer, nemo
from runtime.normalization.nemo import NemoNormalizer

# --- the cache: a compiler of tests writes two files, as NeMo does ---


class Compiler:
    """Writes files into an empty folder, reads them from a full one."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.compiled = 0
        self._seconds = seconds

    def __call__(self, language: str, folder: Path) -> str:
        file = folder / "tagger.far"
        if not file.exists():
            self.compiled += 1
            time.sleep(self._seconds)
            file.write_text(language)
            (folder / "verbalizer.far").write_text(language)
        return file.read_text()


def load(compiler: Compiler, cache: Path, language: str = "en", version: str = "1") -> Any:
    return grammars.load(language, version, cache, compiler)


def test_grammars_are_compiled_once(tmp_path: Path) -> None:
    compiler = Compiler()
    assert [load(compiler, tmp_path) for _ in range(3)] == ["en"] * 3
    assert compiler.compiled == 1


def test_every_language_and_version_has_a_folder_of_its_own(tmp_path: Path) -> None:
    compiler = Compiler()
    assert load(compiler, tmp_path, "ja") == "ja"
    assert load(compiler, tmp_path, "zh") == "zh"
    assert load(compiler, tmp_path, "zh", version="2") == "zh"
    assert compiler.compiled == 3


def test_two_that_compile_at_once_compile_once(tmp_path: Path) -> None:
    compiler = Compiler(seconds=0.2)
    threads = [threading.Thread(target=load, args=(compiler, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compiler.compiled == 1


@pytest.mark.parametrize("damage", ["cut", "gone", "no description", "nonsense", "another file"])
def test_a_broken_cache_is_compiled_again(tmp_path: Path, damage: str) -> None:
    compiler = Compiler()
    load(compiler, tmp_path)
    folder = tmp_path / "normalization" / "1" / "en"
    if damage == "cut":
        (folder / "tagger.far").write_text("")
    elif damage == "gone":
        (folder / "verbalizer.far").unlink()
    elif damage == "no description":
        (folder / "sha256.json").unlink()
    elif damage == "nonsense":
        (folder / "sha256.json").write_text("{")
    else:
        (folder / "more.far").write_text("")
    assert load(compiler, tmp_path) == "en"
    assert load(compiler, tmp_path) == "en"
    assert compiler.compiled == 2


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(language: str, folder: Path) -> None:
        (folder / "half.far").write_text("")
        raise RuntimeError("no grammar")

    with pytest.raises(RuntimeError):
        grammars.load("en", "1", tmp_path, fail)
    assert [path.name for path in (tmp_path / "normalization" / "1").iterdir()] == ["en.lock"]


# --- the process, with the real grammars ---


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pynini", reason="pynini comes with the nemo extra, on x86-64")
    pytest.importorskip("nemo_text_processing", reason="it comes with the nemo extra, on x86-64")
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def started(cache: Path) -> Iterator[NemoNormalizer]:
    normalizer = make_normalizer("nemo", ["zh"], cache)
    assert isinstance(normalizer, NemoNormalizer)
    normalizer.prewarm()
    yield normalizer
    normalizer.close()


@pytest.fixture
def chinese(started: NemoNormalizer) -> NemoNormalizer:
    """The one process of these tests; each test counts its own failures."""
    await_worker(started)
    started._failures.clear()
    return started


def test_the_grammars_speak_and_say_that_they_do(chinese: NemoNormalizer) -> None:
    assert chinese.name.startswith("nemo-text-processing ")
    assert chinese.languages == ("zh",)
    assert chinese.normalize("我有3个苹果", "zh-CN") == "我有三个苹果"
    assert chinese.normalize("I have 3", "en") == "I have 3"
    assert chinese.normalize(" \n", "zh") == " \n"
    assert chinese.failures == {}


def test_a_second_start_reads_what_the_first_compiled_and_its_process_ends_with_it(
    chinese: NemoNormalizer, cache: Path
) -> None:
    (folder,) = (cache / "normalization").iterdir()
    before = {path: path.stat().st_mtime_ns for path in (folder / "zh").iterdir()}
    other = make_normalizer("nemo", ["zh"], cache)
    assert isinstance(other, NemoNormalizer)
    other.prewarm()
    pid = other.worker_pid
    assert pid
    other.close()
    assert other.worker_pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert {path: path.stat().st_mtime_ns for path in (folder / "zh").iterdir()} == before


def test_a_text_that_the_grammars_refuse_is_the_rules_and_is_counted(
    chinese: NemoNormalizer,
) -> None:
    assert chinese.normalize("\ud800 3", "zh") == "\ud800 三"
    assert chinese.failures == {"error": 1}


def test_a_long_text_takes_a_bounded_time_and_loses_nothing(chinese: NemoNormalizer) -> None:
    text = "我有3个苹果。" * 2_000
    began = time.monotonic()
    said = chinese.normalize(text, "zh")
    assert time.monotonic() - began < 5
    assert said.count("三") == 2_000
    assert not any(map(str.isdigit, said))


def test_a_process_that_dies_is_replaced_and_the_rules_speak_meanwhile(
    chinese: NemoNormalizer,
) -> None:
    first = chinese.worker_pid
    assert first
    os.kill(first, signal.SIGKILL)
    assert chinese.normalize("3个", "zh") == "三个"
    assert chinese.failures == {"no worker": 1}
    await_worker(chinese)
    assert chinese.worker_pid != first
    assert chinese.normalize("3个", "zh") == "三个"
    assert chinese.failures == {"no worker": 1}


def test_a_process_that_hangs_is_replaced(
    chinese: NemoNormalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nemo, "PIECE_TIMEOUT_S", 0.05)
    first = chinese.worker_pid
    assert first
    os.kill(first, signal.SIGSTOP)
    assert chinese.normalize("3个", "zh") == "三个"
    assert chinese.failures == {"hung": 1}
    await_worker(chinese)
    assert chinese.worker_pid != first


def test_callers_wait_their_turn_for_a_bounded_time(
    chinese: NemoNormalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nemo, "START_TIMEOUT_S", 0.05)
    with chinese._turn:
        assert chinese.normalize("3个", "zh") == "三个"
    assert chinese.failures == {"late": 1}
    assert chinese.normalize("3个", "zh") == "三个"


def test_a_cache_that_cannot_be_written_is_named(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    normalizer = make_normalizer("nemo", ["zh"], tmp_path / "file")
    with pytest.raises(ConfigError, match="SPEECH_CACHE_DIR"):
        normalizer.prewarm()
    normalizer.close()


def test_without_prewarming_the_rules_speak(tmp_path: Path) -> None:
    normalizer = NemoNormalizer("nemo-text-processing 0", ("en",), tmp_path)
    assert normalizer.normalize("It costs $5.", "en") == "It costs five dollars."
    assert normalizer.failures == {"no worker": 1}
    normalizer.close()


@pytest.mark.skipif(
    "SPEECH_TEST_GRAMMARS" not in os.environ,
    reason="English grammars take a minute to compile: SPEECH_TEST_GRAMMARS=<cache folder>",
)
def test_nemo_still_says_what_was_recorded() -> None:
    table = (Path(__file__).parent / "spoken" / "english_by_nemo.tsv").read_text().splitlines()
    normalizer = make_normalizer("nemo", ["en"], Path(os.environ["SPEECH_TEST_GRAMMARS"]))
    normalizer.prewarm()
    for line in table:
        if line and not line.startswith("# "):
            written, said = line.split("\t")
            heard = normalizer.normalize(written, "en")
            assert heard == said or any(map(str.isdigit, said))
    normalizer.close()


def await_worker(normalizer: NemoNormalizer) -> None:
    deadline = time.monotonic() + 60
    while normalizer.worker_pid is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
