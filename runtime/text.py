"""A text in pieces that a voice takes at once: sentences, and parts of long ones.

A voice gets one piece at a time, so a text of any length must start to sound
before it is read to its end, and must never be said twice or lost in part.
Everything here scans forward once: no work grows faster than the text.

Not done here: what cannot be spoken is removed before (``runtime.speakable``), no
language is guessed, nothing is read or written.
"""

# The curly quotes, dashes and full-width marks below are the subject, not typos.
# ruff: noqa: RUF001

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.abbreviations import ABBREVIATIONS, LANGUAGE_INDEPENDENT, Abbreviations
from runtime.errors import InvalidRequest
from runtime.speakable import has_speech, is_cjk


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of a source text, without outer white space.

    Attributes:
        index: Its place among the pieces, from 0.
        text: ``source[start:end]``.
        start: Offset of its first character, in characters of the source.
        end: Offset after its last character, in characters of the source.
    """

    index: int
    text: str
    start: int
    end: int


def primary_language(tag: str) -> str:
    """Return the primary subtag of a language tag: "en" for "en-US", "en_US" and "EN"."""
    return re.split("[-_]", tag.strip(), maxsplit=1)[0].lower()


# --- where sentences end ---

_TERMINATORS = ".!?…‼⁇⁈⁉؟。！？；．｡।॥۔።။"
_CANDIDATE = re.compile(rf"[{_TERMINATORS}]++|\n\s*+")
_STRONG = re.compile("[!?‼⁇⁈⁉؟]")
_NEEDS_NO_SPACE = re.compile("[。！？；．｡।॥۔።။]")
_CLOSING = r"""(?:[\])}"'”’»›」』】）〉》〕］｝]|\[\d{1,3}\])"""
_CLOSERS = re.compile(rf"{_CLOSING}*+(?:[ \u00a0\u202f]»{_CLOSING}*+)?+")
# German closes with the quotes that others open with, and may open with "»".
_GERMAN_CLOSERS = re.compile(rf"(?:{_CLOSING}|[“‘«‹])*+")
_OPENERS = re.compile(r"""[\s\[({"'“‘„‚«‹»›「『【（《¿¡—–-]{0,16}""")
_SPACE = re.compile(r"\s*+")
_LIST_MARKER = re.compile(r"(?:[-*•–—]|\d{1,3}[.)]|[A-Za-z]\))\s")
_ENUMERATOR = re.compile(r"\(?(?:\d{1,3}(?:\.\d{1,3})*|[A-Za-z]|[IVXLC]{1,5})")
_ABBREVIATION = re.compile(
    r"(?<![\w.@/:-])(?:[^\W\d_]{1,5}\.[ \u00a0\u202f]?){0,3}[^\W\d_]+\Z"
)  # parts that follow other letters and dots are of a host or file name
_ORDINAL = re.compile(r"(?:\b(\w+)\s+)?\b(?:\d{1,2}|[IVX]{1,5})\Z")
_LONE_WORD = re.compile(r"\b[a-z]+\s+[A-Z]\Z")
_WORD = re.compile(r"[^\W\d_]+")
_LOOK_BACK = 32  # characters, for the word before an ordinal or initial
_LONGEST_ABBREVIATION = 16  # characters


def split_sentences(text: str, language: str = "en") -> Iterator[TextChunk]:
    """Find the sentences of a text, one at a time.

    Args:
        text: The source.
        language: Its language tag; only the primary subtag counts. Languages
            without a table of abbreviations are split by punctuation alone.

    Yields:
        Every sentence in order, those without letters or numbers included.
    """
    for index, (start, end) in enumerate(_sentence_spans(text, language)):
        yield TextChunk(index, text[start:end], start, end)


def _sentence_spans(text: str, language: str) -> Iterator[tuple[int, int]]:
    language = primary_language(language)
    rules = ABBREVIATIONS.get(language, LANGUAGE_INDEPENDENT)
    closers = _GERMAN_CLOSERS if language == "de" else _CLOSERS
    start = position = _skip_space(text, 0)
    quotes, counted = 0, start
    while found := _CANDIDATE.search(text, position):
        stop, position = found.span()
        if found[0][0] == "\n":
            cut, ends = stop, _is_break(text, stop, position)
        else:
            cut = closers.match(text, position).end()  # type: ignore[union-attr]
            if _NEEDS_NO_SPACE.search(found[0]):
                quotes, counted = quotes + text.count('"', counted, stop), stop
                if text[position : position + 1] == '"' and quotes % 2 == 0:
                    cut = position  # a straight quote that opens the next sentence
            ends = _is_boundary(text, start, found, cut, rules)
        if ends:
            if start < cut:
                yield start, start + len(text[start:cut].rstrip())
            start = position = _skip_space(text, cut)
    end = start + len(text[start:].rstrip())
    if start < end:
        yield start, end


def _skip_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]


def _is_break(text: str, start: int, end: int) -> bool:
    """Tell whether white space from start to end separates sentences by itself."""
    lines = text.count("\n", start, end)
    return lines > 1 or (lines == 1 and _LIST_MARKER.match(text, end) is not None)


def _is_boundary(
    text: str, start: int, found: re.Match[str], cut: int, rules: Abbreviations
) -> bool:
    """Tell whether terminators, whose closing marks reach to cut, end the sentence at start."""
    following = _skip_space(text, cut)
    if following == len(text):
        return True
    run, before, after = found[0], text[max(found.start() - 1, 0)], text[following]
    if _NEEDS_NO_SPACE.search(run):
        return run != "．" or not (before.isdigit() and after.isdigit())
    strong = _STRONG.search(run) is not None
    if following == cut:
        glued = strong or (run == "." and is_cjk(before))
        return (strong and after in "¿¡") or (glued and is_cjk(after))
    lead = _OPENERS.match(text, following).end()  # type: ignore[union-attr]
    first = text[lead : lead + 1]
    if first.islower() or (first and first in _TERMINATORS):
        return False
    if strong:
        return True
    if run != ".":
        return first.isalpha()
    return not _stop_belongs_to_word(text, start, found.start(), lead, rules)


