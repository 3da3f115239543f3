"""From a transducer's tokens to text, words with times and confidence, and sentences.

The rules are those of NeMo 3.0.0 (``get_words_offsets``, ``get_segment_offsets`` and the
refinement for TDT), over tables made once per vocabulary: NeMo copies and decodes every token
of every hypothesis again, which takes longer than recognising it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runtime.speech import FinalTranscript, Word

_SENTENCE_ENDS = (".", "?", "!")
_LONE_SPACES = (" ", "_", "▁")  # pieces that are nothing but the start of a word


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a transducer's greedy search found.

    Attributes:
        ids: Of the tokens, blanks left out.
        starts: The frame of the encoder at which each was found.
        durations: How many frames each lasts.
        confidence: How sure the model was of each, 0 to 1.
    """

    ids: list[int]
    starts: list[int]
    durations: list[int]
    confidence: list[float]


class Vocabulary:
    """The tokens of a model as text."""

    def __init__(self, decoding: Any, size: int) -> None:
        """Read the tables from NeMo's ``RNNTBPEDecoding``, for ids below ``size``."""
        self._decoding = decoding
        self._pieces: list[str] = [decoding.decode_ids_to_tokens([i])[0] for i in range(size)]
        self._texts: list[str] = [decoding.decode_ids_to_str([i]) for i in range(size)]
        self._punctuation = frozenset(decoding.supported_punctuation or ())

    def text(self, ids: Sequence[int]) -> str:
        """The text of a whole hypothesis, as NeMo's ``transcribe()`` gives it."""
        text: str = self._decoding.decode_tokens_to_str_with_strip_punctuation(list(ids))
        return text

    def words(self, tokens: Tokens, frame_s: float, offset_s: float = 0.0) -> list[Word]:
        """The words of a hypothesis.

        Args:
            tokens: With times in frames.
            frame_s: Seconds of a frame.
            offset_s: Time of the first frame.

        Returns:
            Words in order, their confidence that of the least certain token of each.
        """
        words: list[_Word] = []
        building: _Word | None = None
        end = 0
        for index, token in enumerate(tokens.ids):
            piece, text = self._pieces[token], self._texts[token]
            punctuation = text in self._punctuation and text != " "
            start = tokens.starts[index]
            # Punctuation is found long after the word that it follows, after the pause.
            if punctuation and index:
                start = end
            else:
                end = start + tokens.durations[index]
            if punctuation and building is not None:
                if building.pieces[-1] in _LONE_SPACES:
                    del building.pieces[-1]
                building.add(piece, end, tokens.confidence[index])
            elif punctuation and words:
                words[-1].follow(text, end, tokens.confidence[index])
            else:
                begins = self._starts_word(tokens.ids, index)
                if begins and building is not None:
                    words.append(building)
                    building = None
                if not begins or text != " ":
                    building = building or _Word(start, self._decoding)
                    building.add(piece, end, tokens.confidence[index])
        if building is not None:
            words.append(building)
        return [
            Word(
                text=word.text,
                start_s=word.start * frame_s + offset_s,
                end_s=word.end * frame_s + offset_s,
                confidence=min(word.confidence),
            )
            for word in words
            if word.text
        ]

    def _starts_word(self, ids: Sequence[int], index: int) -> bool:
        piece, text = self._pieces[ids[index]], self._texts[ids[index]]
        if piece != text:  # a mark of SentencePiece's was stripped
            return True
        if text != " ":
            return False
        following = (self._texts[token] for token in ids[index + 1 :])
        return next((text for text in following if text and text != " "), None) not in (
            self._punctuation
        )


class _Word:
    """A word that is being put together."""

    def __init__(self, start: int, decoding: Any) -> None:
        self.start = start
        self.end = start
        self.pieces: list[str] = []
        self.confidence: list[float] = []
        self._suffix = ""
        self._decoding = decoding

    def add(self, piece: str, end: int, confidence: float) -> None:
        self.pieces.append(piece)
        self.end = end
        self.confidence.append(confidence)

    def follow(self, punctuation: str, end: int, confidence: float) -> None:
        """Punctuation after a word that was complete."""
        self._suffix += punctuation
        self.end = end
        self.confidence.append(confidence)

    @cached_property
    def text(self) -> str:
        said: str = self._decoding.decode_tokens_to_str(self.pieces)
        return said.removesuffix(" ") + self._suffix if self._suffix else said


def sentences(words: Sequence[Word]) -> list[list[Word]]:
    """Words grouped by the punctuation that ends sentences; the last may lack it."""
    found: list[list[Word]] = [[]]
    for word in words:
        found[-1].append(word)
        if ends_sentence(word):
            found.append([])
    return [sentence for sentence in found if sentence]


def ends_sentence(word: Word) -> bool:
    """Whether a sentence ends with it."""
    return word.text.endswith(_SENTENCE_ENDS)


def utterance(words: Sequence[Word], number: int, with_words: bool) -> FinalTranscript:
    """A sentence as an utterance of a recording."""
    return FinalTranscript(
        text=" ".join(word.text for word in words),
        utterance=number,
        start_s=words[0].start_s,
        end_s=words[-1].end_s,
        words=tuple(words) if with_words else (),
    )
