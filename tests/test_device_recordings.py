"""Recordings of machines: to JSON and back, by name or by path, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.memory.device import PROBES, devices, read, recorded
from runtime.memory.readings import (
    Cgroup,
    DeviceReading,
    Driver,
    Meminfo,
    NvmlMemory,
    ProcessReading,
    Readings,
)

ALL = sorted([*PROBES.glob("*.json"), *(Path(__file__).parent / "probes").glob("*.json")])

size = st.integers(0, 1 << 50)
text = st.text(max_size=8)
maybe_size = size | text
process = st.builds(ProcessReading, pid=size, name=text, bytes=st.none() | size)
device = st.builds(
    DeviceReading,
    index=st.integers(0, 99),
    uuid=text,
    name=text,
    integrated=st.booleans() | text,
    cuda_total=maybe_size,
    memory=text | st.builds(NvmlMemory, size, size, size, st.none() | size),
    processes=text | st.lists(process, max_size=3).map(tuple),
)
driver = st.builds(
    Driver,
    version=text,
    cuda=st.none() | text,
    nvml=st.none() | text,
    devices=st.lists(device, max_size=3, unique_by=lambda each: each.index).map(tuple),
)
machines = st.builds(
    Readings,
    meminfo=text | st.builds(Meminfo, *[maybe_size] * 7),
    cgroups=text | st.lists(st.builds(Cgroup, text, size, size), max_size=3).map(tuple),
    driver=text | driver,
    note=text,
)


@given(machines)
def test_readings_survive_json(readings: Readings) -> None:
    assert Readings.from_json(json.loads(json.dumps(readings.to_json()))) == readings


@given(machines)
def test_any_readings_can_be_interpreted_and_no_two_devices_share_a_key(
    readings: Readings,
) -> None:
    found = devices(readings)
    assert len({each.key for each in found}) == len(found) > 0
    assert not ({"unified", "host"} <= {each.kind for each in found if isinstance(each.kind, str)})


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_recording_says_where_it_is_from_and_is_written_as_it_would_be_again(path: Path) -> None:
    readings = recorded(str(path))
    assert readings.note
    assert readings.to_json() == json.loads(path.read_text())


def test_the_packages_recordings_are_known_by_name() -> None:
    for name in ("gb10", "h100-80g"):
        assert recorded(name) == recorded(str(PROBES / f"{name}.json"))


def test_auto_is_this_machine() -> None:
    now, before = recorded("auto"), read()
    assert (now.driver, now.note) == (before.driver, "")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["meminfo", "mem_total"], -1, "meminfo.mem_total: -1 is negative"),
        (["meminfo", "mem_total"], 1.5, "meminfo.mem_total: 1.5 is not a whole number or a string"),
        (["meminfo", "mem_total"], True, "meminfo.mem_total: True is not"),
        (["meminfo", "swap_free"], None, "meminfo.swap_free: None is not"),
        (["meminfo"], [], "meminfo: .* is not an object or a string"),
        (["cgroups"], None, "cgroups: None is not a list or a string"),
        (["driver", "devices", 0, "integrated"], 1, r"driver.devices\[0\].integrated: 1 is not"),
        (["driver", "devices", 0, "memory", "free"], -5, r"devices\[0\].memory.free: -5 is neg"),
        (["driver", "devices", 0, "index"], "0", r"devices\[0\].index: '0' is not a whole number"),
        (["driver", "devices", 0, "processes"], [{"pid": 1}], r"processes\[0\].bytes: is missing"),
        (["driver", "devices", 0, "vram"], 1, r"devices\[0\].vram: there is no such key"),
        (["driver", "nvml"], 0, "driver.nvml: 0 is not a string or null"),
        (["extra"], 1, "extra: there is no such key"),
    ],
)
def test_nonsense_in_a_recording_is_refused_by_its_key(
    keys: list[Any], value: object, message: str
) -> None:
    recording = recorded("h100-80g").to_json()
    place: Any = recording
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(ConfigError, match=message):
        Readings.from_json(recording)


@pytest.mark.parametrize("key", ["meminfo", "cgroups", "driver"])
def test_a_recording_that_lacks_a_key_is_refused(key: str) -> None:
    recording = recorded("h100-80g").to_json()
    del recording[key]
    with pytest.raises(ConfigError, match=f"{key}: is missing"):
        Readings.from_json(recording)


def test_two_devices_of_one_index_are_refused() -> None:
    recording = recorded("h100-80g").to_json()
    recording["driver"]["devices"] *= 2
    with pytest.raises(ConfigError, match="more than one has the index 0"):
        Readings.from_json(recording)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}"])
def test_a_file_that_is_no_recording_is_refused_by_its_path(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"it\.json is not a recording"):
        recorded(str(path))
    with pytest.raises(ConfigError, match="is not a recording"):
        recorded(str(tmp_path))


def test_a_name_that_is_unknown_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'gb10'\? Known: auto, gb10, h100-80g"):
        recorded("bg10")
    with pytest.raises(ConfigError, match=r"no such file\. Known: auto"):
        recorded("/nowhere/it.json")