def _stop_belongs_to_word(text: str, start: int, dot: int, lead: int, rules: Abbreviations) -> bool:
    """Tell whether the full stop at dot, with a next word at lead, is part of its word."""
    if dot - start < _LOOK_BACK and _ENUMERATOR.fullmatch(text, start, dot):
        return True
    since, first = max(start, dot - _LOOK_BACK), text[lead : lead + 1]
    word = _WORD.match(text, lead)
    next_word = word[0].lower() if word else ""
    dotted = word is not None and text[word.end() : word.end() + 1] == "."
    if rules.ordinal_nouns and (ordinal := _ORDINAL.search(text, since, dot)):
        return next_word in rules.ordinal_nouns or (
            (ordinal[1] or "").lower() in rules.ordinal_openers
        )
    abbreviation = _ABBREVIATION.search(text, max(start, dot - _LONGEST_ABBREVIATION), dot)
    if not abbreviation:
        return False
    starter = next_word in rules.starters and not dotted
    parts = "".join(abbreviation[0].split()).split(".")
    for count in range(len(parts), 0, -1):
        written = ".".join(parts[-count:])
        lower = written.lower()
        if dotted and f"{lower}.{next_word}" in rules.compounds:
            return True
        if lower not in rules.listed and written not in rules.listed:
            continue
        forms = {written, lower}
        if forms & rules.never_final or (first.isdigit() and forms & rules.before_number):
            return True
        if forms & rules.final_before_capital:
            return not first.isupper()
        if forms & rules.final_before_starter:
            return not starter
    if len(parts) == 1 and parts[0] in rules.lone_words and _LONE_WORD.search(text, since, dot):
        return False
    initial = len(parts[-1]) == 1 and parts[-1].isupper()
    acronym = len(parts) > 1 and all(len(part) == 1 for part in parts)
    return (initial or acronym) and not starter


# --- pieces of a size that a voice takes at once ---

CLAUSE_END = re.compile(r"""[,;:]["'”’»)\]]*+(?=\s)|—|–(?=\s)|[、，；：]""")
_LEADING_MARKS = frozenset("\"'“‘„‚«‹「『【（《([{¿¡—–-")
_ZERO_WIDTH_JOINER = "\u200d"


def plan_chunks(text: str, language: str = "en", max_chars: int = 400) -> Iterator[TextChunk]:
    """Plan the pieces to speak, one at a time: sentences, cut where they are too long.

    Args:
        text: The source, of any length; only what is asked for is looked at.
        language: Its language tag, as for ``split_sentences``.
        max_chars: The longest piece, in characters.

    Returns:
        Pieces that each hold speech, in order; every letter and number of the
        source is in exactly one of them.

    Raises:
        InvalidRequest: If max_chars is less than 1.
    """
    if max_chars < 1:
        raise InvalidRequest(f"max_chars is {max_chars}; a piece needs at least 1 character")
    return _plan(text, language, max_chars)


def _plan(text: str, language: str, max_chars: int) -> Iterator[TextChunk]:
    for index, (start, end) in enumerate(_with_speech(text, language, max_chars)):
        yield TextChunk(index, text[start:end], start, end)


def _with_speech(text: str, language: str, max_chars: int) -> Iterator[tuple[int, int]]:
    """Join pieces without speech to a neighbour that has room, or drop them."""
    held: tuple[int, int] | None = None
    mute: tuple[int, int] | None = None  # waits for the piece after it
    for start, end in _pieces(text, language, max_chars):
        if has_speech(text[start:end]):
            if mute and end - mute[0] <= max_chars:
                start = mute[0]
            elif mute and held and mute[1] - held[0] <= max_chars:
                held = held[0], mute[1]
            if held:
                yield held
            held, mute = (start, end), None
        elif mute and end - mute[0] <= max_chars:
            mute = mute[0], end
        elif held and end - held[0] <= max_chars and text[start] not in _LEADING_MARKS:
            held = held[0], end
        else:
            mute = start, end
    if held:
        fits = mute and mute[1] - held[0] <= max_chars
        yield (held[0], mute[1]) if mute and fits else held


def _pieces(text: str, language: str, max_chars: int) -> Iterator[tuple[int, int]]:
    for start, end in _sentence_spans(text, language):
        while end - start > max_chars:
            cut = _cut(text, start, max_chars)
            yield start, start + len(text[start:cut].rstrip())
            start = _skip_space(text, cut)
        if start < end:
            yield start, end


def _cut(text: str, start: int, max_chars: int) -> int:
    """Find where to cut a sentence that goes on for more than max_chars after start."""
    limit = start + max_chars
    clause = start
    for mark in CLAUSE_END.finditer(text, start + max_chars // 2, limit + 1):
        clause = mark.end() if mark.end() <= limit else clause
    if clause > start:
        return clause
    if text[limit - 1].isspace() or text[limit].isspace():
        return limit
    words = text[start:limit].rsplit(maxsplit=1)
    if len(words) == 2:
        return start + len(words[0])
    cut = limit
    while cut > start and _is_one_sign(text[cut - 1], text[cut]):
        cut -= 1
    return cut if cut > start else limit


def _is_one_sign(left: str, right: str) -> bool:
    return (
        unicodedata.category(right)[0] == "M"
        or _ZERO_WIDTH_JOINER in (left, right)
        or ("\ud800" <= left <= "\udbff" and "\udc00" <= right <= "\udfff")
    )
