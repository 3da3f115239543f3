"""Builds the Serve application from its arguments, in the manner of ``ray.serve.llm``."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments.asr import ASR
from deployments.ledger import ensure_ledger
from deployments.routing import SessionRouter
from deployments.tts import TTS
from runtime.config import ASR_DEPLOYMENT, TTS_DEPLOYMENT, SpeechAppArgs, validate
from runtime.errors import DoesNotFit
from runtime.memory.claims import Allotment
from runtime.memory.demands import application_demands, with_resources, with_slots
from runtime.memory.device import devices, read
from runtime.memory.history import History
from runtime.memory.plan import DeploymentPlan, plan, pools_of
from runtime.memory.table import as_text
from runtime.settings import Settings

# A replica's threads belong to its engine; Ray only has to know that it is there. Asking
# for whole CPUs (Serve's default) would keep three replicas from starting on two cores.
_DEFAULTS: dict[str, Any] = {
    "num_replicas": 1,
    # Streams are limited by the engine's slots. Serve's limit counts the short calls beside
    # them as well (pushes, progress of readers, status): were it as low as the slots, a full
    # house of streams would keep out the very calls that they wait for.
    "max_ongoing_requests": 256,
    "max_queued_requests": 256,
    "ray_actor_options": {"num_cpus": 0.1},
    # Serve wants three failures in a row: a replica whose device is lost is replaced within 2 s.
    "health_check_period_s": 0.5,
    "health_check_timeout_s": 30,
    # Utterances end, then sessions move; whoever is not done by then is taken over elsewhere.
    "graceful_shutdown_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 0.2,
    "request_router_config": RequestRouterConfig(request_router_class=SessionRouter),
}


def build_app(args: SpeechAppArgs | dict[str, Any]) -> Application:
    """Build the application ``speech`` with the deployments ``ASR`` and ``TTS``.

    Serve's options come from ``deployment_config`` here and, with precedence, from
    ``deployments`` in the Serve configuration.

    Raises:
        ConfigError: The arguments do not validate.
        DoesNotFit: Not even one replica of each deployment has room on this machine.
    """
    if not isinstance(args, SpeechAppArgs):
        args = validate(SpeechAppArgs, args, "build_app")
    plans = _allot(args)
    bound: list[Application] = []
    if args.asr is not None:
        plan = plans[ASR_DEPLOYMENT]
        asr = serve.deployment(name=ASR_DEPLOYMENT)(ASR)
        options = _options(args.asr.deployment_config, plan)
        planned = with_slots(args.asr, plan)
        bound.append(asr.options(**options).bind(planned, _allotment(plan)))
    if args.tts is not None:
        plan = plans[TTS_DEPLOYMENT]
        tts = serve.deployment(name=TTS_DEPLOYMENT)(TTS)
        options = _options(args.tts.deployment_config, plan)
        # Serve wants one root that is handed the others. TTS takes the part, so that no
        # third process has to stand by for it.
        bound = [tts.options(**options).bind(with_slots(args.tts, plan), _allotment(plan), *bound)]
    return bound[0]


def _allot(args: SpeechAppArgs) -> dict[str, DeploymentPlan]:
    """The plan of each deployment, for this machine; the ledger is there once this returns."""
    pools = pools_of(devices(read()))
    history = History.kept_in(Settings())
    sharing = plan(pools, args.memory, application_demands(args, pools, history))
    if not sharing.serves:
        raise DoesNotFit(f"The configuration does not fit.\n{as_text(sharing)}")
    if ray.is_initialized():
        ensure_ledger(args.memory)
    return {deployment.demand.deployment: deployment for deployment in sharing.deployments}


def _allotment(plan: DeploymentPlan) -> Allotment:
    claims = {"gpu": plan.gpu, "host": plan.host}
    return Allotment(
        {where: claim for where, claim in claims.items() if claim is not None},
        plan.demand.signature,
        any(engine.footprint.slots is None for engine in plan.demand.engines),
    )


def _options(chosen: dict[str, Any], plan: DeploymentPlan) -> dict[str, Any]:
    options = _DEFAULTS | chosen
    resources = _DEFAULTS["ray_actor_options"] | chosen.get("ray_actor_options", {})
    options["ray_actor_options"] = with_resources(resources, plan)
    if "autoscaling_config" in chosen and "num_replicas" not in chosen:
        del options["num_replicas"]  # Serve takes one or the other
    return options
