"""English number words, as American speech has them: no "and", no hyphens.

The spelling of cardinals and ordinals is the Unicode CLDR's, through unicode-rbnf.
"""

from __future__ import annotations

from functools import cache, lru_cache
from threading import Lock

from unicode_rbnf import FormatPurpose, RbnfEngine

LONGEST_CARDINAL = 15
"""Digits of the largest number with a name; CLDR's names end at 10^18, floats before it."""

LONGEST_UNGROUPED = 9
"""Digits of the longest run that is a quantity; a longer one without commas is a code."""

_loading = Lock()


@cache
def _engine() -> RbnfEngine:
    with _loading:
        return RbnfEngine.for_language("en")


@lru_cache(maxsize=4096)
def _spell(number: int, purpose: FormatPurpose) -> str:
    return _engine().format_number(number, purpose).text.replace("-", " ")


def digits(text: str) -> str:
    """Say each digit: "407" is "four zero seven". Other characters are left out."""
    return " ".join(_spell(int(d), FormatPurpose.CARDINAL) for d in text if d in "0123456789")


def cardinal(text: str) -> str:
    """Say a whole number without sign; commas group it. Codes are said digit by digit."""
    plain = text.replace(",", "")
    longest = LONGEST_CARDINAL if "," in text else LONGEST_UNGROUPED
    if len(plain) > longest or (len(plain) > 1 and plain[0] == "0"):
        return digits(plain)
    return _spell(int(plain), FormatPurpose.CARDINAL)


def ordinal(text: str) -> str:
    """Say a whole number as an ordinal: "21" is "twenty first"."""
    plain = text.replace(",", "")
    if len(plain) > LONGEST_CARDINAL:
        return digits(plain)
    return _spell(int(plain), FormatPurpose.ORDINAL)


def number(text: str) -> str:
    """Say a written number: sign, thousands separators and decimals included."""
    if text.startswith("-"):
        return f"minus {number(text[1:])}"
    whole, dot, decimals = text.partition(".")
    if not dot:
        return cardinal(whole)
    spoken = f"point {digits(decimals)}"
    return f"{cardinal(whole)} {spoken}" if whole else spoken


def pairs(text: str) -> str:
    """Say two to four digits as years, rooms and flights are: "1905" is "nineteen oh five"."""
    high, low = text[:-2], text[-2:]
    if not high or high[0] == "0":
        return cardinal(text)
    if low == "00":
        return f"{cardinal(high)} hundred"
    return f"{cardinal(high)} {'oh ' + cardinal(low[1]) if low[0] == '0' else cardinal(low)}"


def year(text: str) -> str:
    """Say a year: in pairs, but "two thousand", "two thousand five"."""
    if len(text) != 4 or (text[1] == "0" and text[2] == "0"):
        return cardinal(text)
    return pairs(text)


def two_digits(text: str) -> str:
    """Say the minutes of a clock: "05" is "oh five"."""
    return f"oh {cardinal(text[1])}" if text[0] == "0" else cardinal(text)


def fraction(numerator: str, denominator: str) -> str:
    """Say a fraction: "3", "4" is "three quarters"; "one over zero" where it has no name."""
    top, bottom = cardinal(numerator), int(denominator)
    if bottom < 2 or len(denominator) > 3:
        return f"{top} over {cardinal(denominator)}"
    part = {2: "half", 4: "quarter"}.get(bottom) or ordinal(str(bottom))
    if int(numerator) == 1:
        return f"{top} {part}"
    return f"{top} halves" if bottom == 2 else f"{top} {part}s"


def plural(word: str) -> str:
    """The plural of a number word: "sixties", "hundreds"."""
    if word.endswith("y"):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith("x") else f"{word}s"


_ROMAN = {"I": 1, "V": 5, "X": 10}


def roman(text: str) -> int | None:
    """The value of a Roman numeral from I to XXXIX, None if it is not written as one."""
    value = 0
    for here, after in zip(text, f"{text[1:]} ", strict=True):
        size = _ROMAN[here]
        value += -size if size < _ROMAN.get(after, 0) else size
    canonical = "X" * (value // 10)
    canonical += ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")[value % 10]
    return value if text == canonical else None
