"""The budget on paper: formulas, devices, and that what is told to Ray is never too much."""

from __future__ import annotations

import subprocess
import sys
import time
import timeit
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_plans import HOST, NO_HISTORY, UNIFIED, demand, engine, gpu, plan_of, shipped, vllm

from runtime.errors import ConfigError, MemoryUnknown
from runtime.memory.claims import CONTEXT, REPLICA_HOST, EngineDemand, claim_of
from runtime.memory.demands import demands_of, policy_of
from runtime.memory.device import Figure, Unknown, devices, recorded
from runtime.memory.footprint import GIB
from runtime.memory.plan import RAY_UNITS, Plan, plan, pools_of, units
from runtime.memory.policy import MemoryPolicy, Neighbour
from runtime.memory.readings import Meminfo

NOTHING_ELSE = MemoryPolicy(host_reserve_gib=0)


def ray_units(sharing: Plan, device: int) -> int:
    """What Ray counts on a GPU, what is withheld included, in its steps."""
    there = sharing.devices[device]
    fractions = {d.demand.deployment: d.num_gpus for d in sharing.deployments}
    ours = sum(round(fractions[name] * RAY_UNITS) * count for name, count in there.replicas)
    return ours + units(there.withheld, there.pool.total)


# --- a GB10 and an H100 ------------------------------------------------------


def test_a_gb10_beside_vllm_at_60_percent_has_room_for_ears_and_a_mouth() -> None:
    sharing = plan_of(shipped("dgx-spark"), "gb10")
    (device,) = sharing.devices
    (neighbour,) = device.neighbours
    assert f"{device.pool.total / GIB:.2f}" == "121.69"
    assert f"{neighbour.bytes / GIB:.2f}" == "73.01"
    assert (neighbour.overhead, device.host_reserve) == (4 * GIB, 8 * GIB)
    assert device.budget == device.pool.total - neighbour.bytes - 12 * GIB
    assert device.replicas == (("ASR", 1), ("TTS", 1))
    assert device.claimed == sum(d.claim.total for d in sharing.deployments)
    assert (sharing.fits, sharing.serves, sharing.remedies) == (True, True, ())


def test_a_gb10_beside_vllm_at_97_percent_has_no_room_and_says_what_would_make_some() -> None:
    sharing = plan_of(shipped("dgx-spark", neighbours=vllm(0.97)), "gb10")
    assert sharing.devices[0].budget < 0
    assert (sharing.fits, sharing.serves) == (False, False)
    assert 1 <= len(sharing.remedies) <= 3


def test_on_an_h100_weights_and_slots_are_the_gpus_and_the_processes_are_the_hosts() -> None:
    sharing = plan_of(shipped("h100"), "h100-80g")
    assert sharing.fits
    card, host = sharing.devices
    assert (card.pool.kind, host.pool.kind) == ("discrete", "host")
    assert card.neighbours[0].overhead == 0
    assert host.neighbours == ()
    for deployment in sharing.deployments:
        assert deployment.gpu is not None
        assert deployment.host is not None
        assert (deployment.gpu.host, deployment.gpu.context) == (0, CONTEXT)
        assert deployment.host.total == deployment.host.host > REPLICA_HOST


# --- the formulas ------------------------------------------------------------


def test_a_claim_on_unified_memory_is_the_sum_of_its_parts_with_cudas_own_once() -> None:
    live = engine(16, role="live", weights=2, workspace=1, state=0.5, host=1, outside=0.5)
    file = engine(4, role="file", weights=3, workspace=2, state=0.25, host=1.5, outside=0.25)
    claim = claim_of(demand(live, file), (16, 4), "unified")
    assert claim is not None
    assert (claim.context, claim.weights) == (CONTEXT, 5 * GIB)
    assert claim.workspace == (3 - 0.25) * GIB, "what is outside is shared in a process"
    assert claim.state == (8 + 1) * GIB
    assert claim.host == REPLICA_HOST + 1.5 * GIB, "libraries are shared in a process"
    assert claim.total == CONTEXT + (5 + 3 - 0.25 + 9) * GIB + claim.host
    assert claim.allocator == (5 + 3 - 0.75 + 9) * GIB


def test_the_second_engine_of_a_process_is_loaded_on_top_of_what_the_first_one_leaves() -> None:
    def host(*engines: EngineDemand) -> float:
        claim = claim_of(demand(*engines), (1,) * len(engines), "host")
        assert claim is not None
        return (claim.host - REPLICA_HOST) / GIB

    live = engine(role="live", host=6, host_kept=3)
    file = engine(role="file", host=5, host_kept=1)
    assert host(live) == 6
    assert host(live, file) == 3 + 5
    assert host(file, live) == 1 + 6
    assert host(live, engine(role="file", host=2)) == 6


