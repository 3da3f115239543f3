"""Utterances whose text grows while they are spoken: in which order, and how far they are.

The first text comes with the request, the others one by one, as an LLM makes them. Each is cut
into pieces for itself, and the pieces are counted on, so that the same texts always make the
same pieces: however soon or late a text came, and on whichever replica.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass

from runtime.speech import SynthesisRequest
from runtime.text import plan_chunks


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of one of an utterance's texts.

    Attributes:
        index: Its place among the pieces of all texts, from 0.
        text: What it says.
        texts: How many texts are over once it is.
    """

    index: int
    text: str
    texts: int


async def texts_of(
    request: SynthesisRequest, more: AsyncIterator[str] | None
) -> AsyncGenerator[str, None]:
    """The text of a request, and those that follow."""
    yield request.text
    if more is not None:
        async for text in more:
            yield text


async def pieces_of(
    request: SynthesisRequest, more: AsyncIterator[str] | None, max_chars: int = 400
) -> AsyncGenerator[TextPiece, None]:
    """Pieces from the request's first one on, planned as they are asked for.

    Args:
        request: One that ``resolve_synthesis`` has validated.
        more: Texts that follow, as they come; each has something to speak.
        max_chars: The longest piece, in characters.

    Yields:
        At least one for each text, those before the first piece left out.
    """
    index = texts = 0
    async for text in texts_of(request, more):
        for piece, last in _pieces(text, request.language or "en", max_chars):
            if index >= request.first_piece:
                yield TextPiece(index, piece, texts + last)
            index += 1
        texts += 1


def _pieces(text: str, language: str, max_chars: int) -> Iterator[tuple[str, bool]]:
    """Each piece of a text, and whether it is the last."""
    held = None
    for piece in plan_chunks(text, language, max_chars):
        if held is not None:
            yield held, False
        held = piece.text
    if held is not None:
        yield held, True


class TextCount:
    """How many texts have been spoken to their end, for an engine that plans ahead."""

    def __init__(self, first_piece: int) -> None:
        """Pieces before the first one count as spoken."""
        self._spoken = first_piece - 1
        self._last = -1
        self._lasts: list[int] = []

    def planned(self, last_piece: int | None) -> None:
        """The next text ends with this piece; None if nothing of it has a sound."""
        if last_piece is not None:
            self._last = last_piece
        self._lasts.append(self._last)

    def spoken(self, piece: int) -> None:
        """A piece has been spoken to its end."""
        self._spoken = max(self._spoken, piece)

    @property
    def texts(self) -> int:
        """Texts that are over, in all."""
        return sum(last <= self._spoken for last in self._lasts)
