"""The ``memory`` key of a configuration: defaults by kind of device, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.memory.device import Kind
from runtime.memory.footprint import GIB
from runtime.memory.policy import Floors, MemoryPolicy, Neighbour

KINDS: tuple[Kind, ...] = ("unified", "discrete", "host")


def policy(**keys: Any) -> MemoryPolicy:
    return MemoryPolicy.model_validate(keys)


def test_defaults_follow_the_kind_of_device() -> None:
    default = MemoryPolicy()
    assert [default.host_reserve(kind) / GIB for kind in KINDS] == [8, 0.5, 1.5]
    assert [default.headroom(kind) / GIB for kind in KINDS] == [4, 0, 0]
    assert [default.floors.soft(kind) / GIB for kind in KINDS] == [4, 0.25, 0.5]
    assert [default.floors.hard(kind) / GIB for kind in KINDS] == [2, 0.125, 0.25]
    assert default.priority == ("TTS", "ASR")


def test_the_reserve_is_of_the_gpu_and_the_host_beside_it_keeps_its_own() -> None:
    chosen = policy(host_reserve_gib=3)
    assert [chosen.host_reserve(kind) / GIB for kind in KINDS] == [3, 3, 3]
    assert chosen.host_reserve("host", beside_gpus=True) == 1.5 * GIB
    assert policy(host_reserve_gib=0).host_reserve("unified") == 0, "0 is said, and is not unset"


def test_a_neighbours_overhead_is_4_gib_beside_a_utilisation_of_unified_memory() -> None:
    share, exact = Neighbour(name="vllm", utilisation=0.6), Neighbour(name="vllm", gib=60)
    assert [share.overhead(kind) / GIB for kind in KINDS] == [4, 0, 0]
    assert [exact.overhead(kind) for kind in KINDS] == [0, 0, 0]
    said = Neighbour(name="vllm", utilisation=0.6, overhead_gib=0)
    assert said.overhead("unified") == 0
    assert (share.size(1000), exact.size(1000)) == (600, 60 * GIB)


@given(
    st.none() | st.floats(0, 1000),
    st.none() | st.floats(0, 1000),
)
def test_the_hard_floor_is_never_above_the_soft_one(soft: float | None, hard: float | None) -> None:
    if soft is not None and hard is not None and hard > soft:
        with pytest.raises(ValidationError, match=r"hard_gib .* must not be above soft_gib"):
            Floors(soft_gib=soft, hard_gib=hard)
        return
    floors = Floors(soft_gib=soft, hard_gib=hard)
    for kind in KINDS:
        assert floors.hard(kind) <= floors.soft(kind)
        assert soft is None or floors.soft(kind) == round(soft * GIB)
        assert hard is None or floors.hard(kind) == round(hard * GIB)


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"host_reserve_gib": -1}, "host_reserve_gib"),
    ({"host_reserve_gib": float("nan")}, "host_reserve_gib"),
    ({"host_reserve_gib": "a lot"}, "host_reserve_gib"),
    ({"headroom_gib": float("inf")}, "headroom_gib"),
    ({"headroom_gib": 1 << 30}, "headroom_gib"),
    ({"floors": {"soft_gib": -0.5}}, "floors.soft_gib"),
    ({"floors": {"clear_s": 0}}, "floors.clear_s"),
    ({"floors": {"clear_s": float("inf")}}, "floors.clear_s"),
    ({"neighbours": [{"name": "v", "utilisation": 0}]}, "neighbours.0.utilisation"),
    ({"neighbours": [{"name": "v", "utilisation": 60}]}, "neighbours.0.utilisation"),
    ({"neighbours": [{"name": "v", "utilisation": float("nan")}]}, "neighbours.0.utilisation"),
    ({"neighbours": [{"name": "v", "gib": -3}]}, "neighbours.0.gib"),
    ({"neighbours": [{"name": "v", "gib": 1, "overhead_gib": -1}]}, "neighbours.0.overhead_gib"),
    ({"neighbours": [{"name": "", "gib": 1}]}, "neighbours.0.name"),
    ({"neighbours": [{"name": "v", "gib": 1, "devices": []}]}, "neighbours.0.devices"),
    ({"neighbours": [{"name": "v", "gib": 1, "device": 0}]}, "neighbours.0.device"),
    ({"reserve": 1}, "reserve"),
]


@pytest.mark.parametrize(("keys", "place"), NONSENSE)
def test_a_size_that_is_none_is_refused_by_its_key(keys: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        policy(**keys)
    assert [".".join(map(str, e["loc"])) for e in refusal.value.errors()] == [place]


@pytest.mark.parametrize("sizes", [{}, {"utilisation": 0.5, "gib": 40}])
def test_a_neighbour_has_one_size(sizes: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="'vllm' either a utilisation or gib"):
        policy(neighbours=[{"name": "vllm", **sizes}])


def sharing(*utilisations: float, **more: Any) -> list[dict[str, Any]]:
    return [{"name": f"n{i}", "utilisation": u, **more} for i, u in enumerate(utilisations)]


def test_utilisations_of_a_device_sum_to_1_at_the_most() -> None:
    with pytest.raises(ValidationError, match=r"device 0 sum to 1\.1 \(n0 0\.6, n1 0\.5\)"):
        policy(neighbours=sharing(0.6, 0.5))
    assert sum((0.05, 0.55, 0.3, 0.1)) > 1, "in floats"
    assert len(policy(neighbours=sharing(0.05, 0.55, 0.3, 0.1)).neighbours) == 4


def test_utilisations_of_different_devices_are_not_summed() -> None:
    apart = [
        {"name": "a", "utilisation": 0.9, "devices": [0]},
        {"name": "b", "utilisation": 0.9, "devices": [1]},
    ]
    assert len(policy(neighbours=apart).neighbours) == 2
    with pytest.raises(ValidationError, match=r"device 1 sum to 1\.1"):
        policy(neighbours=[apart[1], {"name": "everywhere", "utilisation": 0.2}])


def test_names_are_given_once() -> None:
    with pytest.raises(ValidationError, match="two neighbours have the same name"):
        policy(neighbours=[{"name": "v", "gib": 1}, {"name": "v", "gib": 2}])
    with pytest.raises(ValidationError, match="twice in priority"):
        policy(priority=["TTS", "ASR", "TTS"])
