"""A kernel for Triton, which reads its source; without Triton this cannot be imported."""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def add(x, y, out, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """``out = x + y``, of ``count`` numbers."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    total = tl.load(x + place, mask=inside) + tl.load(y + place, mask=inside)
    tl.store(out + place, total, mask=inside)
