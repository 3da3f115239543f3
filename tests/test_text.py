"""What is said of a text: all of it, once, in pieces that end where a speaker would pause."""

# Quotes, dashes and full-width marks of real texts are the subject here.
# ruff: noqa: RUF001

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runtime.errors import InvalidRequest
from runtime.speakable import SpeakableText, has_speech, speakable
from runtime.text import TextChunk, plan_chunks, primary_language, split_sentences

MEGABYTE = 1_000_000  # characters
LANGUAGES = ["en", "es", "de", "fr", "it", "vi", "zh", "hi", "xx"]

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Dense in everything that the scanners decide on; plain st.text() almost never is.
# fmt: off
DENSE = [
    *"aBé3 .,!?;:…-—*_~`#<>&[]()\"'“”«»\n\t\r。，！？；।世界क", "\u094d", "\u200d", "\u0301",
    "Dr.", "z. B.", "e.g.", "etc.", "U.S.", "3.14", "1. ", "\n\n", "\n- ", "...", " »",
    "**", "~~", "```", "<b>", "</b>", "<br/>", "<!--", "-->", "](", "http://a.b/", "😀",
    "&lt;", "&amp;", "&gt;", "&#42;", "\ufe0f", "\u20e3", "\ud800", "\ue000", "\u0344",
    "supercalifragilistic", "\u00a0", "\u2028", "\ufeff", "\u00ad", "=", "# ", "> ", "- ",
]
MUTE = [
    "\x07", "\x7f", "\x9f", "\u200b", "\u200d", "\u200c", "\u2060", "\u00ad", "\ufeff", "\u202e",
    "\ud800", "\udfff", "\ue000", "\U00010fff", "\uffff", "\ufffd", "\ufffc", "\ufe0f",
]
HARD_TO_SPLIT = [
    "a", ".", "(", " ", "\n", " \n", ".\n", ". ", "A. ", "z. B. ", '." ', ".)", ". (", "。", '。"',
    "...", "1. ", "\n- ", "a,", "\u0301", "[1]", " »", "```a\n", "The fox runs. ",
]
HARD_TO_CLEAN = [
    "a", ".", "(", " ", "\n", " \n", "<", "<a", "<a ", "<a b='", "<!--", "<!--a", "-", "-a", "*",
    "**a ", "*a", "_a", "~~a", "`", "[", "[a](", '[a](b "', "&", "&amp;", "# ", "- ", "> ",
    "\U0001f600", " \U0001f600", "\u0301", "\u0301\u0323", "\u200d", "\ud800",
]
# fmt: on
dense_text = st.lists(st.sampled_from(DENSE), max_size=60).map("".join)
any_text = st.one_of(dense_text, st.text(max_size=200))


def sentences(text: str, language: str) -> list[str]:
    return [chunk.text for chunk in split_sentences(text, language)]


