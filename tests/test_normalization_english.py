"""English as it is spoken, by the rules: a table of sentences, and what holds for any text."""

# Quotes, dashes and digits of other scripts are the subject here.
# ruff: noqa: RUF001

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import any_text, quick

from runtime.abbreviations import ABBREVIATIONS
from runtime.normalization.english import abbreviations, numbers, spoken

TABLES = Path(__file__).parent / "spoken"


def table(name: str) -> list[tuple[str, str]]:
    lines = (TABLES / name).read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("# ")]
    return [(written, said) for written, said in rows]


ENGLISH = table("english.tsv")
BY_NEMO = table("english_by_nemo.tsv")


@pytest.mark.parametrize(("written", "said"), ENGLISH, ids=[written for written, _ in ENGLISH])
def test_a_sentence_is_said_as_people_say_it(written: str, said: str) -> None:
    assert spoken(written) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("①②, ٣ and ½", "twelve, three and one half"),
        ("CO₂ and x⁵ and m²", "C O two and x to the power of five and m squared"),
        ("1\u202f000 and 5\u00a0km", "one zero zero zero and five kilometers"),
        ("−5 °C", "minus five degrees Celsius"),
        ("3:30 p.m. Then 5 p.m.", "three thirty P M. Then five P M."),
        ("in the U.S. Then", "in the U S. Then"),
        ("Visit Dr. No. He left.", "Visit Doctor No. He left."),
        ("It is NOT ready, HMM.", "It is NOT ready, HMM."),
        ("$-5, -$5, ($5)", "minus five dollars, minus five dollars, (five dollars)"),
        ("13/45/2020 1/0", "thirteen slash forty five slash two thousand twenty one over zero"),
        ("a1b22c333", "A one B twenty two C three thirty three"),
        ("1-2-3", "one two three"),
        ("007 00 0", "zero zero seven zero zero zero"),
        ("9999999999999999 1,000,000,000,000,000,000", None),
        ("", ""),
    ],
)
def test_odd_input_has_words_too(written: str, said: str | None) -> None:
    words = spoken(written)
    assert said is None or words == said
    assert not re.search(r"\d", words)


@pytest.mark.parametrize(
    ("year", "said"),
    [
        ("1066", "ten sixty six"),
        ("1700", "seventeen hundred"),
        ("1905", "nineteen oh five"),
        ("2000", "two thousand"),
        ("2009", "two thousand nine"),
        ("2010", "twenty ten"),
    ],
)
def test_years_are_said_in_pairs(year: str, said: str) -> None:
    assert numbers.year(year) == said


@pytest.mark.parametrize("roman", ["IIII", "VX", "IXX", "XIIX", "IIX"])
def test_what_is_no_roman_numeral_has_no_value(roman: str) -> None:
    assert numbers.roman(roman) is None


