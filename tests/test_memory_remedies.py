"""What would make a plan fit: each remedy is enough, and asks for no more than is needed."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from memory_plans import HOST, NO_HISTORY, UNIFIED, demand, engine, gpu, plan_of, shipped, vllm

from runtime.memory.claims import Demand
from runtime.memory.demands import demands_of, policy_of
from runtime.memory.device import devices, recorded
from runtime.memory.plan import Pool, plan, pools_of, share_out
from runtime.memory.policy import MemoryPolicy, Neighbour
from runtime.memory.remedies import Remedy, find


def eased(remedy: Remedy) -> list[Remedy]:
    """The remedy with one of its parts a step less."""
    parts = remedy.parts
    return [
        Remedy((*parts[:i], (change, value + 1), *parts[i + 1 :]))
        for i, (change, value) in enumerate(parts)
    ]


def check(pools: list[Pool], policy: MemoryPolicy, demands: tuple[Demand, ...]) -> None:
    """What must be so of each remedy of a plan that does not fit."""
    found = find(pools, policy, demands)
    sharing = plan(pools, policy, demands)
    assert len(found) <= 3
    assert [remedy.size for remedy in found] == sorted(remedy.size for remedy in found)
    assert sharing.remedies == tuple(remedy.text for remedy in found) or not found
    assert sharing.remedies
    for remedy in found:
        assert share_out(pools, *remedy.apply((policy, demands))).fits, remedy.text
        for less in eased(remedy):
            assert not share_out(pools, *less.apply((policy, demands))).fits, less.text


# --- a GB10 beside vLLM ------------------------------------------------------


@pytest.mark.parametrize("utilisation", [0.81, 0.9, 0.97, 1.0])
def test_a_gb10s_remedies_are_enough_and_no_step_too_many(utilisation: float) -> None:
    document = shipped("dgx-spark", neighbours=vllm(utilisation))
    pools = list(pools_of(devices(recorded("gb10"))))
    demands = demands_of(document, "test.yaml", pools, NO_HISTORY)
    policy = policy_of(document, "test.yaml")
    assert 1 <= len(find(pools, policy, demands)) <= 3
    check(pools, policy, demands)


def test_a_remedy_names_the_setting_its_value_and_the_new_one() -> None:
    first = plan_of(shipped("dgx-spark", neighbours=vllm(0.97)), "gb10").remedies[0]
    assert first == "lower utilisation of neighbour vllm from 0.97 to 0.71"


# --- each setting ------------------------------------------------------------


def only_remedies(policy: MemoryPolicy, *demands: Demand) -> tuple[str, ...]:
    check([UNIFIED], policy, demands)
    return plan([UNIFIED], policy, demands).remedies


def test_replicas() -> None:
    assert only_remedies(MemoryPolicy(), demand(engine(weights=30), replicas=5)) == (
        "run 3 replicas of TTS instead of 5",
    )


def test_slots() -> None:
    (text,) = only_remedies(MemoryPolicy(), demand(engine(200, state=1)))
    assert text == "give TTS's voice 118 slots instead of 200"  # 128 - 8 - 1 - 0.25 - 0.6


def test_a_neighbours_exact_size_is_lowered_by_tenths() -> None:
    policy = MemoryPolicy(neighbours=(Neighbour(name="vllm", gib=100.05),))
    (text,) = only_remedies(policy, demand(engine(weights=30, state=0)))
    assert text == "lower gib of neighbour vllm from 100.05 to 89.1"


def test_the_host_reserve_is_lowered_to_half_at_the_most() -> None:
    policy = MemoryPolicy(host_reserve_gib=20)
    assert only_remedies(policy, demand(engine(weights=112, state=0))) == (
        "set host_reserve_gib to 15.1 instead of 20",
    )
    (text,) = only_remedies(policy, demand(engine(weights=120, state=0)))
    assert text.startswith("no single change is enough")


def test_one_engine_of_two_can_be_left_out() -> None:
    ears = demand(engine(role="live", weights=30), engine(role="file", weights=130), name="ASR")
    assert only_remedies(MemoryPolicy(), ears) == ("leave out ASR's file engine, voice",)


def test_where_one_change_is_not_enough_a_neighbours_and_one_of_ours_are() -> None:
    policy = MemoryPolicy(neighbours=(Neighbour(name="vllm", utilisation=0.9),))
    ears = demand(engine(role="live"), engine(role="file", weights=6), name="ASR", replicas=3)
    alone, both, third = only_remedies(policy, ears)
    assert alone == "lower utilisation of neighbour vllm from 0.9 to 0.71"
    assert both == alone.replace("0.71", "0.84") + " and run 1 replica of ASR instead of 3"
    assert third.endswith(" and leave out ASR's file engine, voice")


def test_a_slots_number_that_the_plan_chooses_is_no_remedy() -> None:
    policy = MemoryPolicy(neighbours=(Neighbour(name="vllm", utilisation=0.95),))
    texts = only_remedies(policy, demand(engine(None, weights=3)))
    assert texts == ("lower utilisation of neighbour vllm from 0.95 to 0.87",)


# --- nothing is enough -------------------------------------------------------


def test_what_remains_too_much_is_said_of_the_device_that_is_short() -> None:
    (text,) = plan([gpu(), HOST], MemoryPolicy(), [demand(engine(weights=90))]).remedies
    assert "claims 90.70 GiB" in text
    assert text.endswith("leave 79.50"), "of the GPU, and not of the host beside it"
    both = [gpu(0), gpu(1, 24), HOST]
    (text,) = plan(both, MemoryPolicy(), [demand(engine(weights=90))]).remedies
    assert text.endswith("leave 79.50 and 23.50")
    (text,) = plan([gpu(), HOST], MemoryPolicy(), [demand(engine(host=300))]).remedies
    assert "claims 300.25 GiB" in text
    assert text.endswith("leave 254.50")


def test_all_together_may_be_enough_where_no_single_change_is() -> None:
    voices = [demand(engine(weights=10), name=name, replicas=20) for name in ("ASR", "TTS")]
    (text,) = only_remedies(MemoryPolicy(), *voices)
    assert text == "no single change is enough: run one replica of each deployment with one slot"


# --- whatever is configured --------------------------------------------------

gib = st.floats(0.1, 60).map(lambda size: round(size, 3))
engines = st.builds(
    lambda slots, weights, state: engine(slots, weights=weights, state=state / 20),
    st.none() | st.integers(1, 60),
    gib,
    gib,
)
demands_ = st.lists(
    st.tuples(st.lists(engines, min_size=1, max_size=2), st.integers(1, 5)), min_size=1, max_size=2
)
neighbours = (
    st.none()
    | st.tuples(st.just("utilisation"), st.floats(0.01, 1))
    | st.tuples(st.just("gib"), gib)
)


@settings(deadline=None)
@given(demands_, neighbours, st.none() | gib, st.booleans())
def test_each_remedy_is_enough_and_a_step_less_is_not(
    wanted: list[tuple[list[object], int]],
    neighbour: tuple[str, float] | None,
    reserve: float | None,
    unified: bool,
) -> None:
    others = () if neighbour is None else ({"name": "vllm", neighbour[0]: neighbour[1]},)
    policy = MemoryPolicy.model_validate({"neighbours": others, "host_reserve_gib": reserve})
    demands = tuple(
        demand(*own, name=f"D{index}", replicas=replicas)  # type: ignore[arg-type]
        for index, (own, replicas) in enumerate(wanted)
    )
    pools = [UNIFIED] if unified else [gpu(), HOST]
    assume(not share_out(pools, policy, demands).fits)
    check(pools, policy, demands)
