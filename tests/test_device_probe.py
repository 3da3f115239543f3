"""What the probe reads: from NVIDIA's driver through fakes, from /proc and cgroups as files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest
from fake_driver import NO_DEVICE, FakeCuda, FakeNvml, Gpu, uuid

from runtime.memory import driver, host
from runtime.memory.device import DeviceMemory, Unknown, devices, read, recorded
from runtime.memory.driver import read_driver
from runtime.memory.host import read_cgroups, read_meminfo
from runtime.memory.meter import Meter
from runtime.memory.readings import Cgroup, Driver, Meminfo, NvmlMemory, ProcessReading

GIB = 1 << 30


def reason(value: object) -> str:
    assert isinstance(value, Unknown)
    return value.reason


# The driver


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put libcuda and NVML in the driver's place; an exception is raised by loading it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(cuda: Any, nvml: Any) -> None:
        def load(what: Any) -> Any:
            if isinstance(what, Exception):
                raise what
            return what

        monkeypatch.setattr(driver, "load_cuda", lambda: load(cuda))
        monkeypatch.setattr(driver, "load_nvml", lambda: load(nvml))

    return put


def answered() -> Driver:
    read = read_driver()
    assert isinstance(read, Driver)
    return read


def test_a_gpu_is_read_from_both_libraries_and_nvml_is_shut_down(drive: Any) -> None:
    nvml = FakeNvml([Gpu(5, processes=[(os.getpid(), 7), (1 << 22, None)])])
    drive(FakeCuda(nvml.gpus), nvml)
    read = answered()
    assert (read.version, read.cuda, read.nvml) == ("580.95.05", None, None)
    (device,) = read.devices
    assert (device.index, device.uuid, device.name) == (0, uuid(5), "NVIDIA H100 80GB HBM3")
    assert device.integrated is False
    assert device.cuda_total == 79 * GIB
    assert device.memory == NvmlMemory(80 * GIB, 78 * GIB, GIB, GIB)
    mine, hidden = device.processes
    assert isinstance(mine, ProcessReading)
    assert (mine.pid, mine.bytes) == (os.getpid(), 7)
    assert mine.name not in ("", "?")
    assert hidden == ProcessReading(1 << 22, "?", None)
    assert nvml.opened == 0


def test_devices_are_matched_by_uuid_and_keep_nvmls_order(drive: Any) -> None:
    first, second = Gpu(1, total=10), Gpu(2, total=20, integrated=1)
    drive(FakeCuda([second, first]), FakeNvml([first, second]))
    read = answered().devices
    assert [(each.index, each.uuid, each.cuda_total) for each in read] == [
        (0, uuid(1), 10),
        (1, uuid(2), 20),
    ]
    assert [each.integrated for each in read] == [False, True]


def test_a_device_that_is_hidden_from_cuda_is_not_counted_and_the_others_keep_their_index(
    drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Gpu(1), Gpu(2, total=20)
    drive(FakeCuda([second]), FakeNvml([first, second]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    (seen,) = answered().devices
    assert (seen.index, seen.cuda_total) == (1, 20)


def test_where_all_gpus_are_hidden_there_are_none(
    drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(FakeCuda([Gpu(1)]), FakeNvml([Gpu(1)]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides the GPUs" in str(read_driver())


def test_a_device_that_only_cuda_has_comes_after_nvmls(drive: Any) -> None:
    drive(FakeCuda([Gpu(9, name="slice"), Gpu(1)]), FakeNvml([Gpu(1)]))
    _, extra = answered().devices
    assert (extra.index, extra.name, extra.uuid) == (1, "slice", uuid(9))
    assert "NVML lists no device" in str(extra.memory)


def test_without_any_driver_the_reading_says_what_is_missing(drive: Any) -> None:
    drive(OSError("libcuda.so.1: none"), FakeNvml([], init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert read_driver() == "CUDA: libcuda.so.1: none; NVML: LIBRARY_NOT_FOUND"


def test_a_driver_that_may_not_be_used_is_a_reason(drive: Any) -> None:
    drive(FakeCuda([], init=NO_DEVICE), FakeNvml([], init=pynvml.NVML_ERROR_NO_PERMISSION))
    assert read_driver() == "CUDA: cuInit: CUDA_ERROR_NO_DEVICE; NVML: NO_PERMISSION"


def test_an_error_without_a_name_is_told_by_its_number(drive: Any) -> None:
    drive(FakeCuda([], init=4711), ImportError("No module named 'pynvml'"))
    assert read_driver() == "CUDA: cuInit: error 4711; NVML: No module named 'pynvml'"


def test_cuda_alone_gives_totals_and_says_that_nvml_failed(drive: Any) -> None:
    drive(FakeCuda([Gpu(3)]), FakeNvml([], init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    read = answered()
    assert (read.cuda, read.nvml) == (None, "DRIVER_NOT_LOADED")
    (device,) = read.devices
    assert (device.uuid, device.cuda_total) == (uuid(3), 79 * GIB)
    assert device.memory == device.processes == "NVML: DRIVER_NOT_LOADED"


def test_nvml_alone_gives_memory_and_says_that_cuda_failed(
    drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    drive(FakeCuda([], init=NO_DEVICE), FakeNvml([Gpu(3)]))
    read = answered()
    assert read.cuda == "cuInit: CUDA_ERROR_NO_DEVICE (CUDA_VISIBLE_DEVICES is '7')"
    (device,) = read.devices
    assert device.integrated == device.cuda_total == f"CUDA: {read.cuda}"
    assert isinstance(device.memory, NvmlMemory)


def test_each_reading_of_a_device_fails_alone(drive: Any) -> None:
    gpu = Gpu(
        1,
        integrated=None,
        memory=pynvml.NVML_ERROR_NOT_SUPPORTED,
        processes=pynvml.NVML_ERROR_NO_PERMISSION,
    )
    drive(FakeCuda([gpu]), FakeNvml([gpu]))
    (device,) = answered().devices
    assert device.integrated == "cuDeviceGetAttribute: CUDA_ERROR_NOT_SUPPORTED"
    assert device.cuda_total == 79 * GIB
    assert (device.memory, device.processes) == ("NOT_SUPPORTED", "NO_PERMISSION")


def test_a_device_that_is_lost_keeps_its_index(drive: Any) -> None:
    gpus = [Gpu(1, lost=pynvml.NVML_ERROR_GPU_IS_LOST), Gpu(2)]
    drive(FakeCuda(gpus[1:]), FakeNvml(gpus))
    lost, other = answered().devices
    assert (lost.index, lost.uuid, lost.memory) == (0, "", "GPU_IS_LOST")
    assert (other.index, other.cuda_total) == (1, 79 * GIB)


def test_an_old_driver_does_not_tell_what_it_reserves(drive: Any) -> None:
    drive(FakeCuda([Gpu(1)]), FakeNvml([Gpu(1)], first_version=True))
    (device,) = answered().devices
    assert device.memory == NvmlMemory(80 * GIB, 78 * GIB, 2 * GIB, None)


# The host


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc of its own, with 8 GiB of which 6 are available, and no cgroups."""
    monkeypatch.setattr(host, "PROC", tmp_path / "proc")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable: 6291456 kB\n"
        "SwapTotal: 0 kB\nSwapFree: 0 kB\nHugePages_Total:   3\nHugePages_Free: 1\n"
    )
    return tmp_path / "proc"


