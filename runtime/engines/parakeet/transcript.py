"""Tokens as they come become words, partials and finals; nothing said is taken back.

Times are those of the frames in which tokens were emitted: a transducer emits a token some
frames after its sound, and how many depends on its training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from runtime.speech import FinalTranscript, PartialTranscript, RecognitionEvent, Word

_LEAD_S = 0.32
"""Of the silence that ended an utterance, what a stream that starts over hears again: a word
that has just begun has no token yet."""


class Vocabulary(Protocol):
    """A model's tokens as text."""

    def begins_word(self, token: int) -> bool:
        """Whether a word begins with it."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """What the tokens of one word spell."""
        ...


class Pieces:
    """The vocabulary of NeMo's SentencePiece tokenisers."""

    def __init__(self, tokenizer: object, pieces: Sequence[str]) -> None:
        """``pieces`` are the tokens in order, a word's first one with ``▁`` before it."""
        self._tokenizer = tokenizer
        self._begins = [piece.startswith("▁") for piece in pieces]

    def begins_word(self, token: int) -> bool:
        """See ``Vocabulary``."""
        return self._begins[token]

    def text(self, tokens: Sequence[int]) -> str:
        """See ``Vocabulary``."""
        return str(self._tokenizer.ids_to_text(list(tokens))).strip()  # type: ignore[attr-defined]


@dataclass(slots=True)
class _Spelled:
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    start_s: float = 0.0
    end_s: float = 0.0


class Transcriber:
    """One stream's tokens in, its events out."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        partials: bool,
        words: bool,
        endpoint_s: float | None,
    ) -> None:
        """``endpoint_s`` without a token after one end an utterance; None leaves that to others."""
        self._vocabulary = vocabulary
        self._partials, self._give_words = partials, words
        self._endpoint_s = endpoint_s
        self._utterance = 0
        self._words: list[_Spelled] = []
        self._sent = ""

    def hear(
        self, tokens: Sequence[int], times_s: Sequence[tuple[float, float]], heard_s: float
    ) -> list[RecognitionEvent]:
        """Take the tokens of a chunk.

        Args:
            tokens: Their ids.
            times_s: Start and end of the frame of each, since the start of the stream.
            heard_s: Audio time up to which everything has been heard.
        """
        for token, (start_s, end_s) in zip(tokens, times_s, strict=True):
            if not self._words or self._vocabulary.begins_word(token):
                self._words.append(_Spelled(start_s=start_s))
            word = self._words[-1]
            word.tokens.append(token)
            word.end_s = end_s
            word.text = self._vocabulary.text(word.tokens)
        events: list[RecognitionEvent] = []
        text = self._text() if tokens else self._sent
        if self._partials and text != self._sent:
            self._sent = text
            stable = len(text.rstrip("\ufffd"))  # half of a character that a byte spells
            start_s = self._words[0].start_s
            events.append(PartialTranscript(text, self._utterance, start_s, heard_s, stable))
        if self._words and self._endpoint_s is not None:
            silent_s = heard_s - self._words[-1].end_s
            if silent_s >= self._endpoint_s:
                events += self._final(0, max(self._words[-1].end_s, heard_s - _LEAD_S))
        return events

    def end(self, request: int, settled_s: float) -> list[RecognitionEvent]:
        """End the utterance at ``settled_s``: by ``finalize()``, or with the stream (0)."""
        if not self._words and not request:
            return []
        return self._final(request, settled_s)

    def _final(self, request: int, settled_s: float) -> list[RecognitionEvent]:
        spelled, text = [word for word in self._words if word.text], self._text()
        start_s = min(spelled[0].start_s, settled_s) if spelled else settled_s
        end_s = min(spelled[-1].end_s, settled_s) if spelled else settled_s
        words = tuple(
            Word(word.text, min(word.start_s, end_s), min(word.end_s, end_s)) for word in spelled
        )
        final = FinalTranscript(
            text,
            self._utterance,
            start_s,
            end_s,
            words if self._give_words else (),
            request,
            settled_s,
        )
        self._words, self._sent = [], ""
        self._utterance += 1
        return [final]

    def _text(self) -> str:
        return " ".join(word.text for word in self._words if word.text)
