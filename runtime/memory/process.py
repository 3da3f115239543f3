"""What processes hold of the host's memory, read from /proc."""

from __future__ import annotations

import ctypes
import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """A process; ``resident_bytes`` is its proportional set size, None where it cannot be read."""

    pid: int
    name: str
    resident_bytes: int | None


def resident_bytes(pid: int) -> int | None:
    """Proportional set size of a process in bytes: shared pages count by their share.

    Returns None where the kernel does not tell: no such process, not ours, no Linux.
    """
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def peak_beyond_resident(pid: int) -> int | None:
    """By how many bytes a process's largest resident size exceeds its present one.

    Returns None where the kernel does not tell.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Vm"))
    if "VmHWM" not in sizes or "VmRSS" not in sizes:
        return None
    peak, now = (int(sizes[key].split()[0]) * 1024 for key in ("VmHWM", "VmRSS"))
    return max(0, peak - now)


def forget_peak() -> None:
    """Count this process's largest resident size from now on, where the kernel lets it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def release_heap() -> None:
    """Give back the C heap's free pages, which it may else keep for good: a model's worth of them.

    Harmless with a C library that cannot.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def cpu_seconds(pid: int) -> float | None:
    """User and system time a process has used, in seconds; None where it cannot be read."""
    fields = _stat(pid)
    return None if fields is None else (int(fields[11]) + int(fields[12])) / _TICKS


def process_state(pid: int) -> str | None:
    """The kernel's letter for a process's state (``Z`` is a zombie); None if there is none."""
    fields = _stat(pid)
    return None if fields is None else fields[0]


def process_tree(root: int) -> list[ProcessMemory]:
    """A process and all that descend from it, with what each holds; empty if it has ended."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children[int(fields[1])].append(int(entry.name))
    tree, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        if process_state(pid) is None:
            continue  # it has ended meanwhile
        tree.append(ProcessMemory(pid, process_name(pid), resident_bytes(pid)))
        waiting += children[pid]
    return tree


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name; the first is the state."""
    try:
        # A process may give itself any bytes for a name.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()


def process_name(pid: int) -> str:
    """A short name: ``ray::ServeReplica:speech:TTS`` as it is, else the program or script."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "?"
    if words[0].startswith("ray::"):
        return words[0].strip()
    if Path(words[0]).name.startswith("python"):
        if "-m" in words:
            return words[words.index("-m") + 1]
        words = [word for word in words[1:] if not word.startswith("-")] or words
    return Path(words[0]).name
