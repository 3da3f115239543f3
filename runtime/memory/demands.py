"""What a configuration demands of memory: from Serve's document to the plan's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from runtime.config import (
    APPLICATION,
    ASR_DEPLOYMENT,
    BUILDER,
    TTS_DEPLOYMENT,
    AsrArgs,
    RecognizerArgs,
    SpeechAppArgs,
    SynthesizerArgs,
    TtsArgs,
    speech_applications,
)
from runtime.engines import footprint_of
from runtime.engines.options import positive
from runtime.errors import ConfigError
from runtime.memory.claims import Demand, EngineDemand
from runtime.memory.footprint import AUTO, GIB, Footprint
from runtime.memory.history import History, signature
from runtime.memory.plan import DeploymentPlan, Pool
from runtime.memory.policy import MemoryPolicy

_SERVE_MOST = 100  # replicas of `num_replicas: auto`, as Serve documents it


def policy_of(document: dict[str, Any], origin: str) -> MemoryPolicy:
    """The one memory policy of a configuration; applications that name none follow it.

    Raises:
        ConfigError: Two applications name different ones: they share the devices.
    """
    policies = {
        name: args.memory
        for name, args in speech_applications(document, origin).items()
        if args.memory != MemoryPolicy()
    }
    different = list(policies.values())
    if any(policy != different[0] for policy in different):
        raise ConfigError(
            f"{origin}: applications {', '.join(policies)} name different `memory`; they share "
            "the devices: give it once, or the same in each."
        )
    return different[0] if different else MemoryPolicy()


def demands_of(
    document: dict[str, Any], origin: str, pools: Sequence[Pool], history: History
) -> tuple[Demand, ...]:
    """The deployments of all speech applications in a Serve configuration.

    Raises:
        ConfigError: An engine does not take its options or has no estimate, or replicas are
            counted where ``slots: auto`` cannot see it.
    """
    found: list[Demand] = []
    arguments = speech_applications(document, origin)
    if len(arguments) > 1 and (auto := [n for n, args in arguments.items() if _has_auto(args)]):
        raise ConfigError(
            f"{origin}: {', '.join(auto)} has `slots: auto` beside another application, of which "
            "it would know nothing when it is built; give numbers."
        )
    for application in document["applications"]:
        if application.get("import_path") != BUILDER:
            continue
        name = str(application.get("name", "default"))
        own = {
            str(deployment["name"]): deployment
            for deployment in application.get("deployments") or []
        }
        found += application_demands(arguments[name], pools, history, own, name)
    return tuple(found)


def application_demands(
    args: SpeechAppArgs,
    pools: Sequence[Pool],
    history: History,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    application: str = APPLICATION,
) -> list[Demand]:
    """The deployments of one application; ``overrides`` are Serve's options by deployment."""
    overrides = overrides or {}
    chosen: list[tuple[str, dict[str, Any], dict[str, SynthesizerArgs | RecognizerArgs]]] = []
    if args.asr is not None:
        roles = {"live": args.asr.live, "file": args.asr.file}
        engines = {role: engine for role, engine in roles.items() if engine is not None}
        chosen.append((ASR_DEPLOYMENT, args.asr.deployment_config, {**engines}))
    if args.tts is not None:
        chosen.append((TTS_DEPLOYMENT, args.tts.deployment_config, {"tts": args.tts}))
    found = []
    for name, passed_on, engines_by_role in chosen:
        override = dict(overrides.get(name, {}))
        _check_replicas(f"application {application!r}, {name}", passed_on, override)
        _check_override(application, name, passed_on, override, engines_by_role)
        demand = Demand(
            label(application, name),
            tuple(_engine_demand(role, engine) for role, engine in engines_by_role.items()),
            replicas_of(passed_on | override),
            signature({role: (e.engine, e.options) for role, e in engines_by_role.items()}),
        )
        found.append(_as_measured(demand, pools, history))
    return found


def _engine_demand(role: str, engine: SynthesizerArgs | RecognizerArgs) -> EngineDemand:
    estimate = footprint(engine)
    limit = None if engine.limit_gib is None else round(engine.limit_gib * GIB)
    if limit is not None and estimate.slots is not None:
        raise ConfigError(
            f"Engine {engine.engine!r} has limit_gib, which limits `slots: auto`, and "
            f"{estimate.slots} slots; leave out one of them."
        )
    return EngineDemand(role, engine.engine, estimate, engine.share, limit)


def _has_auto(args: SpeechAppArgs) -> bool:
    ears = (args.asr.live, args.asr.file) if args.asr is not None else ()
    chosen = [engine for engine in (args.tts, *ears) if engine is not None]
    return any(engine.options.get("slots") == AUTO for engine in chosen)


def label(application: str, deployment: str) -> str:
    """What a deployment is called in plans and in the ledger."""
    return deployment if application == APPLICATION else f"{application}: {deployment}"


