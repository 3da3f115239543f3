"""How much memory each device has, how much of it can be had, and who holds the rest.

All sizes are bytes. What is not known is ``Unknown``, with the reason: never zero, never a
guess.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, TypeAlias

from runtime.errors import ConfigError
from runtime.memory.driver import read_driver
from runtime.memory.host import read_cgroups, read_meminfo
from runtime.memory.process import resident_bytes
from runtime.memory.readings import Cgroup, DeviceReading, Driver, NvmlMemory, Readings

AUTO = "auto"
"""What ``recorded`` reads this machine for."""

PROBES = Path(__file__).with_name("probes")
"""The recordings that come with the package."""

_UNLISTED = 3 * (1 << 30) // 10
"""Used memory that only a process can account for: 0.3 GiB, the size of one CUDA context."""

_NO_PROCESSES = (
    "the driver lists no processes; it does not in a container that has its own PID namespace"
)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A size that is not known, and why. Not zero: arithmetic and truth raise TypeError."""

    reason: str

    def __bool__(self) -> NoReturn:
        raise TypeError(f"an unknown size is neither true nor false: {self.reason}")

    def __str__(self) -> str:
        return f"unknown: {self.reason}"


Bytes: TypeAlias = int | Unknown

Kind: TypeAlias = Literal["discrete", "unified", "host"]
"""A GPU with memory of its own; a GPU that shares the host's; the host."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A size in bytes, and where it is from."""

    value: Bytes
    source: str


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What one process holds on a device, in bytes, by the driver's account."""

    pid: int
    name: str
    bytes: Bytes


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One pool of memory.

    Attributes:
        key: ``cuda:0`` by NVML's index, as Ray numbers GPUs, or ``host``.
        name: The product's name.
        uuid: NVML's; empty for the host.
        kind: Unknown where neither CUDA nor NVML tells.
        total: For a discrete GPU CUDA's total, which vLLM multiplies by its utilisation.
        available: What can be allocated now; page cache that the kernel gives back counts.
        swap_free: Not part of ``available``; None for a discrete GPU.
        huge_pages: What the kernel reserves as huge pages, used or not. Not part of
            ``available``; None for a discrete GPU.
        processes: Those on the device.
    """

    key: str
    name: str
    uuid: str
    kind: Kind | Unknown
    total: Figure
    available: Figure
    swap_free: Figure | None
    huge_pages: Figure | None
    processes: tuple[ProcessUse, ...] | Unknown


def read() -> Readings:
    """Read this machine. What cannot be read is a reason in the readings, not an exception."""
    return Readings(meminfo=read_meminfo(), cgroups=read_cgroups(), driver=read_driver())


def recorded(name_or_path: str) -> Readings:
    """The readings of a named machine, of a recording in a file, or with ``auto`` of this one.

    Raises:
        ConfigError: There is no such recording, or it is not one; the message says why.
    """
    if name_or_path == AUTO:
        return read()
    names = sorted(probe.stem for probe in PROBES.glob("*.json"))
    path = PROBES / f"{name_or_path}.json" if name_or_path in names else Path(name_or_path)
    if not path.exists():
        import difflib  # only here: importing this module is to cost little

        near = difflib.get_close_matches(name_or_path, [AUTO, *names], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"No recorded device {name_or_path!r} and no such file.{hint}"
            f" Known: {', '.join([AUTO, *names])}, or the path of a recording."
        )
    try:
        return Readings.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ConfigError as error:
        raise ConfigError(f"{path} is not a recording: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a recording: {error}") from error


def devices(readings: Readings) -> tuple[DeviceMemory, ...]:
    """The machine's devices: its GPUs, then the host, which a unified GPU stands for."""
    gpus = []
    if isinstance(readings.driver, Driver):
        gpus = [_gpu(device, readings) for device in readings.driver.devices]
    if any(gpu.kind == "unified" for gpu in gpus):
        return tuple(gpus)
    return (*gpus, _host(readings))


def process_bytes(device: DeviceMemory, pid: int) -> Bytes:
    """What a process holds on a device.

    On a GPU it is what the driver said when the device was read: on a unified one the
    process's host memory is not in it. On the host it is the proportional set size, now.
    """
    if device.kind == "host":
        held = resident_bytes(pid)
        if held is None:
            return Unknown(f"/proc does not tell: no process {pid}, or not ours to see")
        return held
    if isinstance(device.processes, Unknown):
        return device.processes
    for process in device.processes:
        if process.pid == pid:
            return process.bytes
    return Unknown(
        f"the driver does not list process {pid} on {device.key}: it holds nothing there, or"
        " its PID in the driver's namespace is another"
    )


