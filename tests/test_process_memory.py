"""What processes hold: read from /proc, sane, and None where there is nothing to read."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runtime.memory.process import cpu_seconds, process_state, process_tree, resident_bytes

NO_PROCESS = 2**22 + 1  # beyond the kernel's highest id


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A Python that waits for its standard input to end."""
    yield from spawn("")


def spawn(code: str) -> Iterator[subprocess.Popen[bytes]]:
    code += "\nimport sys; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_this_process_holds_more_than_nothing_and_less_than_the_machine_has() -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    held = resident_bytes(os.getpid())
    assert held is not None
    assert 4 << 20 < held < machine


def test_memory_that_is_written_to_is_held() -> None:
    before = resident_bytes(os.getpid())
    # Pages of its own: what this process has freed before would be taken again unseen.
    ballast = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, len(ballast), mmap.PAGESIZE):
        ballast[page] = 1
    after = resident_bytes(os.getpid())
    assert before is not None
    assert after is not None
    assert 60 << 20 < after - before < 80 << 20
    ballast.close()


def test_a_process_that_does_not_exist_holds_none() -> None:
    assert resident_bytes(NO_PROCESS) is None
    assert cpu_seconds(NO_PROCESS) is None
    assert process_state(NO_PROCESS) is None


def test_a_process_that_works_uses_cpu_seconds() -> None:
    before = cpu_seconds(os.getpid())
    assert before is not None
    while (now := cpu_seconds(os.getpid())) is not None and now <= before:
        sum(range(100_000))
    assert now is not None
    assert now > before


def test_this_process_is_running_and_its_waiting_child_is_asleep(
    child: subprocess.Popen[bytes],
) -> None:
    assert process_state(os.getpid()) == "R"
    assert process_state(child.pid) in ("S", "R")


def test_the_tree_of_a_process_holds_its_children(child: subprocess.Popen[bytes]) -> None:
    tree = {process.pid: process for process in process_tree(os.getpid())}
    assert tree[child.pid].resident_bytes is not None
    assert tree[child.pid].resident_bytes > 1 << 20
    assert os.getpid() in tree
    assert os.getppid() not in tree


def test_the_tree_of_a_process_holds_the_children_of_its_children() -> None:
    grandparent = spawn(
        "import subprocess, sys\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
    )
    process = next(grandparent)
    assert len(process_tree(process.pid)) == 2
    assert len([p for p in process_tree(os.getpid()) if p.pid == process.pid]) == 1
    next(grandparent, None)


def test_a_process_alone_is_its_own_tree(child: subprocess.Popen[bytes]) -> None:
    assert [process.pid for process in process_tree(child.pid)] == [child.pid]


@pytest.mark.parametrize("options", [[], ["-X", "dev"]])
def test_a_module_that_is_run_names_its_process(options: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, *options, "-m", "code", "-q"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert [p.name for p in process_tree(process.pid)] == ["code"]
        finally:
            process.kill()


@pytest.mark.parametrize("name", [b"a) R 1 1", b"(((", b"caf\xe9\xff", b"a b\nc"])
def test_a_process_may_have_any_bytes_for_a_name(name: bytes) -> None:
    # PR_SET_NAME is 15
    process = spawn(f"import ctypes; ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0)")
    child = next(process)
    assert process_state(child.pid) in ("S", "R")
    assert cpu_seconds(child.pid) is not None
    assert child.pid in [p.pid for p in process_tree(os.getpid())]
    next(process, None)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no malloc_trim")
def test_what_was_freed_below_something_alive_is_given_back() -> None:
    code = """
import os
from runtime.memory.process import release_heap, resident_bytes

# Each smaller than what malloc asks the kernel for by itself.
parts = [bytearray(64 << 10) for _ in range(2_000)]
kept = parts[-1]
full = resident_bytes(os.getpid())
parts.clear()
release_heap()
print(full - resident_bytes(os.getpid()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) > 100 << 20
