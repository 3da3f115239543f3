"""What the kernels of a step leave for one another, in memory that stays where it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.engines.magpie.rules import Rules
from runtime.engines.magpie.state import Extent
from runtime.engines.magpie.weights import Weights

_LEAST_COLUMNS = 8  # of a tile


@dataclass(frozen=True, slots=True)
class Rows:
    """Hidden states of a step's rows.

    Attributes:
        residual: In full, ``(rows, d)``, float32.
        x: As projections read them.
        stats: Sums, and sums of squares, of the parts of each row, ``(2, rows * parts)``.
    """

    residual: Tensor
    x: Tensor
    stats: Tensor

    @classmethod
    def of(cls, rows: int, d: int, like: Tensor) -> Rows:
        """Zeros, on the device of ``like``; ``x`` is of its type."""
        residual = torch.zeros(rows, d, dtype=torch.float32, device=like.device)
        parts = -(-d // _LEAST_COLUMNS)
        return cls(residual, residual.to(like.dtype), residual.new_zeros(2, rows * parts))


@dataclass(frozen=True, slots=True)
class Caches:
    """Where a layer's self-attention keeps its keys and values.

    Attributes:
        keys: ``(rows, heads, places, width)``.
        values: Likewise.
        at: The place of this step's, where it is one for all rows; None for the slots' own.
        shared: Keys and values of the context that all rows without voice and text have,
            each ``(heads, places, width)``; None where each row is to read its own.
    """

    keys: Tensor
    values: Tensor
    at: int | None = None
    shared: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Workspace:
    """For steps of some slots at the most; a step of fewer uses the first part of each.

    Attributes:
        hidden: The decoder's residual stream.
        spoken: The local transformer's.
        queries: Of self-attention.
        attended: What it finds.
        cross_queries: Of cross-attention.
        cross_attended: What it finds.
        inner: The inside of feed-forward parts.
        normed: The decoder's last hidden states, where the local transformer is narrower.
        guided: They with guidance, one row a slot.
        local_guided: The local transformer's with guidance.
        local_keys: ``(local layers, rows, heads, outputs, width)``.
        local_values: Likewise.
        fits: Attention to the text before its softmax, float32.
        scores: Where attention to the text is, ``(slots, text)``, float32.
        logits: Of one output, ``(slots, tokens)``, float32.
        drawn: New codes, ``(slots, outputs)``.
        sound: Whether a slot's hidden states are numbers.
        best: The highest logit of each tile of the decoder's heads.
        where: The code that it is of.
    """

    hidden: Rows
    spoken: Rows
    queries: Tensor
    attended: Tensor
    cross_queries: Tensor
    cross_attended: Tensor
    inner: Tensor
    normed: Tensor
    guided: Tensor
    local_guided: Tensor
    local_keys: Tensor
    local_values: Tensor
    fits: Tensor
    scores: Tensor
    logits: Tensor
    drawn: Tensor
    sound: Tensor
    best: Tensor
    where: Tensor

    @classmethod
    def of(cls, weights: Weights, rules: Rules, extent: Extent, most: int) -> Workspace:
        """Zeros, for ``most`` slots."""
        like, rows, d = weights.norm, most * rules.pair, extent.d
        local, local_d = weights.local_layers, weights.local_positions.shape[1]
        cross = extent.cross_heads * extent.cross_width
        widest = max(len(layer.up) for layer in (*weights.layers, *local))
        places = (len(local), rows, local[0].heads, rules.outputs, local_d // local[0].heads)

        def half(*shape: int) -> Tensor:
            return like.new_zeros(shape)

        def full(*shape: int) -> Tensor:
            return like.new_zeros(shape, dtype=torch.float32)

        tiles = (most, rules.outputs, -(-rules.tokens // _LEAST_COLUMNS))
        return cls(
            hidden=Rows.of(rows, d, like),
            spoken=Rows.of(rows, local_d, like),
            queries=half(rows, max(d, local_d)),
            attended=half(rows, max(d, local_d)),
            cross_queries=half(most, cross),
            cross_attended=half(most, cross),
            inner=half(rows, widest),
            normed=half(rows, d),
            guided=half(most, d),
            local_guided=half(most, local_d),
            local_keys=half(*places),
            local_values=half(*places),
            fits=full(most, extent.text),
            scores=full(most, extent.text),
            logits=full(most, rules.tokens),
            drawn=like.new_zeros(most, rules.outputs, dtype=torch.int64),
            sound=like.new_zeros(most, dtype=torch.bool),
            best=full(*tiles),
            where=like.new_zeros(tiles, dtype=torch.int32),
        )
