"""Plain numbers: ordinals, fractions, ranges, Roman numerals, arithmetic, and what is left."""

# Dashes, quotes, primes and signs of real texts are the subject, not typos.
# ruff: noqa: RUF001

from __future__ import annotations

import re

from runtime.normalization.english import numbers
from runtime.normalization.english.money import MAGNITUDES
from runtime.normalization.english.rule import NUMBER, SIGN, START, TO, Rule, rule


def _ordinal(match: re.Match[str]) -> str:
    return numbers.ordinal(match[1])


def _two_numbers(match: re.Match[str]) -> str:
    return " ".join(map(numbers.cardinal, match[0].split("/")))


def _out_of(match: re.Match[str]) -> str:
    mark, most = match[1].split("/")
    return f"{numbers.number(mark)} out of {numbers.cardinal(most)}"


def _fraction(match: re.Match[str]) -> str:
    whole, top, bottom = match["whole"], match["top"], match["bottom"]
    part = numbers.fraction(top, bottom)
    if not whole:
        return f"{'minus ' if match['sign'] else ''}{part}"
    part = part.replace("one half", "a half").replace("one quarter", "a quarter")
    return f"{numbers.number(match['sign'] + whole)} and {part}"


def _range(match: re.Match[str]) -> str:
    first, last = match["first"], match["last"]
    end = _scaled(last, match["letter"])
    return f"{numbers.number(match['sign'] + first)} to {end}"


def _scaled(amount: str, letter: str | None) -> str:
    spoken = numbers.number(amount)
    return f"{spoken} {MAGNITUDES[letter]}" if letter else spoken


def _number(match: re.Match[str]) -> str:
    return _scaled(match["sign"] + match["amount"], match["letter"])


def _part(match: re.Match[str]) -> str:
    value = numbers.roman(match["roman"])
    return match[0] if value is None else f"{match['lead']}{numbers.cardinal(str(value))}"


def _ruler(match: re.Match[str]) -> str:
    value = numbers.roman(match["roman"])
    return match[0] if value is None else f"{match['lead']}the {numbers.ordinal(str(value))}"


_PARTS = (
    "Chapter|Part|Act|Scene|Section|Article|Volume|Book|Title|Appendix|Phase|Stage|Type|Class|Level"
    "|Grade|Figure|Table|World War|Super Bowl|Season|Episode|Rocky|Mark|Amendment|chapter|phase"
    "|stage|type|level|volume"
)
_RULERS = (
    "Henry|Louis|Elizabeth|George|Charles|Edward|Richard|William|James|Philip|Pius|Paul|Benedict"
    "|Nicholas|Catherine|Alexander|Napoleon|Mary|Ivan|Leo|Gregory|Frederick|Wilhelm|Ramses|Otto"
    "|Harald|Gustav|Felipe|Carlos|Umberto|Innocent|Clement"
)

ROMAN: tuple[Rule, ...] = (
    # "Part I like" and "Part I B M" are no parts one, "Type II diabetes" is.
    rule(
        rf"\b(?P<lead>(?:{_PARTS}) )(?P<roman>(?!I\b)[IVX]{{1,7}}"
        r"|I(?!['’]|\s(?!(?:is|was|of|and|in)\b)[a-z]{2}))\b(?![\s-][A-Z]\b)",
        _part,
    ),
    rule(rf"\b(?P<lead>(?:{_RULERS}) )(?P<roman>(?!I\b)[IVX]{{1,6}})\b(?!\s[A-Z]\b)", _ruler),
)

NUMBERS: tuple[Rule, ...] = (
    rule(rf"{START}(\d{{1,3}}(?:,\d{{3}})++|\d++)(?:st|nd|rd|th)\b", _ordinal, re.IGNORECASE),
    rule(
        r"(?<![\w./])(?:24/7|50/50|20/20|9/11)(?![\w/])",
        _two_numbers,
    ),
    rule(r"(?<![\w./])(\d{1,3}(?:\.\d)?/10|\d{1,3}/100|\d{1,2}\.\d/5)(?![\w/]|\.\d)", _out_of),
    rule(
        rf"(?P<sign>{SIGN})(?<![\w./])(?:(?P<whole>\d{{1,6}})[ -])?"
        rf"(?P<top>\d{{1,3}})/(?P<bottom>\d{{1,3}})"
        r"(?:ths?\b)?(?![\w/])",
        _fraction,
    ),
    rule(
        rf"(?P<sign>{SIGN}){START}(?<![\w.])(?<!\d-)(?P<first>{NUMBER})(?:[kKMB]\b)?(?:-|{TO}(?<!\s-\s))"
        rf"(?P<last>{NUMBER})(?P<letter>MM|[kKMB]\b)?(?!-\d|\w)",
        _range,
    ),
    rule(r"(?<=\d)\s?\*\s?(?=\d)", lambda _: " times "),
    rule(r"(?<=[\d)])\s?\+\s?(?=[\d(])", lambda _: " plus "),
    rule(r"(?<=[\d)])\s-\s(?=[\d(])", lambda _: " minus "),
    rule(r"(?<=[\d)])\s/\s(?=[\d(])", lambda _: " divided by "),
    rule(r"(?<=\w)\^2(?!\d)", lambda _: " squared"),
    rule(r"(?<=\w)\^3(?!\d)", lambda _: " cubed"),
    rule(r"(?<=[\w)])\s?\^\s?(?=[\d(-]|[A-Za-z]\b)", lambda _: " to the power of "),
    rule(r"(?<!\w)#(?=\d)", lambda _: "number "),
    rule(r"(?<!\w)[~≈]\s?(?=[\d$€£])", lambda _: "about "),
    rule(r"(?<![\w+])\+(?=\d)", lambda _: "plus "),
    rule(
        rf"(?P<sign>{SIGN})(?<![\w.-])(?P<amount>{NUMBER})"
        rf"(?P<letter>MM|[kKM]|(?<=\.\d)B)\b(?!-)",
        _number,
    ),
)


def _figures(match: re.Match[str]) -> str:
    return numbers.cardinal(match[0])


LEFT_OVER: tuple[Rule, ...] = (
    rule(r"(?<=\d)/(?=\d)", lambda _: " slash "),
    rule(r"(?<=\d)[-_:](?=\d)", lambda _: " "),
    rule(rf"(?P<sign>{SIGN})(?<![\w.])(?P<amount>{NUMBER}|\.\d++)(?P<letter>)", _number),
    rule("²", lambda _: " squared"),
    rule("³", lambda _: " cubed"),
    # After this no digit is left, whatever it stands in.
    rule(r"(?<=[0-9])\.(?=[0-9])", lambda _: " point "),
    rule(r"[0-9]++", _figures),
)
