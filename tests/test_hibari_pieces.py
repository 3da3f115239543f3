"""However a sentence is pronounced, Hibari never gets more phonemes than it has room for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.engines.embedded.hibari import at_most


@given(st.text("ab ,", max_size=60), st.integers(1, 20))
def test_parts_are_no_longer_than_the_limit_and_lose_no_phoneme(text: str, limit: int) -> None:
    parts = at_most(text, limit)
    assert all(0 < len(part) <= limit for part in parts)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")


def test_words_stay_whole_where_they_fit() -> None:
    assert at_most("one two three", 8) == ["one two", "three"]
    assert at_most("onetwothree", 4) == ["onet", "woth", "ree"]


def test_what_fits_is_one_part() -> None:
    assert at_most("one two", 7) == ["one two"]
    assert at_most("", 7) == []
