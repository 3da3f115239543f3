"""Text becomes the same tokens every time; what cannot be spoken is counted, the rest is kept."""

# Curly quotes, dashes and other scripts are the subject here.
# ruff: noqa: RUF001

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from hypothesis import example, given
from hypothesis import strategies as st
from texts import quick
from tiny_tongues import SENTENCES

from runtime.engines.magpie.checkpoint import Magpie, inspect, load
from runtime.engines.magpie.planner import TextPlanner
from runtime.engines.magpie.tokens import MIN_TOKENS, FrontEnd, Tokens
from runtime.errors import UnknownLanguage

BUILT = {"max_decoder_steps": 40, "eos_bias": -100.0}
SAID = set(string.ascii_letters)
FULL_S = 500 / 21.53  # of the longest chunk


@pytest.fixture(scope="module")
def magpie(tiny_magpie: Callable[..., Path], tiny_codec: Path) -> Magpie:
    return load(inspect(tiny_magpie(stacking=2, **BUILT), tiny_codec))


@pytest.fixture(scope="module")
def frontend(magpie: Magpie) -> FrontEnd:
    model = magpie.model
    phonemes = [t.g2p for t in model.tokenizer.tokenizers.values() if hasattr(t, "g2p")]
    drawn = [g2p for g2p in phonemes if getattr(g2p, "phoneme_probability", None) == 0.8]
    assert len(drawn) == 4  # as the checkpoint has it: English, Spanish, German, Hindi
    return FrontEnd(model.tokenizer, magpie.files.tokenizers, int(model.eos_id))


class Echo:
    """A normaliser that notes what it is asked; its failures are as many as its texts."""

    name, languages = "echo", ("en", "ja")

    def __init__(self, answer: str | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self._answer = answer

    @property
    def failures(self) -> dict[str, int]:
        return {"slow": len(self.asked)}

    def prewarm(self) -> None: ...

    def close(self) -> None: ...

    def normalize(self, text: str, language: str) -> str:
        self.asked.append((text, language))
        return text if self._answer is None else self._answer


def planner(
    frontend: FrontEnd, seconds: float, normalizer: Echo | None = None
) -> tuple[TextPlanner, Counter[str]]:
    counts: Counter[str] = Counter()
    return TextPlanner(frontend, normalizer or Echo(), seconds, counts), counts


# --- tokens ---


@pytest.mark.parametrize("language", ["en", "es", "de", "hi"])
def test_a_text_always_has_the_same_tokens(frontend: FrontEnd, language: str) -> None:
    found = {frontend.tokenize(SENTENCES[language], language) for _ in range(50)}
    assert len(found) == 1


def test_words_are_pronounced_and_not_spelled(magpie: Magpie, frontend: FrontEnd) -> None:
    tokenizer = magpie.model.tokenizer
    ids = frontend.tokenize("hello world", "en").ids[:-1]
    assert tokenizer.decode(list(ids), "english_phoneme").replace("|", "") == "həˈɫoʊ ˈwɝɫd"


def test_every_language_has_ids_of_its_own(frontend: FrontEnd) -> None:
    seen: set[int] = set()
    assert set(frontend.languages) == SENTENCES.keys()
    for language, sentence in SENTENCES.items():
        tokens = frontend.tokenize(sentence, language)
        assert (tokens.removed, tokens.padded, tokens.text) == (0, 0, sentence)
        *ids, last = tokens.ids
        assert last == frontend.eos_id
        assert len(ids) > 20
        assert not seen & set(ids)
        seen |= set(ids)


@pytest.mark.parametrize("language", ["pt", "EN", "en-US", ""])
def test_a_language_without_a_tokeniser_is_refused_by_name(
    frontend: FrontEnd, language: str
) -> None:
    with pytest.raises(UnknownLanguage) as refused:
        frontend.tokenize("hello", language)
    assert str(refused.value).startswith(f"The checkpoint has no tokeniser for {language!r}; it ")
    for known in frontend.languages:
        assert known in str(refused.value)


@pytest.mark.parametrize(
    ("language", "text", "kept", "removed"),
    [
        ("en", "Hello 😀 world.", "Hello world.", 1),
        ("en", "|h e l l o| world", "h e l l o world", 2),
        ("en", "<pad>hello<b>", "pad hello b", 4),
        ("en", "hello 123 world", "hello world", 3),
        ("en", "hello 世界 world", "hello world", 2),
        ("en", "café naïve Ångström", "cafe naive Angstrom", 0),
        ("en", "cafe\u0301", "cafe", 0),
        ("en", "ﬁne", "fine", 0),
        ("es", "¿cómo estás?", "¿cómo estás?", 0),
        ("es", "très", "tres", 0),
        ("de", "schöne Straße", "schöne Straße", 0),
        ("fr", "ça va | <extra_id_0>", "ça va extra_id_0", 3),
        ("vi", "thế giới", "thế giới", 0),
        ("zh", "你好 abc 5", "你好 abc", 1),
        ("hi", "नमस्ते 5", "नमस्ते", 1),
        ("ja", "世界|猫", "世界 猫", 1),
        ("ja", "世界、10と23。", "世界、10と23。", 0),  # OpenJTalk reads numbers itself
    ],
)
def test_what_cannot_be_spoken_is_counted_and_the_rest_kept(
    frontend: FrontEnd, language: str, text: str, kept: str, removed: int
) -> None:
    tokens = frontend.tokenize(text, language)
    assert (tokens.text, tokens.removed) == (kept, removed)
    assert tokens.ids[-1] == frontend.eos_id
    if removed:
        assert tokens.ids == frontend.tokenize(kept, language).ids


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("“Hello” world", '"Hello" world'),
        ("«Hello» „world“", '"Hello" "world"'),
        ("it’s ‘this’", "it's 'this'"),
        ("hello — world", "hello , world"),
        ("hello–world…", "hello, world..."),
        ("good‑morning", "good-morning"),
        ("hello\u00a0world\n\tagain", "hello world again"),
    ],
)
def test_quotes_dashes_and_spaces_are_read_as_plain_ones(
    frontend: FrontEnd, text: str, plain: str
) -> None:
    assert frontend.tokenize(text, "en") == frontend.tokenize(plain, "en")
    assert frontend.tokenize(text, "en").removed == 0


