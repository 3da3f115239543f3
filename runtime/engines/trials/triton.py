"""Triton, which ``torch.compile`` makes its kernels with, and the ptxas that it calls."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtime.engines.trials.line import Outcome

PTXAS = "TRITON_PTXAS_PATH"
"""The variable that names a ptxas instead of Triton's own."""

PTXAS_BLACKWELL = "TRITON_PTXAS_BLACKWELL_PATH"
"""The same for GPUs from Blackwell on, GB10 among them: Triton 3.7 has a ptxas of theirs."""

_COUNT = 1000


def run_kernel(options: Mapping[str, Any]) -> Iterator[Outcome]:
    """Import Triton, and on a GPU run a small kernel: one outcome.

    Args:
        options: ``gpu``: whether there is one.
    """
    if find_spec("triton") is None:
        mend = "pip install triton, which torch for GPUs brings: engines are slower without it"
        yield Outcome("warn", "not installed", mend)
        return
    import triton

    found = f"Triton {triton.__version__}, ptxas: {ptxas()}"
    if not options["gpu"]:
        yield Outcome("warn", f"{found}; a kernel did not run: no GPU")
        return
    import torch

    from runtime.engines.trials.triton_kernel import add

    x, y = (torch.randn(_COUNT, device="cuda") for _ in range(2))
    out = torch.empty_like(x)
    add[(triton.cdiv(_COUNT, 256),)](x, y, out, _COUNT, BLOCK=256)
    torch.cuda.synchronize()
    if torch.equal(out, x + y):
        yield Outcome("pass", f"{found}; a kernel compiles and adds")
    else:
        mend = (
            f"install the Triton that this torch names, or point {PTXAS} (from Blackwell on "
            f"{PTXAS_BLACKWELL}) to the toolkit's ptxas"
        )
        yield Outcome("fail", f"{found}; a kernel gives wrong sums", mend)


def ptxas() -> str:
    """Where it is, or that there is none: the environment's, Triton's own, the toolkit's."""
    named = [(os.environ[name], name) for name in (PTXAS, PTXAS_BLACKWELL) if os.environ.get(name)]
    if named:
        return "; ".join(
            f"{path} ({name})" + ("" if Path(path).is_file() else ", missing")
            for path, name in named
        )
    spec = find_spec("triton")
    for root in (spec.submodule_search_locations if spec else None) or ():
        own = sorted(Path(root, "backends", "nvidia", "bin").glob("ptxas*"))
        if own:
            return ", ".join(map(str, own))
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "ptxas")
    return str(toolkit) if toolkit.is_file() else shutil.which("ptxas") or "none"
