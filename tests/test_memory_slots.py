"""``slots: auto``: shares, limits, headroom, and that nothing is left lying about."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_plans import HOST, UNIFIED, demand, engine, gpu

from runtime.errors import ConfigError
from runtime.memory.claims import Demand
from runtime.memory.footprint import GIB
from runtime.memory.plan import Plan, Pool, plan
from runtime.memory.policy import MemoryPolicy


def slots(sharing: Plan) -> list[int]:
    return [count for deployment in sharing.deployments for count in deployment.slots]


def with_counts(demands: list[Demand], counts: list[int]) -> list[Demand]:
    """The same deployments with numbers in place of auto."""
    rest = iter(counts)
    return [
        replace(
            one,
            engines=tuple(
                replace(e, footprint=replace(e.footprint, slots=next(rest))) for e in one.engines
            ),
        )
        for one in demands
    ]


def test_slots_that_are_configured_are_left_as_they_are() -> None:
    ears = demand(engine(7, role="live"), engine(None, role="file"), name="ASR")
    first, second = slots(plan([gpu(), HOST], MemoryPolicy(), [ears]))
    assert first == 7
    assert second > 100


def test_two_autos_share_what_is_left_by_weight() -> None:
    ears, voice = demand(engine(None), name="ASR"), demand(engine(None, share=2))
    one, two = slots(plan([gpu(), HOST], MemoryPolicy(), [ears, voice]))
    assert two == pytest.approx(2 * one, abs=2)


def test_shares_count_only_beside_each_other() -> None:
    def shared(first: float, second: float) -> list[int]:
        ears = demand(engine(None, share=first), name="ASR")
        voice = demand(engine(None, share=second))
        return slots(plan([gpu(), HOST], MemoryPolicy(), [ears, voice]))

    def alone(share: float) -> list[int]:
        return slots(plan([gpu(), HOST], MemoryPolicy(), [demand(engine(None, share=share))]))

    assert shared(0.01, 0.02) == shared(1, 2) == shared(500, 1000)
    assert alone(0.01) == alone(1)


def test_a_share_is_of_bytes_and_of_all_replicas_of_a_deployment() -> None:
    large = demand(engine(None, state=0.4), name="ASR")
    several = demand(engine(None, state=0.1), replicas=2)
    per_large, per_small = slots(plan([gpu(), HOST], MemoryPolicy(), [large, several]))
    assert per_large * 0.4 == pytest.approx(2 * per_small * 0.1, rel=0.03)


def test_an_engine_at_its_most_leaves_the_rest_to_the_other() -> None:
    ears, voice = demand(engine(None, max_slots=5), name="ASR"), demand(engine(None))
    sharing = plan([gpu(), HOST], MemoryPolicy(), [ears, voice])
    few, many = slots(sharing)
    assert few == 5
    assert many > 600
    assert sharing.devices[0].headroom < 0.2 * GIB


def test_an_engine_never_takes_more_than_its_limit() -> None:
    limited = demand(engine(None, weights=2, workspace=1, state=0.5, limit=7.2))
    sharing = plan([gpu(), HOST], MemoryPolicy(), [limited])
    assert slots(sharing) == [8]


def test_a_limit_below_a_single_slot_is_refused_and_not_exceeded() -> None:
    with pytest.raises(ConfigError, match=r"TTS: limit_gib of voice is 1\.05.*needs 1\.10"):
        plan([gpu(), HOST], MemoryPolicy(), [demand(engine(None, limit=1.05))])
    assert slots(plan([gpu(), HOST], MemoryPolicy(), [demand(engine(None, limit=1.11))])) == [1]


@pytest.mark.parametrize(("pools", "kept"), [([UNIFIED], 4), ([gpu(), HOST], 0), ([HOST], 0)])
def test_the_headroom_stays_free(pools: list[Pool], kept: float) -> None:
    auto = [demand(engine(None, on_gpu=pools != [HOST]))]
    least = plan(pools, MemoryPolicy(), auto).devices[0].headroom
    assert kept * GIB <= least < (kept + 0.2) * GIB
    more = plan(pools, MemoryPolicy(headroom_gib=9), auto).devices[0].headroom
    assert 9 * GIB <= more < 9.2 * GIB


def test_one_slot_may_use_the_headroom_and_more_may_not() -> None:
    policy = MemoryPolicy(headroom_gib=100)
    sharing = plan([gpu(), HOST], policy, [demand(engine(None, weights=20))])
    assert (slots(sharing), sharing.fits) == ([1], True)


def test_where_not_even_one_slot_fits_the_plan_is_made_with_one() -> None:
    sharing = plan([gpu(), HOST], MemoryPolicy(), [demand(engine(None, weights=90))])
    assert (slots(sharing), sharing.fits) == ([1], False)


def test_with_a_gpu_each_none_waits_for_the_other() -> None:
    ears, voice = demand(engine(None), name="ASR"), demand(engine(None, share=2))
    sharing = plan([gpu(0), gpu(1), HOST], MemoryPolicy(), [ears, voice])
    assert [device.headroom < 0.2 * GIB for device in sharing.devices[:2]] == [True, True]


autos = st.tuples(
    st.floats(0.01, 3),  # state
    st.floats(0.1, 10),  # share
    st.integers(1, 500),  # max_slots
    st.integers(1, 3),  # replicas
)


@settings(deadline=None, max_examples=60)
@given(st.lists(autos, min_size=1, max_size=3), st.floats(0, 20), st.booleans())
def test_no_engine_could_have_one_more(
    wanted: list[tuple[float, float, int, int]], headroom: float, unified: bool
) -> None:
    pools = [UNIFIED] if unified else [gpu(), HOST]
    policy = MemoryPolicy(headroom_gib=headroom)
    demands = [
        demand(
            engine(None, state=state, share=share, max_slots=most),
            name=f"D{index}",
            replicas=replicas,
        )
        for index, (state, share, most, replicas) in enumerate(wanted)
    ]
    sharing = plan(pools, policy, demands)
    counts = slots(sharing)
    kept = policy.headroom(pools[0].kind)

    def enough(counts: list[int]) -> bool:
        tried = plan(pools, policy, with_counts(demands, counts))
        return tried.fits and all(device.headroom >= kept for device in tried.devices[:1])

    assert sharing.fits
    assert enough(counts) or counts == [1] * len(counts)
    for index, (_, _, most, _) in enumerate(wanted):
        assert 1 <= counts[index] <= most
        more = [count + (i == index) for i, count in enumerate(counts)]
        assert counts[index] == most or not enough(more)
