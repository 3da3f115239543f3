"""Drawing codes on the device, with random numbers that depend on a slot's seed and step alone.

A draw is the largest of ``logit / temperature + g`` among the likeliest codes, where g is
Gumbel noise: the same distribution as drawing from the softmax (Gumbel-max), without a
generator whose state other slots would move. The noise is a hash of seed, position and code.
"""

from __future__ import annotations

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"),
# in the two's complement that torch has: products wrap around.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_MANTISSA = 23  # with a half added it still fits the 24 of a float32


def uniform(seeds: Tensor, position: Tensor, count: int) -> Tensor:
    """Numbers in (0, 1), float32, for each seed, at a position of its sequence.

    Args:
        seeds: Shape ``(n,)``, int64.
        position: Which draw of the sequence, shape ``(n,)`` or scalar, int64.
        count: How many numbers.

    Returns:
        Shape ``(n, count)``.
    """
    start = _mix(seeds + _GAMMA * (position + 1))
    codes = torch.arange(count, device=seeds.device)
    bits = _mix(start[:, None] + _GAMMA * (codes + 1))
    return (_shifted(bits, 64 - _MANTISSA).float() + 0.5) * 2.0**-_MANTISSA


def draw(
    logits: Tensor, temperature: Tensor, top_k: int, seeds: Tensor, position: Tensor
) -> Tensor:
    """Draw a code of each row.

    Args:
        logits: Shape ``(n, codes)``, float32; what must not be drawn is minus infinity.
        temperature: Shape ``(n,)``; 0 takes the likeliest.
        top_k: How many of the likeliest are drawn from; ties at the last one are all in.
        seeds: Shape ``(n,)``, int64.
        position: Which draw of the sequence, shape ``(n,)`` or scalar.

    Returns:
        Codes, shape ``(n,)``, int64.
    """
    least = torch.topk(logits, min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
    kept = logits.masked_fill(logits < least, float("-inf"))
    noise = -torch.log(-torch.log(uniform(seeds, position, logits.shape[-1])))
    warm = temperature[:, None]
    noisy = kept / warm.clamp(min=1e-6) + noise
    return torch.where(warm > 0, noisy, kept).argmax(-1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _MIX_1
    bits = (bits ^ _shifted(bits, 27)) * _MIX_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """To the right, zeros moving in."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
