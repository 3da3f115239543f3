"""Triton's kernels are compiled side by side before they are launched; no GPU is needed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("triton") is None:
    # The extra `dev` brings it on Linux, where CI runs; elsewhere it has no wheels.
    pytest.skip("needs Triton, which has wheels for Linux only", allow_module_level=True)

# A process of its own: Triton has one driver, and this one says that there is an H100.
START = """
import logging, torch, triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from runtime.engines.compiling import Kernels
from runtime.engines.trials.triton_kernel import add

class Driver:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)

driver.set_active(Driver())
compiled = []
knobs.runtime.jit_post_compile_hook = lambda **what: compiled.append(what["repr"])
tensors = [torch.zeros(8, dtype=dtype) for dtype in (torch.float32, torch.float16)]

def launch(block=256):
    for x in tensors:
        add[(1,)](x, x, x, 8, BLOCK=block)

kernels = Kernels()
with kernels.noted():
    launch()
    launch()
assert (len(kernels), compiled) == (2, []), (len(kernels), compiled)
"""
COMPILED = """
kernels.compile()
assert len(kernels) == 0 and len(compiled) == 2, compiled
for x in tensors:
    add.warmup(x, x, x, 8, BLOCK=256, grid=(1,))
assert len(compiled) == 2, "they are there"
add.warmup(tensors[0], tensors[0], tensors[0], 8, BLOCK=512, grid=(1,))
assert len(compiled) == 3, "nothing is held back any more"
"""
BROKEN = """
add.compile = None
logging.basicConfig()
kernels.compile()
assert len(kernels) == 0 and not compiled
"""


def run(folder: Path, *parts: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join((START, *parts))],
        env={"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_kernels_are_noted_where_they_are_launched_and_compiled_together(tmp_path: Path) -> None:
    run(tmp_path, COMPILED)
    assert list(tmp_path.rglob("*.cubin"))


def test_one_that_does_not_compile_is_told_and_left_to_its_launch(tmp_path: Path) -> None:
    assert run(tmp_path, BROKEN).count("kernel add is compiled when it is launched") == 2
