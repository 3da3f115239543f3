"""A piece of text as chunks of tokens that the model can speak in one go."""

# ruff: noqa: RUF001 - full-width letters are meant.

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from runtime.engines.magpie.tokens import FrontEnd, Tokens
from runtime.normalization import Normalizer
from runtime.speech import FALLBACK, SynthesisRequest
from runtime.text import plan_chunks

_TOKENS_PER_SECOND = 11
"""Of speech: phonemes, tones, spaces and marks at a slow pace. NeMo's own bounds of a chunk
(45 words of English, 100 characters of Chinese, for about 20 s) come to 10 to 14."""

_FEWEST_TOKENS = 12

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
        self._max_tokens = max(_FEWEST_TOKENS, int(seconds * _TOKENS_PER_SECOND))
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

    def pieces(self, request: SynthesisRequest, carry: int) -> Iterator[Piece]:
        """Pieces of a request that have any sound, planned one by one as they are asked for.

        They begin with the group that the request's first piece belongs to, for what that takes
        over from it; ``carry`` pieces make a group.
        """
        language = request.language or "en"
        begin = request.first_piece - request.first_piece % carry
        for piece in plan_chunks(request.text, language, self.MAX_PIECE_CHARS):
            if piece.index < begin:
                continue
            chunks = self.plan(piece.text, language, request.normalise)
            if chunks:
                yield Piece(piece.index, piece.index // carry, chunks)

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
