r"""NeMo's run-time compiler cannot turn the one ``b" "`` of a process into ``b"\0"``.

In processes of their own: what goes wrong here would go wrong for all tests after it.
"""

from __future__ import annotations

import subprocess
import sys

# As NeMo 3.0 asks for an empty log, and NVRTC writes it: with a closing NUL.
COMPILE = """
import ctypes, sys, types
from runtime.engines.nemo import _NVRTC_USER, guard_shared_bytes, shared_bytes_intact

def nvrtcGetProgramLog(program, buffer):
    ctypes.memset(id(buffer) + bytes.__basicsize__ - 1, 0, 1)
    return ("success", program)

user = types.ModuleType(_NVRTC_USER)
user.nvrtc = nvrtc = types.SimpleNamespace(nvrtcGetProgramLog=nvrtcGetProgramLog, version=13)
sys.modules[_NVRTC_USER] = user
assert shared_bytes_intact()
"""
LOG = """
size = 1
assert user.nvrtc.nvrtcGetProgramLog("program", b" " * size) == ("success", "program")
assert user.nvrtc.version == 13
"""


def run(*parts: str) -> None:
    subprocess.run([sys.executable, "-c", "\n".join((COMPILE, *parts))], check=True, timeout=60)


def test_unguarded_every_space_becomes_a_nul() -> None:
    run(LOG, 'assert ord(b" ") == b"a b"[1:2][0] == 0; assert not shared_bytes_intact()')


def test_guarded_every_space_stays_a_space() -> None:
    run(
        "guard_shared_bytes()",
        LOG,
        'assert ord(b" ") == b"a b"[1:2][0] == 0x20; assert shared_bytes_intact()',
    )


def test_guarding_twice_is_guarding_once() -> None:
    run(
        "guard_shared_bytes(); first = user.nvrtc; guard_shared_bytes()",
        "assert user.nvrtc is first is not nvrtc; assert first._nvrtc is nvrtc",
        LOG,
        "assert shared_bytes_intact()",
    )


def test_without_the_compiler_there_is_nothing_to_guard() -> None:
    run("del user.nvrtc; guard_shared_bytes(); assert not hasattr(user, 'nvrtc')")
    run("del sys.modules[_NVRTC_USER]; guard_shared_bytes()")