@pytest.mark.parametrize("language", ["en", "de", "fr", "it"])
def test_a_short_text_is_padded_after_its_first_token(
    magpie: Magpie, frontend: FrontEnd, language: str
) -> None:
    tokenizer, name = magpie.model.tokenizer, dict(magpie.files.tokenizers)[language]
    pad = tokenizer.tokenizer_pad_ids[name]
    for text in ("a", "es", "is a", "hello world"):
        raw = tokenizer.encode(text, tokenizer_name=name)
        tokens = frontend.tokenize(text, language)
        assert tokens.padded == max(0, MIN_TOKENS - 1 - len(raw))
        assert tokens.ids == (raw[0], *[pad] * tokens.padded, *raw[1:], frontend.eos_id)
        assert len(tokens.ids) >= MIN_TOKENS == 6
    assert frontend.tokenize("a", language).padded > 0
    assert tokens.padded == 0


@pytest.mark.parametrize("language", SENTENCES)
@pytest.mark.parametrize("text", ["", " ", "\n\t\u00a0", "😀", "...", "😀 | <> ?!"])
def test_nothing_to_speak_has_no_tokens(frontend: FrontEnd, language: str, text: str) -> None:
    tokens = frontend.tokenize(text, language)
    assert tokens.ids == ()
    assert tokens.padded == 0


def test_what_a_dictionary_has_no_sound_for_is_removed(frontend: FrontEnd) -> None:
    assert frontend.tokenize("龘", "zh") == Tokens((), "龘", 1, 0)
    assert frontend.tokenize("龘龘！", "zh") == Tokens((), "龘龘！", 3, 0)
    assert frontend.tokenize("龘", "ja").ids == ()


# --- plans ---


def test_a_text_that_fits_is_one_chunk(frontend: FrontEnd) -> None:
    plan, counts = planner(frontend, FULL_S)
    for language, sentence in SENTENCES.items():
        assert plan.plan(sentence, language, True) == [frontend.tokenize(sentence, language)]
    assert counts["characters_removed"] == counts["tokens_padded"] == 0


