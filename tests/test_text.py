"""What is said of a text: all of it, once, in pieces that end where a speaker would pause."""

# Quotes, dashes and full-width marks of real texts are the subject here.
# ruff: noqa: RUF001

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import any_text, quick, said

from runtime.errors import InvalidRequest
from runtime.speakable import has_speech
from runtime.text import TextChunk, plan_chunks, primary_language, split_sentences

LANGUAGES = ["en", "es", "de", "fr", "it", "vi", "zh", "hi", "xx"]


def sentences(text: str, language: str) -> list[str]:
    return [chunk.text for chunk in split_sentences(text, language)]


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