@pytest.mark.parametrize("value", range(1, 40))
def test_roman_numerals_to_thirty_nine(value: int) -> None:
    ones = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")[value % 10]
    assert numbers.roman("X" * (value // 10) + ones) == value


def test_every_expansion_is_an_abbreviation_that_sentences_know() -> None:
    assert set(abbreviations.EXPANSIONS) <= ABBREVIATIONS["en"].listed


# --- what holds for any text ---

# fmt: off
PIECES = [
    *"0123456789 .,:/-–+$€£%#@&'\"()=<>²³½°_~^*\n", "  ", "km", "°C", "kg", "m", "k", "M", "PM",
    "am", "p.m.", "Jan.", "March", "May", "the", "in", "and", "St.", "Dr.", "No.", "I", "V", "X",
    "Part", "Henry", "USA", "FBI", "AT", "NASA", "hello", "World", "s", "st", "th", "x", "v", "GMT",
    "UTC", "Z", "T", "AD", "BC", "FY", "Q3", "www.", "http://", "a.com", "@", "user", "ext.",
    "call", "code", "room", "order #", "U.S.", "e.g.", "etc.", "w/", "4111", "555", "0199", "٣",
    "①", "⁵", "é", "日", "三", "Ⅳ", "Mon-Fri", "9am", "2024", "1,000", "3.5", "1/2",
]
# fmt: on
dense = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
sentences = st.lists(st.sampled_from([word for row in ENGLISH for word in row[0].split()])).map(
    " ".join
)
texts = st.one_of(dense, sentences, any_text)


@quick
@given(texts)
def test_no_digit_is_left(text: str) -> None:
    assert not any(map(str.isdigit, spoken(text)))


@quick
@given(texts)
def test_spoken_text_stays_as_it_is(text: str) -> None:
    once = spoken(text)
    assert spoken(once) == once


@pytest.mark.parametrize("said", [said for _, said in ENGLISH])
def test_sentences_of_the_table_are_not_said_twice(said: str) -> None:
    assert spoken(said) == said


@quick
@given(st.lists(st.from_regex(r"[a-zéüñß]{1,12}[,;!?]?", fullmatch=True)).map(" ".join))
def test_words_are_kept(text: str) -> None:
    assert spoken(text) == text


@quick
@given(st.lists(st.from_regex(r"[a-z]{6,12}|[1-9][0-9]{0,3}", fullmatch=True)).map(" ".join))
def test_words_between_numbers_are_kept_in_order(text: str) -> None:
    words = iter(spoken(text).split())
    assert all(word in words for word in text.split() if word.isalpha())


# --- how long it takes ---

# fmt: off
UNITS = [
    *"1a.,$-/:#@+I ", "1,", "1.", "1-", "a-", "a.", "1/", "1:", " 1", "A", "A.", "A ", "www.", "@a",
    "http://", "a@", "#a", "/a", "St. ", "Main ", "March 5 ", "in 1990 ", "$1-", "1 x ", "call 555",
    "1st ", "Part I ", "A1-", "e.g. ", "order number ", "1,111", "²", "٣", "The fox has 3 kg. ",
]
# fmt: on


def cpu_seconds(text: str) -> float:
    began = time.process_time()
    spoken(text)
    return time.process_time() - began


@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_as_the_text_does(unit: str) -> None:
    small, large = (unit * 1_000)[:1_000], (unit * 8_000)[:8_000]
    # Eight times the text: linear work takes 8 times as long, quadratic work 64 times.
    assert cpu_seconds(large) < 20 * cpu_seconds(small) + 0.1


# --- beside NeMo's grammars ---

DISAGREEMENTS = {
    "Lunch is at 12:05 p.m. today.": '"twelve oh five" here, "twelve o five" there',
    "It has 16 GB of memory.": "NeMo leaves GB",
    "Pages 5-10 are missing.": "NeMo leaves the hyphen of a range",
    "Read chapter IV.": "NeMo leaves Roman numerals",
    "Version 2.3.1 is out.": "NeMo breaks versions into sentences",
    "Your flight is No. 5.": "NeMo leaves No.",
    "AT&T is big.": "NeMo says ATANDT",
    "The ratio is 16:9.": "NeMo leaves the colon of a ratio",
    "He lives on Main St. now.": "NeMo leaves St. after a name",
    "I need 2048 tokens.": "a year there, a quantity here",
    "Take the A320 to Paris.": '"three twenty" here, "three hundred twenty" there',
}


def agreed(said: str) -> str:
    """The letters alone, without "and": "P M" is "PM", "hundred and one" is "hundred one"."""
    return re.sub(r"[^a-z]|\band\b", "", said.lower())


@pytest.mark.parametrize(("written", "by_nemo"), BY_NEMO, ids=[written for written, _ in BY_NEMO])
def test_the_rules_agree_with_nemo_but_where_it_is_said(written: str, by_nemo: str) -> None:
    assert (agreed(spoken(written)) == agreed(by_nemo)) == (written not in DISAGREEMENTS)
