"""Magpie's weights as the fused kernels read them.

The layer norm before a projection is folded into it: with ``W' = W * g`` and
``c[n] = sum_k W'[n, k]``

    norm(x) * g @ W.T = (x @ W'.T - mean(x) * c) / sqrt(var(x) + eps)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from runtime.engines.magpie.weights import Layer, Weights


@dataclass(frozen=True, slots=True)
class Folded:
    """A projection with the layer norm before it.

    Attributes:
        weight: ``W * g``, shape ``(n, k)``.
        sums: Of each of its rows, float32, shape ``(n,)``.
    """

    weight: Tensor
    sums: Tensor

    @classmethod
    def of(cls, weight: Tensor, norm: Tensor) -> Folded:
        """Fold ``norm``, shape ``(k,)``, into ``weight``, in the type of ``weight``."""
        folded = (weight.float() * norm.float()).to(weight.dtype).contiguous()
        return cls(folded, folded.float().sum(1))


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """A layer; of what it has in common with `Layer`, the attributes mean the same.

    Attributes:
        qkv: With its norm.
        out: After self-attention.
        query: Of cross-attention, with its norm; None in the local transformer.
        cross_out: After cross-attention; likewise.
        up: With its norm.
        down: After it.
        heads: Of self-attention.
        width: Of one of them.
    """

    qkv: Folded
    out: Tensor
    query: Folded | None
    cross_out: Tensor | None
    up: Folded
    down: Tensor
    heads: int
    width: int

    @classmethod
    def of(cls, layer: Layer) -> FoldedLayer:
        """Fold a layer's norms; what has none before it is shared with the layer."""
        cross = layer.cross
        return cls(
            qkv=Folded.of(layer.qkv, layer.norm),
            out=layer.out.contiguous(),
            query=Folded.of(cross.query, cross.norm) if cross else None,
            cross_out=cross.out.contiguous() if cross else None,
            up=Folded.of(layer.up, layer.norm_ff),
            down=layer.down.contiguous(),
            heads=layer.heads,
            width=layer.qkv.shape[0] // (3 * layer.heads),
        )


@dataclass(frozen=True, slots=True)
class FoldedWeights:
    """All that the fused kernels do not read in `Weights`.

    Attributes:
        layers: Of the decoder.
        local_layers: Of the local transformer.
        table: The local transformer's input of every code, ``(outputs * tokens, local d)``.
        projected: The first of its projections of every code in its place, ``(outputs *
            tokens, 3 * local d)``: 150 MB in the public checkpoint of 2026, and one launch in
            eleven less.
        start: What its first input is added to, ``(local d,)``.
    """

    layers: tuple[FoldedLayer, ...]
    local_layers: tuple[FoldedLayer, ...]
    table: Tensor
    projected: Tensor
    start: Tensor

    @classmethod
    def of(cls, weights: Weights, tokens: int) -> FoldedWeights:
        """Fold them; ``tokens`` are the values of a code."""
        table, start = weights.audio, weights.local_positions[0]
        if weights.local_in is not None:
            table = F.linear(table, weights.local_in, weights.local_in_bias)
            if weights.local_in_bias is not None:
                start = start + weights.local_in_bias
        return cls(
            layers=tuple(FoldedLayer.of(layer) for layer in weights.layers),
            local_layers=tuple(FoldedLayer.of(layer) for layer in weights.local_layers),
            table=table,
            projected=_projected(weights, table, tokens),
            start=start,
        )


def _projected(weights: Weights, table: Tensor, tokens: int) -> Tensor:
    layer = weights.local_layers[0]
    projected = table.new_zeros(len(table), len(layer.qkv))
    for output in range(len(table) // tokens - 1):  # nothing follows the last code
        codes = slice(output * tokens, (output + 1) * tokens)
        said = table[codes].float() + weights.local_positions[output + 1].float()
        normed = F.layer_norm(said, said.shape[1:], layer.norm.float())
        projected[codes] = F.linear(normed, layer.qkv.float()).to(table.dtype)
    return projected
