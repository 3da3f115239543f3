"""Self-attention of a streaming FastConformer to the frames that each slot keeps.

What is kept of a frame is what the layer was given, of width d; NeMo keeps the same. NeMo
projects keys and values of all frames kept (70) anew for each chunk (2 frames), which is most of
a large step. Here the projections move to where there is little: a query's fit to a key is

    q . (Wk x) = (Wk^T q) . x

so that queries, few, are projected to the width of what is kept, and what they find is
projected by Wv afterwards, for the same reason. (DeepSeek-V2, section 2.1, calls that absorbing
the projections.) Nothing is projected twice, and nothing but the frames is kept.

A slot's frames are a ring: new ones take the place of the oldest, the others stay where they
are. Positions are relative, as in Transformer-XL (section 3.3), and the distances between a
chunk and what it attends to are always the same: they are projected once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ALIGNED = 8  # numbers of half precision that are 16 bytes: the last dimension's multiple


@dataclass(frozen=True, slots=True)
class Past:
    """Of the slots of a step: what they keep, and where; the same for all layers.

    Attributes:
        rows: Their slots, ``(batch,)``.
        told: How many frames each was ever told, ``(batch,)`` int64.
        lengths: How many of the new frames count, ``(batch,)`` int64.
        places: Of each new frame in the rings of all slots, laid end to end, ``(batch * frames,)``.
        age: Of each place of a slot's ring, and of the new frames after it: 0 is the oldest;
            ``(batch, left + frames)``.
        counts: Whether there is a frame there yet, and it counts; as ``age``.
    """

    rows: Tensor
    told: Tensor
    lengths: Tensor
    places: Tensor
    age: Tensor
    counts: Tensor

    @property
    def counts_new(self) -> Tensor:
        """Which of the new frames count, ``(batch, frames)``."""
        return self.counts[:, -(len(self.places) // len(self.rows)) :]

    @classmethod
    def of(cls, rows: Tensor, told: Tensor, lengths: Tensor, left: int, frames: int) -> Past:
        """See the attributes; ``left`` frames are kept, ``frames`` are new."""
        new = torch.arange(frames, device=rows.device)
        ring = torch.arange(left, device=rows.device)
        oldest = told[:, None]
        places = rows[:, None] * left + (oldest + new) % left
        age = (ring - oldest) % left
        return cls(
            rows,
            told,
            lengths,
            places.flatten(),
            torch.cat([age, (left + new).expand(len(rows), -1)], 1),
            torch.cat([age >= left - oldest, new < lengths[:, None]], 1),
        )


class CachedAttention:
    """One layer's attention, over its ring of each slot."""

    def __init__(
        self, attention: Any, positions: Tensor, ring: Tensor, frames: int, *, fused: bool = False
    ) -> None:
        """Take the projections of a layer; none is copied.

        Args:
            attention: NeMo's ``RelPositionMultiHeadAttention``.
            positions: Encodings of the distances from the furthest to the nearest that there is,
                ``(1, at least left + 2 * frames - 1, d)``: NeMo's, for a chunk after a full past.
            ring: What the slots keep for this layer, ``(rows, left, d)``.
            frames: Of a chunk; no more than are kept.
            fused: By the kernel.
        """
        self._ring, self._frames = ring, frames
        self._left, self._d = ring.shape[1:]
        heads, width = attention.h, attention.d_k
        if frames > self._left:
            raise ValueError(f"a chunk of {frames} frames, of which {self._left} are kept")
        self._query, self._out = attention.linear_q, attention.linear_out
        # (heads, width, d) and (heads, d, width)
        self._to_keys = attention.linear_k.weight.view(heads, width, self._d)
        self._to_values = attention.linear_v.weight.view(heads, width, self._d).transpose(1, 2)
        # That of the keys adds the same to all fits of a query, which the softmax takes off again.
        self._value_bias = attention.linear_v.bias
        self._content_bias, self._position_bias = attention.pos_bias_u, attention.pos_bias_v
        distances = attention.linear_pos(positions[0, : self._left + 2 * frames - 1])
        padded = torch.nn.functional.pad(distances, (0, 0, 0, -len(distances) % _ALIGNED))
        # (heads, width, distances)
        self._distances = padded.view(-1, heads, width).permute(1, 2, 0).contiguous()
        self._scale = width**-0.5
        self._fused = fused

    def __call__(self, hidden: Tensor, past: Past) -> Tensor:
        """Attend to a chunk and what is kept, and keep the chunk: ``(batch, frames, d)``, both."""
        batch, frames, d = hidden.shape
        heads, width, _ = self._to_keys.shape
        query = self._query(hidden).view(batch * frames, heads, width)
        # (heads, batch * frames, d) and (heads, batch * frames, distances)
        content = torch.bmm((query + self._content_bias).transpose(0, 1), self._to_keys)
        position = torch.bmm((query + self._position_bias).transpose(0, 1), self._distances)
        found = self._attend(content, position, hidden, past)
        self._ring.view(-1, d).index_copy_(0, past.places, hidden.reshape(-1, d))
        values = torch.bmm(found, self._to_values).transpose(0, 1).reshape(batch, frames, d)
        if self._value_bias is not None:
            values = values + self._value_bias
        out: Tensor = self._out(values)
        return out

    def _attend(self, content: Tensor, position: Tensor, hidden: Tensor, past: Past) -> Tensor:
        """What each query finds: ``(heads, batch * frames, d)``."""
        if self._fused:
            from runtime.engines.parakeet.kernels import attend_rings

            return attend_rings(content, position, self._ring, hidden, past, self._scale)
        return attend_rings_plainly(content, position, self._ring, hidden, past, self._scale)


def attend_rings_plainly(
    content: Tensor, position: Tensor, ring: Tensor, hidden: Tensor, past: Past, scale: float
) -> Tensor:
    """What queries find in what is kept and what is new.

    Args:
        content: Queries as wide as what is kept, ``(heads, batch * frames, d)``.
        position: Their fit to each distance, ``(heads, batch * frames, distances)``, beginning with
            the furthest.
        ring: What all slots keep, ``(rows, left, d)``.
        hidden: What is new, ``(batch, frames, d)``.
        past: Of these slots.
        scale: Of the fits.

    Returns:
        ``(heads, batch * frames, d)``.
    """
    heads, (batch, frames, d) = len(content), hidden.shape
    seen = torch.cat([ring.index_select(0, past.rows), hidden], 1)

    def by_slot(queries: Tensor) -> Tensor:
        return queries.view(heads, batch, frames, -1).transpose(0, 1)

    fit = by_slot(content).reshape(batch, heads * frames, d) @ seen.transpose(1, 2)
    fit = fit.view(batch, heads, frames, -1)
    late = torch.arange(frames - 1, -1, -1, device=hidden.device)
    distance = (past.age[:, None, :] + late[:, None])[:, None].expand_as(fit)
    fit = (fit + by_slot(position).gather(-1, distance)) * scale
    fit = fit.masked_fill(~past.counts[:, None, None], torch.finfo(fit.dtype).min)
    found = fit.softmax(-1).view(batch, heads * frames, -1) @ seen
    return found.view(batch, heads, frames, d).transpose(0, 1).reshape(heads, batch * frames, d)
