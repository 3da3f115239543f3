"""Projections of a few rows: what surrounds them is done on the way in and on the way out.

A decode step projects two rows a stream, so that a projection is as fast as its weights come
from memory, and a layer norm or a residual of its own costs as much again in launches. The
norm before a projection is folded into it (see `folded`); mean and variance come from sums
that whoever wrote the rows left for each of their parts.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.engines.magpie.kernels.launch import after_last, fetch_ahead

ROWS, CACHE, RESIDUAL, GUIDED, LOGITS = range(5)
"""What becomes of a product: rows for another kernel; queries, and keys and values for the
caches; part of the residual stream; that with guidance; logits, with a bias."""


@triton.jit(do_not_specialize=["rows", "at"])  # type: ignore[untyped-decorator]
def project_rows(  # type: ignore[no-untyped-def]
    x,
    weight,
    sums,
    bias,
    out,
    residual,
    stats,
    keys,
    values,
    slots,
    place,
    rows,
    at,
    stats_rows,
    scale,
    N: tl.constexpr,
    K: tl.constexpr,
    PLACES: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAIR: tl.constexpr,
    X_EVERY: tl.constexpr,
    OUT_EVERY: tl.constexpr,
    KIND: tl.constexpr,
    NORM: tl.constexpr,
    GELU: tl.constexpr,
    LOCAL: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    STATS: tl.constexpr,
    STAT_LANES: tl.constexpr,
    LINES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """``KIND`` is one of the numbers above; a program makes a tile."""
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    depth = tl.arange(0, BLOCK_K)
    there, wanted = row < rows, column < N
    mine = there[:, None] & wanted[None, :]
    cells = row[:, None] * (OUT_EVERY * N) + column[None, :]
    # What does not hang on the kernel before: it is fetched while that one still runs.
    if NORM:
        sum_w = tl.load(sums + column, mask=wanted, other=0.0)
    if KIND == 4:
        added = tl.load(bias + column, mask=wanted, other=0.0).to(tl.float32)
    if OVERLAP:
        lines = tl.arange(0, LINES)
        line = column[:, None] * K + tl.minimum(lines * 64, K - 1)[None, :]
        fetch_ahead(weight + tl.where(wanted[:, None], line, 0))
    after_last(OVERLAP)
    if NORM:  # wanted at the end only: on their way while the product is made
        parts = tl.arange(0, STAT_LANES)
        some = there[:, None] & (parts < STATS)[None, :]
        cell = stats + row[:, None] * (X_EVERY * STATS) + parts[None, :]
        totals = tl.load(cell, mask=some, other=0.0)
        squares = tl.load(cell + stats_rows * STATS, mask=some, other=0.0)
    if (KIND == 2) or (KIND == 3):
        old = tl.load(residual + cells, mask=mine, other=0.0)
    if KIND == 1:
        if LOCAL:
            stored = row.to(tl.int64)
            position = tl.full([BLOCK_M], 0, tl.int32) + at
        else:
            slot = tl.load(slots + row // PAIR, mask=there, other=0)
            stored = slot * PAIR + row % PAIR
            position = tl.load(place + slot, mask=there, other=0).to(tl.int32)
    product = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        inside = (k + depth < K)[None, :]
        left = tl.load(
            x + row[:, None] * (X_EVERY * K) + (k + depth)[None, :],
            mask=there[:, None] & inside,
            other=0.0,
        )
        right = tl.load(
            weight + column[:, None] * K + (k + depth)[None, :],
            mask=wanted[:, None] & inside,
            other=0.0,
        )
        product = tl.dot(left, tl.trans(right), product)
    if NORM:
        mean = tl.sum(totals, 1) / K
        spread = tl.rsqrt(tl.maximum(tl.sum(squares, 1) / K - mean * mean, 0.0) + EPS)
        product = spread[:, None] * (product - mean[:, None] * sum_w[None, :])
    if GELU:  # tanh's approximation: x * sigmoid(2 z)
        inner = 0.7978845608028654 * (product + 0.044715 * product * product * product)
        product = product * tl.sigmoid(2.0 * inner)
    if KIND == 0:
        tl.store(out + cells, product.to(out.dtype.element_ty), mask=mine)
    if KIND == 1:
        # Queries go on to the attention, keys and values stay: [row, head, place, width].
        part = column // (HEADS * WIDTH)
        within = column % (HEADS * WIDTH)
        cell = out + row[:, None] * (HEADS * WIDTH) + within[None, :]
        tl.store(cell, product.to(out.dtype.element_ty), mask=mine & (part == 0)[None, :])
        start = (stored * HEADS * PLACES + position)[:, None] * WIDTH
        cell = start + (within // WIDTH * PLACES * WIDTH + within % WIDTH)[None, :]
        kept = product.to(keys.dtype.element_ty)
        tl.store(keys + cell, kept, mask=mine & (part == 1)[None, :])
        tl.store(values + cell, kept, mask=mine & (part == 2)[None, :])
    if KIND == 2:
        product += old
        tl.store(residual + cells, product, mask=mine)
        cell = stats + row * (OUT_EVERY * tl.num_programs(0)) + tl.program_id(0)
        tl.store(cell, tl.sum(product, 1), mask=there)
        cell += stats_rows * tl.num_programs(0)
        tl.store(cell, tl.sum(product * product, 1), mask=there)
        tl.store(out + cells, product.to(out.dtype.element_ty), mask=mine)
    if KIND == 3:
        pairs = tl.permute(tl.reshape(product + old, (BLOCK_M // 2, 2, BLOCK_N)), (0, 2, 1))
        told, untold = tl.split(pairs)
        guided = scale * told + (1.0 - scale) * untold
        pair = tl.program_id(1) * (BLOCK_M // 2) + tl.arange(0, BLOCK_M // 2)
        cell = out + pair[:, None] * N + column[None, :]
        mine = (pair < rows // 2)[:, None] & wanted[None, :]
        tl.store(cell, guided.to(out.dtype.element_ty), mask=mine)
    if KIND == 4:
        tl.store(out + cells, product + added[None, :], mask=mine)