def limit(folder: Path, limit: str, usage: int, inactive: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\nactive_file 3\n")


@pytest.fixture
def cgroup2(proc: Path) -> Path:
    """The mount of cgroup v2, this process in ``a/b`` beneath its root."""
    top = proc.parent / "cgroup"
    (top / "a/b").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/a/b\n")
    (proc / "self/mountinfo").write_text(
        f"22 1 0:2 / /proc rw - proc proc rw\n31 23 0:28 / {top} rw,relatime - cgroup2 cgroup2 rw\n"
    )
    return top


def test_meminfo_is_read_in_bytes_and_pages_as_they_are(proc: Path) -> None:
    meminfo = read_meminfo()
    assert isinstance(meminfo, Meminfo)
    assert (meminfo.mem_total, meminfo.mem_available) == (8 * GIB, 6 * GIB)
    assert (meminfo.huge_pages_total, meminfo.huge_pages_free) == (3, 1)
    assert meminfo.huge_page_size == "/proc/meminfo has no Hugepagesize"


def test_an_unreadable_proc_is_a_reason(proc: Path) -> None:
    (proc / "meminfo").unlink()
    assert read_meminfo() == f"{proc}/meminfo: No such file or directory"


def test_a_kernel_without_cgroups_limits_nothing(proc: Path) -> None:
    assert read_cgroups() == ()


def test_every_cgroup_above_that_has_a_limit_counts_without_its_inactive_files(
    cgroup2: Path,
) -> None:
    limit(cgroup2 / "a/b", str(4 * GIB), 3 * GIB, GIB)
    limit(cgroup2 / "a", "max", 9, 0)
    limit(cgroup2, str(5 * GIB), GIB, 2 * GIB)
    assert read_cgroups() == (
        Cgroup(f"{cgroup2}/a/b", 4 * GIB, 2 * GIB),
        Cgroup(str(cgroup2), 5 * GIB, 0),
    )


def test_a_cgroup_without_a_memory_controller_limits_nothing(cgroup2: Path) -> None:
    assert read_cgroups() == ()


@pytest.mark.parametrize("own", ["/../../elsewhere", "/system.slice/docker-1.scope"])
def test_a_container_that_sees_another_path_is_limited_by_what_is_mounted(
    cgroup2: Path, proc: Path, own: str
) -> None:
    (proc / "self/cgroup").write_text(f"0::{own}\n")
    limit(cgroup2, str(GIB), 5, 2)
    assert read_cgroups() == (Cgroup(str(cgroup2), GIB, 3),)


def test_the_first_version_of_cgroups_is_read_by_its_own_names(proc: Path) -> None:
    top = proc.parent / "memory"
    (proc / "self/cgroup").write_text("9:cpu:/x\n4:memory:/docker/1/in\n0::/\n")
    (proc / "self/mountinfo").write_text(
        f"35 31 0:32 / {proc} rw - cgroup cgroup rw,cpu\n"
        f"36 31 0:33 /docker/1 {top} rw - cgroup cgroup rw,memory\n"
    )
    for folder, limited in ((top / "in", 2 * GIB), (top, 9223372036854771712)):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "memory.limit_in_bytes").write_text(f"{limited}\n")
        (folder / "memory.usage_in_bytes").write_text("50\n")
        (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 20\n")
    assert read_cgroups() == (Cgroup(f"{top}/in", 2 * GIB, 30),)


def test_limits_that_cannot_be_read_are_a_reason(cgroup2: Path, proc: Path) -> None:
    limit(cgroup2, "many", 5, 2)
    assert "many" in str(read_cgroups())
    limit(cgroup2, "5", 5, 2)
    (cgroup2 / "memory.stat").write_text("")
    assert "memory.stat has no inactive_file" in str(read_cgroups())
    (proc / "self/mountinfo").write_text("")
    assert read_cgroups() == "cgroup v2 is not mounted, so its limits cannot be read"


# This machine


def test_this_machines_host_has_the_pages_that_the_system_counts() -> None:
    here = devices(read())[-1]
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if here.total.source == "/proc/meminfo MemTotal":
        assert here.total.value == pages
    else:
        assert "cgroup" in here.total.source
        assert isinstance(here.total.value, int)
        assert 0 < here.total.value < pages


def test_reading_this_machine_leaves_no_file_open() -> None:
    read()
    before = len(os.listdir("/proc/self/fd"))
    read()
    with Meter(devices(read())[-1]) as meter:
        meter.read()
    assert len(os.listdir("/proc/self/fd")) == before


# The meter


@pytest.fixture
def here() -> Iterator[Meter]:
    with Meter(devices(read())[-1]) as meter:
        yield meter


def host_device() -> DeviceMemory:
    return devices(recorded("h100-80g"))[-1]


def test_memory_that_is_taken_is_missing_from_the_meter(here: Meter) -> None:
    def missing() -> int:
        before = here.read()
        ballast = bytearray(b"x") * (256 << 20)
        during = here.read()
        assert isinstance(before, int)
        assert isinstance(during, int)
        assert len(ballast) == 256 << 20
        return before - during

    # Others take and release memory of this machine too.
    assert any(128 << 20 < missing() < 384 << 20 for _ in range(10))


def test_a_meter_follows_the_host_within_its_cgroup(cgroup2: Path, proc: Path) -> None:
    limit(cgroup2 / "a", str(4 * GIB), GIB, 0)
    with Meter(host_device()) as meter:
        assert meter.read() == 3 * GIB
        limit(cgroup2 / "a", str(4 * GIB), 2 * GIB, 0)
        assert meter.read() == 2 * GIB
        limit(cgroup2 / "a", "max", 2 * GIB, 0)
        assert meter.read() == 6 * GIB


def test_a_meter_of_unified_memory_does_not_ask_the_cgroup(cgroup2: Path) -> None:
    limit(cgroup2 / "a", str(GIB), GIB, 0)
    with Meter(devices(recorded("gb10"))[0]) as meter:
        assert meter.read() == 6 * GIB


def test_a_meter_whose_file_is_gone_says_so_and_comes_back_with_it(proc: Path) -> None:
    content = (proc / "meminfo").read_text()
    with Meter(host_device()) as meter:
        assert meter.read() == 6 * GIB
        (proc / "meminfo").write_text("MemFree: 1 kB\n")
        assert reason(meter.read()) == "/proc/meminfo has no MemAvailable"
        (proc / "meminfo").write_text(content)
        assert meter.read() == 6 * GIB
    (proc / "meminfo").unlink()
    with Meter(host_device()) as meter:
        assert "No such file" in reason(meter.read())
        (proc / "meminfo").write_text(content)
        assert meter.read() == 6 * GIB


def test_a_meter_of_a_gpu_keeps_nvml_open_and_recovers_from_its_errors(drive: Any) -> None:
    gpu = Gpu(1)
    nvml = FakeNvml([gpu])
    drive(FakeCuda([gpu]), nvml)
    with Meter(devices(read())[0]) as meter:
        assert [meter.read(), meter.read()] == [78 * GIB] * 2
        assert nvml.opened == 1
        gpu.memory = pynvml.NVML_ERROR_GPU_IS_LOST
        assert reason(meter.read()) == "NVML: GPU_IS_LOST"
        gpu.memory = (80 * GIB, 5, 0, 0)
        assert meter.read() == 5
        assert nvml.opened == 1
    assert nvml.opened == 0


def test_a_meter_of_a_gpu_that_is_not_here_is_unknown(drive: Any) -> None:
    nvml = FakeNvml([Gpu(1)])
    drive(FakeCuda([]), nvml)
    with Meter(devices(recorded("h100-80g"))[0]) as meter:
        assert reason(meter.read()) == "NVML: NOT_FOUND"
        assert nvml.opened == 0


def test_a_meter_of_a_gpu_of_no_known_kind_is_unknown(drive: Any) -> None:
    gpu = Gpu(1, integrated=None, memory=pynvml.NVML_ERROR_NOT_SUPPORTED)
    drive(FakeCuda([gpu]), FakeNvml([gpu]))
    with Meter(devices(read())[0]) as meter:
        assert "NOT_SUPPORTED" in reason(meter.read())
