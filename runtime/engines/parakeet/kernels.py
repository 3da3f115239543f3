"""Attention and convolution of a streaming layer, a kernel each: what is kept is read in place."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.engines.cuda import shared_memory
from runtime.engines.parakeet.attention import Past

_LOG2_E = 1.4426950408889634
_LOWEST: tl.constexpr = tl.constexpr(-1e30)  # finite, so that differences are too
_QUERIES = 16  # the least that the matrix units take
_WIDE = 128  # numbers of a frame that are read at once
_STAGES = 3  # such tiles on their way at the same time, where they have room


def stages_within(memory: int, d: int, keys: int) -> int:
    """How many tiles of so many frames have room in so much shared memory, in half precision.

    A GB10 has 99 KiB, and room for two of the public model's; none is too few.
    """
    return min(_STAGES, memory // ((_keys(keys) + _QUERIES) * min(_WIDE, d & -d) * 2))


def _keys(keys: int) -> int:
    return max(16, int(triton.next_power_of_2(keys)))


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
        KEYS=_keys(left + frames),
        WIDE=min(_WIDE, d & -d),
        num_warps=8,
        num_stages=stages_within(shared_memory(ring.device), d, left + frames),
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
    begins = tl.where(
        kept, ring + (slot * LEFT + key) * D, hidden + (row * FRAMES + key - LEFT) * D
    )
    across = tl.arange(0, WIDE)

    fit = tl.zeros([QUERIES, KEYS], tl.float32)
    for first in range(0, D, WIDE):
        asking = tl.load(
            content + line[:, None] * D + first + across[None, :], mask=asked[:, None], other=0.0
        )
        seen = tl.load(begins[:, None] + first + across[None, :], mask=counts[:, None], other=0.0)
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
        seen = tl.load(begins[:, None] + first + across[None, :], mask=counts[:, None], other=0.0)
        tl.store(
            found + line[:, None] * D + first + across[None, :],
            tl.dot(weights, seen).to(found.dtype.element_ty),
            mask=asked[:, None],
        )


def convolve(halves: Tensor, kept: Tensor, past: Past, depthwise: Any, norm: Any) -> Tensor:
    """As ``CachedConvolution`` does it plainly: gate, depthwise convolution, norm, and SiLU.

    Args:
        halves: What is said, and its gates, ``(batch, frames, 2 d)``.
        kept: The frames that all slots see again, ``(rows, width - 1, d)``; changed in place.
        past: Of these slots.
        depthwise: A causal ``Conv1d`` of that width.
        norm: A ``LayerNorm``.

    Returns:
        ``(batch, frames, d)``.
    """
    batch, frames, double = halves.shape
    heard = halves.new_empty(batch, frames, double // 2)
    _convolve[(batch,)](
        halves,
        kept,
        past.rows,
        past.lengths,
        depthwise.weight,
        depthwise.bias,
        norm.weight,
        norm.bias,
        norm.eps,
        heard,
        BIASED=depthwise.bias is not None,
        FRAMES=frames,
        WIDTH=kept.shape[1] + 1,
        D=double // 2,
        LANES=triton.next_power_of_2(double // 2),
        num_warps=4,
    )
    return heard


@triton.jit  # type: ignore[untyped-decorator]
def _frame(  # type: ignore[no-untyped-def]
    halves,
    kept,
    index: tl.constexpr,
    length,
    lane,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
):
    """Of what is kept and what is new after it, one frame; as exact as what is kept."""
    inside = lane < D
    if index < WIDTH - 1:
        seen = tl.load(kept + index * D + lane, mask=inside, other=0.0)
    else:
        new = index - (WIDTH - 1)
        some = inside & (new < length)
        said = tl.load(halves + new * 2 * D + lane, mask=some, other=0.0).to(tl.float32)
        gate = tl.load(halves + new * 2 * D + D + lane, mask=some, other=0.0).to(tl.float32)
        seen = (said * tl.sigmoid(gate)).to(kept.dtype.element_ty)
    return seen


@triton.jit  # type: ignore[untyped-decorator]
def _convolve(  # type: ignore[no-untyped-def]
    halves,
    kept,
    rows,
    lengths,
    weight,
    bias,
    norm_weight,
    norm_bias,
    eps,
    heard,
    BIASED: tl.constexpr,
    FRAMES: tl.constexpr,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
    LANES: tl.constexpr,
):
    """All new frames of a slot; each thread has channels of its own until the norm."""
    row = tl.program_id(0)
    lane = tl.arange(0, LANES)
    inside = lane < D
    kept += tl.load(rows + row).to(tl.int64) * (WIDTH - 1) * D
    halves += row * FRAMES * 2 * D
    length = tl.load(lengths + row)
    scale = tl.load(norm_weight + lane, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias + lane, mask=inside, other=0.0).to(tl.float32)
    for frame in tl.static_range(FRAMES):
        total = tl.zeros([LANES], tl.float32)
        if BIASED:
            total += tl.load(bias + lane, mask=inside, other=0.0).to(tl.float32)
        for back in tl.static_range(WIDTH):
            seen = _frame(halves, kept, frame + back, length, lane, WIDTH, D)
            factor = tl.load(weight + lane * WIDTH + back, mask=inside, other=0.0)
            total += seen.to(tl.float32) * factor.to(tl.float32)
        total -= tl.sum(total, 0) / D
        total = tl.where(inside, total, 0.0)
        total *= tl.rsqrt(tl.sum(total * total, 0) / D + eps)
        total = total * scale + shift
        total *= tl.sigmoid(total)
        tl.store(
            heard + (row * FRAMES + frame) * D + lane,
            total.to(heard.dtype.element_ty),
            mask=inside,
        )
    for index in tl.static_range(WIDTH - 1):  # what is read is behind what is written
        seen = _frame(halves, kept, index + FRAMES, length, lane, WIDTH, D)
        tl.store(kept + index * D + lane, seen, mask=inside)