def _gpu(device: DeviceReading, readings: Readings) -> DeviceMemory:
    """A GPU, of the kind that CUDA's attribute says; its name says nothing."""
    kind: Kind | Unknown = "unified" if device.integrated is True else "discrete"
    swap_free = huge_pages = None
    if kind == "unified":
        # cudaMemGetInfo leaves out the page cache, and NVML answers NOT_SUPPORTED. A cgroup's
        # limit does not hold for what CUDA allocates.
        total = _meminfo(readings, "mem_total", "MemTotal")
        available = _meminfo(readings, "mem_available", "MemAvailable")
        swap_free, huge_pages = _swap_free(readings), _huge_pages(readings)
    elif isinstance(device.integrated, str) and isinstance(device.memory, str):
        # What a unified GPU looks like where CUDA does not answer: the kind is left open.
        kind = Unknown(f"integrated or not: {device.integrated}; NVML: {device.memory}")
        total, available = Figure(kind, "CUDA, NVML"), Figure(kind, "CUDA, NVML")
    else:
        total, available = _own_total(device), _own_available(device)
    return DeviceMemory(
        key=f"cuda:{device.index}",
        name=device.name,
        uuid=device.uuid,
        kind=kind,
        total=total,
        available=available,
        swap_free=swap_free,
        huge_pages=huge_pages,
        processes=_processes(device),
    )


def _own_total(device: DeviceReading) -> Figure:
    doubt = _doubt(device)
    if isinstance(device.cuda_total, int):
        return Figure(device.cuda_total, f"cuDeviceTotalMem{doubt}")
    if isinstance(device.memory, NvmlMemory):
        return Figure(device.memory.total, f"NVML total, which the driver's reserve is in{doubt}")
    return Figure(Unknown(f"CUDA: {device.cuda_total}; NVML: {device.memory}"), "CUDA, NVML")


def _own_available(device: DeviceReading) -> Figure:
    if isinstance(device.memory, NvmlMemory):
        return Figure(device.memory.free, f"NVML free{_doubt(device)}")
    return Figure(Unknown(f"NVML: {device.memory}"), "NVML free")


def _doubt(device: DeviceReading) -> str:
    """What a source adds where only NVML's figures say that a GPU has memory of its own."""
    if isinstance(device.integrated, str):
        return f"; taken for discrete as NVML gives figures, integrated or not: {device.integrated}"
    return ""


def _processes(device: DeviceReading) -> tuple[ProcessUse, ...] | Unknown:
    """The processes on a GPU; Unknown if there must be some that the driver does not list."""
    if isinstance(device.processes, str):
        return Unknown(f"NVML: {device.processes}")
    if not device.processes:
        if isinstance(device.memory, str):
            return Unknown(_NO_PROCESSES)
        reserved = device.memory.reserved or 0  # an old driver's: in what is used, however small
        used = device.memory.total - device.memory.free - reserved
        if used > _UNLISTED:
            return Unknown(f"{_NO_PROCESSES}; {used / (1 << 30):.2f} GiB are used")
    return tuple(
        ProcessUse(
            process.pid,
            process.name,
            Unknown("the driver lists the process without a size")
            if process.bytes is None
            else process.bytes,
        )
        for process in device.processes
    )


def _host(readings: Readings) -> DeviceMemory:
    total = _meminfo(readings, "mem_total", "MemTotal")
    available = _meminfo(readings, "mem_available", "MemAvailable")
    if isinstance(readings.cgroups, str):
        doubt = f"; whether a cgroup limits it cannot be read: {readings.cgroups}"
        total = Figure(total.value, total.source + doubt)
        available = Figure(available.value, available.source + doubt)
    else:
        for cgroup in readings.cgroups:
            total = _least(total, Figure(cgroup.limit, f"limit of cgroup {cgroup.path}"))
            left = Figure(cgroup_left(cgroup), f"limit less usage of cgroup {cgroup.path}")
            available = _least(available, left)
    return DeviceMemory(
        key="host",
        name="host",
        uuid="",
        kind="host",
        total=total,
        available=available,
        swap_free=_swap_free(readings),
        huge_pages=_huge_pages(readings),
        processes=Unknown("the host's processes are not listed; process_bytes tells of one"),
    )


def cgroup_left(cgroup: Cgroup) -> int:
    """What processes of a cgroup can still allocate, in bytes; it may be over its limit."""
    return max(0, cgroup.limit - cgroup.usage)


def _least(one: Figure, other: Figure) -> Figure:
    """The smaller of two limits; unknown if either is."""
    if isinstance(one.value, Unknown) or isinstance(other.value, Unknown):
        return one if isinstance(one.value, Unknown) else other
    return one if one.value <= other.value else other


def _meminfo(readings: Readings, field: str, name: str) -> Figure:
    source = f"/proc/meminfo {name}"
    if isinstance(readings.meminfo, str):
        return Figure(Unknown(readings.meminfo), source)
    value: int | str = getattr(readings.meminfo, field)
    return Figure(Unknown(value) if isinstance(value, str) else value, source)


def _swap_free(readings: Readings) -> Figure:
    return _meminfo(readings, "swap_free", "SwapFree")


def _huge_pages(readings: Readings) -> Figure:
    pages = _meminfo(readings, "huge_pages_total", "HugePages_Total")
    size = _meminfo(readings, "huge_page_size", "Hugepagesize")
    source = "/proc/meminfo HugePages_Total x Hugepagesize"
    if isinstance(pages.value, Unknown) or isinstance(size.value, Unknown):
        unknown = pages.value if isinstance(pages.value, Unknown) else size.value
        return Figure(unknown, source)
    return Figure(pages.value * size.value, source)
