"""Attention of one query a row: to the row's own cache, and to its text under the prior.

Both go over their positions once, with a running maximum for each lane of positions
("online" softmax, Milakov and Gimelshein 2018): nothing is exchanged between threads until
the end, so that loads of the next positions are on their way all the time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.engines.magpie.kernels.launch import after_last

LOG2_E = 1.4426950408889634
# A maximum before there is any; finite, so that differences are too.
_LOWEST: tl.constexpr = tl.constexpr(-1e30)


@triton.jit  # type: ignore[untyped-decorator]
def _visit(  # type: ignore[no-untyped-def]
    keys,
    values,
    query,
    best,
    weight,
    mixed,
    begin,
    end,
    lane,
    across,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Take the positions from ``begin`` to before ``end`` into account."""
    inside = across < WIDTH
    for first in tl.range(begin, end, BLOCK, num_stages=STAGES):
        seen = first + lane < end
        cell = (first + lane)[:, None] * WIDTH + across[None, :]
        some = seen[:, None] & inside[None, :]
        key = tl.load(keys + cell, mask=some, other=0.0).to(tl.float32)
        value = tl.load(values + cell, mask=some, other=0.0).to(tl.float32)
        fit = tl.where(seen, tl.sum(key * query[None, :], 1), _LOWEST)
        new = tl.maximum(best, fit)
        fade = tl.exp2(best - new)
        share = tl.where(seen, tl.exp2(fit - new), 0.0)
        weight = weight * fade + share
        mixed = mixed * fade[:, None] + share[:, None] * value
        best = new
    return best, weight, mixed


@triton.jit(do_not_specialize=["at"])  # type: ignore[untyped-decorator]
def attend_cache(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    out,
    slots,
    place,
    step,
    shared_keys,
    shared_values,
    at,
    scale,
    CONTEXT: tl.constexpr,
    PLACES: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
    PAIR: tl.constexpr,
    LOCAL: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """``LOCAL``: all rows are at place ``at`` of caches by row, not at their slots' own."""
    row, head = tl.program_id(0), tl.program_id(1)
    after_last(OVERLAP)
    if LOCAL:
        stored = row.to(tl.int64)
        last = at
    else:
        slot = tl.load(slots + row // PAIR)
        stored = slot * PAIR + row % PAIR
        last = tl.load(place + slot).to(tl.int32)
    across, lane = tl.arange(0, WIDE), tl.arange(0, BLOCK)
    query = tl.load(queries + (row * HEADS + head) * WIDTH + across, mask=across < WIDTH, other=0.0)
    query = query.to(tl.float32) * scale
    best = tl.full([BLOCK], _LOWEST, tl.float32)
    weight = tl.zeros([BLOCK], tl.float32)
    mixed = tl.zeros([BLOCK, WIDE], tl.float32)
    begin = 0
    if SHARED:
        # A row that knows neither voice nor text has the context that all such rows have.
        begin = (tl.load(place + slot) - tl.load(step + slot)).to(tl.int32)
        begin = tl.where(row % PAIR == 1, tl.minimum(begin, CONTEXT), 0)
        start = head * CONTEXT * WIDTH
        best, weight, mixed = _visit(
            shared_keys + start,
            shared_values + start,
            query,
            best,
            weight,
            mixed,
            0,
            begin,
            lane,
            across,
            WIDTH,
            BLOCK,
            STAGES,
        )
    start = (stored * HEADS + head) * PLACES * WIDTH
    best, weight, mixed = _visit(
        keys + start,
        values + start,
        query,
        best,
        weight,
        mixed,
        begin,
        last + 1,
        lane,
        across,
        WIDTH,
        BLOCK,
        STAGES,
    )
    fade = tl.exp2(best - tl.max(best, 0))
    mixed = tl.sum(mixed * fade[:, None], 0) / tl.sum(weight * fade, 0)
    cell = out + (row * HEADS + head) * WIDTH + across
    tl.store(cell, mixed.to(out.dtype.element_ty), mask=across < WIDTH)


@triton.jit  # type: ignore[untyped-decorator]
def attend_text(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    out,
    slots,
    length,
    prior,
    fits,
    scores,
    scale,
    part,
    TEXT: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
    GUIDED: tl.constexpr,
    ALIGNS: tl.constexpr,
    TINY: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """ALIGNS: 0 leaves the scores alone, 1 begins them, 2 adds to them."""
    index = tl.program_id(0)
    after_last(OVERLAP)
    slot = tl.load(slots + index)
    tokens = tl.load(length + slot).to(tl.int32)
    across, lane = tl.arange(0, WIDE), tl.arange(0, BLOCK)
    inside = across < WIDTH
    for head in range(HEADS):
        query = tl.load(queries + (index * HEADS + head) * WIDTH + across, mask=inside, other=0.0)
        query = query.to(tl.float32) * scale
        start = (slot * HEADS + head) * TEXT * WIDTH
        best = tl.full([BLOCK], _LOWEST, tl.float32)
        weight = tl.zeros([BLOCK], tl.float32)
        mixed = tl.zeros([BLOCK, WIDE], tl.float32)
        for first in tl.range(0, tokens, BLOCK, num_stages=STAGES):
            token = first + lane
            seen = token < tokens
            cell = start + token[:, None] * WIDTH + across[None, :]
            some = seen[:, None] & inside[None, :]
            key = tl.load(keys + cell, mask=some, other=0.0).to(tl.float32)
            value = tl.load(values + cell, mask=some, other=0.0).to(tl.float32)
            fit = tl.where(seen, tl.sum(key * query[None, :], 1), _LOWEST)
            new = tl.maximum(best, fit)
            fade = tl.exp2(best - new)
            share = tl.where(seen, tl.exp2(fit - new), 0.0)
            if GUIDED:
                wanted = tl.load(prior + slot * TEXT + token, mask=seen, other=1.0)
                share *= wanted + TINY
            weight = weight * fade + share
            mixed = mixed * fade[:, None] + share[:, None] * value
            best = new
            if ALIGNS > 0:
                tl.store(fits + index * TEXT + token, fit, mask=seen)
        highest = tl.max(best, 0)
        fade = tl.exp2(best - highest)
        whole = tl.sum(weight * fade, 0)
        mixed = tl.sum(mixed * fade[:, None], 0) / whole
        cell = out + (index * HEADS + head) * WIDTH + across
        tl.store(cell, mixed.to(out.dtype.element_ty), mask=inside)
        if ALIGNS > 0:
            # Other threads of this program may have stored what one reads.
            tl.debug_barrier()
            for first in range(0, tokens, BLOCK):
                token = first + lane
                seen = token < tokens
                fit = tl.load(fits + index * TEXT + token, mask=seen, other=_LOWEST)
                share = tl.exp2(fit - highest)
                if GUIDED:
                    share *= tl.load(prior + slot * TEXT + token, mask=seen, other=1.0) + TINY
                share = share / whole * part
                if (ALIGNS == 2) or (head > 0):
                    share += tl.load(scores + index * TEXT + token, mask=seen, other=0.0)
                tl.store(scores + index * TEXT + token, share, mask=seen)
            tl.debug_barrier()