def said(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN"


# --- what cannot be spoken ---


@pytest.mark.parametrize(
    ("text", "spoken", "removed"),
    [
        ("Hello 😀 world", "Hello world", 1),
        ("Hello 😀.", "Hello.", 1),
        ("Hi👋there", "Hi there", 1),
        ("Well 👍🏽 done ❤️!", "Well done !", 4),
        ("Family 👨‍👩‍👧 time", "Family time", 5),
        ("Flag 🇩🇪 here", "Flag here", 2),
        ("Flag 🏴\U000e0067\U000e0062\U000e007f here", "Flag here", 4),
        ("☀ ✅ → done", "→ done", 2),
        ("😀😀", "", 2),
    ],
)
def test_emoji_are_removed_whole_and_leave_words_apart(
    text: str, spoken: str, removed: int
) -> None:
    assert speakable(text) == SpeakableText(spoken, removed)


def test_the_digit_of_a_keycap_stays() -> None:
    assert speakable("1\ufe0f\u20e3 First") == SpeakableText("1 First", 2)


@pytest.mark.parametrize("mute", MUTE)
def test_invisible_and_unassigned_characters_are_removed(mute: str) -> None:
    assert speakable(f"a{mute}b") == SpeakableText("ab", 1)


@pytest.mark.parametrize("word", ["क्\u200dष", "ක්\u200dර", "ക്\u200cഷ"])
def test_joiners_between_indic_letters_stay(word: str) -> None:
    assert speakable(word) == SpeakableText(word, 0)


@pytest.mark.parametrize(
    "text",
    [
        "10 € is 5 % off, ©®™ №7 at 20° — £3, ¥4, $5",
        "C♯ and B♭",
        "Được, tiếng Việt; 中文。नमस्ते।",
        "a < b and c > d",
        "a <b and c> d",
        "I <3 you </3",
        "_private snake_case",
        "snake_case_name and 5 * 3 * 2 and 5*3*2 and 2**3**4",
        "f**k and s**t, 4* hotel, ~5, #1 and AT&T; A & B",
        "Mr. O'Neil-Smith said: “no” …",
        "array[0](1 2) [note] (aside)",
    ],
)
def test_what_is_read_aloud_survives_untouched(text: str) -> None:
    assert speakable(text) == SpeakableText(text, 0)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("**bold** *it* __strong__ _em_ ~~gone~~", "bold it strong em gone"),
        ("***both*** **a *b*** and **API**s", "both a b and APIs"),
        ("这是**重点**内容", "这是重点内容"),
        ("use `code` here", "use code here"),
        ("```python\nrun it\n```", "run it"),
        ("# Title\nText", "Title\n\nText"),
        ("#### Deep title", "Deep title"),
        ("- one\n* two\n  - [x] three", "one\n\ntwo\n\nthree"),
        ("> quoted\n> twice", "quoted\ntwice"),
        ("> - # all", "all"),
        ("a\n\n---\n\nb", "a\n\nb"),
        ("see [the page](https://a.b/c_(d)?e=f 'title').", "see the page."),
        ("![a cat](cat.png) [![alt](i.png)](u)", "a cat alt"),
    ],
)
def test_markdown_leaves_its_words(text: str, spoken: str) -> None:
    assert speakable(text).text == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("<b>bold</b>ly", "boldly"),
        ("<p>One</p><p>Two</p>", "One\n\nTwo"),
        ("one<br/>two", "one two"),
        ('<speak><s>One.</s><s>Two.</s> <break time="1s"/></speak>', "One. Two."),
        ('<mstts:express-as style="a > b">Hi</mstts:express-as>', "Hi"),
        ("<a href=x title='don\"t'>link</a>", "link"),
        ("<!-- a <b> c -->kept<!DOCTYPE html><?xml version='1'?>", "kept"),
        ("<https://a.b/c> <me@a.b>", "https://a.b/c me@a.b"),
    ],
)
def test_tags_are_removed_and_blocks_stay_apart(text: str, spoken: str) -> None:
    assert speakable(text).text == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Tom &amp; Jerry &copy; &#8364;5", "Tom & Jerry © €5"),
        ("a &lt; b", "a < b"),
        ("&amp;amp;lt;", "<"),
        ("AT&T &copy x &notathing;", "AT&T &copy x &notathing;"),
        ("1&nbsp;000", "1 000"),
    ],
)
def test_entities_with_a_semicolon_are_decoded(text: str, spoken: str) -> None:
    assert speakable(text) == SpeakableText(spoken, 0)


@pytest.mark.parametrize("text", ["&lt;b&gt;", "&amp;lt;b&amp;gt;", "&#60;b&#x3e;"])
def test_an_escaped_tag_is_text_and_is_not_removed(text: str) -> None:
    assert speakable(text) == SpeakableText("< b>", 0)


def test_composed_letters_are_kept_but_compatibility_forms_are_not_rewritten() -> None:
    assert speakable("Viê\u0323t ﬁn ２").text == "Việt ﬁn ２"


def test_marks_heaped_on_one_letter_are_thinned_out() -> None:
    assert speakable("a" + "\u0323" * 50 + "b").removed == 20


