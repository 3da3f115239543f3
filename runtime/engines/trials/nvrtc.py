"""NVIDIA's run-time compiler: is it here, does it compile, and is memory intact afterwards.

NeMo's loops with conditional CUDA graphs need it; what happens to ``b" "`` there is told in
``runtime.engines.nemo``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtime.engines.nemo import import_nemo, shared_bytes_intact
from runtime.engines.trials.line import Outcome
from runtime.errors import EngineFailed

KERNEL = 'extern "C" __global__ void twice(float *x) { x[threadIdx.x] *= 2.0f; }'
_NAME = b"twice"
_MEND = "install a build of torch for CUDA, which brings libnvrtc, or NVIDIA's CUDA toolkit"


def compile_kernel(options: Mapping[str, Any]) -> Iterator[Outcome]:
    """Compile a small kernel, on a GPU with NeMo's own function as well: one outcome.

    Args:
        options: ``gpu``: whether there is one.
    """
    ways, absent = [], []
    for way in (_through_bindings, _through_ctypes):
        try:
            ways.append(way())
            break
        except (ImportError, OSError, AttributeError, RuntimeError) as error:
            absent.append(str(error).splitlines()[0])
    if not ways:
        yield Outcome("warn", f"not here: {'; '.join(absent)}", _MEND)
        return
    if not options["gpu"]:
        ways.append("loading a kernel did not run: no GPU")
    elif find_spec("nemo") is not None:
        ways.append(_through_nemo())
    if shared_bytes_intact():
        yield Outcome("pass", f"{'; '.join(ways)}; all single bytes are intact")
    else:
        mend = "keep HTTP out of processes with NeMo, and report this with its version"
        yield Outcome("fail", f"{'; '.join(ways)}; a single byte was overwritten", mend)


def _through_bindings() -> str:
    """By ``cuda.bindings``, as NeMo does. Raises RuntimeError where the library is not here."""
    from cuda.bindings import nvrtc

    def call(function: Any, *arguments: Any) -> tuple[Any, ...]:
        error, *results = function(*arguments)
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise EngineFailed(f"{function.__name__}: {error}. {_MEND}.")
        return tuple(results)

    major, minor = call(nvrtc.nvrtcVersion)
    (program,) = call(nvrtc.nvrtcCreateProgram, KERNEL.encode(), b"twice.cu", 0, [], [])
    call(nvrtc.nvrtcCompileProgram, program, 0, [])
    (size,) = call(nvrtc.nvrtcGetPTXSize, program)
    ptx = b"\0" * max(size, 64)  # a single byte would be everybody's
    call(nvrtc.nvrtcGetPTX, program, ptx)
    return _described(f"NVRTC {major}.{minor}", "cuda.bindings", ptx)


def _through_ctypes() -> str:
    """By the library itself, torch's if it has one. Raises OSError where there is none."""
    path, library = _library()
    major, minor = ctypes.c_int(), ctypes.c_int()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()

    def call(function: str, *arguments: Any) -> None:
        code = getattr(library, function)(*arguments)
        if code:
            raise EngineFailed(f"{function} of {path}: error {code}. {_MEND}.")

    call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    source = KERNEL.encode()
    call("nvrtcCreateProgram", ctypes.byref(program), source, b"twice.cu", 0, None, None)
    call("nvrtcCompileProgram", program, 0, None)
    call("nvrtcGetPTXSize", program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    call("nvrtcGetPTX", program, ptx)
    call("nvrtcDestroyProgram", ctypes.byref(program))
    return _described(f"NVRTC {major.value}.{minor.value}", str(path), ptx.raw)


def _described(version: str, source: str, ptx: bytes) -> str:
    if _NAME not in ptx:
        raise EngineFailed(f"{version} through {source} compiled a kernel to nothing. {_MEND}.")
    return f"{version} through {source} compiles"


def _library() -> tuple[str, Any]:
    folders = [
        folder
        for package, pattern in (("nvidia", "*/lib"), ("torch", "lib"))
        if (spec := find_spec(package)) is not None
        for root in spec.submodule_search_locations or ()
        for folder in sorted(Path(root).glob(pattern))
    ]
    paths = [str(file) for folder in folders for file in sorted(folder.glob("libnvrtc[.-]*so*"))]
    named = ctypes.util.find_library("nvrtc")
    for path in [*paths, *([named] if named else [])]:
        if "builtins" in path:
            continue
        library = ctypes.CDLL(path)
        if hasattr(library, "nvrtcVersion"):
            return path, library
    raise OSError("neither torch nor the system has a libnvrtc")


def _through_nemo() -> str:
    """By NeMo's own function, guarded: it compiles, and loads the kernel into this process."""
    import torch

    user = import_nemo("nemo.core.utils.cuda_python_utils")
    if not getattr(user, "CUDA_PYTHON_AVAILABLE", False):
        return "NeMo does not use it: cuda-python is not installed"
    torch.zeros(1, device="cuda")  # a context to load into
    user.run_nvrtc(KERNEL, _NAME, b"twice.cu")
    return "NeMo loads a kernel with it, guarded"
