"""Word error rate: kaldialign over whisper-normalizer's English rules."""

from __future__ import annotations

from functools import cache
from typing import Any

import kaldialign


@cache
def _normalizer() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def plain_words(text: str) -> list[str]:
    """A text as comparable words: lower case, no punctuation, numbers as digits."""
    return str(_normalizer()(text)).split()


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Insertions, deletions and substitutions together; and the words of the reference."""
    words = plain_words(reference)
    return int(kaldialign.edit_distance(words, plain_words(hypothesis))["total"]), len(words)


def word_error_rate(pairs: list[tuple[str, str]]) -> float:
    """Errors per reference word over all (reference, hypothesis) pairs."""
    counts = [word_errors(reference, hypothesis) for reference, hypothesis in pairs]
    return sum(errors for errors, _ in counts) / max(1, sum(words for _, words in counts))


def words_lost(reference: str, hypothesis: str) -> int:
    """Words of the reference that the hypothesis lacks or has others for."""
    counts = kaldialign.edit_distance(plain_words(reference), plain_words(hypothesis))
    return int(counts["del"]) + int(counts["sub"])