def test_white_space_collapses_without_counting_as_removed() -> None:
    text = " a \t b\r\nc\u00a0\u3000d \n \r\n\n e\u2028f "
    assert speakable(text) == SpeakableText("a b\nc d\n\ne\nf", 0)


@quick
@given(any_text)
@example("&lt;" * 3 + "b>" * 3)
@example("&amp;" * 40 + "lt;b>")
@example("<" * 20 + "b>" * 20)
@example("[" * 12 + "a" + "](b)" * 12)
@example("\u0344" * 40)
def test_speakable_text_is_not_changed_again(text: str) -> None:
    once = speakable(text)
    assert speakable(once.text) == SpeakableText(once.text, 0)


@quick
@given(any_text)
def test_speakable_text_holds_nothing_mute_and_is_nfc(text: str) -> None:
    result = speakable(text)
    assert unicodedata.is_normalized("NFC", result.text)
    assert result.text == result.text.strip()
    assert result.removed >= 0
    for character in set(result.text) - set("\n\u200c\u200d"):
        assert unicodedata.category(character)[0] != "C"
        assert character not in "\ufffd\ufe0f\u20e3`😀"


@quick
@given(st.text(alphabet="abc XYZ 123 éñ 世界", max_size=80))
def test_plain_words_lose_nothing(text: str) -> None:
    assert speakable(text) == SpeakableText(" ".join(text.split()), 0)


@pytest.mark.parametrize("text", ["a", "½", "Ⅷ", "世", "क", "٣", "... a"])
def test_letters_and_numbers_are_speech(text: str) -> None:
    assert has_speech(text)


@pytest.mark.parametrize("text", ["", " \n", "?!…—", "😀", "€+™", "\u0301"])
def test_marks_and_symbols_alone_are_no_speech(text: str) -> None:
    assert not has_speech(text)


@given(st.characters())
def test_speech_is_what_unicode_calls_letters_and_numbers(character: str) -> None:
    assert has_speech(character) is said(character)


@pytest.mark.parametrize("tag", ["en-US", "en_US", "EN", "en", " en-Latn-GB "])
def test_the_primary_subtag_names_the_language(tag: str) -> None:
    assert primary_language(tag) == "en"


# --- where sentences end: "|" marks every boundary, and nothing else may be one ---

