"""Numbers, and per cents, of the languages that have no rules of their own yet.

Digits become the language's number words (Unicode CLDR, through unicode-rbnf);
everything else stays as it is. Genders and cases are not chosen: the form is the
one that the language counts with.
"""

# Dashes, quotes, primes and signs of real texts are the subject, not typos.

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from threading import Lock

from unicode_rbnf import RbnfEngine

_LONGEST = 15
"""Digits of the largest number said as one; longer ones, and "007", are said digit by digit."""


@dataclass(frozen=True, slots=True)
class _Language:
    """How a language writes numbers, and the words around them.

    Attributes:
        group: Pattern of what separates groups of digits.
        point: Said for the decimal sign.
        minus: Said for the sign of a negative number.
        percent: What a per cent is, with {} for the number.
        spaced: Whether words have spaces between them.
        ruleset: The CLDR's rules to count with.
    """

    group: str
    point: str
    minus: str
    percent: str
    spaced: bool = True
    ruleset: str = "spellout-numbering"


_LANGUAGES = {
    "es": _Language(r"\.\d{3}", "coma", "menos", "{} por ciento"),
    "de": _Language(r"\.\d{3}", "Komma", "minus", "{} Prozent"),
    "fr": _Language(r"[ .\u00a0\u202f]\d{3}", "virgule", "moins", "{} pour cent"),
    "vi": _Language(r"\.\d{3}", "phẩy", "âm", "{} phần trăm"),
    "it": _Language(r"\.\d{3}", "virgola", "meno", "{} per cento"),
    "zh": _Language(r",\d{3}", "点", "负", "百分之{}", spaced=False, ruleset="spellout-cardinal"),
    "hi": _Language(r",\d{2,3}", "दशमलव", "ऋण", "{} प्रतिशत"),
    "ja": _Language(r",\d{3}", "点", "マイナス", "{}パーセント", spaced=False),
}
LANGUAGES = frozenset(_LANGUAGES)

_loading = Lock()


@cache
def _engine(language: str) -> RbnfEngine:
    with _loading:
        return RbnfEngine.for_language(language)


@cache
def _pattern(language: str) -> re.Pattern[str]:
    group = _LANGUAGES[language].group
    return re.compile(
        rf"(?P<sign>(?<!\w)-)?(?<!\d)(?P<whole>\d{{1,3}}+(?:{group}(?!\d))++|\d++)"
        r"(?:[.,](?P<decimals>\d++))?+(?P<percent>\s?%)?(?P<year>年)?"
    )


def load(language: str) -> None:
    """Load a language's number words."""
    _engine(language)
    _pattern(language)


def spoken_numbers(text: str, language: str) -> str:
    """Say the numbers of a text in one of ``LANGUAGES``; no decimal digit is left."""
    plain = text
    if not text.isascii():
        plain = "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in text)
    return _pattern(language).sub(lambda match: _say(match, language), plain)


def _say(match: re.Match[str], language: str) -> str:
    how = _LANGUAGES[language]
    gap = " " if how.spaced else ""
    whole = re.sub(r"\D", "", match["whole"])
    if match["year"] and language == "zh" and len(whole) == 4:
        return f"{_digits(whole, language)}年"
    words = _cardinal(whole, language)
    if match["decimals"]:
        words = gap.join([words, how.point, _digits(match["decimals"], language)])
    if match["sign"]:
        words = f"{how.minus}{gap}{words}"
    if match["percent"]:
        words = how.percent.format(words)
    words += match["year"] or ""
    start, end = match.span()
    before, after = match.string[max(start - 1, 0) : start], match.string[end : end + 1]
    lead = gap if before.isalnum() else ""
    return f"{lead}{words}{gap if after.isalnum() else ''}"


def _cardinal(run: str, language: str) -> str:
    if len(run) > _LONGEST or (len(run) > 1 and run[0] == "0"):
        return _digits(run, language)
    ruleset = _LANGUAGES[language].ruleset
    return _engine(language).format_number(int(run), ruleset_names=[ruleset]).text


def _digits(run: str, language: str) -> str:
    gap = " " if _LANGUAGES[language].spaced else ""
    return gap.join(_cardinal(digit, language) for digit in run)
