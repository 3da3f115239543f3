"""Tokens become words, partials and finals; what has been said is not taken back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from runtime.engines.parakeet.transcript import Transcriber
from runtime.speech import FinalTranscript, PartialTranscript, RecognitionEvent

FRAME_S = 0.08
PIECES = ["▁he", "llo", "▁world", "▁", "s", "\ufffd", "é"]


class Spelling:
    """Tokens are pieces; ``\ufffd`` is half of a character that only its other half spells."""

    def begins_word(self, token: int) -> bool:
        return PIECES[token].startswith("▁")

    def text(self, tokens: Sequence[int]) -> str:
        spelled = "".join(PIECES[token] for token in tokens).replace("▁", "")
        return spelled.replace("\ufffdé", "é")


class Heard:
    """A transcriber that is given tokens by their frames."""

    def __init__(
        self, *, partials: bool = True, words: bool = False, endpoint_s: float | None = None
    ) -> None:
        self.transcriber = Transcriber(
            Spelling(), partials=partials, words=words, endpoint_s=endpoint_s
        )
        self.frames = 0

    def chunk(self, *tokens: tuple[str, int]) -> list[RecognitionEvent]:
        """Two frames; tokens with the frame within."""
        ids = [PIECES.index(piece) for piece, _ in tokens]
        starts = [(self.frames + frame) * FRAME_S for _, frame in tokens]
        self.frames += 2
        times = [(start, start + FRAME_S) for start in starts]
        return self.transcriber.hear(ids, times, self.frames * FRAME_S)


def test_a_partial_comes_when_the_text_changes_and_only_then() -> None:
    heard = Heard()
    assert heard.chunk() == []
    (first,) = heard.chunk(("▁he", 1))
    assert first == PartialTranscript("he", 0, pytest.approx(3 * FRAME_S), 4 * FRAME_S, stable=2)
    assert heard.chunk() == []
    assert heard.chunk(("▁", 0)) == [], "a word of nothing changes nothing"
    (second,) = heard.chunk(("llo", 0), ("▁world", 1))
    assert second.text == "he llo world"


def test_what_is_stable_stays_and_half_a_character_is_not() -> None:
    heard = Heard()
    texts = []
    for token in ("▁he", "llo", "\ufffd", "é", "▁world"):
        for event in heard.chunk((token, 0)):
            assert isinstance(event, PartialTranscript)
            texts.append((event.text, event.stable))
    assert texts == [
        ("he", 2),
        ("hello", 5),
        ("hello\ufffd", 5),
        ("helloé", 6),
        ("helloé world", 12),
    ]
    for (before, stable), (after, _) in pairwise(texts):
        assert after.startswith(before[:stable])


def test_words_have_the_times_of_their_tokens() -> None:
    heard = Heard(words=True, partials=False)
    heard.chunk(("▁he", 0), ("llo", 1))
    heard.chunk(("▁world", 1))
    (final,) = heard.transcriber.end(1, 4 * FRAME_S)
    assert isinstance(final, FinalTranscript)
    assert [word.text for word in final.words] == ["hello", "world"]
    times = [time for word in final.words for time in (word.start_s, word.end_s)]
    assert times == pytest.approx([0, 2 * FRAME_S, 3 * FRAME_S, 4 * FRAME_S])
    assert (final.text, final.start_s) == ("hello world", 0.0)


def test_time_without_a_token_ends_an_utterance_and_the_next_counts_on() -> None:
    heard = Heard(endpoint_s=0.5)
    heard.chunk(("▁he", 0))
    silent = [heard.chunk() for _ in range(4)]
    events = [event for chunk in silent for event in chunk]
    (final,) = events
    assert isinstance(final, FinalTranscript)
    assert (final.text, final.utterance, final.request) == ("he", 0, 0)
    assert final.end_s == pytest.approx(FRAME_S)
    # Whoever starts over hears the end of the silence again: a word may have begun in it.
    assert final.end_s <= final.settled_s <= 8 * FRAME_S - 0.3
    assert heard.chunk() == [], "one final of one silence"
    partial, *_ = heard.chunk(("▁world", 0))
    assert (partial.text, partial.utterance) == ("world", 1)


def test_silence_alone_is_no_utterance() -> None:
    heard = Heard(endpoint_s=0.1)
    assert [heard.chunk() for _ in range(20)] == [[]] * 20
    assert heard.transcriber.end(0, 3.2) == []


def test_an_end_that_was_asked_for_is_answered_even_if_nothing_was_said() -> None:
    heard = Heard()
    (final,) = heard.transcriber.end(1, 1.5)
    assert final == FinalTranscript("", 0, 1.5, 1.5, request=1, settled_s=1.5)
    heard.chunk(("▁he", 0))
    (final,) = heard.transcriber.end(2, 2.0)
    assert (final.text, final.utterance, final.request) == ("he", 1, 2)
