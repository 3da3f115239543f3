"""English as it is spoken: numbers, dates, money, addresses and the rest, by rules.

``spoken`` is a pure function over a sentence or a text. Its rules run in a fixed
order, each in linear time; what none of them knows stays as it is, and no digit is
left. American English, as Magpie's voices are. Not done: no part of speech is
guessed ("St." and years go by their neighbours), and nothing is capitalised.
"""

# Dashes, quotes, primes and signs of real texts are the subject, not typos.
# ruff: noqa: RUF001

from __future__ import annotations

import re
import unicodedata

from runtime.normalization.english import (
    abbreviations,
    dates,
    electronic,
    identifiers,
    measures,
    money,
    quantities,
    symbols,
    times,
)

_RULES = (
    *electronic.RULES,
    *abbreviations.NUMBERED,
    *identifiers.TELEPHONES,
    *identifiers.CODES,
    *dates.RULES,
    *times.RULES,
    *money.RULES,
    *identifiers.VERSIONS,
    *measures.RULES,
    *quantities.ROMAN,
    *quantities.NUMBERS,
    *identifiers.SERIALS,
    *quantities.LEFT_OVER,
    *abbreviations.RULES,
    *symbols.RULES,
)

_MOST_ROUNDS = 4
_WRITTEN = re.compile(r"[^A-Za-z\s,;:!?'\"-]|[A-Z]{2}|\b[IVX]\b")
_SPACES = re.compile(r"[ \u00a0]{2,}")
_BEFORE_MARK = re.compile(r" +(?=[.,;:!?])")
_DASHES = {ord("−"): "-", ord("‑"): "-", ord("⁄"): "/", 0xA0: " ", 0x202F: " ", 0x2009: " "}


def spoken(text: str) -> str:
    """Write an English text as it is said.

    Args:
        text: A sentence or a longer text, already without markup.

    Returns:
        The same words, with no decimal digit of any script left; a text with nothing
        to rewrite comes back as it is. Doing it again changes nothing.
    """
    if not _WRITTEN.search(text):
        return text
    said = _plain_digits(text.translate(_DASHES))
    # The words for one thing may lay bare another ("&.com"); a second round is rare.
    for _ in range(_MOST_ROUNDS):
        before, said = said, _round(said)
        if said == before or not _WRITTEN.search(said):
            break
    return said


def _round(text: str) -> str:
    said = text
    for rule in _RULES:
        said = rule.apply(said)
    if said == text:
        return text
    return _BEFORE_MARK.sub("", _SPACES.sub(" ", said)).strip()


def _plain_digits(text: str) -> str:
    """Write digits of other scripts, and fractions in one character, with 0 to 9."""
    if text.isascii():
        return text
    return "".join(
        character if character.isascii() else _plain(character, text[index - 1 : index])
        for index, character in enumerate(text)
    )


def _plain(character: str, before: str) -> str:
    if character in "²³":
        return character  # square and cubic units
    if character.isdigit():
        power = (
            "^" if before.isalnum() and "<super>" in unicodedata.decomposition(character) else ""
        )
        return f"{power}{unicodedata.digit(character)}"
    if unicodedata.category(character) == "No":
        whole = unicodedata.normalize("NFKC", character).replace("⁄", "/")
        return f" {whole}" if before.isdigit() else whole
    return character
