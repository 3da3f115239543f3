"""From a Serve configuration to what its deployments demand, and the plan's numbers back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memory_plans import HOST, NO_HISTORY, UNIFIED, gpu, plan_of, shipped, vllm

from runtime.config import AsrArgs, SpeechAppArgs, TtsArgs
from runtime.engines import footprint_of
from runtime.errors import ConfigError
from runtime.memory.claims import Demand
from runtime.memory.demands import (
    application_demands,
    demands_of,
    policy_of,
    primary,
    replicas_of,
    with_resources,
    with_slots,
)
from runtime.memory.footprint import GIB
from runtime.memory.history import History, Measured
from runtime.memory.plan import Pool
from runtime.memory.policy import MemoryPolicy

MAGPIE: dict[str, Any] = {"engine": "magpie", "options": {"slots": 8}}
AUTO: dict[str, Any] = {"engine": "magpie", "options": {"slots": "auto", "max_slots": 64}}


def tts(overrides: dict[str, Any] | None = None, **args: Any) -> Demand:
    """The demand of a TTS deployment; ``overrides`` are what ``deployments`` says of it."""
    document = SpeechAppArgs.model_validate({"tts": {**MAGPIE, **args}})
    (demand,) = application_demands(document, [UNIFIED], NO_HISTORY, {"TTS": overrides or {}})
    return demand


# --- replicas ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"num_replicas": None}, 1),
        ({"num_replicas": 3}, 3),
        ({"num_replicas": "auto"}, 100),
        ({"num_replicas": "auto", "autoscaling_config": {"max_replicas": 4}}, 4),
        ({"num_replicas": "auto", "autoscaling_config": {"min_replicas": 4}}, 100),
        ({"autoscaling_config": {"min_replicas": 2, "max_replicas": 5}}, 5),
        ({"autoscaling_config": {"min_replicas": 1}}, 1),
    ],
)
def test_as_many_replicas_are_planned_for_as_serve_may_run(
    options: dict[str, Any], count: int
) -> None:
    assert replicas_of(options) == count
    assert tts(deployment_config=options).replicas == count
    assert tts(options).replicas == count


@pytest.mark.parametrize("replicas", ["lots", -3, 0, 1.5, True])
def test_a_number_of_replicas_that_is_none_is_refused_by_its_key(replicas: Any) -> None:
    with pytest.raises(ConfigError, match=r"'speech', TTS: num_replicas is "):
        tts({"num_replicas": replicas})
    with pytest.raises(ConfigError, match=r"'speech', TTS: autoscaling_config.max_replicas is "):
        tts(deployment_config={"autoscaling_config": {"max_replicas": replicas}})


def test_what_deployments_says_goes_before_deployment_config() -> None:
    assert tts({"num_replicas": 5}, deployment_config={"num_replicas": 2}).replicas == 5


def test_resources_among_overrides_are_refused_and_the_message_says_where_they_belong() -> None:
    with pytest.raises(ConfigError, match=r"deployments, TTS: .*args\.tts\.deployment_config"):
        tts({"ray_actor_options": {"num_gpus": 1}})


def test_with_auto_the_replicas_are_counted_where_slots_are_shared_out() -> None:
    with pytest.raises(ConfigError, match=r"TTS: with `slots: auto` .*args\.tts\.deployment_con"):
        tts({"num_replicas": 2}, **AUTO)
    same = tts({"num_replicas": 2}, **AUTO, deployment_config={"num_replicas": 2})
    assert same.replicas == 2
    assert tts({"num_replicas": 2}).replicas == 2, "without auto it may stand anywhere"


# --- engines -----------------------------------------------------------------


def test_an_engine_of_others_needs_what_the_operator_says() -> None:
    demand = tts(engine="my.engines:Voice", options={"slots": 3}, memory_gib=2.5)
    (engine,) = demand.engines
    assert engine.footprint.weights == 2.5 * GIB
    assert (engine.footprint.slots, engine.footprint.weights_from) == (3, "configured")
    assert not engine.footprint.on_gpu
    assert tts(engine="my.engines:Voice", options={}, memory_gib=1).engines[0].footprint.slots == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [("auto", "memory_gib, which says nothing of a single slot"), ("many", "slots is 'many'")],
)
def test_memory_gib_wants_a_number_of_slots(options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tts(engine="my.engines:Voice", options={"slots": options}, memory_gib=1)


def test_a_limit_beside_a_number_of_slots_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'magpie' has limit_gib.*and 8 slots"):
        tts(limit_gib=5)
    assert tts(**AUTO, limit_gib=5, share=2).engines[0].limit == 5 * GIB


@pytest.mark.parametrize("share", [0, -1, 1e300, float("nan")])
def test_a_share_is_a_sensible_number(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        TtsArgs(engine="magpie", share=share)


def test_an_application_of_another_name_has_its_name_before_its_deployments() -> None:
    document = shipped("dgx-spark")
    document["applications"].append({**document["applications"][0], "name": "second"})
    names = [d.deployment for d in demands_of(document, "x", [UNIFIED], NO_HISTORY)]
    assert names == ["ASR", "TTS", "second: ASR", "second: TTS"]


def test_two_applications_have_one_policy() -> None:
    document = shipped("dgx-spark")
    silent = {**document["applications"][0], "name": "silent", "args": {"tts": MAGPIE}}
    other = {**silent, "name": "other", "args": {"tts": MAGPIE, "memory": {"headroom_gib": 1}}}
    document["applications"].append(silent)
    assert policy_of(document, "x").neighbours[0].name == "vllm"
    document["applications"].append(other)
    with pytest.raises(ConfigError, match="applications speech, other name different `memory`"):
        policy_of(document, "x")
    other["args"]["memory"] = document["applications"][0]["args"]["memory"]
    assert policy_of(document, "x").neighbours[0].name == "vllm"


def test_a_configuration_that_names_no_policy_has_the_default() -> None:
    assert policy_of(shipped("embedded"), "x") == MemoryPolicy()


# --- what was measured -------------------------------------------------------


def test_a_figure_is_used_on_the_device_on_which_it_was_measured(tmp_path: Path) -> None:
    estimated = tts()
    history = History(tmp_path / "measured.json")
    history.note(estimated.signature, UNIFIED.name, Measured(10 * GIB, GIB, GIB, GIB, 0.0))
    args = SpeechAppArgs.model_validate({"tts": {**MAGPIE, "options": {"slots": 16}}})
    (here,) = application_demands(args, [UNIFIED], history)
    (elsewhere,) = application_demands(args, [gpu(), HOST], history)
    assert here.measured is not None
    assert here.measured > 7 * GIB, "with another number of slots, too"
    assert elsewhere.measured is None


@pytest.mark.parametrize(
    ("engine", "pools", "found"),
    [
        ("magpie", [gpu(), HOST], gpu()),
        ("hibari", [gpu(), HOST], HOST),
        ("magpie", [UNIFIED], UNIFIED),
        ("hibari", [UNIFIED], UNIFIED),
        ("magpie", [HOST], None),
    ],
)
def test_a_deployment_is_about_a_gpu_if_an_engine_runs_there(
    engine: str, pools: list[Pool], found: Pool | None
) -> None:
    assert primary(tts(engine=engine), pools) == found


# --- the plan's numbers, back in the configuration ---------------------------


def test_auto_becomes_a_number_and_engines_take_it() -> None:
    document = shipped("h100")
    args = SpeechAppArgs.model_validate(document["applications"][0]["args"])
    assert args.asr is not None
    assert args.tts is not None
    ears, voice = plan_of(shipped("h100", neighbours=vllm(0.85)), "h100-80g").deployments
    live, file = ears.slots
    planned: AsrArgs = with_slots(args.asr, ears)
    assert planned.live is not None
    assert planned.file is not None
    assert planned.live.options == {"slots": live, "max_slots": 512}
    assert planned.file == args.asr.file
    assert file == 12
    speaking: TtsArgs = with_slots(args.tts, voice)
    assert footprint_of("magpie", speaking.options).slots == voice.slots[0] < 64
    auto, numbered = (
        footprint_of("magpie", args.tts.options),
        footprint_of("magpie", speaking.options),
    )
    assert numbered.state_per_slot <= auto.state_per_slot
    assert numbered.workspace <= auto.workspace, "the number does not need more than the plan said"


def test_ray_is_told_the_fraction_and_the_hosts_bytes() -> None:
    _, voice = plan_of(shipped("h100"), "h100-80g").deployments
    assert voice.host is not None
    told = with_resources({"num_cpus": 0.5}, voice)
    assert told == {"num_cpus": 0.5, "num_gpus": voice.num_gpus, "memory": voice.host.total}
    (_, voice) = plan_of(shipped("dgx-spark"), "gb10").deployments
    assert with_resources({}, voice) == {"num_gpus": voice.num_gpus}
    (_, voice) = plan_of(shipped("embedded"), "h100-80g").deployments
    assert with_resources({}, voice).keys() == {"memory"}


def test_more_may_be_asked_of_ray_than_the_plan_claims_and_less_may_not() -> None:
    _, voice = plan_of(shipped("dgx-spark"), "gb10").deployments
    assert with_resources({"num_gpus": 1}, voice) == {"num_gpus": 1}
    for less in (0.001, "0.5", None):
        with pytest.raises(ConfigError, match=r"TTS: ray_actor_options\.num_gpus is .*leave it"):
            with_resources({"num_gpus": less}, voice)


def test_the_signature_of_a_demand_is_the_same_for_any_number_of_slots() -> None:
    assert tts().signature == tts(**AUTO).signature
    assert tts().signature != tts(options={"slots": 8, "dtype": "float32"}).signature
    assert replace(tts(), replicas=1) == tts()
