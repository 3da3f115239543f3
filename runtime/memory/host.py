"""The host's memory: /proc/meminfo, and the cgroups that limit this process.

Nothing is concluded here. What cannot be read is a string that says why.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from runtime.memory.readings import Cgroup, Meminfo

PROC = Path("/proc")

_UNLIMITED_V1 = 1 << 62
"""cgroup v1 writes "no limit" as the largest multiple of a page that fits a signed 64-bit."""

_LARGEST_FILE = 1 << 16  # meminfo and memory.stat are 1.5 to 5 kB


class OpenFile:
    """A file of /proc or of a cgroup kept open, read anew with one system call.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        """What the file says now. Raises OSError if the kernel no longer tells."""
        return os.pread(self._descriptor, _LARGEST_FILE, 0)

    def close(self) -> None:
        """Close it; it must not be read afterwards."""
        os.close(self._descriptor)


def read_meminfo() -> Meminfo | str:
    """The host's memory, or why it cannot be read."""
    path = PROC / "meminfo"
    try:
        text = path.read_bytes()
    except OSError as error:
        return f"{path}: {error.strerror}"
    return Meminfo(
        mem_total=meminfo_field(text, b"MemTotal"),
        mem_available=meminfo_field(text, b"MemAvailable"),
        swap_total=meminfo_field(text, b"SwapTotal"),
        swap_free=meminfo_field(text, b"SwapFree"),
        huge_pages_total=meminfo_field(text, b"HugePages_Total"),
        huge_pages_free=meminfo_field(text, b"HugePages_Free"),
        huge_page_size=meminfo_field(text, b"Hugepagesize"),
    )


def meminfo_field(text: bytes, name: bytes) -> int | str:
    """One line of /proc/meminfo: bytes where the kernel gives kB, else the number as it is."""
    match = re.search(rb"^%b: *([0-9]+)( kB)?$" % name, text, re.MULTILINE)
    if match is None:
        return f"/proc/meminfo has no {name.decode()}"
    return int(match[1]) * (1024 if match[2] else 1)


class CgroupFiles:
    """The files of one cgroup, v1 or v2, kept open.

    Raises:
        OSError: They cannot be opened; FileNotFoundError where this cgroup has no
            memory controller, as the root of v2.
    """

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        limit, usage, self._inactive = (
            ("memory.max", "memory.current", b"inactive_file")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file")
        )
        self._files: list[OpenFile] = []
        try:
            for name in (limit, usage, "memory.stat"):
                self._files.append(OpenFile(folder / name))
        except OSError:
            self.close()
            raise

    def read(self) -> Cgroup | None:
        """The limit and the usage, in bytes; None without a limit.

        Raises:
            OSError: The kernel no longer tells, as when the cgroup is gone.
            ValueError: The files do not say what they are known to say.
        """
        limit, usage, stat = self._files
        limited = limit.read().strip()
        if limited == b"max" or int(limited) >= _UNLIMITED_V1:
            return None
        inactive = re.search(rb"^%b ([0-9]+)$" % self._inactive, stat.read(), re.MULTILINE)
        if inactive is None:
            raise ValueError(f"memory.stat has no {self._inactive.decode()}")
        # Two files are read one after the other: the difference may be off by what changed.
        used = max(0, int(usage.read()) - int(inactive[1]))
        return Cgroup(str(self.folder), int(limited), used)

    def close(self) -> None:
        """Close the files."""
        while self._files:
            self._files.pop().close()


def read_cgroups() -> tuple[Cgroup, ...] | str:
    """The cgroups that limit this process, the innermost first, or why they cannot be read."""
    opened = open_cgroups()
    if isinstance(opened, str):
        return opened
    limits = []
    try:
        for cgroup in opened:
            try:
                limits.append(cgroup.read())
            except (OSError, ValueError) as error:
                return f"{cgroup.folder}: {error}"
    finally:
        for cgroup in opened:
            cgroup.close()
    return tuple(limit for limit in limits if limit is not None)


def open_cgroups() -> list[CgroupFiles] | str:
    """The cgroup of this process and those above it, opened, or why that is not possible."""
    try:
        located = _locate()
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if isinstance(located, str):
        return located
    version, folders = located
    opened: list[CgroupFiles] = []
    for folder in folders:
        try:
            opened.append(CgroupFiles(folder, version))
        except FileNotFoundError:
            continue  # no memory controller at this level: it limits nothing
        except OSError as error:
            for cgroup in opened:
                cgroup.close()
            return f"{error.filename}: {error.strerror}"
    return opened


def _locate() -> tuple[int, list[Path]] | str:
    """The version of cgroups that limits memory here, and the folders from ours to the top."""
    try:
        text = (PROC / "self/cgroup").read_text(errors="replace")
    except FileNotFoundError:
        return 2, []  # a kernel without cgroups
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    version, own = (1, paths["memory"]) if "memory" in paths else (2, paths.get(""))
    if own is None:
        return 2, []
    mount = _mount(version)
    if mount is None:
        return f"cgroup v{version} is not mounted, so its limits cannot be read"
    root, top = mount
    folder = top
    if Path(own).is_relative_to(root) and ".." not in Path(own).parts:
        folder = top / Path(own).relative_to(root)
    if not folder.is_dir():
        folder = top  # a container's view: our cgroup is what is mounted
    return version, [folder, *(up for up in folder.parents if up.is_relative_to(top))]


def _mount(version: int) -> tuple[str, Path] | None:
    """Which cgroup is mounted, and where, for the memory controller of a version."""
    for line in (PROC / "self/mountinfo").read_text(errors="replace").splitlines():
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if (version == 2 and kind == "cgroup2") or (
            version == 1 and kind == "cgroup" and "memory" in options.split(",")
        ):
            root, point = head.split(" ")[3:5]
            return root, Path(point.replace(r"\040", " "))
    return None
