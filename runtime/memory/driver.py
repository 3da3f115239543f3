"""What NVIDIA's driver says of its devices, through libcuda and NVML. Creates no CUDA context.

Both are asked: NVML knows what is free and who holds it, only CUDA knows whether a device
shares the host's memory. A failure of either is a reason in the reading, never an exception.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from typing import Any

from runtime.memory.process import process_name
from runtime.memory.readings import DeviceReading, Driver, NvmlMemory, ProcessReading

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_INTEGRATED = 18  # CU_DEVICE_ATTRIBUTE_INTEGRATED


@dataclass(frozen=True, slots=True)
class _CudaDevice:
    uuid: str
    name: str
    integrated: bool | str
    total: int | str


@dataclass(frozen=True, slots=True)
class _NvmlDevice:
    uuid: str
    name: str
    memory: NvmlMemory | str
    processes: tuple[ProcessReading, ...] | str


class _CudaError(Exception):
    """A call of libcuda failed; the message names the call and CUDA's error."""


def load_cuda() -> Any:
    """The driver's CUDA library. Raises OSError where there is none."""
    return ctypes.CDLL("libcuda.so.1")


def load_nvml() -> Any:
    """The module ``pynvml``; imported late, it takes 50 ms. Raises ImportError without it."""
    import pynvml

    return pynvml


def read_driver() -> Driver | str:
    """The driver and its devices in NVML's order, or why neither libcuda nor NVML answers.

    Only those that CUDA_VISIBLE_DEVICES leaves, where CUDA answers: Ray counts no others.

    Initialises CUDA in this process: children it forks later cannot use CUDA (those it
    executes can).
    """
    if os.environ.get(_VISIBLE) == "":
        return f"{_VISIBLE} is empty: it hides the GPUs from this process"
    cuda, nvml = _read_cuda(), _read_nvml()
    if isinstance(nvml, str):
        if isinstance(cuda, str):
            return f"CUDA: {cuda}; NVML: {nvml}"
        return Driver(nvml, None, nvml, tuple(_merge(cuda, [], f"NVML: {nvml}")))
    version, listed = nvml
    if isinstance(cuda, str):
        return Driver(version, cuda, None, tuple(_merge([], listed, f"CUDA: {cuda}")))
    return Driver(version, None, None, tuple(_merge(cuda, listed, "")))


def _merge(cuda: list[_CudaDevice], nvml: list[_NvmlDevice], reason: str) -> list[DeviceReading]:
    """NVML's devices, each with what CUDA says of the same UUID, then those only CUDA has.

    ``reason`` says why one of the two lists is empty.
    """
    left = {device.uuid: device for device in cuda}
    unseen = reason or f"CUDA sees no device of this UUID{_visible()}"
    unlisted = reason or "NVML lists no device of this UUID"
    merged = []
    for index, device in enumerate(nvml):
        seen = left.pop(device.uuid, None)
        if seen is None and cuda and _VISIBLE in os.environ:
            continue  # hidden from this process, and not ours to count
        merged.append(
            DeviceReading(
                index,
                device.uuid,
                device.name,
                unseen if seen is None else seen.integrated,
                unseen if seen is None else seen.total,
                device.memory,
                device.processes,
            )
        )
    for index, extra in enumerate(left.values(), len(nvml)):
        merged.append(
            DeviceReading(
                index, extra.uuid, extra.name, extra.integrated, extra.total, unlisted, unlisted
            )
        )
    return merged


def _visible() -> str:
    """How CUDA_VISIBLE_DEVICES narrows what CUDA sees, for a message; empty if it does not."""
    visible = os.environ.get(_VISIBLE)
    return "" if visible is None else f" ({_VISIBLE} is {visible!r})"


def _read_cuda() -> list[_CudaDevice] | str:
    try:
        cuda = load_cuda()
    except OSError as error:
        return str(error)
    count = ctypes.c_int()
    try:
        _cuda_call(cuda, "cuInit", 0)
        _cuda_call(cuda, "cuDeviceGetCount", ctypes.byref(count))
        return [_read_cuda_device(cuda, ordinal) for ordinal in range(count.value)]
    except _CudaError as error:
        return f"{error}{_visible()}"


