"""How the kernels of a step follow one another."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit  # type: ignore[untyped-decorator]
def after_last(OVERLAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Wait for the kernel before, and let the next one come up.

    With programmatic dependent launch a kernel starts while its predecessor still runs. All
    that it reads of others, and all that it writes, must come after this call. As every kernel
    of a step makes it, what came before the predecessor is over too.
    """
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def fetch_ahead(pointers):  # type: ignore[no-untyped-def]
    """Have lines of 128 bytes brought to the second-level cache; nothing waits for them."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [pointers],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
