"""What of an LLM's tokens is spoken at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LONG = "Well, I have thought about it, and I would say that it depends. Ask Dr. Smith, he knows."


def pieces(tokens: list[str], *, hurried: bool) -> list[str]:
    from runtime.bots.clauses import ClauseAggregator

    async def gather() -> list[str]:
        aggregator = ClauseAggregator(lambda: hurried, "en")
        found = [piece.text for token in tokens async for piece in aggregator.aggregate(token)]
        rest = await aggregator.flush()
        return [*found, *([rest.text] if rest else [])]

    return asyncio.run(gather())


def test_a_clause_is_enough_while_the_listener_waits_and_sentences_else() -> None:
    words = [f"{word} " for word in LONG.split()]
    assert pieces(words, hurried=True) == [
        "Well, I have thought about it,",
        "and I would say that it depends.",
        "Ask Dr. Smith,",
        "he knows.",
    ]
    assert pieces(words, hurried=False) == [
        "Well, I have thought about it, and I would say that it depends.",
        "Ask Dr. Smith, he knows.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes, no, well, so, all right.", ["Yes, no, well, so,", "all right."]),
        ("It costs 1,250,000 dollars at 10:30, or so they say.", 2),
        ('He said "never again," and he meant it.', ['He said "never again,"', "and he meant it."]),
        ("A long dash — like this one — is a pause.", 2),
        ("No clause ends here at all.", 1),
    ],
)
def test_where_a_clause_ends(text: str, expected: list[str] | int) -> None:
    found = pieces(list(text), hurried=True)
    assert found == expected if isinstance(expected, list) else len(found) == expected
    assert " ".join(found) == text


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, len(LONG)), max_size=12), hurried=st.booleans())
def test_pieces_do_not_depend_on_how_the_tokens_are_cut(cuts: list[int], hurried: bool) -> None:
    edges = [0, *sorted(cuts), len(LONG)]
    tokens = [LONG[start:end] for start, end in pairwise(edges)]
    assert pieces(tokens, hurried=hurried) == pieces([LONG], hurried=hurried)


def test_without_pipecat_the_import_says_what_to_install() -> None:
    program = "import sys; sys.modules['pipecat'] = None; import runtime.bots"
    tried = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert tried.returncode == 1
    assert 'pip install "speech-runtime[bots]"' in tried.stderr