SPACED = {
    "en": [
        "Dr. Smith met Mrs. Jones and Prof. The Great. | They talked.",
        "He paid $3.14 for 1,000.5 g. | Then he left.",
        "I live in the U.S. | The weather is nice.",
        "The U.S. Army came. | It left.",
        "He waited… 3 hours... 10 more. | Done.",
        "J. K. Rowling and George R. R. Martin wrote. | So do I. | John reads.",
        "We left at 5 p.m. sharp. | They came at 6 a.m. | Nobody slept.",
        "Apples, pears, etc. are fine. | Plums, figs, etc. | Then nuts.",
        "Some cities, e.g. Paris, i.e. The City of Light. | Next.",
        "Wait... what? | He paused… and went. | Well... | Then go.",
        '"Really?" he said. | "Yes!" | She left.',
        "“Go.” | He went (slowly.) | She stayed [here.] | End.[12] | Next.",
        "See https://a.b/c.html?x=1. | Mail me@x.co.uk! | Open file.tar.gz v2.0.1 now. | Done.",
        "Visit example.inc. | Good. | The c.o.d. Smith paid. | Bye.",
        "Is it No. 5? | I said no. | Then on Jan. 5 he met Smith et al. | The end.",
        "What?! | No!!! | Really . . . yes. | OK",
        "Apple Inc. bought it. | He joined Apple Inc. | The firm grew.",
        "John Smith Jr. | He has a Ph.D. from MIT. | Good.",
        "1. First comes first. | 2. Second. | 3. Third.",
        "It cost 5. | 10 more came. | $5 left.",
    ],
    "es": [
        "El Sr. García vive en EE.UU. | Es feliz.",
        "¿Cómo está Ud.? | ¡Muy bien! | Gracias.",
        "Cuesta 1.000,50 euros. | Es caro.",
        "Ciudades, p. ej. Madrid o Soria, pan, etc. | Luego más.",
        "Hola… | ¿Qué tal? | Bueno… pues nada.",
        "La Dra. Ruiz llegó a las 5 p.m. | Nadie la vio.",
        "Vimos el mar. | Después, la pág. 5 y el núm. 7.",
        "«¿De verdad?» dijo. | «Sí.» | Se fue.",
        "(¡Vaya!) | ¿Y ahora?",
    ],
    "de": [
        "Am 3. Oktober ist Feiertag. | Vom 3. bis 5. Mai auch. | Danach nicht.",
        "Städte, z. B. Berlin, d. h. Die Hauptstadt, z.B. Bonn. | Gut.",
        "Dr. Müller und Prof. Weiß kamen usw. | Danach gingen sie.",
        "„Wirklich?“ fragte er. | „Ja.“ | Sie ging.",
        "»Ja.« | Er ging. | »Nein.«",
        "Das kostet 1.000,50 Euro. | Er wurde 30. | Danach ging er.",
        "Im 19. Jahrhundert und im II. Weltkrieg. | Der 1. FC Köln spielt.",
        "Um 300 v. Chr. | Die Römer kamen. | Um 300 v. Chr. Geborene nicht.",
        "Siehe S. 5, Nr. 7 und Abb. 3. | Es war 1990. | Dann kam 1991.",
        "I. d. R. Montag, i. d. R. Dienstag. | Gut.",
    ],
    "fr": [
        "« Vraiment ? » dit-il. | « Oui. » | Il part.",
        "«\u00a0Vraiment\u00a0?\u00a0» dit-il. | «\u202fOui\u202f!\u202f» | Il part.",
        "M. Dupont, M. Le Pen et Mme Curie. | Elle parle.",
        "C'est ça ! | Quoi ? | Rien.",
        "J'ai vu… | Puis rien. | J'ai… rien.",
        "Du pain, du vin, etc. | Ensuite, p. ex. Paris.",
        "Il mesure 3 m. | Puis 1,5 m. | L'art. 5 aussi.",
    ],
    "it": [
        "Il sig. Rossi e la sig.ra Bianchi. | Ciao!",
        "Pane, vino, ecc. | Poi dolci, ecc. e frutta.",
        "La FIAT S.p.A. è grande. | È una S.p.A. | Il resto no.",
        "Il dott. Verdi abita in via S. Pietro. | Ecco.",
        "Costa 1.000,50 euro. | Perché? | L'art. 5, ad es. Questo.",
        "«Davvero?» disse. | «Sì.» | Partì.",
    ],
    "vi": [
        "TP. Hồ Chí Minh rất đẹp. | Tôi thích.",
        "GS. Nguyễn Văn A. đến rồi. | PGS.TS. Lê Văn B. Trần nói.",
        "Táo, cam, v.v. rất ngon. | Táo, cam, v.v. | Sau đó về.",
        "Giá 1.000.000 đồng. | Đắt quá! | Ừ nhỉ?",
        "“Thật à?” anh hỏi. | “Ừ.” | Chị về.",
    ],
    "zh": ["Hello. | 你好！ | 等等…… | 然后走。"],
    "hi": ["नमस्ते। | आप कैसे हैं? | ठीक॥ | हाँ। | 3.5 किलो।"],
    "xx": ["One. | Two? | J. Doe came. | He's at a.b.c now."],
}
UNSPACED = {
    "zh": [
        "你好。|世界！|真的？|好；|行",
        "他说：“好。”|然后走了。|“下一句。”",
        '他说:"一。|二。"|三。|"四。"|五',
        "版本3.5。|等等……然后走了！？|嗯",
        "「是吗？」|他问。|（对。）|重量３．５克．|好",
        "你好!|再见?|他用GPT-4.0写。",
    ],
    "ja": ["はい。|そうです！|「え？」|うん"],
    "hi": ["नमस्ते।|ठीक॥|हाँ"],
    "es": ["¿Sí?|¡No!"],
}