def test_engines_on_gpu_and_host_in_one_replica_claim_each_of_its_own_device() -> None:
    mixed = demand(
        engine(2, role="live", weights=2, state=1),
        engine(3, role="file", on_gpu=False, weights=4, state=0.5),
    )
    card, host = claim_of(mixed, (2, 3), "discrete"), claim_of(mixed, (2, 3), "host")
    assert card is not None
    assert host is not None
    assert (card.weights, card.state, card.context) == (2 * GIB, 2 * GIB, CONTEXT)
    assert (host.weights, host.state, host.context) == (4 * GIB, 1.5 * GIB, 0)


def test_an_engine_on_the_host_claims_nothing_of_a_gpu_but_its_part_of_unified_memory() -> None:
    ears = demand(engine(on_gpu=False))
    assert claim_of(ears, (1,), "discrete") is None
    (deployment,) = plan([gpu(), HOST], MemoryPolicy(), [ears]).deployments
    assert (deployment.gpu, deployment.num_gpus, deployment.placed) == (None, 0, 1)
    (deployment,) = plan([UNIFIED], MemoryPolicy(), [ears]).deployments
    assert deployment.claim.context == 0
    assert deployment.num_gpus > 0


@pytest.mark.parametrize("kind", ["unified", "discrete"])
def test_what_was_measured_replaces_weights_and_workspace_and_nothing_else(kind: str) -> None:
    estimated = demand(engine(2, weights=2, workspace=1, state=1, host=1))
    measured = replace(estimated, measured=7 * GIB)
    before = claim_of(estimated, (2,), kind)  # type: ignore[arg-type]
    after = claim_of(measured, (2,), kind)  # type: ignore[arg-type]
    assert before is not None
    assert after == replace(before, weights=7 * GIB, workspace=0)
    assert (estimated.weights_from, measured.weights_from) == ("table", "measured")
    assert claim_of(measured, (2,), "host") == claim_of(estimated, (2,), "host")


@given(
    total=st.integers(1, 1 << 42),
    claim=st.integers(0, 1 << 42),
)
def test_the_fraction_for_ray_is_rounded_up_to_a_step_and_no_further(
    total: int, claim: int
) -> None:
    steps = units(claim, total)
    assert Fraction(steps - 1, RAY_UNITS) < Fraction(claim, total) <= Fraction(steps, RAY_UNITS)


sizes = st.floats(0.01, 30, allow_nan=False)
deployments = st.lists(
    st.tuples(sizes, sizes, st.integers(1, 40), st.integers(1, 6)), min_size=1, max_size=4
)


@settings(deadline=None)
@given(
    deployments,
    st.lists(st.floats(16, 160), min_size=1, max_size=4),
    st.floats(0.01, 0.9),
    st.booleans(),
)
def test_neither_rays_count_nor_the_bytes_of_a_device_are_ever_exceeded(
    wanted: list[tuple[float, float, int, int]], cards: list[float], used: float, unified: bool
) -> None:
    policy = MemoryPolicy(neighbours=(Neighbour(name="vllm", utilisation=used),))
    pools = [gpu(i, gib) for i, gib in enumerate(cards)] + [HOST]
    if unified:
        pools = [UNIFIED]
    demands = [
        demand(engine(slots, weights=weights, state=state / 10), name=f"D{i}", replicas=replicas)
        for i, (weights, state, slots, replicas) in enumerate(wanted)
    ]
    sharing = plan(pools, policy, demands)
    for index, device in enumerate(sharing.devices):
        on_gpu = device.pool.index is not None
        claims = {d.demand.deployment: d.gpu if on_gpu else d.host for d in sharing.deployments}
        claimed = sum(claim.total * n for name, n in device.replicas if (claim := claims[name]))
        assert device.claimed == claimed
        if device.replicas:
            assert device.headroom >= 0
            assert not on_gpu or ray_units(sharing, index) <= RAY_UNITS
    placed = {d.demand.deployment: d.placed for d in sharing.deployments}
    assert sharing.fits == all(placed[d.deployment] == d.replicas for d in demands)
    assert sharing.fits == (not sharing.remedies)


def test_a_claim_of_exactly_what_is_left_fits_and_one_more_byte_does_not() -> None:
    pool = replace(HOST, total=10 * GIB)
    budget = plan([pool], NOTHING_ELSE, [demand(engine(on_gpu=False))]).devices[0].budget
    exact = engine(on_gpu=False, state=0)
    exact = replace(exact, footprint=replace(exact.footprint, weights=budget - REPLICA_HOST))
    more = replace(exact, footprint=replace(exact.footprint, weights=budget - REPLICA_HOST + 1))
    assert plan([pool], NOTHING_ELSE, [demand(exact)]).fits
    assert not plan([pool], NOTHING_ELSE, [demand(more)]).fits


# --- several devices ---------------------------------------------------------


def where(sharing: Plan) -> list[dict[str, int]]:
    return [dict(device.replicas) for device in sharing.devices if device.pool.index is not None]


