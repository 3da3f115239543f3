"""Attention to rings of frames in one kernel: what is kept is read where it is, and once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.engines.parakeet.attention import Past

_LOG2_E = 1.4426950408889634
_LOWEST: tl.constexpr = tl.constexpr(-1e30)  # finite, so that differences are too
_QUERIES = 16  # the least that the matrix units take
_WIDE = 128  # numbers of a frame that are read at once


def attend_rings(
    content: Tensor, position: Tensor, ring: Tensor, hidden: Tensor, past: Past, scale: float
) -> Tensor:
    """As ``attend_rings_plainly``, which says what everything is; no tensor between the two."""
    heads, (batch, frames, d) = len(content), hidden.shape
    left = ring.shape[1]
    found = torch.empty_like(content)
    _attend[batch, triton.cdiv(heads * frames, _QUERIES)](
        content,
        position,
        ring,
        hidden.contiguous(),
        past.rows,
        past.told,
        past.lengths,
        found,
        scale * _LOG2_E,
        batch,
        position.shape[2],
        HEADS=heads,
        FRAMES=frames,
        LEFT=left,
        D=d,
        QUERIES=_QUERIES,
        KEYS=max(16, triton.next_power_of_2(left + frames)),
        WIDE=min(_WIDE, d & -d),
        num_warps=8,
        num_stages=3,
    )
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    content,
    position,
    ring,
    hidden,
    rows,
    told,
    lengths,
    found,
    scale,
    batch,
    distances,
    HEADS: tl.constexpr,
    FRAMES: tl.constexpr,
    LEFT: tl.constexpr,
    D: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Some of a slot's queries, to all that it keeps: the fits of all keys, and then the sum."""
    row = tl.program_id(0)
    slot = tl.load(rows + row).to(tl.int64)
    told_here = tl.load(told + row)
    length = tl.load(lengths + row)

    query = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    asked = query < HEADS * FRAMES
    frame = query % FRAMES
    line = (query // FRAMES * batch + row) * FRAMES + frame

    key = tl.arange(0, KEYS)
    kept = key < LEFT
    there = key < LEFT + FRAMES
    age = tl.where(kept, (key - told_here % LEFT + LEFT) % LEFT, key)
    counts = tl.where(kept, age >= LEFT - told_here, there & (key - LEFT < length))
    begins = tl.where(kept, ring + (slot * LEFT + key) * D, hidden + (row * FRAMES + key - LEFT) * D)
    across = tl.arange(0, WIDE)

    fit = tl.zeros([QUERIES, KEYS], tl.float32)
    for first in range(0, D, WIDE):
        asking = tl.load(
            content + line[:, None] * D + first + across[None, :], mask=asked[:, None], other=0.0
        )
        seen = tl.load(
            begins[:, None] + first + across[None, :], mask=counts[:, None], other=0.0
        )
        fit = tl.dot(asking, tl.trans(seen), fit)
    by_distance = tl.load(
        position + line[:, None] * distances + (age[None, :] + FRAMES - 1 - frame[:, None]),
        mask=asked[:, None] & counts[None, :],
        other=0.0,
    )
    fit = tl.where(counts[None, :], (fit + by_distance.to(tl.float32)) * scale, _LOWEST)
    share = tl.where(counts[None, :], tl.exp2(fit - tl.max(fit, 1)[:, None]), 0.0)
    share = share / tl.maximum(tl.sum(share, 1), 1.0)[:, None]
    weights = share.to(found.dtype.element_ty)
    for first in range(0, D, WIDE):
        seen = tl.load(
            begins[:, None] + first + across[None, :], mask=counts[:, None], other=0.0
        )
        tl.store(
            found + line[:, None] * D + first + across[None, :],
            tl.dot(weights, seen).to(found.dtype.element_ty),
            mask=asked[:, None],
        )
