"""Where in its text each slot is, and the attention prior that keeps it going forward.

The rules are those of NeMo 3.0.0 (``get_most_attended_text_timestep``,
``construct_inference_prior`` and ``construct_multi_chunk_prior`` in
nemo/collections/tts/models/magpietts.py), on the device and for all slots at once. Positions
count from the start of a slot's own text, history included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STUCK = 8
"""Steps at one position after which the search begins at the next."""

SINK = 10
"""Steps at one position after which everything up to it is suppressed."""

TAIL = 3
"""Positions at the end of a text that are not searched; being there is being near the end."""

PATIENCE = 3
"""Steps near the end after which a chunk that is not the last is ended."""

SHORT, SHORT_LATER = 5, 35
"""Texts up to this length get no prior: in a first chunk, and in a later one."""

FIRST_WEIGHTS = (0.5, 1.0, 0.8, 0.2, 0.2)
"""Of a later chunk's first positions, before anything is known of its alignment."""

WEIGHTS = (1.0, 0.6, 0.4, 0.2, 0.2)
"""Of the position attended in a later chunk and those after it; 0.2 for the one before."""

BEFORE = 0.2


@dataclass(frozen=True, slots=True)
class PriorRules:
    """What a checkpoint says of its attention prior.

    Attributes:
        epsilon: What positions get that are not wanted.
        lookahead: How far ahead of the last position the next one may be.
    """

    epsilon: float
    lookahead: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where slots are in their texts, in place.

    Attributes:
        length: Tokens of the text, ``(slots,)``.
        last: Position attended last, ``(slots,)``.
        count: Steps at each position in this chunk, ``(slots, text)``.
        prior: For the next step, ``(slots, text)``, float32.
        near_end: Steps since the end was near; 0 before, ``(slots,)``.
        later: Whether the chunk is not the first of its text, ``(slots,)``.
    """

    length: Tensor
    last: Tensor
    count: Tensor
    prior: Tensor
    near_end: Tensor
    later: Tensor

    @classmethod
    def of(cls, slots: int, text: int, device: torch.device) -> Alignment:
        """For so many slots, and texts of so many tokens at the most."""

        def whole(*shape: int, value: int = 0) -> Tensor:
            return torch.full(shape, value, dtype=torch.int64, device=device)

        return cls(
            length=whole(slots, value=1),
            last=whole(slots, value=1),
            count=whole(slots, text),
            prior=torch.ones(slots, text, device=device),
            near_end=whole(slots),
            later=torch.zeros(slots, dtype=torch.bool, device=device),
        )

    def take(self, slots: Tensor) -> Alignment:
        """Copies of some slots' rows."""
        return Alignment(*(getattr(self, name)[slots] for name in self.__slots__))

    def put(self, slots: Tensor, rows: Alignment) -> None:
        """Write rows back to their slots."""
        for name in self.__slots__:
            getattr(self, name).index_copy_(0, slots, getattr(rows, name))

    def begin(
        self, slots: Tensor, length: Tensor, dropped: Tensor, begins_at: Tensor, rules: PriorRules
    ) -> None:
        """Begin chunks in some slots.

        Args:
            slots: Which, ``(n,)``.
            length: Tokens of their texts, history included, ``(n,)``.
            dropped: How many tokens of the text before are not in it any more; -1 in a first
                chunk.
            begins_at: Where the chunks themselves begin, after the history.
            rules: Of the prior.
        """
        later = dropped >= 0
        # A chunk that ended early may have left off before the history that is kept. NeMo's
        # index is negative then, and finds the end of the text.
        last = (self.last[slots] - dropped).clamp(min=0)
        places = torch.arange(self.prior.shape[1], device=slots.device)[None]
        begins, end = begins_at[:, None], length[:, None]
        prior = torch.full_like(self.prior[slots], rules.epsilon)
        prior = torch.where(places < begins, rules.epsilon**2, prior)
        for offset, weight in enumerate(FIRST_WEIGHTS):
            prior = torch.where((places == begins + offset) & (places < end), weight, prior)
        prior = torch.where(later[:, None], prior, 1.0)
        self.length.index_copy_(0, slots, length)
        self.last.index_copy_(0, slots, torch.where(later, last, 1))
        self.prior.index_copy_(0, slots, prior)
        self.later.index_copy_(0, slots, later)
        self.count.index_fill_(0, slots, 0)
        self.near_end.index_fill_(0, slots, 0)

    def advance(self, scores: Tensor, rules: PriorRules) -> None:
        """Follow the attention of a step, and make the prior of the next.

        Args:
            scores: Attention to the text, ``(slots, text)``, float32.
            rules: Of the prior.
        """
        self.last.copy_(self._attended(scores, rules.lookahead))
        self.count.scatter_add_(1, self.last[:, None], torch.ones_like(self.last)[:, None])
        first, later = self._first_prior(rules), self._later_prior(rules.epsilon)
        self.prior.copy_(torch.where(self.later[:, None], later, first))
        near = self.last >= self.length - torch.where(self.later, TAIL, 2)
        self.near_end.add_((near | (self.near_end > 0)).to(self.near_end.dtype))

    def _attended(self, scores: Tensor, lookahead: int) -> Tensor:
        text = scores.shape[1]
        stuck = self.count.gather(1, self.last[:, None]).squeeze(1) >= STUCK
        start = self.last + stuck.to(self.last.dtype)
        window = start[:, None] + torch.arange(lookahead, device=scores.device)
        inside = window < (self.length - TAIL)[:, None]
        seen = scores.gather(1, window.clamp(0, text - 1)).masked_fill(~inside, -1.0)
        return torch.where(inside.any(1), start + seen.argmax(1), self.length - 1)

    def _first_prior(self, rules: PriorRules) -> Tensor:
        places = torch.arange(self.prior.shape[1], device=self.prior.device)[None]
        at, end = self.last[:, None], self.length[:, None] - 1
        before = (at - 1).clamp(min=1)
        ahead = (places > at) & (places <= torch.minimum(at + rules.lookahead, end))
        wanted = (places == before) | (places == at) | ahead | (end < SHORT)
        return torch.where(wanted & ~self._sunk(places, 0), 1.0, rules.epsilon)

    def _later_prior(self, epsilon: float) -> Tensor:
        places = torch.arange(self.prior.shape[1], device=self.prior.device)[None]
        at, length = self.last[:, None], self.length[:, None]
        least = epsilon**2
        before = (at - 1).clamp(min=1)
        prior = torch.full_like(self.prior, epsilon)
        prior = torch.where(places < before, least, prior)
        prior = torch.where(places == before, BEFORE, prior)
        for offset, weight in enumerate(WEIGHTS):
            prior = torch.where((places == at + offset) & (places < length), weight, prior)
        prior = torch.where(places >= at + len(WEIGHTS), least, prior)
        prior = torch.where(length <= SHORT_LATER, 1.0, prior)
        return torch.where(self._sunk(places, 1), least, prior)

    def _sunk(self, places: Tensor, since: int) -> Tensor:
        """Up to the furthest position that was attended too often."""
        often = (self.count >= SINK) & (places >= since)
        furthest = torch.where(often, places, -1).amax(1, keepdim=True)
        return places <= furthest
