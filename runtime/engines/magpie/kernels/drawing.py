"""Drawing a code, as `sampling.draw` does, and the local transformer's next state from it."""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.engines.magpie.kernels.launch import after_last


@triton.jit
def _mix(bits):  # type: ignore[no-untyped-def]
    """SplitMix64's, on unsigned numbers."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB
    return bits ^ (bits >> 31)


@triton.jit(do_not_specialize=["output"])  # type: ignore[untyped-decorator]
def draw_code(  # type: ignore[no-untyped-def]
    logits,
    slots,
    seeds,
    temperatures,
    step,
    drawn,
    table,
    next_position,
    state,
    state_x,
    projected,
    queries,
    keys,
    values,
    output,
    size,
    end,
    early,
    top_k,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAIR: tl.constexpr,
    GOES_ON: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One of the ``top_k`` likeliest codes, and those as likely as the last of them.

    What the local transformer takes in next hangs on the code and its place alone, and so do
    the first layer's queries, keys and values of it: they are looked up (``projected``).

    The largest noisy logit of all is the largest of the top k's if fewer than k logits are
    above its own; if not, neither it nor any code below it is of the top k, and the search
    goes on above. So no sort is needed, and mostly one look is enough.
    """
    index = tl.program_id(0)
    code = tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    ahead = tl.zeros([BLOCK_D], tl.float32)
    if GOES_ON:
        ahead = tl.load(next_position + column, mask=column < D, other=0.0).to(tl.float32)
    after_last(OVERLAP)
    slot = tl.load(slots + index)
    now = tl.load(step + slot)
    seed = tl.load(seeds + slot).to(tl.uint64, bitcast=True)
    warm = tl.load(temperatures + slot)
    position = (now * OUTPUTS + output).to(tl.uint64, bitcast=True)
    value = tl.load(logits + index * TOKENS + code, mask=code < TOKENS, other=float("-inf"))
    allowed = ((code < size) & (code != end)) | ((code == end) & (now >= early))
    value = tl.where(allowed & (code < TOKENS), value, float("-inf"))
    gamma = tl.full([1], 0x9E3779B97F4A7C15, tl.uint64)
    begun = _mix(seed + gamma * (position + 1))
    bits = _mix(begun + gamma * (code.to(tl.uint64) + 1))
    even = ((bits >> 41).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2 ** -23
    noise = -tl.log(-tl.log(even))
    noisy = tl.math.div_rn(value, tl.maximum(warm, 1e-6) + tl.zeros([BLOCK], tl.float32)) + noise
    noisy = tl.where(warm > 0, noisy, value)
    found = tl.argmax(noisy, 0)
    level = tl.max(tl.where(code == found, value, float("-inf")), 0)
    above = tl.sum((value > level).to(tl.int32), 0)
    while above >= top_k:
        noisy = tl.where(value > level, noisy, float("-inf"))
        found = tl.argmax(noisy, 0)
        level = tl.max(tl.where(code == found, value, float("-inf")), 0)
        above = tl.sum((value > level).to(tl.int32), 0)
    # With logits that are no numbers any lane may win, those beyond the table too.
    found = tl.minimum(found, TOKENS - 1)
    tl.store(drawn + index * OUTPUTS + output, found.to(tl.int64))
    if GOES_ON:
        inside = column < D
        line = (output * TOKENS + found).to(tl.int64)
        said = tl.load(table + line * D + column, mask=inside, other=0.0).to(tl.float32) + ahead
        query = tl.load(projected + line * (3 * D) + column, mask=inside, other=0.0)
        key = tl.load(projected + line * (3 * D) + D + column, mask=inside, other=0.0)
        value = tl.load(projected + line * (3 * D) + 2 * D + column, mask=inside, other=0.0)
        cached = (column // WIDTH * OUTPUTS + output + 1) * WIDTH + column % WIDTH
        for half in tl.static_range(PAIR):
            row = (index * PAIR + half) * D
            tl.store(state + row + column, said, mask=inside)
            tl.store(state_x + row + column, said.to(state_x.dtype.element_ty), mask=inside)
            tl.store(queries + row + column, query, mask=inside)
            tl.store(keys + row * OUTPUTS + cached, key, mask=inside)
            tl.store(values + row * OUTPUTS + cached, value, mask=inside)
