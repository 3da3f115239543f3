"""Raw readings of one machine's memory, as they were read and before anything is concluded.

They go to JSON and back, so that a recording of another machine can stand in for this one.
Sizes are bytes. A string in the place of a reading is the reason why there is none.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Meminfo:
    """/proc/meminfo. Sizes are bytes; the two counts of huge pages are pages."""

    mem_total: int | str
    mem_available: int | str
    swap_total: int | str
    swap_free: int | str
    huge_pages_total: int | str
    huge_pages_free: int | str
    huge_page_size: int | str


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A cgroup this process is in that limits memory.

    Attributes:
        path: Its folder.
        limit: What all its processes together may use, in bytes.
        usage: What they use, in bytes, without file pages the kernel would drop first
            (``inactive_file``).
    """

    path: str
    limit: int
    usage: int


@dataclass(frozen=True, slots=True)
class NvmlMemory:
    """What NVML says of a device's memory, in bytes.

    Attributes:
        total: All of it, what the driver reserves included.
        free: Allocated by nobody.
        used: Allocated. Where ``reserved`` is None, what the driver reserves is in it.
        reserved: The driver's own; None from drivers too old to tell.
    """

    total: int
    free: int
    used: int
    reserved: int | None


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """A process on a device; ``bytes`` is None where the driver lists it without a size."""

    pid: int
    name: str
    bytes: int | None


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One GPU.

    Attributes:
        index: NVML's index, by which Ray numbers GPUs; CUDA's where NVML does not answer.
        uuid: NVML's form, ``GPU-…``; empty where it cannot be read.
        name: The product's name.
        integrated: CUDA's attribute: the device shares the host's memory.
        cuda_total: ``cuDeviceTotalMem``, in bytes: the total that ``cudaMemGetInfo`` gives.
        memory: NVML's reading.
        processes: Those that compute on it, by the driver's account.
    """

    index: int
    uuid: str
    name: str
    integrated: bool | str
    cuda_total: int | str
    memory: NvmlMemory | str
    processes: tuple[ProcessReading, ...] | str


@dataclass(frozen=True, slots=True)
class Driver:
    """What NVIDIA's driver says.

    Attributes:
        version: The driver's version, or why NVML does not tell.
        cuda: Why libcuda does not answer; None if it does.
        nvml: Why NVML does not answer; None if it does.
        devices: In the order of their index.
    """

    version: str
    cuda: str | None
    nvml: str | None
    devices: tuple[DeviceReading, ...]


@dataclass(frozen=True, slots=True)
class Readings:
    """One machine, read once.

    Attributes:
        meminfo: The host's memory.
        cgroups: Every cgroup of this process that has a limit, the innermost first.
        driver: NVIDIA's driver, or why neither libcuda nor NVML answers.
        note: Where a recording is from.
    """

    meminfo: Meminfo | str
    cgroups: tuple[Cgroup, ...] | str
    driver: Driver | str
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The readings as plain JSON values, which ``from_json`` takes."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @staticmethod
    def from_json(recording: object) -> Readings:
        """The readings of a recording.

        Raises:
            ConfigError: It is none; the message names the key.
        """
        readings: Readings = _decode(Readings, recording, "")
        if isinstance(readings.driver, Driver):
            indices = [device.index for device in readings.driver.devices]
            if twice := {index for index in indices if indices.count(index) > 1}:
                raise ConfigError(f"driver.devices: more than one has the index {min(twice)}")
        return readings


_TERMS = {
    int: "a whole number",
    bool: "true or false",
    str: "a string",
    NoneType: "null",
    list: "a list",
    dict: "an object",
}


def _shape(hint: Any) -> type:
    """The type that ``json`` gives to a value of a field's type."""
    if is_dataclass(hint):
        return dict
    return list if get_origin(hint) is tuple else hint


def _decode(hint: Any, value: object, key: str) -> Any:
    """The value that JSON has at ``key``, as the type of its field; ConfigError if it is none."""
    members = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    member = next((member for member in members if _shape(member) is type(value)), None)
    if member is None:
        wanted = " or ".join(_TERMS[_shape(member)] for member in members)
        raise ConfigError(f"{key or 'the recording'}: {value!r:.60} is not {wanted}")
    if isinstance(value, dict):
        return _decode_object(member, value, key)
    if isinstance(value, list):
        item = get_args(member)[0]
        return tuple(_decode(item, each, f"{key}[{place}]") for place, each in enumerate(value))
    if isinstance(value, int) and value < 0:
        raise ConfigError(f"{key}: {value} is negative")
    return value


def _decode_object(kind: Any, value: dict[str, object], key: str) -> Any:
    prefix = f"{key}." if key else ""
    hints = get_type_hints(kind)
    if surplus := value.keys() - hints.keys():
        raise ConfigError(f"{prefix}{min(surplus)}: there is no such key")
    missing = {field.name for field in fields(kind) if field.default is MISSING} - value.keys()
    if missing:
        raise ConfigError(f"{prefix}{min(missing)}: is missing")
    return kind(**{name: _decode(hints[name], each, prefix + name) for name, each in value.items()})
