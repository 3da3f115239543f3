"""Engines by name: what is wrong with a name, its package or its options is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.config import SpeechAppArgs
from runtime.engines import (
    RECOGNIZERS,
    SYNTHESIZERS,
    check_name,
    make_recognizer,
    make_synthesizer,
)
from runtime.errors import ConfigError, InvalidRequest, UnknownEngine
from runtime.speech import Recognizer, Synthesizer

COMPLETE = """
class Voice:
    capabilities = None

    def __init__(self, *, pitch=1, slots=2):
        if slots < 1:
            raise ValueError(f"slots is {slots}")
        self.pitch = pitch

    async def load(self): ...
    async def exercise(self): ...
    def synthesize(self, request): ...
    async def close(self): ...


class Ear:
    capabilities = None

    async def load(self): ...
    async def exercise(self): ...
    def open(self, options): ...
    async def transcribe(self, samples, options): ...
    async def close(self): ...


class Mute:
    capabilities = None

    async def load(self): ...
    async def exercise(self): ...
    async def close(self): ...


number = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module that can be imported, under a name of its own."""

    def write(source: str) -> str:
        name = f"engines_of_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


# --- engines that come with the package --------------------------------------


@pytest.mark.parametrize("name", sorted(SYNTHESIZERS.keys() - {"magpie", "magpie-reference"}))
def test_a_synthesizer_is_made_by_its_short_name_and_has_loaded_nothing(name: str) -> None:
    engine = make_synthesizer(name, {"slots": 3})
    assert isinstance(engine, Synthesizer)
    assert engine.capabilities.slots == 3
    assert engine.capabilities.voices


@pytest.mark.parametrize("name", sorted(RECOGNIZERS.keys() - {"parakeet", "parakeet-streaming"}))
def test_a_recognizer_is_made_by_its_short_name_and_has_loaded_nothing(name: str) -> None:
    engine = make_recognizer(name, {"slots": 3})
    assert isinstance(engine, Recognizer)
    assert engine.capabilities.slots == 3
    assert engine.capabilities.languages


def test_an_engine_needs_no_options() -> None:
    assert make_synthesizer("hibari").capabilities.slots >= 1


def test_nvidias_engines_may_be_configured_in_their_roles_without_their_weights() -> None:
    args = SpeechAppArgs.model_validate(
        {
            "asr": {"live": {"engine": "parakeet-streaming"}, "file": {"engine": "parakeet"}},
            "tts": {"engine": "magpie", "options": {"slots": "auto"}},
        }
    )
    assert args.tts is not None
    assert args.tts.engine == "magpie"
    with pytest.raises(UnknownEngine):
        check_name("magpie", RECOGNIZERS)


# --- names -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name", "meant"),
    [
        (make_synthesizer, "hibary", "hibari"),
        (make_synthesizer, "Hibari", "hibari"),
        (make_recognizer, "moonshin", "moonshine"),
        (make_recognizer, "wisper", "whisper"),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(
    make: Callable[[str], object], name: str, meant: str
) -> None:
    with pytest.raises(UnknownEngine, match=f"no engine '{name}'. Did you mean '{meant}'?"):
        make(name)


def test_a_name_near_to_none_is_refused_with_all_there_are() -> None:
    with pytest.raises(UnknownEngine) as caught:
        make_recognizer("zzz")
    assert "Did you mean" not in str(caught.value)
    names = "moonshine, whisper, parakeet, parakeet-streaming"
    assert f"Engines: {names}, or package.module:Class." in str(caught.value)


@pytest.mark.parametrize("name", ["", ":", "a:", ":B", "a.b", "a..b:C", "a:B.C", "a b:C", "1a:B"])
def test_what_is_neither_a_name_nor_an_import_path_is_unknown(name: str) -> None:
    with pytest.raises(UnknownEngine):
        check_name(name, SYNTHESIZERS)


@pytest.mark.parametrize("name", ["hibari", "package:Class", "package.module:Class", "_a.b_1:C"])
def test_a_name_or_an_import_path_can_name_an_engine(name: str) -> None:
    assert check_name(name, SYNTHESIZERS) == name


def test_an_unknown_engine_is_a_mistake_in_the_configuration() -> None:
    assert issubclass(UnknownEngine, ConfigError)
    assert issubclass(ConfigError, InvalidRequest)


# --- engines of others -------------------------------------------------------


def test_an_engine_is_made_by_its_import_path_with_its_options(
    module: Callable[[str], str],
) -> None:
    name = module(COMPLETE)
    engine = make_synthesizer(f"{name}:Voice", {"pitch": 3})
    assert engine.pitch == 3  # type: ignore[attr-defined]
    assert make_recognizer(f"{name}:Ear")


def test_a_missing_package_is_named_with_what_to_do() -> None:
    with pytest.raises(UnknownEngine, match=r"'no_such\.package:Voice'.*No module.*install its"):
        make_synthesizer("no_such.package:Voice")


def test_a_missing_package_of_an_engine_that_comes_along_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "runtime.engines.embedded.moonshine", None)
    with pytest.raises(UnknownEngine, match=r"'moonshine'.*speech-runtime\[embedded\]"):
        make_recognizer("moonshine")


def test_a_missing_class_is_named(module: Callable[[str], str]) -> None:
    name = module(COMPLETE)
    with pytest.raises(UnknownEngine, match=f"Module {name} has no Tenor"):
        make_synthesizer(f"{name}:Tenor")


def test_a_module_that_fails_by_itself_is_not_said_to_lack_the_class(
    module: Callable[[str], str],
) -> None:
    name = module("import os\nos.no_such_thing\n")
    with pytest.raises(AttributeError, match="no_such_thing"):
        make_synthesizer(f"{name}:Voice")


# --- options and contract ----------------------------------------------------


def test_an_option_that_an_engine_does_not_take_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'hibari' does not take these options.*'tempo'"):
        make_synthesizer("hibari", {"tempo": 120})


def test_a_value_that_an_engine_does_not_take_is_a_mistake_in_the_configuration(
    module: Callable[[str], str],
) -> None:
    name = module(COMPLETE)
    with pytest.raises(ConfigError, match=r"does not take these options: slots is 0\."):
        make_synthesizer(f"{name}:Voice", {"slots": 0})


def test_a_configuration_error_of_an_engine_keeps_its_own_words(
    module: Callable[[str], str],
) -> None:
    name = module(
        "from runtime.errors import ConfigError\n"
        "class Voice:\n"
        "    def __init__(self):\n"
        "        raise ConfigError('No GPU here.')\n"
    )
    with pytest.raises(ConfigError, match=r"^No GPU here\.$"):
        make_synthesizer(f"{name}:Voice")


@pytest.mark.parametrize(
    ("make", "engine", "what"),
    [
        (make_synthesizer, "Mute", "synthesizer"),
        (make_synthesizer, "Ear", "synthesizer"),
        (make_recognizer, "Mute", "recognizer"),
        (make_recognizer, "Voice", "recognizer"),
    ],
)
def test_a_class_that_lacks_the_contract_is_refused(
    module: Callable[[str], str], make: Callable[[str], object], engine: str, what: str
) -> None:
    name = f"{module(COMPLETE)}:{engine}"
    with pytest.raises(UnknownEngine, match=f"'{name}' is not a {what}"):
        make(name)


def test_what_is_no_class_at_all_is_refused(module: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError):
        make_synthesizer(f"{module(COMPLETE)}:number")