def footprint(engine: SynthesizerArgs | RecognizerArgs) -> Footprint:
    """An engine's own estimate, or what the operator says it needs.

    Raises:
        ConfigError: Neither is there.
    """
    if engine.memory_gib is None:
        return footprint_of(engine.engine, engine.options)
    slots = engine.options.get("slots", 1)
    if slots == AUTO:
        raise ConfigError(
            f"Engine {engine.engine!r} has memory_gib, which says nothing of a single slot; give "
            "it a number of slots."
        )
    positive(f"Engine {engine.engine!r}: slots", slots)
    return Footprint(
        on_gpu=False,
        weights=round(engine.memory_gib * GIB),
        weights_from="configured",
        workspace=0,
        state_per_slot=0,
        host=0,
        slots=slots,
        max_slots=slots,
        formula="memory_gib",
    )


def replicas_of(options: Mapping[str, Any]) -> int:
    """How many replicas Serve may run with these options of a deployment."""
    scaling = options.get("autoscaling_config")
    if isinstance(scaling, Mapping) and "max_replicas" in scaling:
        return int(scaling["max_replicas"])
    replicas = options.get("num_replicas", 1)
    if replicas == "auto":
        return _SERVE_MOST
    return int(replicas or 1)


def _check_replicas(place: str, *options: Mapping[str, Any]) -> None:
    """Refuse what Serve would not take for a number of replicas, before it is counted with."""
    for given in options:
        replicas = given.get("num_replicas")
        if replicas is not None and replicas != "auto":
            positive(f"{place}: num_replicas", replicas)
        scaling = given.get("autoscaling_config")
        if isinstance(scaling, Mapping) and "max_replicas" in scaling:
            positive(f"{place}: autoscaling_config.max_replicas", scaling["max_replicas"])


def _check_override(
    application: str,
    name: str,
    passed_on: Mapping[str, Any],
    override: Mapping[str, Any],
    engines: Mapping[str, SynthesizerArgs | RecognizerArgs],
) -> None:
    """Refuse options in ``deployments`` that would undo the plan behind its back."""
    place = f"application {application!r}, deployments, {name}"
    key = "asr" if name == ASR_DEPLOYMENT else "tts"
    if "ray_actor_options" in override:
        raise ConfigError(
            f"{place}: ray_actor_options here would replace what the memory plan tells Ray; put "
            f"them under args.{key}.deployment_config, where they are added to it."
        )
    auto = any(engine.options.get("slots") == AUTO for engine in engines.values())
    if auto and replicas_of({**passed_on, **override}) != replicas_of(passed_on):
        raise ConfigError(
            f"{place}: with `slots: auto` the number of replicas belongs under "
            f"args.{key}.deployment_config, where the plan sees it when it shares out slots."
        )


def _as_measured(demand: Demand, pools: Sequence[Pool], history: History) -> Demand:
    """The demand with the measured figure in place of estimates, where it has run before."""
    device = primary(demand, pools)
    measured = history.get(demand.signature, device.name) if device is not None else None
    return demand if measured is None else replace(demand, measured=measured.fixed)


def primary(demand: Demand, pools: Sequence[Pool]) -> Pool | None:
    """The device a deployment is about: a GPU if one of its engines runs on it, else the host."""
    on_gpu = any(engine.footprint.on_gpu for engine in demand.engines)
    for pool in pools:
        if pool.kind == "unified" or (pool.kind == "discrete") == on_gpu:
            return pool
    return None


ArgsT = TypeVar("ArgsT", AsrArgs, TtsArgs)


def with_slots(args: ArgsT, plan: DeploymentPlan) -> ArgsT:
    """A deployment's arguments with the plan's numbers in place of ``slots: auto``."""
    changed: dict[str, Any] = {}
    for engine, slots in zip(plan.demand.engines, plan.slots, strict=True):
        if engine.footprint.slots is not None:
            continue
        if isinstance(args, TtsArgs):
            changed["options"] = args.options | {"slots": slots}
        else:
            own = args.live if engine.role == "live" else args.file
            assert own is not None
            options = own.options | {"slots": slots}
            changed[engine.role] = own.model_copy(update={"options": options})
    return args.model_copy(update=changed)


def with_resources(options: Mapping[str, Any], plan: DeploymentPlan) -> dict[str, Any]:
    """Ray's options for a replica, with what the plan claims of Ray's own count of devices.

    Raises:
        ConfigError: They name less than the replica claims, or no number.
    """
    claimed: dict[str, float] = {}
    if plan.num_gpus:
        claimed["num_gpus"] = plan.num_gpus
    if plan.host is not None:
        claimed["memory"] = plan.host.total
    for key, size in claimed.items():
        given = options.get(key, size)
        if not isinstance(given, int | float) or not given >= size:
            raise ConfigError(
                f"{plan.demand.deployment}: ray_actor_options.{key} is {given!r}, and the "
                f"plan claims {size:g}; leave it out."
            )
    return claimed | dict(options)