def _read_cuda_device(cuda: Any, ordinal: int) -> _CudaDevice:
    device, name, uuid = ctypes.c_int(), ctypes.create_string_buffer(256), (ctypes.c_ubyte * 16)()
    _cuda_call(cuda, "cuDeviceGet", ctypes.byref(device), ordinal)
    _cuda_call(cuda, "cuDeviceGetName", name, len(name), device)
    # The second version gives a MIG slice its own UUID.
    get_uuid = "cuDeviceGetUuid_v2" if hasattr(cuda, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    _cuda_call(cuda, get_uuid, ctypes.byref(uuid), device)
    integrated: bool | str
    total: int | str
    try:
        attribute = ctypes.c_int()
        _cuda_call(
            cuda, "cuDeviceGetAttribute", ctypes.byref(attribute), ctypes.c_int(_INTEGRATED), device
        )
        integrated = bool(attribute.value)
    except _CudaError as error:
        integrated = str(error)
    try:
        size = ctypes.c_size_t()
        _cuda_call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(size), device)
        total = size.value
    except _CudaError as error:
        total = str(error)
    return _CudaDevice(
        _formatted(bytes(uuid)), name.value.decode(errors="replace"), integrated, total
    )


def _formatted(uuid: bytes) -> str:
    """A UUID of 16 bytes as NVML writes it."""
    digits = uuid.hex()
    parts = digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]
    return "GPU-" + "-".join(parts)


def _cuda_call(cuda: Any, function: str, *arguments: Any) -> None:
    code = getattr(cuda, function)(*arguments)
    if code != 0:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(name))
        raise _CudaError(f"{function}: {name.value.decode() if name.value else f'error {code}'}")


def _read_nvml() -> tuple[str, list[_NvmlDevice]] | str:
    """The driver's version and NVML's devices by index, or why NVML does not answer."""
    try:
        nvml = load_nvml()
    except ImportError as error:
        return str(error)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return nvml_reason(nvml, error)
    try:
        version: str = nvml.nvmlSystemGetDriverVersion()
        count = nvml.nvmlDeviceGetCount()
        return version, [_read_nvml_device(nvml, index) for index in range(count)]
    except nvml.NVMLError as error:
        return nvml_reason(nvml, error)
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _read_nvml_device(nvml: Any, index: int) -> _NvmlDevice:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    except nvml.NVMLError as error:  # a device that fell off the bus, or is not ours to see
        reason = nvml_reason(nvml, error)
        return _NvmlDevice("", f"device {index}", reason, reason)
    memory: NvmlMemory | str
    processes: tuple[ProcessReading, ...] | str
    try:
        memory = read_nvml_memory(nvml, handle)
    except nvml.NVMLError as error:
        memory = nvml_reason(nvml, error)
    try:
        processes = tuple(
            ProcessReading(process.pid, process_name(process.pid), process.usedGpuMemory)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        )
    except nvml.NVMLError as error:
        processes = nvml_reason(nvml, error)
    except nvml.NVMLLibraryMismatchError:
        processes = "FUNCTION_NOT_FOUND: the driver is too old to list processes"
    return _NvmlDevice(uuid, name, memory, processes)


def read_nvml_memory(nvml: Any, handle: Any) -> NvmlMemory:
    """A device's memory by the second version of NVML's call, else by the first.

    Raises:
        pynvml.NVMLError: The device or the driver does not tell.
    """
    try:
        second = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_ArgumentVersionMismatch):
        first = nvml.nvmlDeviceGetMemoryInfo(handle)
        return NvmlMemory(first.total, first.free, first.used, None)
    return NvmlMemory(second.total, second.free, second.used, second.reserved)


def nvml_reason(nvml: Any, error: Any) -> str:
    """The name of NVML's error without its prefix, ``NOT_SUPPORTED`` say."""
    constants: dict[str, Any] = vars(nvml)
    for name, value in constants.items():
        if name.startswith("NVML_ERROR_") and value == error.value:
            return name.removeprefix("NVML_ERROR_")
    return f"error {error.value}: {error}"