@pytest.mark.parametrize(
    ("language", "glue", "marked"),
    [(language, " ", text) for language, texts in SPACED.items() for text in texts]
    + [(language, "", text) for language, texts in UNSPACED.items() for text in texts],
)
def test_sentences_end_where_a_reader_ends_them(language: str, glue: str, marked: str) -> None:
    expected = marked.split(f"{glue}|{glue}")
    assert sentences(glue.join(expected), language) == expected


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Mr. Smith", "en"),
        ("at 5 p.m. today", "en"),
        ("el Sr. Ruiz", "es"),
        ("z. B. Berlin", "de"),
        ("M. Dupont", "fr"),
        ("il sig. Rossi", "it"),
        ("ở TP. Huế", "vi"),
    ],
)
def test_an_abbreviation_does_not_end_a_sentence(text: str, language: str) -> None:
    assert sentences(text, language) == [text]
    assert sentences(text, f"{language.upper()}-XX") == [text]


def test_an_abbreviation_of_another_language_is_not_one() -> None:
    assert sentences("ở TP. Huế", "en") == ["ở TP.", "Huế"]
    assert sentences("Mr. Smith", "hi") == ["Mr.", "Smith"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("mark", [".", "!", "?", "?!", "...", "…", '."', "?)"])
def test_a_lowercase_letter_never_starts_a_sentence(mark: str, language: str) -> None:
    assert len(sentences(f"One thing{mark} and another", language)) == 1


def test_a_blank_line_always_ends_a_sentence() -> None:
    assert sentences("A title\n \t\nof Mr.\r\n\r\nand more", "en") == [
        "A title",
        "of Mr.",
        "and more",
    ]


def test_a_single_newline_ends_a_sentence_only_before_a_list_marker() -> None:
    assert sentences("one\ntwo\n- three\n2. Four\n3) five\n* six\n3.5 seven", "en") == [
        "one\ntwo",
        "- three",
        "2. Four",
        "3) five",
        "* six\n3.5 seven",
    ]


@quick
@given(any_text, st.sampled_from(LANGUAGES))
def test_sentences_are_the_source_less_white_space(text: str, language: str) -> None:
    chunks = list(split_sentences(text, language))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    position = 0
    for chunk in chunks:
        assert text[position : chunk.start].strip() == ""
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip() != ""
        position = chunk.end
    assert text[position:].strip() == ""


# --- the plan ---


def check_plan(text: str, chunks: list[TextChunk], max_chars: int) -> None:
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    position = 0
    for chunk in chunks:
        assert position <= chunk.start < chunk.end <= len(text)
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip()
        assert len(chunk.text) <= max_chars
        assert has_speech(chunk.text)
        assert not any(map(said, text[position : chunk.start]))
        position = chunk.end
    assert not any(map(said, text[position:]))


@quick
@given(any_text, st.sampled_from(LANGUAGES), st.integers(1, 60))
def test_a_plan_says_every_letter_once_and_in_order(
    text: str, language: str, max_chars: int
) -> None:
    chunks = list(plan_chunks(text, language, max_chars))
    check_plan(text, chunks, max_chars)
    assert chunks == list(plan_chunks(text, language, max_chars))


def test_a_plan_is_one_piece_a_sentence() -> None:
    text = "Dr. Smith came.  He left!\n\nBye"
    assert list(plan_chunks(text)) == [
        TextChunk(0, "Dr. Smith came.", 0, 15),
        TextChunk(1, "He left!", 17, 25),
        TextChunk(2, "Bye", 27, 30),
    ]


@pytest.mark.parametrize(
    ("text", "max_chars", "expected"),
    [
        ("one two three, four five six", 20, ["one two three,", "four five six"]),
        ("one, two three four five six", 20, ["one, two three four", "five six"]),
        ("it costs 10,5 or 10:30 hm", 14, ["it costs 10,5", "or 10:30 hm"]),
        ("one two three—four five six", 20, ["one two three—", "four five six"]),
        ('he said "one," then two went', 18, ['he said "one,"', "then two went"]),
        ("一二三四，五六七八九十", 8, ["一二三四，", "五六七八九十"]),
        ("a" * 25, 10, ["a" * 10, "a" * 10, "a" * 5]),
        ("aa " + "b" * 12, 10, ["aa", "b" * 10, "bb"]),
        ("aaae\u0301e\u0301", 4, ["aaa", "e\u0301e\u0301"]),
        ("exactly ten", 11, ["exactly ten"]),
        ("a\u0301", 1, ["a"]),
    ],
)
def test_a_long_sentence_is_cut_where_it_hurts_least(
    text: str, max_chars: int, expected: list[str]
) -> None:
    assert [chunk.text for chunk in plan_chunks(text, "en", max_chars)] == expected


@pytest.mark.parametrize(
    ("text", "max_chars", "expected"),
    [
        ("Hello.\n\n***\n\nWorld.", 20, ["Hello.\n\n***", "World."]),
        ("Hello.\n\n—\n\nWorld.", 20, ["Hello.", "—\n\nWorld."]),
        ("Hello.\n\n“\n\nWorld.", 20, ["Hello.", "“\n\nWorld."]),
        ("...\n\nHello.", 20, ["...\n\nHello."]),
        ("Hello.\n\n—", 20, ["Hello.\n\n—"]),
        ("Hi.\n\n—\n\nWorldwide.", 10, ["Hi.\n\n—", "Worldwide."]),
        ("Hello.\n\n***\n\nWorld!", 6, ["Hello.", "World!"]),
        ("?!\n\n...\n\n—", 20, []),
        ("", 20, []),
        (" \n\t ", 20, []),
    ],
)
def test_a_piece_without_speech_joins_a_neighbour_or_is_dropped(
    text: str, max_chars: int, expected: list[str]
) -> None:
    assert [chunk.text for chunk in plan_chunks(text, "en", max_chars)] == expected


@pytest.mark.parametrize("max_chars", [0, -1])
def test_a_plan_without_room_is_refused_when_asked_for(max_chars: int) -> None:
    with pytest.raises(InvalidRequest, match="max_chars"):
        plan_chunks("text", "en", max_chars)


# --- any length ---


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def assert_linear(work: Callable[[str], object], unit: str) -> None:
    small, large = (unit * 50_000)[:50_000], (unit * 400_000)[:400_000]
    # Eight times the text: linear work takes 8 times as long, quadratic work 64 times.
    assert cpu_seconds(lambda: work(large)) < 13 * cpu_seconds(lambda: work(small)) + 0.3


def test_the_first_piece_of_a_long_text_does_not_wait_for_the_rest() -> None:
    text = "The quick brown fox, said Dr. Smith, jumps at 3.14 p.m. over dogs. " * 16_000
    assert len(text) > MEGABYTE
    # The whole plan takes some hundred times as long; the best of five is free of noise.
    assert min(cpu_seconds(lambda: next(plan_chunks(text))) for _ in range(5)) < 0.005


@pytest.mark.parametrize("unit", ["a", ".", "(", "<", "*", "The fox runs. "])
def test_a_megabyte_takes_seconds(unit: str) -> None:
    text = (unit * MEGABYTE)[:MEGABYTE]
    assert cpu_seconds(lambda: list(plan_chunks(text))) < 5
    assert cpu_seconds(lambda: speakable(text)) < 5


@pytest.mark.parametrize("unit", HARD_TO_SPLIT)
def test_planning_takes_linear_time(unit: str) -> None:
    assert_linear(lambda text: list(plan_chunks(text, "de")), unit)


@pytest.mark.parametrize("unit", HARD_TO_CLEAN)
def test_cleaning_takes_linear_time(unit: str) -> None:
    assert_linear(lambda text: speakable(f"<!-- {text}"), unit)
