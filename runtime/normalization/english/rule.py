"""A rule of rewriting: a pattern, and what to say for its matches.

Rules run one after the other over the whole text. A pattern must take linear time:
it starts only where a word or a number starts (look-behind), and repeats without
going back (possessive) or a bounded number of times.
"""

# Dashes, quotes, primes and signs of real texts are the subject, not typos.
# ruff: noqa: RUF001

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

START = r"(?<!\d)(?<!\d[.,])"
"""Where a written number may start: not inside one."""

NUMBER = r"(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)(?:\.\d++)?+"
"""A written number without its sign: "12", "1,234", "3.14"."""

SIGN = r"(?:(?<![\w)\].,])-)?"
"""A minus sign: a hyphen that joins nothing on its left."""

TO = r"\s?[-–—]\s?"
"""What stands between the ends of a range."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What to say for a pattern.

    Attributes:
        pattern: What is written.
        say: Gives the words for a match; the match as it is where the rule does
            not hold after all.
    """

    pattern: re.Pattern[str]
    say: Callable[[re.Match[str]], str]

    def apply(self, text: str) -> str:
        """Rewrite all matches; words that come to touch others are set apart."""
        return self.pattern.sub(self._say_apart, text)

    def _say_apart(self, match: re.Match[str]) -> str:
        words = self.say(match)
        if words == match[0]:
            return words
        start, end = match.span()
        before, after = match.string[max(start - 1, 0) : start], match.string[end : end + 1]
        lead = " " if before.isalnum() and words[:1].isalnum() else ""
        tail = " " if after.isalnum() and words[-1:].isalnum() else ""
        return f"{lead}{words}{tail}"


def words(text: str) -> frozenset[str]:
    """The words of a table that is written as text."""
    return frozenset(text.split())


def rule(pattern: str, say: Callable[[re.Match[str]], str], flags: int = 0) -> Rule:
    """Make a rule from a pattern's text."""
    return Rule(re.compile(pattern, flags), say)


def one_of(words: Iterable[str]) -> str:
    """A group that matches any of these texts, the longest first."""
    return f"(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})"


def kept_stop(match: re.Match[str]) -> str:
    """The full stop that an abbreviation at the end of a match shares with its sentence.

    A stop that ends both an abbreviation and the sentence must be said as a pause,
    so it stays where the text ends, or goes on with a capital.
    """
    if not match[0].endswith("."):
        return ""
    following = match.string[match.end() : match.end() + 8].lstrip(" \n\"'”’)")
    return "." if not following or following[0].isupper() else ""
