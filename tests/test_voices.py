"""Voices are found by name, and blends of them are read strictly and written back the same."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from texts import quick

from runtime.errors import CheckpointError, InvalidRequest, UnknownLanguage, UnknownVoice
from runtime.requests import resolve_synthesis
from runtime.speech import SynthesisRequest, SynthesizerCapabilities, Voice
from runtime.voices import Blend, find_voice, is_blend, parse_blend, read_blends, voices_file

NAMES = ("Aria", "Jason", "John", "Leo", "Sofia")
RATES = {"sample_rate": 22050, "streaming": False}


# --- names ---


@pytest.mark.parametrize("asked", ["Sofia", "sofia", "SOFIA", "  sofia\n"])
def test_a_voice_is_found_whatever_its_case(asked: str) -> None:
    assert find_voice(asked, NAMES) == "Sofia"


def test_an_unknown_voice_is_refused_with_all_there_are_and_the_nearest_first() -> None:
    with pytest.raises(UnknownVoice) as refused:
        find_voice("sophia", NAMES)
    assert str(refused.value) == (
        "There is no voice 'sophia' (did you mean 'Sofia'?); voices: Aria, Jason, John, Leo, Sofia."
    )


def test_nothing_is_guessed_for_a_voice_that_resembles_none() -> None:
    with pytest.raises(UnknownVoice) as refused:
        find_voice("Zzyzx", NAMES)
    assert "did you mean" not in str(refused.value)


# --- blends ---


def test_a_blend_has_its_heaviest_voice_first_under_its_own_name() -> None:
    blend = parse_blend(" leo:0.3 + ARIA : 0.7 ", NAMES)
    assert blend == Blend((("Aria", 0.7), ("Leo", 0.3)))
    assert str(blend) == "Aria:0.7+Leo:0.3"


def test_voices_of_one_weight_are_in_the_order_of_the_checkpoint() -> None:
    first = parse_blend("sofia:0.25+leo:0.25+aria:0.5", NAMES)
    second = parse_blend("leo:0.25+aria:0.5+sofia:0.25", NAMES)
    assert str(first) == str(second) == "Aria:0.5+Leo:0.25+Sofia:0.25"


@pytest.mark.parametrize("third", ["0.333", "0.3333333", "0.3334"])
def test_thirds_become_thirds(third: str) -> None:
    blend = parse_blend(f"aria:{third}+leo:{third}+john:{third}", NAMES)
    assert [name for name, _ in blend.parts] == ["Aria", "John", "Leo"]
    assert [weight for _, weight in blend.parts] == pytest.approx([1 / 3] * 3, abs=1e-12)


def test_a_blend_of_one_voice_is_that_voice() -> None:
    assert str(parse_blend("leo:1", NAMES)) == "Leo"


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("aria:0.7+leo:0.2", "0.9"),
        ("aria:0.7+leo:0.302", "1.002"),
        ("aria:70+leo:30", "100"),
        ("aria:1e308+leo:1e308", "inf"),
    ],
)
def test_weights_must_sum_to_one(text: str, total: str) -> None:
    with pytest.raises(InvalidRequest, match=f"sum to {total}; they must sum to 1"):
        parse_blend(text, NAMES)


@pytest.mark.parametrize(
    "part", ["aria", "aria:", "aria:x", "aria:0", "aria:-0.7", "aria:nan", "aria:inf", "", ":0.7"]
)
def test_a_part_without_a_weight_above_zero_is_refused(part: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_blend(f"{part}+leo:0.3", NAMES)
    assert repr(part) in str(refused.value) or "no voice ''" in str(refused.value)


def test_the_example_in_a_refusal_is_a_blend_of_these_voices() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_blend("aria+leo", NAMES)
    example = str(refused.value).rsplit(" ", 1)[1].rstrip(".")
    assert str(parse_blend(example, NAMES)) == "Aria:0.7+Jason:0.3"


def test_an_unknown_voice_of_a_blend_is_named() -> None:
    with pytest.raises(UnknownVoice, match=r"no voice 'arya' \(did you mean 'Aria'\?\)"):
        parse_blend("arya:0.7+leo:0.3", NAMES)


def test_a_voice_comes_once_in_a_blend_whatever_its_case() -> None:
    with pytest.raises(InvalidRequest, match=r"'Leo' comes twice"):
        parse_blend("leo:0.5+LEO:0.5", NAMES)


weights = st.lists(st.floats(min_value=1e-7, max_value=1.0), min_size=2, max_size=len(NAMES)).map(
    lambda found: [weight / math.fsum(found) for weight in found]
)


@quick
@given(weights=weights, order=st.permutations(NAMES), digits=st.sampled_from([4, 6, 9, 17]))
@example([1 / 3] * 3, list(NAMES), 3)
@example([0.123456789, 0.876543211], list(NAMES), 17)
@example([2 / 9, 2 / 9, 2 / 9, 1 / 3], list(NAMES), 9)
@example([0.50000004, 0.49999996], ["Leo", "Aria", "Jason", "John", "Sofia"], 17)
def test_a_blend_as_written_is_the_same_blend(
    weights: list[float], order: list[str], digits: int
) -> None:
    # The daemon writes out what was asked for, and the engine reads that.
    voices = order[: len(weights)]
    written = [
        f"{name.upper()}:{weight:.{digits}g}" for name, weight in zip(voices, weights, strict=True)
    ]
    blend = parse_blend("+".join(written), NAMES)
    assert parse_blend(str(blend), NAMES) == blend
    assert math.fsum(weight for _, weight in blend.parts) == pytest.approx(1, abs=1e-8)
    shares = [weight for _, weight in blend.parts]
    assert shares == sorted(shares, reverse=True)


# --- blends with a name of their own ---


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "magpie.nemo"


def name_blends(checkpoint: Path, document: object) -> Path:
    file = voices_file(checkpoint)
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def test_without_a_file_there_are_no_named_blends(checkpoint: Path) -> None:
    assert read_blends(checkpoint, NAMES) == {}


def test_named_blends_are_read_in_the_order_of_their_file(checkpoint: Path) -> None:
    file = name_blends(checkpoint, {"warm": "leo:0.3+aria:0.7", "calm": "john:1"})
    assert file == checkpoint.parent / "magpie.nemo.voices.json"
    blends = read_blends(checkpoint, NAMES)
    assert {name: str(blend) for name, blend in blends.items()} == {
        "warm": "Aria:0.7+Leo:0.3",
        "calm": "John",
    }
    assert list(blends) == ["warm", "calm"]


def test_a_file_that_is_not_json_is_refused_by_name(checkpoint: Path) -> None:
    file = name_blends(checkpoint, '{"warm": ')
    with pytest.raises(CheckpointError, match="is not JSON") as refused:
        read_blends(checkpoint, NAMES)
    assert str(refused.value).startswith(str(file))


@pytest.mark.parametrize(
    "document", [[], ["aria"], "aria:1", 3, None, {"warm": 0.7}, {"warm": {"aria": 1.0}}]
)
def test_a_file_that_maps_no_names_to_blends_is_refused(checkpoint: Path, document: object) -> None:
    file = name_blends(checkpoint, json.dumps(document))
    with pytest.raises(CheckpointError, match="must map names to blends") as refused:
        read_blends(checkpoint, NAMES)
    assert str(refused.value).startswith(str(file))


@pytest.mark.parametrize("name", ["Aria", "aRIA", "", " ", "a+b", "a:b", " warm", "warm\n"])
def test_a_blend_needs_a_name_that_can_be_asked_for(checkpoint: Path, name: str) -> None:
    file = name_blends(checkpoint, {name: "aria:0.7+leo:0.3"})
    with pytest.raises(CheckpointError, match="cannot name a blend") as refused:
        read_blends(checkpoint, NAMES)
    assert str(refused.value).startswith(f"{file}: {name!r} ")


def test_two_blends_have_two_names_whatever_their_case(checkpoint: Path) -> None:
    name_blends(checkpoint, {"warm": "aria:1", "Warm": "leo:1"})
    with pytest.raises(CheckpointError, match="'Warm' cannot name a blend; it must be new"):
        read_blends(checkpoint, NAMES)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("aria:0.7", "sum to 0.7"),
        ("arya:0.7+leo:0.3", "no voice 'arya'"),
        ("aria:0.7+leo", "'leo'"),
        ("warm:0.5+leo:0.5", "no voice 'warm'"),
    ],
)
def test_a_wrong_blend_is_refused_with_its_file_its_name_and_why(
    checkpoint: Path, written: str, why: str
) -> None:
    file = name_blends(checkpoint, {"warm": "aria:1", "cold": written})
    with pytest.raises(CheckpointError) as refused:
        read_blends(checkpoint, NAMES)
    assert str(refused.value).startswith(f"{file}: 'cold': ")
    assert why in str(refused.value)


# --- requests ---


def capabilities(*, blends: bool) -> SynthesizerCapabilities:
    voices = (
        Voice("Aria", ("en", "de", "fr")),
        Voice("Leo", ("fr", "en")),
        Voice("Kenji", ("ja",)),
        Voice("warm", ("en",), "Aria:0.7+Leo:0.3"),
    )
    return SynthesizerCapabilities(voices=voices, blends=blends, **RATES)  # type: ignore[arg-type]


def resolved(
    voice: str | None, language: str | None = None, *, blends: bool = True
) -> tuple[str, str]:
    request = SynthesisRequest("Hello.", voice=voice, language=language)
    found, _ = resolve_synthesis(request, capabilities(blends=blends))
    assert found.voice is not None
    assert found.language is not None
    return found.voice, found.language


def test_a_blend_is_resolved_to_the_way_the_engine_writes_it() -> None:
    assert resolved("leo:0.30+ARIA:0.70") == ("Aria:0.7+Leo:0.3", "en")
    assert resolved("warm:0.5+leo:0.5") == ("Leo:0.5+warm:0.5", "en")


def test_a_blend_of_one_voice_is_resolved_to_its_name() -> None:
    assert resolved("leo:1.0") == ("Leo", "fr")


def test_without_blends_a_blend_is_a_voice_there_is_not() -> None:
    assert is_blend("aria:0.7+leo:0.3")
    with pytest.raises(UnknownVoice, match=r"There is no voice 'aria:0\.7\+leo:0\.3'"):
        resolved("aria:0.7+leo:0.3", blends=False)


def test_voices_and_named_blends_are_found_with_and_without_blends() -> None:
    for blends in (True, False):
        assert resolved("WARM", blends=blends) == ("warm", "en")
        assert resolved("leo", "en-GB", blends=blends) == ("Leo", "en")


def test_a_blend_speaks_the_languages_that_all_of_its_voices_speak() -> None:
    assert resolved("aria:0.4+leo:0.6") == ("Leo:0.6+Aria:0.4", "fr")  # the heaviest one's first
    assert resolved("aria:0.4+leo:0.6", "en") == ("Leo:0.6+Aria:0.4", "en")
    with pytest.raises(UnknownVoice, match="does not speak 'de'; it speaks: fr, en"):
        resolved("aria:0.4+leo:0.6", "de")
    with pytest.raises(UnknownLanguage):
        resolved("aria:0.4+leo:0.6", "tlh")


@pytest.mark.parametrize("language", [None, "en", "ja"])
def test_a_blend_of_voices_without_a_common_language_is_refused(language: str | None) -> None:
    with pytest.raises(UnknownVoice, match=r"Aria:0\.5\+Kenji:0\.5.*no language in common"):
        resolved("kenji:0.5+aria:0.5", language)


def test_a_wrong_blend_is_refused_as_a_request() -> None:
    with pytest.raises(InvalidRequest, match=r"sum to 1\.1"):
        resolved("aria:0.7+leo:0.4")
