"""What of a text cannot be spoken is removed, and its words are kept."""

# Quotes, dashes and full-width marks of real texts are the subject here.
# ruff: noqa: RUF001

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from texts import any_text, quick, said

from runtime.speakable import SpeakableText, has_speech, speakable

# fmt: off
MUTE = [
    "\x07", "\x7f", "\x9f", "\u200b", "\u200d", "\u200c", "\u2060", "\u00ad", "\ufeff", "\u202e",
    "\ud800", "\udfff", "\ue000", "\U00010fff", "\uffff", "\ufffd", "\ufffc", "\ufe0f",
]
# fmt: on


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
