"""The normaliser of rules: pure Python, on any machine, under a millisecond a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.normalization import numerals
from runtime.normalization.english import spoken
from runtime.text import primary_language


class RulesNormalizer:
    """English in full (``runtime.normalization.english``); of other languages the numbers.

    It holds no state: any thread may call it. It never fails on a text, so
    ``failures`` stays empty.
    """

    failures: Mapping[str, int] = {}

    def __init__(self, name: str, languages: tuple[str, ...]) -> None:
        self.name = name
        self.languages = languages

    def prewarm(self) -> None:
        """Load the number words, tens of ms a language."""
        for language in self.languages:
            if language == "en":
                spoken("1 and 1st")
            else:
                numerals.load(language)

    def normalize(self, text: str, language: str) -> str:
        """Write a text as it is said; see ``Normalizer.normalize``."""
        language = primary_language(language)
        if language not in self.languages:
            return text
        return say(text, language)

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def say(text: str, language: str) -> str:
    """Write a text as it is said, in a language that there are rules for."""
    return spoken(text) if language == "en" else numerals.spoken_numbers(text, language)