def test_a_replica_goes_to_the_fullest_gpu_that_has_room_as_ray_would_put_it() -> None:
    policy = MemoryPolicy(neighbours=(Neighbour(name="vllm", gib=40, devices=(1,)),))
    cards = [gpu(0), gpu(1), HOST]
    for replicas, there in ((1, [{}, {"TTS": 1}]), (3, [{"TTS": 2}, {"TTS": 1}])):
        voices = demand(engine(weights=20), replicas=replicas)
        assert where(plan(cards, policy, [voices])) == there


def test_each_deployment_gets_one_replica_before_any_gets_another() -> None:
    many = demand(engine(weights=25), name="ASR", replicas=5)
    one = demand(engine(weights=25))
    sharing = plan([gpu(0), HOST], MemoryPolicy(), [many, one])
    assert where(sharing) == [{"ASR": 2, "TTS": 1}]
    assert (sharing.fits, sharing.serves) == (False, True)


def test_on_gpus_of_different_size_ray_knows_the_larger_fraction_and_so_does_the_plan() -> None:
    voices = demand(engine(weights=10.4, state=0), replicas=8)  # 11 GiB with the context
    sharing = plan([gpu(0, 24), gpu(1, 80), HOST], MemoryPolicy(), [voices])
    assert where(sharing) == [{"TTS": 2}, {"TTS": 2}], "not 7 on the larger one"
    assert sharing.deployments[0].num_gpus == pytest.approx(11.1 / 24, abs=0.01)


def test_a_replica_without_room_on_the_host_takes_none_of_the_gpu() -> None:
    small = replace(HOST, total=5 * GIB)
    sharing = plan([gpu(), small], MemoryPolicy(), [demand(engine(host=2), replicas=2)])
    assert [dict(device.replicas) for device in sharing.devices] == [{"TTS": 1}, {"TTS": 1}]


def test_huge_pages_and_neighbours_on_other_gpus_count_where_they_are() -> None:
    policy = MemoryPolicy(neighbours=(Neighbour(name="vllm", utilisation=0.5, devices=(1,)),))
    paged = replace(HOST, huge_pages=7 * GIB)
    first, second, host = plan([gpu(0), gpu(1), paged], policy, [demand()]).devices
    assert first.withheld == GIB // 2
    assert second.withheld == 40 * GIB + GIB // 2
    assert host.withheld == (7 * GIB) + GIB * 3 // 2


def test_huge_pages_that_the_kernel_reserves_are_nobodys() -> None:
    readings = recorded("gb10")
    assert isinstance(readings.meminfo, Meminfo)
    meminfo = replace(readings.meminfo, huge_pages_total=1024, huge_pages_free=1024)
    (pool,) = pools_of(devices(replace(readings, meminfo=meminfo)))
    assert pool.huge_pages == 1024 * 2 << 20
    (before,) = pools_of(devices(readings))
    budgets = [plan([p], MemoryPolicy(), [demand()]).devices[0].budget for p in (before, pool)]
    assert budgets[0] - budgets[1] == 2 * GIB


# --- what cannot be planned --------------------------------------------------


def test_a_device_whose_total_or_kind_is_unknown_is_not_planned_for() -> None:
    (known,) = devices(recorded("gb10"))
    for unknown in (
        replace(known, total=Figure(Unknown("/proc is not mounted"), "")),
        replace(known, kind=Unknown("/proc is not mounted")),
    ):
        with pytest.raises(MemoryUnknown, match=r"cuda:0 .*/proc is not mounted.*--device"):
            pools_of([unknown])


def test_an_engine_for_a_gpu_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match=r"TTS runs voice on a GPU.*config/embedded.yaml"):
        plan([HOST], MemoryPolicy(), [demand()])


def test_a_neighbour_on_a_gpu_that_is_not_there_is_refused() -> None:
    policy = MemoryPolicy(neighbours=(Neighbour(name="vllm", gib=1, devices=(0, 3)),))
    with pytest.raises(ConfigError, match=r"'vllm' is on devices \[3\].*cuda:0, host"):
        plan([gpu(), HOST], policy, [demand()])


# --- what it costs -----------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "device", "memory"),
    [
        ("dgx-spark", "gb10", {}),
        ("dgx-spark", "gb10", {"neighbours": vllm(0.97)}),
        ("h100", "h100-80g", {}),
        ("h100", "h100-80g", {"neighbours": vllm(0.97)}),
    ],
)
def test_a_plan_takes_less_than_5_ms(config: str, device: str, memory: dict[str, object]) -> None:
    document = shipped(config, **memory)
    pools = pools_of(devices(recorded(device)))
    demands = demands_of(document, "test.yaml", pools, NO_HISTORY)
    policy = policy_of(document, "test.yaml")
    # Of the processor's time: what others on the machine take is not the plan's.
    timer = timeit.Timer(lambda: plan(pools, policy, demands), timer=time.process_time)
    assert min(timer.repeat(number=1, repeat=50)) < 0.005


def test_the_arithmetic_imports_no_library_of_a_model_and_no_ray() -> None:
    look = (
        "import sys, runtime.memory.plan, runtime.memory.remedies, runtime.memory.demands; "
        "print([m for m in ('torch', 'nemo', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
