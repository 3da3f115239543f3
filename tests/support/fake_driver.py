"""NVIDIA's driver as the probe meets it: libcuda's calls and NVML's, with set answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pynvml

NO_DEVICE = 100
NOT_SUPPORTED = 801
NAMES = {NO_DEVICE: b"CUDA_ERROR_NO_DEVICE", NOT_SUPPORTED: b"CUDA_ERROR_NOT_SUPPORTED"}


def uuid(number: int) -> str:
    return f"GPU-{UUID(int=number)}"


@dataclass
class Gpu:
    """What the fakes answer for one GPU; an int in NVML's place is an NVML error."""

    number: int
    name: str = "NVIDIA H100 80GB HBM3"
    integrated: int | None = 0
    total: int = 79 << 30
    memory: tuple[int, int, int, int] | int = (80 << 30, 78 << 30, 1 << 30, 1 << 30)
    processes: list[tuple[int, int | None]] | int = field(default_factory=list)
    lost: int | None = None


class FakeCuda:
    """The calls of libcuda, over what ctypes hands them."""

    def __init__(self, gpus: list[Gpu], *, init: int = 0) -> None:
        self.gpus = gpus
        self.cuInit = lambda flags: init

    def cuGetErrorName(self, code: int, name: Any) -> int:
        name._obj.value = NAMES.get(code)
        return 0 if code in NAMES else 1

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = self.gpus[device.value].name.encode()[: length - 1]
        return 0

    def cuDeviceGetUuid(self, buffer: Any, device: Any) -> int:
        buffer._obj[:] = UUID(int=self.gpus[device.value].number).bytes
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> int:
        assert attribute.value == 18
        integrated = self.gpus[device.value].integrated
        if integrated is None:
            return NOT_SUPPORTED
        value._obj.value = integrated
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size._obj.value = self.gpus[device.value].total
        return 0


class FakeNvml(SimpleNamespace):
    """``pynvml`` with the calls that reach the library replaced.

    Attributes:
        opened: How often it was initialised more than shut down.
    """

    def __init__(self, gpus: list[Gpu], *, init: int = 0, first_version: bool = False) -> None:
        super().__init__(**vars(pynvml))
        self.gpus, self.init, self.first_version, self.opened = gpus, init, first_version, 0
        replaced: list[Callable[..., Any]] = [
            self.nvmlInit,
            self.nvmlShutdown,
            self.nvmlSystemGetDriverVersion,
            self.nvmlDeviceGetCount,
            self.nvmlDeviceGetHandleByIndex,
            self.nvmlDeviceGetHandleByUUID,
            self.nvmlDeviceGetUUID,
            self.nvmlDeviceGetName,
            self.nvmlDeviceGetMemoryInfo,
            self.nvmlDeviceGetComputeRunningProcesses,
        ]
        assert all(call.__module__ == "pynvml" for call in replaced)
        for call in replaced:
            setattr(self, call.__name__, getattr(self, f"_{call.__name__}"))

    def _fail(self, code: int) -> None:
        raise pynvml.NVMLError(code)

    def _nvmlInit(self) -> None:
        if self.init:
            self._fail(self.init)
        self.opened += 1

    def _nvmlShutdown(self) -> None:
        self.opened -= 1

    def _nvmlSystemGetDriverVersion(self) -> str:
        assert self.opened
        return "580.95.05"

    def _nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def _nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        if (lost := self.gpus[index].lost) is not None:
            self._fail(lost)
        return self.gpus[index]

    def _nvmlDeviceGetHandleByUUID(self, wanted: str) -> Gpu:
        for gpu in self.gpus:
            if uuid(gpu.number) == wanted:
                return gpu
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def _nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return uuid(gpu.number)

    def _nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return gpu.name

    def _nvmlDeviceGetMemoryInfo(self, gpu: Gpu, version: int | None = None) -> Any:
        if isinstance(gpu.memory, int):
            raise pynvml.NVMLError(gpu.memory)
        total, free, used, reserved = gpu.memory
        if version is None:
            return SimpleNamespace(total=total, free=free, used=used + reserved)
        if self.first_version:
            self._fail(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        assert version == pynvml.nvmlMemory_v2
        return SimpleNamespace(total=total, free=free, used=used, reserved=reserved)

    def _nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[Any]:
        if isinstance(gpu.processes, int):
            raise pynvml.NVMLError(gpu.processes)
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in gpu.processes]
