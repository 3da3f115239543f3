"""`Alignment.advance` in one kernel: where in its text a slot is, and the next prior."""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.engines.magpie.kernels.launch import after_last


@triton.jit  # type: ignore[untyped-decorator]
def advance_alignment(  # type: ignore[no-untyped-def]
    scores,
    slots,
    lengths,
    lasts,
    counts,
    priors,
    near_ends,
    laters,
    epsilon,
    least,
    weights,
    TEXT: tl.constexpr,
    LANES: tl.constexpr,
    AHEAD: tl.constexpr,
    AHEAD_LANES: tl.constexpr,
    STUCK: tl.constexpr,
    SINK: tl.constexpr,
    TAIL: tl.constexpr,
    SHORT: tl.constexpr,
    SHORT_LATER: tl.constexpr,
    BEFORE: tl.constexpr,
    KNOWN: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """``weights`` are those of the position attended in a later chunk and of the next ones."""
    index = tl.program_id(0)
    after_last(OVERLAP)
    slot = tl.load(slots + index)
    length = tl.load(lengths + slot)
    last = tl.load(lasts + slot)
    later = tl.load(laters + slot) != 0
    place = tl.arange(0, LANES)
    there = place < TEXT
    count = tl.load(counts + slot * TEXT + place, mask=there, other=0)

    at_last = tl.load(counts + slot * TEXT + last)
    start = tl.where(at_last >= STUCK, last + 1, last)
    ahead = tl.arange(0, AHEAD_LANES)
    inside = (ahead < AHEAD) & (start + ahead < length - TAIL)
    found = tl.load(scores + index * TEXT + start + ahead, mask=inside, other=-1.0)
    next_one = start + tl.argmax(found, 0)
    at = tl.where(start < length - TAIL, next_one, length - 1)
    at = tl.minimum(at, TEXT - 1)  # scores that are no numbers lead anywhere

    count = tl.where(place == at, count + 1, count)
    tl.debug_barrier()  # the count at the old position has been read
    tl.store(counts + slot * TEXT + place, count, mask=there & (place == at))
    tl.store(lasts + slot, at)

    before = tl.maximum(at - 1, 1)
    since = tl.where(later, 1, 0)
    often = (count >= SINK) & (place >= since)
    sunk = place <= tl.max(tl.where(often, place, -1), 0)
    near = (place > at) & (place <= tl.minimum(at + AHEAD, length - 1))
    wanted = (place == before) | (place == at) | near | (length - 1 < SHORT)
    first_prior = tl.where(wanted & (sunk == 0), 1.0, epsilon)

    prior = tl.where(place < before, least, epsilon + tl.zeros([LANES], tl.float32))
    prior = tl.where(place == before, BEFORE, prior)
    for offset in tl.static_range(KNOWN):
        prior = tl.where(
            (place == at + offset) & (place < length), tl.load(weights + offset), prior
        )
    prior = tl.where(place >= at + KNOWN, least, prior)
    prior = tl.where(length <= SHORT_LATER, 1.0, prior)
    prior = tl.where(sunk, least, prior)
    tl.store(priors + slot * TEXT + place, tl.where(later, prior, first_prior), mask=there)

    ending = at >= length - tl.where(later, TAIL, 2)
    steps = tl.load(near_ends + slot)
    counting = ending | (steps > 0)
    tl.store(near_ends + slot, steps + counting.to(tl.int64))
