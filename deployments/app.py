"""Builds the Serve application from its arguments, in the manner of ``ray.serve.llm``."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.asr import ASR
from deployments.tts import TTS
from runtime.config import ASR_DEPLOYMENT, TTS_DEPLOYMENT, SpeechAppArgs, validate

# A replica's threads belong to its engine; Ray only has to know that it is there. Asking
# for whole CPUs (Serve's default) would keep three replicas from starting on two cores.
_SERVE_DEFAULTS: dict[str, Any] = {
    "num_replicas": 1,
    "ray_actor_options": {"num_cpus": 0.1},
    "health_check_period_s": 5,
    "health_check_timeout_s": 30,
    "graceful_shutdown_timeout_s": 10,
}
# Streams are limited by the engine's slots. Serve's limit counts the short calls beside
# them as well (pushes, progress of readers, status): were it as low as the slots, a full
# house of streams would keep out the very calls that they wait for.
_LIMITS = {"max_ongoing_requests": 256, "max_queued_requests": 256}
_TTS_DEFAULTS = _SERVE_DEFAULTS | _LIMITS
_ASR_DEFAULTS = _SERVE_DEFAULTS | _LIMITS


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
        options = _ASR_DEFAULTS | args.asr.deployment_config
        bound.append(asr.options(**options).bind(args.asr))
    if args.tts is not None:
        tts = serve.deployment(name=TTS_DEPLOYMENT)(TTS)
        options = _TTS_DEFAULTS | args.tts.deployment_config
        # Serve wants one root that is handed the others. TTS takes the part, so that no
        # third process has to stand by for it.
        bound = [tts.options(**options).bind(args.tts, *bound)]
    return bound[0]