def test_a_normaliser_is_asked_once_for_a_piece_however_it_is_cut(frontend: FrontEnd) -> None:
    echo = Echo()
    plan, counts = planner(frontend, 2.0, echo)
    text = "hello world, " * 30
    assert len(plan.plan(text, "en", True)) > 10
    assert echo.asked == [(text, "en")]
    assert counts["fallback:normalizer rules"] == 1
    plan.plan("hello", "en", False)
    assert len(echo.asked) == 1


def test_what_the_normaliser_writes_is_spoken(frontend: FrontEnd) -> None:
    plan, _ = planner(frontend, FULL_S, Echo("one two three"))
    assert [chunk.text for chunk in plan.plan("123", "en", True)] == ["one two three"]
    assert plan.plan("123", "en", False) == []


def test_what_was_removed_and_padded_is_counted(frontend: FrontEnd) -> None:
    plan, counts = planner(frontend, FULL_S)
    (chunk,) = plan.plan("a 12", "en", True)
    assert (chunk.removed, chunk.padded) == (2, 4)
    assert plan.plan("345", "en", True) == []
    assert (counts["characters_removed"], counts["tokens_padded"]) == (5, 4)


def test_the_bounds_of_a_plan_are_those_it_warms_up_with(frontend: FrontEnd) -> None:
    plan, _ = planner(frontend, 2.0)
    assert len(plan.longest) == 22 == int(2.0 * 11)
    assert MIN_TOKENS <= len(plan.shortest) < len(plan.longest)
    assert plan.longest[-1] == plan.shortest[-1] == frontend.eos_id
    assert len(planner(frontend, 0.1)[0].longest) == 12


WORDS = [*"aBz.,;:!?'\"-— ", "hello", "world", "Dr.", "\n\n", "supercalifragilistic", "e.g. ", "…"]
sentences = st.lists(st.sampled_from(WORDS), max_size=80).map("".join)


@quick
@given(text=sentences, seconds=st.sampled_from([0.1, 2.0, FULL_S]))
@example("x" * 400, 0.1)
@example("hello " * 150, 2.0)
def test_chunks_fit_and_nothing_of_a_text_is_lost_or_said_twice(
    frontend: FrontEnd, text: str, seconds: float
) -> None:
    plan, counts = planner(frontend, seconds)
    chunks = plan.plan(text, "en", True)
    assert all(len(chunk.ids) <= len(plan.longest) for chunk in chunks)
    spoken = "".join(chunk.text for chunk in chunks)
    assert [c for c in spoken if c in SAID] == [c for c in text if c in SAID]
    assert counts["characters_removed"] == 0
    assert counts["tokens_padded"] == sum(chunk.padded for chunk in chunks)


@pytest.mark.parametrize("language", SENTENCES)
def test_chunks_of_every_language_fit(frontend: FrontEnd, language: str) -> None:
    plan, _ = planner(frontend, 2.0)
    text = SENTENCES[language] * 8
    chunks = plan.plan(text, language, True)
    assert len(chunks) > 4
    assert all(len(chunk.ids) <= len(plan.longest) for chunk in chunks)
    spoken = "".join(chunk.text for chunk in chunks)
    assert list(filter(str.isalnum, spoken)) == list(filter(str.isalnum, text))


@pytest.mark.parametrize(
    "text",
    ["世界" * 2500, "ア" * 400, "w" * 400, "ア".join(["w" * 30] * 9), "今日は晴れです。" * 625],
)
@pytest.mark.parametrize("seconds", [2.0, FULL_S])
def test_openjtalk_is_never_given_what_kills_it(
    magpie: Magpie, frontend: FrontEnd, monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    import pyopenjtalk

    given: list[str] = []
    real = pyopenjtalk.run_frontend

    def noted(text: str, *arguments: Any, **options: Any) -> Any:
        # 15 bytes of reading for each letter w; 1,024 in one word, or 8,192 of text, kill.
        assert sum(15 if c.isascii() else 3 for c in text) < 1024, "would kill the process"
        given.append(text)
        return real(text, *arguments, **options)

    monkeypatch.setattr(pyopenjtalk, "run_frontend", noted)
    plan, _ = planner(frontend, seconds)
    chunks = plan.plan(text, "ja", True)
    assert "".join(chunk.text for chunk in chunks) == text
    assert given
