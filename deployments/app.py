"""Builds the Serve application from its arguments, in the manner of ``ray.serve.llm``."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments.asr import ASR
from deployments.routing import SessionRouter
from deployments.tts import TTS
from runtime.config import ASR_DEPLOYMENT, TTS_DEPLOYMENT, SpeechAppArgs, validate

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
    "health_check_period_s": 5,
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
    """
    if not isinstance(args, SpeechAppArgs):
        args = validate(SpeechAppArgs, args, "build_app")
    bound: list[Application] = []
    if args.asr is not None:
        asr = serve.deployment(name=ASR_DEPLOYMENT)(ASR)
        options = _options(args.asr.deployment_config)
        bound.append(asr.options(**options).bind(args.asr))
    if args.tts is not None:
        tts = serve.deployment(name=TTS_DEPLOYMENT)(TTS)
        options = _options(args.tts.deployment_config)
        # Serve wants one root that is handed the others. TTS takes the part, so that no
        # third process has to stand by for it.
        bound = [tts.options(**options).bind(args.tts, *bound)]
    return bound[0]


def _options(chosen: dict[str, Any]) -> dict[str, Any]:
    options = _DEFAULTS | chosen
    if "autoscaling_config" in chosen and "num_replicas" not in chosen:
        del options["num_replicas"]  # Serve takes one or the other
    return options
