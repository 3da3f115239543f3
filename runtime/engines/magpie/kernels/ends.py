"""The two ends of a step: codes to hidden states, and hidden states to heads, end and state."""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.engines.magpie.kernels.launch import after_last


@triton.jit  # type: ignore[untyped-decorator]
def keep_sums(stats, rows, row, x, part, parts, STATS: tl.constexpr, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sums of one of the ``parts`` of a row, for the norm that reads it; 0 for the rest."""
    lane = tl.arange(0, LANES)
    mine = (lane == part) | ((lane >= parts) & (part == 0))
    cell = stats + row * STATS + lane
    tl.store(cell, tl.where(lane == part, tl.sum(x, 0), 0.0), mask=mine & (lane < STATS))
    squares = tl.where(lane == part, tl.sum(x * x, 0), 0.0)
    tl.store(cell + rows * STATS, squares, mask=mine & (lane < STATS))


@triton.jit  # type: ignore[untyped-decorator]
def embed_codes(  # type: ignore[no-untyped-def]
    codes,
    table,
    positions,
    slots,
    place,
    residual,
    x,
    stats,
    stats_rows,
    D: tl.constexpr,
    OUTPUTS: tl.constexpr,
    LANES: tl.constexpr,
    TOKENS: tl.constexpr,
    STATS: tl.constexpr,
    STAT_LANES: tl.constexpr,
    PAIR: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """The mean of a step's codes and its place, for both rows of a slot."""
    index = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    output = tl.arange(0, LANES)
    after_last(OVERLAP)
    slot = tl.load(slots + index)
    code = tl.load(codes + slot * OUTPUTS + output, mask=output < OUTPUTS, other=0)
    cell = (code + output * TOKENS)[:, None] * D + column[None, :]
    some = (output < OUTPUTS)[:, None] & (column < D)[None, :]
    said = tl.load(table + cell, mask=some, other=0.0).to(tl.float32)
    said = tl.sum(said, 0) / OUTPUTS
    at = tl.load(place + slot)
    said += tl.load(positions + at * D + column, mask=column < D, other=0.0).to(tl.float32)
    said = tl.where(column < D, said, 0.0)
    for half in tl.static_range(PAIR):
        at_row = (index * PAIR + half) * D + column
        tl.store(residual + at_row, said, mask=column < D)
        tl.store(x + at_row, said.to(x.dtype.element_ty), mask=column < D)
        keep_sums(
            stats,
            stats_rows,
            index * PAIR + half,
            said,
            tl.program_id(1),
            tl.num_programs(1),
            STATS,
            STAT_LANES,
        )


@triton.jit  # type: ignore[untyped-decorator]
def finish_hidden(  # type: ignore[no-untyped-def]
    residual,
    norm,
    hidden,
    guided,
    scale,
    start,
    state,
    state_x,
    sound,
    stats,
    stats_rows,
    D: tl.constexpr,
    NARROW: tl.constexpr,
    LOCAL_D: tl.constexpr,
    STATS: tl.constexpr,
    STAT_LANES: tl.constexpr,
    PAIR: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """The decoder's last norm, guidance, and what the local transformer starts from.

    Heads are linear, so that guidance before them is guidance after them. Where the local
    transformer is as wide as the decoder it starts from the hidden state and its first
    position (``start``); where it is narrower (NARROW) a projection of ``hidden`` is added to
    ``start`` by the kernel after this.
    """
    index = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < D
    weight = tl.load(norm + column, mask=inside, other=0.0).to(tl.float32)
    first = tl.load(start + column, mask=column < LOCAL_D, other=0.0).to(tl.float32)
    after_last(OVERLAP)
    mixed = tl.zeros([BLOCK], tl.float32)
    broken = 0
    for half in tl.static_range(PAIR):
        row = index * PAIR + half
        wide = tl.load(residual + row * D + column, mask=inside, other=0.0)
        centred = tl.where(inside, wide - tl.sum(wide, 0) / D, 0.0)
        wide = centred * tl.rsqrt(tl.sum(centred * centred, 0) / D + EPS) * weight
        broken += tl.sum((inside & ((tl.abs(wide) < float("inf")) == 0)).to(tl.int32), 0)
        share = 1.0
        if PAIR == 2:
            share = scale if half == 0 else 1.0 - scale
        mixed += share * wide
        if NARROW:
            tl.store(hidden + row * D + column, wide.to(hidden.dtype.element_ty), mask=inside)
            tl.store(state + row * LOCAL_D + column, first, mask=column < LOCAL_D)
        else:
            begun = tl.where(inside, wide + first, 0.0)
            keep_sums(stats, stats_rows, row, begun, 0, 1, STATS, STAT_LANES)
            tl.store(state + row * D + column, begun, mask=inside)
            tl.store(state_x + row * D + column, begun.to(state_x.dtype.element_ty), mask=inside)
    tl.store(sound + index, broken == 0)
    tl.store(guided + index * D + column, mixed.to(guided.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def likeliest_codes(  # type: ignore[no-untyped-def]
    guided,
    head,
    bias,
    slots,
    step,
    best,
    where,
    count,
    size,
    end,
    early,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    TILES: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """The likeliest code of a tile of an output's codes, for each slot: value and code.

    ``early`` is the first step in which speech may end; ``size`` the codes of the codec, of
    the others only ``end`` is allowed.
    """
    tile, output = tl.program_id(0), tl.program_id(1)
    code = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    index = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    there, wanted = index < count, code < TOKENS
    added = tl.load(bias + output * TOKENS + code, mask=wanted, other=0.0).to(tl.float32)
    after_last(OVERLAP)
    slot = tl.load(slots + index, mask=there, other=0)
    may_end = tl.load(step + slot, mask=there, other=0) >= early
    depth = tl.arange(0, BLOCK_K)
    logits = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    base = (output * TOKENS + code).to(tl.int64)[:, None] * D
    for k in tl.range(0, D, BLOCK_K, num_stages=STAGES):
        inside = (k + depth < D)[None, :]
        left = tl.load(
            guided + index[:, None] * D + (k + depth)[None, :],
            mask=there[:, None] & inside,
            other=0.0,
        )
        right = tl.load(
            head + base + (k + depth)[None, :], mask=wanted[:, None] & inside, other=0.0
        )
        logits = tl.dot(left, tl.trans(right), logits)
    ending = code == end
    allowed = (code < size)[None, :] & (code != end)[None, :]
    allowed = allowed | (ending[None, :] & may_end[:, None])
    logits = tl.where(allowed, logits + added[None, :], float("-inf"))
    high, at = tl.max(logits, 1, return_indices=True)
    cell = (index * OUTPUTS + output) * TILES + tile
    tl.store(best + cell, high, mask=there)
    tl.store(where + cell, tile * BLOCK_N + at, mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def note_end(  # type: ignore[no-untyped-def]
    drawn,
    best,
    where,
    slots,
    place,
    step,
    codes,
    frames,
    ended,
    last_chunk,
    near_end,
    sound,
    end,
    places,
    steps,
    longest,
    OUTPUTS: tl.constexpr,
    CODEBOOKS: tl.constexpr,
    STACKING: tl.constexpr,
    PATIENCE: tl.constexpr,
    NEVER: tl.constexpr,
    BROKEN: tl.constexpr,
    TILES: tl.constexpr,
    LANES: tl.constexpr,
    TILE_LANES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Whether a slot has ended, and its state for the next step."""
    index = tl.program_id(0)
    output, tile = tl.arange(0, LANES), tl.arange(0, TILE_LANES)
    after_last(OVERLAP)
    slot = tl.load(slots + index)
    there = output < OUTPUTS
    some = there[:, None] & (tile < TILES)[None, :]
    cell = (index * OUTPUTS + output)[:, None] * TILES + tile[None, :]
    value = tl.load(best + cell, mask=some, other=float("-inf"))
    code = tl.load(where + cell, mask=some, other=NEVER)
    # Of equals the lowest code, as torch's argmax.
    likeliest = tl.min(tl.where(value == tl.max(value, 1)[:, None], code, NEVER), 1)
    new = tl.load(drawn + index * OUTPUTS + output, mask=there, other=0)
    tl.store(codes + slot * OUTPUTS + output, new, mask=there)
    now = tl.load(step + slot)
    tl.store(frames + slot * longest + now * OUTPUTS + output, new, mask=there)
    ends = there & ((new == end) | (likeliest == end))
    first = tl.min(tl.where(ends, output // CODEBOOKS, NEVER), 0).to(tl.int64)
    forced = (tl.load(last_chunk + slot) == 0) & (tl.load(near_end + slot) >= PATIENCE)
    otherwise = tl.where(forced, (now + 1) * STACKING, NEVER)
    frame = tl.where(first < NEVER, first + now * STACKING, otherwise)
    before = tl.load(ended + slot)
    frame = tl.where(before == NEVER, frame, before)
    tl.store(ended + slot, tl.where(tl.load(sound + index) != 0, frame, BROKEN))
    tl.store(step + slot, tl.minimum(now + 1, steps - 1))
    tl.store(place + slot, tl.minimum(tl.load(place + slot) + 1, places - 1))
