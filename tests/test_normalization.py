"""Which normaliser is chosen, what it handles, and the numbers of languages beside English."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import any_text, quick

from runtime import normalization
from runtime.cli import doctor
from runtime.errors import ConfigError
from runtime.normalization import LANGUAGES, make_normalizer, numerals, select
from runtime.settings import Settings


@pytest.fixture
def without_nemo(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    hide(monkeypatch, {"pynini", "nemo_text_processing"})
    return monkeypatch


@pytest.fixture
def with_nemo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalization, "find_spec", lambda name: object())
    monkeypatch.setattr(normalization, "_version", lambda: "1.2.0")


def hide(monkeypatch: pytest.MonkeyPatch, modules: set[str]) -> None:
    def find_spec(name: str) -> Any:
        return None if name in modules else importlib.util.find_spec(name)

    monkeypatch.setattr(normalization, "find_spec", find_spec)


def test_auto_takes_the_rules_where_nemo_is_not_and_says_why(without_nemo: Any) -> None:
    selection = select("auto")
    assert selection.backend == "rules"
    assert "pynini" in selection.why
    assert selection.mend
    assert make_normalizer("auto").name == selection.name


def test_auto_takes_nemo_where_it_is(with_nemo: None) -> None:
    selection = select("auto")
    assert (selection.backend, selection.mend) == ("nemo", "")
    assert selection.name == "nemo-text-processing 1.2.0"


def test_nemo_is_never_replaced_in_silence(without_nemo: Any) -> None:
    with pytest.raises(ConfigError, match=r"pynini.*Mend: .*normalizer: rules"):
        make_normalizer("nemo")


def test_a_machine_without_wheels_is_not_told_to_install_them(
    without_nemo: pytest.MonkeyPatch,
) -> None:
    without_nemo.setattr(normalization.platform, "machine", lambda: "aarch64")
    assert "aarch64" in select().why
    assert "pip" not in select().mend
    without_nemo.setattr(normalization.platform, "machine", lambda: "x86_64")
    assert "pip install" in select().mend


@pytest.mark.parametrize("choice", ["", "Rules", "none", None, 1])
def test_other_choices_are_refused(choice: Any) -> None:
    with pytest.raises(ConfigError, match="auto, nemo, rules, off"):
        make_normalizer(choice)


def test_off_changes_nothing() -> None:
    off = make_normalizer("off", LANGUAGES)
    off.prewarm()
    assert off.normalize("$5 & 3 km", "en") == "$5 & 3 km"
    assert (off.name, off.languages, off.failures) == ("off", (), {})
    off.close()


def test_a_language_that_is_not_handled_is_named_and_comes_back_as_it_is() -> None:
    rules = make_normalizer("rules", ["en-US", "de", "en", "xx"])
    rules.prewarm()
    assert rules.languages == ("en", "de")
    assert rules.normalize("5 kissaa", "fi") == "5 kissaa"
    assert rules.normalize("5 chats", "fr") == "5 chats"  # not among the languages asked for
    assert rules.normalize("5 km", "en_GB") == "five kilometers"
    assert rules.failures == {}
    rules.close()


def test_doctor_says_which_normaliser_would_be_active(without_nemo: Any) -> None:
    (finding,) = doctor._normalizer(Settings())
    assert finding.verdict == "warn"
    assert "rules" in finding.found
    assert finding.mend


def test_doctor_is_content_with_nemo(with_nemo: None) -> None:
    (finding,) = doctor._normalizer(Settings())
    assert (finding.verdict, finding.mend) == ("pass", "")
    assert "nemo-text-processing" in finding.found


# --- other languages: numbers ---


@pytest.mark.parametrize(
    ("language", "written", "said"),
    [
        ("es", "Cuesta 1.234,50 euros.", "Cuesta mil doscientos treinta y cuatro coma cinco cero"),
        ("es", "Hay 21 gatos y un 5 %.", "Hay veintiuno gatos y un cinco por ciento."),
        ("de", "Es sind -3 Grad.", "Es sind minus drei Grad."),
        ("de", "Es kostet 3,50 Euro.", "Es kostet drei Komma fünf null Euro."),
        ("de", "1.000.000 Leute", "eine Million Leute"),
        ("fr", "J'ai 71 ans et 1 000 amis.", "J'ai soixante-et-onze ans et mille amis."),
        ("vi", "Tôi có 25 con mèo.", "Tôi có hai mươi lăm con mèo."),
        ("it", "Ho 3 gatti, 2.500 libri.", "Ho tre gatti, duemilacinquecento libri."),
        ("zh", "我有101只猫，涨了5%。", "我有一百零一只猫，涨了百分之五。"),  # noqa: RUF001
        ("zh", "2024年3月", "二零二四年三月"),
        ("hi", "मेरे पास 1,00,000 रुपये", "मेरे पास एक लाख रुपये"),
        ("hi", "५ बिल्ली", "पाँच बिल्ली"),
        ("ja", "猫が25匹、30%です。", "猫が二十五匹、三十パーセントです。"),
        ("es", "007 y 9999999999999999", "cero cero siete y nueve"),
        ("fr", "GPT4 a3b", "GPT quatre a trois b"),
    ],
)
def test_numbers_of_other_languages(language: str, written: str, said: str) -> None:
    rules = make_normalizer("rules", [language])
    rules.prewarm()
    assert rules.normalize(written, language).startswith(said)


@quick
@given(st.sampled_from(sorted(numerals.LANGUAGES)), any_text)
def test_no_digit_is_left_and_all_else_is_kept(language: str, text: str) -> None:
    said = numerals.spoken_numbers(text, language)
    assert not any(map(str.isdigit, said))
    assert numerals.spoken_numbers(said, language) == said
    if not any(map(str.isdigit, text)):
        assert said == text


def test_every_language_has_numbers() -> None:
    assert {"en", *numerals.LANGUAGES} == set(LANGUAGES)


def test_the_page_about_normalisation_shows_what_is_said() -> None:
    page = (Path(__file__).parents[1] / "docs" / "normalisation.md").read_text()
    page = page.partition("| written | said |")[2]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", page, flags=re.MULTILINE)
    rules = make_normalizer("rules", ["en"])
    assert len(rows) > 8
    assert [(written, rules.normalize(written, "en")) for written, _ in rows] == [
        (written, said.strip()) for written, said in rows
    ]
