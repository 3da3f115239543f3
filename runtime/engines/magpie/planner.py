"""A piece of text as chunks of tokens that the model can speak in one go."""

# ruff: noqa: RUF001 - full-width letters are meant.

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from runtime.engines.magpie.options import chunk_tokens
from runtime.engines.magpie.tokens import FrontEnd, Tokens
from runtime.growing import TextCount, texts_of
from runtime.normalization import Normalizer
from runtime.speech import FALLBACK, SynthesisRequest
from runtime.text import TextChunk, plan_chunks

# Characters that a tokeniser is given at once. OpenJTalk (Japanese) kills the process at
# 8,192 bytes of text, and at a single unknown word of 1,024; others only get slow.
_MAX_CHARS = {"ja": 100, "zh": 200}
_MAX_CHARS_ELSEWHERE = 600

# Latin letters among them that OpenJTalk may have to spell out, in one word as it takes them:
# w reads as 15 bytes. Sixty of them and forty kana are 1,020.
_MAX_SPELLED = 60
_SPELLED = re.compile("[A-Za-zＡ-Ｚａ-ｚ]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a request's text in tokens.

    Attributes:
        index: Which piece.
        group: Of pieces that carry text and alignment over to one another.
        chunks: What is spoken in one go each.
    """

    index: int
    group: int
    chunks: list[Tokens]


@dataclass(frozen=True, slots=True)
class Planned:
    """A piece, and what is known of its neighbours.

    Attributes:
        piece: What is spoken.
        carries: It goes on with the piece before it.
        ends: No piece goes on with it.
        pauses: A pause follows.
    """

    piece: Piece
    carries: bool
    ends: bool
    pauses: bool


class TextPlanner:
    """Normalises, tokenises, and cuts what would not fit into the longest chunk of audio."""

    MAX_PIECE_CHARS: ClassVar[int] = 400
    """Characters of a piece of the source text; numbers in it may become many more."""

    def __init__(
        self, frontend: FrontEnd, normalizer: Normalizer, seconds: float, counts: dict[str, int]
    ) -> None:
        """``seconds`` of audio are the most of one chunk; what is done is added to ``counts``."""
        self._frontend = frontend
        self._normalizer = normalizer
        self._max_tokens = chunk_tokens(seconds)
        self._counts = counts

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest chunk."""
        return self._max_tokens

    @property
    def shortest(self) -> tuple[int, ...]:
        """Token ids of a short chunk, to warm up with; they mean nothing."""
        return (*[0] * 7, self._frontend.eos_id)

    @property
    def longest(self) -> tuple[int, ...]:
        """Token ids of the longest chunk; they mean nothing."""
        return (*[0] * (self._max_tokens - 1), self._frontend.eos_id)

    async def planned(
        self,
        request: SynthesisRequest,
        more: AsyncIterator[str] | None,
        carry: int,
        run: Callable[..., Awaitable[Any]],
        count: TextCount,
    ) -> AsyncGenerator[Planned | None, None]:
        """Pieces of all texts of an utterance that have any sound, one ahead within a text.

        They begin with the group that the request's first piece belongs to, for what that takes
        over from it. Where the text grows, nothing depends on whether another text follows.

        Args:
            request: What to say, and how.
            more: Texts that follow, as they come.
            carry: How many pieces make a group.
            run: Calls a function with its arguments elsewhere: tokenising takes a while.
            count: Is told where each text ends, before its last piece comes.

        Yields:
            Pieces; None in place of a text of which nothing has a sound.
        """
        begin = request.first_piece - request.first_piece % carry
        index, group = 0, -1
        async for text in texts_of(request, more):
            texts = self._pieces(text, request, carry, index, begin)
            if more is not None:
                index += await run(self._count, text, request)
            current = await run(next, texts, None)
            if current is None:
                count.planned(None)
                yield None
            while current is not None:
                following = await run(next, texts, None)
                if following is not None:
                    ends, pauses = following.group != current.group, True
                elif more is None:
                    ends, pauses = True, False
                else:
                    ends, pauses = index // carry != current.group, True
                if following is None:
                    count.planned(current.index)
                yield Planned(current, current.group == group, ends, ends and pauses)
                group, current = current.group, following

    def _pieces(
        self, text: str, request: SynthesisRequest, carry: int, base: int, begin: int
    ) -> Iterator[Piece]:
        for piece in self._cut(text, request):
            index = base + piece.index
            if index < begin:
                continue
            chunks = self.plan(piece.text, request.language or "en", request.normalise)
            if chunks:
                yield Piece(index, index // carry, chunks)

    def _count(self, text: str, request: SynthesisRequest) -> int:
        return sum(1 for _ in self._cut(text, request))

    def _cut(self, text: str, request: SynthesisRequest) -> Iterator[TextChunk]:
        return plan_chunks(text, request.language or "en", self.MAX_PIECE_CHARS)

    def plan(self, text: str, language: str, normalise: bool) -> list[Tokens]:
        """Chunks of a piece of text, in order; none if nothing of it can be spoken."""
        if normalise:
            text = self._normalizer.normalize(text, language)
            self._counts[f"{FALLBACK}normalizer rules"] = sum(self._normalizer.failures.values())
        chunks = list(self._fitting(text, language))
        for chunk in chunks:
            self._counts["characters_removed"] += chunk.removed
            self._counts["tokens_padded"] += chunk.padded
        return [chunk for chunk in chunks if chunk.ids]

    def _fitting(self, text: str, language: str) -> Iterator[Tokens]:
        most = _MAX_CHARS.get(language, _MAX_CHARS_ELSEWHERE)
        if language == "ja" and len(text) <= most and len(_SPELLED.findall(text)) > _MAX_SPELLED:
            most = _MAX_SPELLED
        if len(text) <= most:
            tokens = self._frontend.tokenize(text, language)
            if len(tokens.ids) <= self._max_tokens or len(text) < 2:
                yield tokens
                return
            most = max(1, min(len(text) - 1, len(text) * self._max_tokens // len(tokens.ids)))
        for part in plan_chunks(text, language, most):
            yield from self._fitting(part.text, language)
