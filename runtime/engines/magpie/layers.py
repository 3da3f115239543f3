"""A transformer's layer in plain torch, as decoder, text encoder and local transformer have it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.engines.magpie.weights import Cross, Layer

TINY = torch.finfo(torch.float32).tiny
"""Added to every prior, so that what it forbids keeps a share (NeMo's ``make_prior`` does)."""


def norm(hidden: Tensor, weight: Tensor) -> Tensor:
    """Layer norm without a bias."""
    return F.layer_norm(hidden, weight.shape, weight)


def project(layer: Layer, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each ``(rows, heads, places, width)``."""
    projected = F.linear(norm(hidden, layer.norm), layer.qkv)
    query, key, value = projected.unflatten(-1, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def joined(attended: Tensor) -> Tensor:
    """``(rows, heads, places, width)`` to ``(rows, places, heads * width)``."""
    return attended.transpose(1, 2).flatten(2)


def feed_forward(layer: Layer, hidden: Tensor) -> Tensor:
    """The feed-forward part of a layer whose kernels are one place wide."""
    hidden = F.gelu(F.linear(norm(hidden, layer.norm_ff), layer.up), approximate="tanh")
    return F.linear(hidden, layer.down)


def cross_memory(cross: Cross, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of an encoded text, each ``(rows, heads, tokens, width)``."""
    pair = F.linear(norm(memory, cross.norm_memory), cross.key_value)
    keys, values = pair.unflatten(-1, (2, cross.heads, -1)).permute(2, 0, 3, 1, 4)
    return keys, values


def attend_text(
    cross: Cross, hidden: Tensor, keys: Tensor, values: Tensor, there: Tensor, prior: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Cross-attention under an attention prior.

    Args:
        cross: Its weights.
        hidden: ``(rows, places, d)``.
        keys: Of the text, ``(rows, heads, tokens, width)``.
        values: Likewise.
        there: Which tokens the text has, ``(rows, tokens)``, bool.
        prior: By which attention is weighted, ``(rows, tokens)``, float32; None for no prior.

    Returns:
        What to add to ``hidden``, and the attention, ``(rows, heads, places, tokens)``, float32.
    """
    query = F.linear(norm(hidden, cross.norm), cross.query)
    query = query.unflatten(-1, (cross.heads, -1)).transpose(1, 2)
    fit = torch.matmul(query, keys.transpose(2, 3)).float() * query.shape[-1] ** -0.5
    share = fit.masked_fill(~there[:, None, None], float("-inf")).softmax(-1)
    if prior is not None:
        share = share * (prior + TINY)[:, None, None]
        share = share / share.sum(-1, keepdim=True)
    attended = torch.matmul(share.to(values.dtype), values)
    return F.linear(joined(attended), cross.out), share
