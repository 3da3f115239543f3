"""Dates, years, decades and centuries."""

# Dashes, quotes, primes and signs of real texts are the subject, not typos.
# ruff: noqa: RUF001

from __future__ import annotations

import re

from runtime.normalization.english import numbers
from runtime.normalization.english.rule import TO, Rule, kept_stop, rule

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b"
)
_DAYS = {
    "mon": "Monday", "tue": "Tuesday", "wed": "Wednesday", "thu": "Thursday", "fri": "Friday",
    "sat": "Saturday", "sun": "Sunday",
}  # fmt: skip
_WEEKDAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_NTH = r"(?:st|nd|rd|th)?"
_YEAR = r"(?:1[1-9]\d\d|20\d\d)"
_ENDS = r"(?![\d%:/]|[.,]\d|-\d)"
_LONGEST_SPAN = 200  # years; further apart two numbers are no range of years


def _month(written: str) -> str:
    return next(month for month in _MONTHS if month[:3] == written[:3])


def _valid(month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= 31


def _full_year(text: str) -> str:
    if len(text) == 2:
        return ("19" if int(text) >= 70 else "20") + text
    return text


def _date(month: int, day: int, year: str) -> str:
    return f"{_MONTHS[month - 1]} {numbers.ordinal(str(day))}, {numbers.year(_full_year(year))}"


def _iso(match: re.Match[str]) -> str:
    month, day = int(match["month"]), int(match["day"])
    return _date(month, day, match["year"]) + (" at " if match["at"] else "")


def _numeric(match: re.Match[str]) -> str:
    first, second = int(match["first"]), int(match["second"])
    # American with slashes, as the voices are; European with dots.
    month, day = (second, first) if match["sep"] == "." else (first, second)
    if not _valid(month, day):
        month, day = day, month
    return _date(month, day, match["year"]) if _valid(month, day) else match[0]


def _month_and_day(match: re.Match[str]) -> str:
    month, day = int(match["month"]), int(match["day"])
    if not _valid(month, day):
        return match[0]
    return f"{match['lead']} {_MONTHS[month - 1]} {numbers.ordinal(str(day))}"


def _month_first(match: re.Match[str]) -> str:
    spoken = f"{_month(match['month'])} {numbers.ordinal(match['day'])}"
    if match["last"]:
        spoken += f" to {numbers.ordinal(match['last'])}"
    return spoken + (f", {numbers.year(match['year'])}" if match["year"] else "")


def _month_and_year(match: re.Match[str]) -> str:
    return f"{_month(match['month'])} {numbers.year(match['year'])}"


def _day_first(match: re.Match[str]) -> str:
    spoken = numbers.ordinal(match["day"])
    if match["last"]:
        spoken += f" to the {numbers.ordinal(match['last'])}"
    spoken = f"{match['the'] or 'the '}{spoken} of {_month(match['month'])}"
    if match["year"]:
        return f"{spoken}, {numbers.year(match['year'])}"
    return spoken + kept_stop(match)


def _weekday(match: re.Match[str]) -> str:
    return _DAYS[match["name"].lower()]


def _weekdays(match: re.Match[str]) -> str:
    return f"{_DAYS[match['first'].lower()]} to {_DAYS[match['last'].lower()]}"


def _years(match: re.Match[str]) -> str:
    first, last = match["first"], match["last"]
    whole = last if len(last) == 4 else first[:2] + last
    if not 0 < int(whole) - int(first) <= _LONGEST_SPAN:
        return match[0]
    end = numbers.year(last) if len(last) == 4 else numbers.two_digits(last)
    joint = {"and": "and", "until": "until", "through": "through"}.get(match["to"].strip(), "to")
    return f"{match['lead'] or ''}{numbers.year(first)} {joint} {end}"


def _year(match: re.Match[str]) -> str:
    return f"{match['lead']}{numbers.year(match['year'])}"


def _fiscal(match: re.Match[str]) -> str:
    return f"{' '.join(match['lead'])} {numbers.year(match['year'])}"


def _decade(match: re.Match[str]) -> str:
    return numbers.plural(numbers.year(match["year"]))


def _short_decade(match: re.Match[str]) -> str:
    return f"{match['lead']}{numbers.plural(numbers.cardinal(match['year']))}"


def _era(match: re.Match[str]) -> str:
    year = match["year"] or match["after"]
    era = " ".join(match["era"] or match["before"])
    spoken = numbers.year(year) if len(year) == 4 else numbers.cardinal(year)
    return f"{spoken} {era}" if match["year"] else f"{era} {spoken}"


# A plural after it makes the number a quantity: "in 1500 cities".
_NO_QUANTITY = (
    r"(?!\s+(?!was\b|is\b|has\b|as\b|its\b|this\b|thus\b)"
    r"(?:[a-z]{2,20}s|people|men|women|children|percent)\b)"
)
_WHEN = (
    r"(?i:in|since|until|till|from|of|by|before|after|during|year|circa|around|early|late|mid|spring"
    r"|summer|fall|autumn|winter|copyright|years|fiscal|q[1-4])"
)

RULES: tuple[Rule, ...] = (
    rule(
        r"(?<![\d-])(?P<year>[12]\d{3})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])"
        r"(?:(?P<at>T)(?=\d)|(?![\w-]))",
        _iso,
    ),
    rule(
        r"(?<![\w/.-])(?P<first>\d{1,2})(?P<sep>[/.-])(?P<second>\d{1,2})(?P=sep)(?P<year>[12]\d{3}"
        r"|(?<=/)\d\d)(?![\w/-]|\.\d)",
        _numeric,
    ),
    rule(
        r"\b(?P<lead>(?i:on|until|till|since|due|before|after|through)) (?P<month>\d{1,2})/"
        r"(?P<day>\d{1,2})(?![\w/%.-]\d|\w)",
        _month_and_day,
    ),
    rule(rf"\b(?P<first>{_WEEKDAY})\.?{TO}(?P<last>{_WEEKDAY})\b", _weekdays),
    rule(
        rf"\b(?P<name>{_WEEKDAY})(?:s|r|rs)?\b\.?(?=,? "
        rf"(?:{_MONTH}\.? \d|{_DAY} {_MONTH}"
        r"|at \d|\d{1,2}(?::\d\d| ?[ap]\.?m)))",
        _weekday,
    ),
    rule(
        rf"\b(?P<month>{_MONTH})\.?\s(?P<day>{_DAY}){_NTH}(?:{TO}(?P<last>{_DAY}){_NTH}(?![\w]))?"
        rf"(?:,?\s(?P<year>{_YEAR})\b(?!\s?(?:-|[a-z]+s\b)))?(?![A-Za-z]){_ENDS}",
        _month_first,
    ),
    rule(rf"\b(?P<month>{_MONTH})\.?,?\s(?:of\s)?(?P<year>{_YEAR})\b{_ENDS}", _month_and_year),
    rule(
        rf"(?<![\w.,/:-])(?P<the>[Tt]he )?(?<![\d.,/:-])(?P<day>{_DAY}){_NTH}"
        rf"(?:{TO}(?P<last>{_DAY}){_NTH})?(?: of)?\s(?P<month>{_MONTH})"
        rf"(?:\.?,?\s(?P<year>{_YEAR})\b"
        rf"{_ENDS}|\.?)",
        _day_first,
    ),
    rule(
        rf"(?<![\w.,/-])(?P<lead>\b(?i:from|between)\s)(?P<first>{_YEAR})(?P<to>\s?[-–—]\s?|\s(?:to|and"
        rf"|until|through)\s)(?P<last>{_YEAR})\b{_ENDS}{_NO_QUANTITY}",
        _years,
    ),
    rule(
        rf"(?<![\w.,/$£€-])(?P<lead>)(?P<first>{_YEAR})(?P<to>[-–])(?P<last>{_YEAR}|\d\d)\b{_ENDS}"
        rf"{_NO_QUANTITY}",
        _years,
    ),
    rule(
        r"(?<![\w.,-])(?P<year>\d{1,4})\s?(?P<era>BCE?|CE|AD)\b"
        r"|\b(?P<before>AD) (?P<after>\d{1,4})\b",
        _era,
    ),
    rule(r"(?<![\w.,'’])(?P<year>[12]\d\d0)['’]?s\b", _decade),
    rule(r"(?P<lead>)(?<!\w)['’](?P<year>[1-9]0)s\b", _short_decade),
    rule(
        r"\b(?P<lead>(?i:the|his|her|their|my|our|your|early|mid|late|low|high)[ -])"
        r"(?P<year>[1-9]0)['’]?s\b",
        _short_decade,
    ),
    rule(
        rf"\b(?P<lead>{_WHEN}[ -]|\(|©\s?)(?P<year>{_YEAR})\b(?!-\d|['’]\w){_ENDS}{_NO_QUANTITY}",
        _year,
    ),
    rule(
        rf"(?<![\w.,/$£€#+-])(?P<lead>)(?P<year>{_YEAR})(?=\s(?:season|election|edition|model|census|Olympics"
        r"|World|film|movie|report|budget|was|is|has|saw)\b)",
        _year,
    ),
    # The second of two ("in 2005 and 2010."), whose first is words by now, or "for 2024!".
    rule(
        r"\b(?P<lead>and |or |for )(?P<year>19\d\d|20[0-3]\d)\b"
        r"(?=[.,;!?](?!\d)|\Z|\s(?:and|or)\s\d)",
        _year,
    ),
    rule(rf"\b(?P<lead>FY|CY)\s?(?P<year>{_YEAR})\b", _fiscal),
)
