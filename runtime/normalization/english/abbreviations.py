"""What abbreviations stand for, and the words between the lines: "w/o", "AT&T", "U.S."."""

# Dashes, quotes, primes and signs of real texts are the subject, not typos.
# ruff: noqa: RUF001

from __future__ import annotations

import re

from runtime.abbreviations import ABBREVIATIONS
from runtime.normalization.english import spelling
from runtime.normalization.english.rule import Rule, kept_stop, one_of, rule, words

_ENGLISH = ABBREVIATIONS["en"]

EXPANSIONS = {
    "mr": "Mister", "mrs": "Missus", "mx": "Mix", "messrs": "Messieurs", "prof": "Professor",
    "rev": "Reverend", "fr": "Father", "hon": "Honorable", "gen": "General", "col": "Colonel",
    "maj": "Major", "capt": "Captain", "cmdr": "Commander", "lt": "Lieutenant", "sgt": "Sergeant",
    "cpl": "Corporal", "pvt": "Private", "adm": "Admiral", "gov": "Governor", "sen": "Senator",
    "rep": "Representative", "pres": "President", "supt": "Superintendent", "vs": "versus",
    "viz": "namely", "cf": "compare", "e.g": "for example", "i.e": "that is",
    "approx": "approximately", "etc": "et cetera", "inc": "Incorporated", "ltd": "Limited",
    "co": "Company", "corp": "Corporation", "jr": "Junior", "sr": "Senior", "mt": "Mount",
    "ft": "Fort", "ave": "Avenue", "blvd": "Boulevard", "rd": "Road", "dept": "Department",
    "univ": "University", "bros": "Brothers", "assn": "Association", "al": "al",
    "ph.d": "P H D", "m.d": "M D", "b.a": "B A", "m.a": "M A", "b.sc": "B S C", "m.sc": "M S C",
    "a.m": "A M", "p.m": "P M",
}  # fmt: skip
"""Abbreviations of ``runtime.abbreviations`` and their words; "dr", "st" and "ms" stand apart."""

BEFORE_NUMBER = {
    "no": "number", "nos": "numbers", "p": "page", "pp": "pages", "fig": "figure",
    "figs": "figures", "vol": "volume", "ch": "chapter", "sec": "section", "art": "article",
    "eq": "equation", "ver": "version", "v": "version", "tel": "telephone", "ext": "extension",
    "ca": "circa", "c": "circa", "est": "established",
}  # fmt: skip
"""Those that mean this only where a number follows."""

_CASED = words(
    """
    mr mrs mx messrs prof rev fr hon gen col maj capt cmdr lt sgt cpl pvt adm gov sen rep pres
    supt inc ltd co corp jr sr mt ft ave blvd rd dept univ bros assn al
    """
)
_LOWER = frozenset({"al"})


def _expand(match: re.Match[str]) -> str:
    written = match["short"]
    key = "".join(written.split()).rstrip(".").lower()
    if key in _CASED - _LOWER and not written[0].isupper():
        return match[0]
    words = EXPANSIONS[key]
    if key in _ENGLISH.never_final:
        return words
    return words + kept_stop(match)


def _numbered(match: re.Match[str]) -> str:
    words = BEFORE_NUMBER[match["short"].lower()]
    return f"{words.capitalize() if match['short'][0].isupper() else words} "


def _doctor(match: re.Match[str]) -> str:
    """Tell a doctor ("Dr. Smith") from a drive ("Mulholland Dr.")."""
    before = match["before"] or ""
    if before and match["name"] is None:
        return f"{before}Drive{kept_stop(match)}"
    return f"{before}Doctor"


def _saint(match: re.Match[str]) -> str:
    """Tell a saint ("St. Mary", "Visit St. Mary") from a street ("Main St.")."""
    before, named = match["before"], match["name"] is not None
    word = before.strip().lower()
    if before and not (named and match.start() == 0) and word not in _ENGLISH.starters:
        return f"{before}Street{'' if named else kept_stop(match)}"
    return f"{before}Saint"


def _initials(match: re.Match[str]) -> str:
    letters = re.findall(r"[A-Za-z]", match[0])
    following = match.string[match.end() : match.end() + 24].split()
    ends = not following or following[0].strip(".,").lower() in _ENGLISH.starters
    stop = "." if match[0].endswith(".") and ends else ""
    return f"{' '.join(letters).upper()}{stop}"


def _joined(match: re.Match[str]) -> str:
    return f"{spelling.spell(match[1])} and {spelling.spell(match[2])}"


def _capitals(match: re.Match[str]) -> str:
    word = match["word"]
    if word == "OK":
        return "okay"
    if not spelling.is_spelled(word):
        return match[0]
    return f"{spelling.spell(word)}{match['plural']}"


_MULTIPART = one_of(key for key in EXPANSIONS if "." in key).replace(r"\.", r"\.\s?")
_SINGLE = one_of(key for key in EXPANSIONS if "." not in key)

NUMBERED: tuple[Rule, ...] = (
    rule(
        rf"(?<![\w.'’-])(?P<short>{one_of(BEFORE_NUMBER)})\.\s?(?=#?\d)", _numbered, re.IGNORECASE
    ),
    rule(r"\b(?P<short>[Nn]o)s?\.\s?(?=[A-Z]{0,3}\d)", _numbered),
)

RULES: tuple[Rule, ...] = (
    rule(r"(?P<before>\b[A-Z][a-z]{1,20} )?(?<![\w.])Dr\.(?P<name>(?=\s[A-Z]))?", _doctor),
    rule(
        r"(?P<before>\b[A-Z][a-z]{1,20} |\b\d{1,3}(?:st|nd|rd|th) |)(?<![\w.])"
        r"St\.(?P<name>(?=\s[A-Z]))?",
        _saint,
    ),
    rule(rf"(?<![\w.])(?P<short>{_MULTIPART})(?:\.|(?![\w.]))", _expand, re.IGNORECASE),
    rule(rf"(?<![\w.])(?P<short>{_SINGLE})\.(?!\w)", _expand, re.IGNORECASE),
    rule(r"(?<![\w.])Ms\.(?=\s)", lambda _: "Ms"),
    rule(r"(?<![\w.])(?:[A-Za-z]\.){2,8}(?:[A-Z]\b)?", _initials),
    rule(r"\bw/o\b", lambda _: "without"),
    rule(r"\bw/(?=\s?[^\s/])", lambda _: "with "),
    rule(r"\b([A-Z]{1,3})&([A-Z]{1,3})\b", _joined),
    rule(r"(?<![\w])(?P<word>[A-Z]{2,8})(?P<plural>s?)(?!\w)", _capitals),
)
