"""The catalogue names what the engines name, and guesses no revision."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.engines.models import MAGPIE, PARAKEET, PARAKEET_STREAMING
from runtime.errors import ConfigError
from runtime.models import catalogue
from runtime.models.catalogue import CATALOGUE, CODEC, find, with_needs

ROOT = Path(__file__).parents[1]


def test_each_model_of_the_engines_can_be_pulled_and_no_other() -> None:
    assert set(CATALOGUE) == {*MAGPIE, *PARAKEET, *PARAKEET_STREAMING, CODEC}


def test_a_pin_is_a_whole_commit_and_the_content_of_each_file() -> None:
    for model in CATALOGUE.values():
        if model.pin is None:
            continue
        assert re.fullmatch("[0-9a-f]{40}", model.pin.commit)
        assert set(model.pin.files) == set(model.files)
        for file in model.pin.files.values():
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.size > 400e6


def test_each_pin_names_the_public_source_it_was_found_in() -> None:
    source = Path(catalogue.__file__).read_text(encoding="utf-8")
    before = source.split("pin=_pin(")[:-1]
    pins = sum(model.pin is not None for model in CATALOGUE.values())
    assert len(before) == pins
    for text in before:
        comment = " ".join(re.findall(r"# (.*)", text[text.rindex("licence=") :]))
        assert re.search(r"github\.com/\S+, \S+ at [0-9a-f]{40}\.", comment), comment


def test_names_and_aliases_lead_to_one_model_each() -> None:
    names = [name for model in CATALOGUE.values() for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))
    assert all(find(name).name in CATALOGUE for name in names)
    assert find("magpie").name == next(iter(MAGPIE))
    assert find("parakeet").name == next(iter(PARAKEET))


def test_a_wrong_name_gets_the_nearest_or_all() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'parakeet-tdt-0.6b-v3'\?"):
        find("parakeet-tdt-0.6-v3")
    with pytest.raises(ConfigError, match="Models: magpie_tts_multilingual_357m, "):
        find("xyz")


def test_magpie_brings_its_codec_once() -> None:
    both = [find("magpie"), find("magpie-2025-12")]
    assert [model.name for model in with_needs(both)] == [
        "magpie_tts_multilingual_357m",
        CODEC,
        "magpie_tts_multilingual_357m@2025-12",
    ]


def test_licences_are_those_that_are_published_with_the_project() -> None:
    lines = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").splitlines()
    for model in CATALOGUE.values():
        (line,) = (line for line in lines if line.startswith(f"| `{model.repo}` |"))
        assert line.split("|")[3].strip().startswith(model.licence)


def test_the_command_line_starts_without_the_hubs_package_and_without_torch() -> None:
    code = (
        "import sys, runtime.cli.main\n"
        "print([m for m in ('huggingface_hub', 'torch', 'nemo', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
