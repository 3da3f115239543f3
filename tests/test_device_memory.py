"""What the readings of a machine mean: sizes, their sources, and what is not known."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.memory.device import (
    DeviceMemory,
    ProcessUse,
    Unknown,
    devices,
    process_bytes,
    recorded,
)
from runtime.memory.readings import (
    Cgroup,
    DeviceReading,
    Driver,
    Meminfo,
    NvmlMemory,
    ProcessReading,
    Readings,
)

GIB = 1 << 30
MADE = Path(__file__).parent / "probes"


def gpu_of(readings: Readings) -> DeviceReading:
    assert isinstance(readings.driver, Driver)
    return readings.driver.devices[0]


def with_gpu(readings: Readings, **changes: Any) -> Readings:
    """The readings with other ones of their first GPU."""
    assert isinstance(readings.driver, Driver)
    gpu = replace(gpu_of(readings), **changes)
    return replace(readings, driver=replace(readings.driver, devices=(gpu,)))


def made(name: str) -> Readings:
    return recorded(str(MADE / f"{name}.json"))


def reason(value: object) -> str:
    assert isinstance(value, Unknown)
    return value.reason


# Unknown


@pytest.mark.parametrize(
    "use",
    [
        lambda unknown: bool(unknown),
        lambda unknown: unknown or 0,
        lambda unknown: int(unknown),
        lambda unknown: unknown + 1,
        lambda unknown: 1 - unknown,
        lambda unknown: unknown * 0.6,
        lambda unknown: unknown < 1,
        lambda unknown: min(1, unknown),
        lambda unknown: sum([1, unknown]),
        lambda unknown: f"{unknown:.1f}",
    ],
)
def test_an_unknown_size_cannot_be_counted_with(use: Any) -> None:
    with pytest.raises(TypeError):
        use(Unknown("nobody said"))


def test_an_unknown_size_is_not_zero_and_says_why() -> None:
    assert Unknown("nobody said") != 0
    assert str(Unknown("nobody said")) == "unknown: nobody said"


# Machines


def test_a_gb10_has_the_hosts_memory_and_is_the_only_pool() -> None:
    (gpu,) = devices(recorded("gb10"))
    assert (gpu.key, gpu.kind, gpu.name) == ("cuda:0", "unified", "NVIDIA GB10")
    assert isinstance(gpu.total.value, int)
    assert f"{gpu.total.value / GIB:.2f}" == "121.69"
    assert gpu.total.source == "/proc/meminfo MemTotal"
    assert gpu.available.value == 120586240 * 1024
    assert gpu.available.source == "/proc/meminfo MemAvailable"
    assert gpu.swap_free is not None
    assert gpu.swap_free.value == 16777212 * 1024
    assert gpu.huge_pages is not None
    assert gpu.huge_pages.value == 0
    assert gpu.processes == (ProcessUse(2741, "llama-server", 430 << 20),)


def test_a_gb10_in_a_container_does_not_know_its_processes_and_ignores_the_cgroup() -> None:
    (gpu,) = devices(made("gb10-container"))
    (outside,) = devices(recorded("gb10"))
    assert "container" in reason(gpu.processes)
    assert (gpu.total, gpu.available) == (outside.total, outside.available)


def test_an_h100_has_cudas_total_and_nvmls_free_memory_and_the_host_comes_last() -> None:
    gpu, host = devices(recorded("h100-80g"))
    reading = gpu_of(recorded("h100-80g"))
    assert isinstance(reading.memory, NvmlMemory)
    assert (gpu.kind, host.kind, host.key, host.uuid) == ("discrete", "host", "host", "")
    assert (gpu.total.value, gpu.total.source) == (reading.cuda_total, "cuDeviceTotalMem")
    assert (gpu.available.value, gpu.available.source) == (reading.memory.free, "NVML free")
    assert gpu.swap_free is None
    assert gpu.huge_pages is None
    assert gpu.uuid.startswith("GPU-")


def test_a_container_that_sees_used_memory_and_no_process_does_not_know_whose_it_is() -> None:
    gpu, host = devices(made("container"))
    assert "40.00 GiB are used" in reason(gpu.processes)
    assert host.total.value == 64 * GIB
    assert host.available.value == 54 * GIB
    assert "cgroup" in host.total.source
    assert "cgroup" in host.available.source


def test_a_machine_without_a_driver_is_its_host_alone() -> None:
    (host,) = devices(made("cpu"))
    assert host.kind == "host"
    assert host.total.value == 24684092 * 1024
    assert host.total.source == "/proc/meminfo MemTotal"
    assert "process_bytes" in reason(host.processes)


# The kind of a GPU


def test_a_gpu_is_unified_by_its_attribute_and_not_by_its_name() -> None:
    gpu, host = devices(
        with_gpu(
            recorded("gb10"),
            integrated=False,
            cuda_total=50 * GIB,
            memory=NvmlMemory(51 * GIB, 40 * GIB, 10 * GIB, GIB),
        )
    )
    assert (gpu.name, gpu.kind, gpu.total.value) == ("NVIDIA GB10", "discrete", 50 * GIB)
    assert host.kind == "host"
    (foo,) = devices(with_gpu(recorded("h100-80g"), name="foo", integrated=True))
    assert (foo.name, foo.kind, foo.total.source) == ("foo", "unified", "/proc/meminfo MemTotal")


def test_a_gpu_with_figures_of_its_own_is_taken_for_discrete_and_its_sources_say_so() -> None:
    readings = with_gpu(recorded("h100-80g"), integrated="hidden", cuda_total="hidden")
    gpu, _ = devices(readings)
    assert gpu.kind == "discrete"
    assert gpu.total.value == 81559 << 20
    assert "NVML total" in gpu.total.source
    assert "taken for discrete" in gpu.total.source
    assert "hidden" in gpu.available.source


def test_a_gpu_that_neither_cuda_nor_nvml_tells_of_has_no_kind_and_no_size() -> None:
    gpu, host = devices(with_gpu(recorded("gb10"), integrated="hidden", cuda_total="hidden"))
    assert "hidden" in reason(gpu.kind)
    assert "NOT_SUPPORTED" in reason(gpu.total.value)
    assert isinstance(gpu.available.value, Unknown)
    assert host.key == "host"


def test_a_discrete_gpu_without_cudas_total_has_nvmls() -> None:
    gpu, _ = devices(with_gpu(recorded("h100-80g"), cuda_total="no"))
    assert gpu.total.value == 81559 << 20
    assert "NVML total" in gpu.total.source


def test_a_discrete_gpu_without_nvml_has_a_total_and_an_unknown_rest() -> None:
    gpu, _ = devices(with_gpu(recorded("h100-80g"), memory="NO_PERMISSION"))
    assert isinstance(gpu.total.value, int)
    assert reason(gpu.available.value) == "NVML: NO_PERMISSION"
    neither, _ = devices(with_gpu(recorded("h100-80g"), memory="NO_PERMISSION", cuda_total="no"))
    assert reason(neither.total.value) == "CUDA: no; NVML: NO_PERMISSION"


# Processes


@pytest.mark.parametrize(
    ("free", "reserved", "known"),
    [
        (78 * GIB, 2 * GIB, True),
        (78 * GIB - 300 * (1 << 20), 2 * GIB, True),
        (78 * GIB - 320 * (1 << 20), 2 * GIB, False),
        (78 * GIB, None, False),
        (80 * GIB, None, True),
    ],
)
def test_no_process_is_believed_only_of_a_gpu_that_nobody_uses(
    free: int, reserved: int | None, known: bool
) -> None:
    memory = NvmlMemory(80 * GIB, free, 80 * GIB - free - (reserved or 0), reserved)
    gpu, _ = devices(with_gpu(recorded("h100-80g"), memory=memory, processes=()))
    assert (gpu.processes == ()) is known
    assert isinstance(gpu.processes, Unknown) is not known


def test_a_process_without_a_size_holds_an_unknown_size() -> None:
    listed = (ProcessReading(7, "vllm", None), ProcessReading(8, "tts", 5))
    gpu, _ = devices(with_gpu(recorded("h100-80g"), processes=listed))
    assert "without a size" in reason(process_bytes(gpu, 7))
    assert process_bytes(gpu, 8) == 5
    assert "namespace" in reason(process_bytes(gpu, 9))


def test_processes_that_the_driver_does_not_tell_of_are_unknown() -> None:
    gpu, _ = devices(with_gpu(recorded("h100-80g"), processes="NO_PERMISSION"))
    assert reason(gpu.processes) == "NVML: NO_PERMISSION"
    assert process_bytes(gpu, 1) == gpu.processes


def test_a_process_on_the_host_holds_its_proportional_set_size() -> None:
    (host,) = devices(made("cpu"))
    held = process_bytes(host, os.getpid())
    assert isinstance(held, int)
    assert held > 4 << 20
    assert "no process" in reason(process_bytes(host, 2**22 + 1))


# The host


def host_of(readings: Readings) -> DeviceMemory:
    return devices(readings)[-1]


def test_the_tightest_limit_counts_and_total_and_available_may_differ_in_it() -> None:
    inner, outer = Cgroup("/in", 8 * GIB, GIB), Cgroup("/out", 10 * GIB, 9 * GIB)
    host = host_of(replace(made("cpu"), cgroups=(inner, outer)))
    assert (host.total.value, host.total.source) == (8 * GIB, "limit of cgroup /in")
    assert host.available.value == GIB
    assert host.available.source.endswith("/out")


def test_a_cgroup_that_is_over_its_limit_has_nothing_left() -> None:
    assert (
        host_of(replace(made("cpu"), cgroups=(Cgroup("/in", GIB, 2 * GIB),))).available.value == 0
    )


def test_a_limit_above_the_machines_memory_limits_nothing() -> None:
    host = host_of(replace(made("cpu"), cgroups=(Cgroup("/in", 1 << 50, 0),)))
    assert host.total.source == "/proc/meminfo MemTotal"
    assert host.available.source == "/proc/meminfo MemAvailable"


def test_limits_that_cannot_be_read_are_a_doubt_in_the_source_of_what_is_known() -> None:
    readings = replace(made("cpu"), cgroups="memory.max: Permission denied")
    host, sure = host_of(readings), host_of(replace(readings, cgroups=()))
    for doubted, known in ((host.total, sure.total), (host.available, sure.available)):
        assert doubted.value == known.value
        assert "Permission denied" in doubted.source


@pytest.mark.parametrize("name", ["cpu", "gb10-container"])
def test_an_unreadable_proc_leaves_everything_read_from_it_unknown(name: str) -> None:
    device = host_of(replace(made(name), meminfo="/proc/meminfo: Permission denied"))
    assert device.swap_free is not None
    assert device.huge_pages is not None
    for figure in (device.total, device.available, device.swap_free, device.huge_pages):
        assert reason(figure.value) == "/proc/meminfo: Permission denied"


def test_a_line_that_the_kernel_lacks_is_unknown_and_the_others_are_not() -> None:
    meminfo = made("cpu").meminfo
    assert isinstance(meminfo, Meminfo)
    lacking = replace(meminfo, huge_page_size="there is none", mem_available="an old kernel")
    host = host_of(replace(made("cpu"), meminfo=lacking, cgroups=(Cgroup("/in", GIB, 0),)))
    assert host.huge_pages is not None
    assert reason(host.huge_pages.value) == "there is none"
    assert reason(host.available.value) == "an old kernel"
    assert host.total.value == GIB


def test_huge_pages_are_shown_and_not_counted() -> None:
    meminfo = recorded("gb10").meminfo
    assert isinstance(meminfo, Meminfo)
    reserved = replace(meminfo, huge_pages_total=512, huge_pages_free=512)
    (gpu,) = devices(replace(recorded("gb10"), meminfo=reserved))
    assert gpu.huge_pages is not None
    assert gpu.huge_pages.value == GIB
    assert gpu.available == devices(recorded("gb10"))[0].available
