"""A device's available memory, read again and again: everything it reads is kept open."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

from runtime.memory import driver, host
from runtime.memory.device import Bytes, DeviceMemory, Unknown, cgroup_left
from runtime.memory.host import CgroupFiles, OpenFile


class Meter:
    """Reads what is available on a device of this machine, cheaply, for as long as it is open.

    It reads this machine even if the device is from a recording of another. One thread reads.

    Args:
        device: Whose memory is read: a discrete GPU by its UUID through NVML, a unified one
            and the host from /proc/meminfo, the host within its cgroups' limits.
    """

    def __init__(self, device: DeviceMemory) -> None:
        self._gauge: _HostGauge | _NvmlGauge | Unknown
        if isinstance(device.kind, Unknown):
            self._gauge = device.kind
        elif device.kind == "discrete":
            self._gauge = _NvmlGauge(device.uuid)
        else:
            self._gauge = _HostGauge(within_cgroups=device.kind == "host")

    def read(self) -> Bytes:
        """What can be allocated now, in bytes. A failure is Unknown; the next call tries again."""
        return self._gauge if isinstance(self._gauge, Unknown) else self._gauge.read()

    def close(self) -> None:
        """Let go of what is kept open."""
        if not isinstance(self._gauge, Unknown):
            self._gauge.close()

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _HostGauge:
    """MemAvailable, within the limits of the cgroups this process was in when it opened them."""

    def __init__(self, *, within_cgroups: bool) -> None:
        self._within_cgroups = within_cgroups
        self._meminfo: OpenFile | None = None
        self._cgroups: list[CgroupFiles] = []

    def read(self) -> Bytes:
        try:
            if self._meminfo is None:
                self._open()
            assert self._meminfo is not None
            available = host.meminfo_field(self._meminfo.read(), b"MemAvailable")
            if isinstance(available, str):
                return Unknown(available)
            for cgroup in self._cgroups:
                if (limited := cgroup.read()) is not None:
                    available = min(available, cgroup_left(limited))
        except (OSError, ValueError) as error:
            self.close()
            return Unknown(str(error))
        return available

    def _open(self) -> None:
        """Open the files; limits that cannot be read are none, as where the device was read."""
        opened = host.open_cgroups() if self._within_cgroups else []
        self._cgroups = [] if isinstance(opened, str) else opened
        self._meminfo = OpenFile(host.PROC / "meminfo")

    def close(self) -> None:
        while self._cgroups:
            self._cgroups.pop().close()
        if self._meminfo is not None:
            self._meminfo.close()
            self._meminfo = None


class _NvmlGauge:
    """NVML's free memory of one GPU, through a handle that is kept."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._nvml: Any = None  # set while NVML is initialised
        self._handle: Any = None

    def read(self) -> Bytes:
        try:
            nvml = driver.load_nvml()
        except ImportError as error:
            return Unknown(str(error))
        try:
            if self._nvml is None:
                nvml.nvmlInit()
                self._nvml = nvml
                self._handle = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            return driver.read_nvml_memory(nvml, self._handle).free
        except nvml.NVMLError as error:
            self.close()
            return Unknown(f"NVML: {driver.nvml_reason(nvml, error)}")

    def close(self) -> None:
        if self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            self._nvml = None
