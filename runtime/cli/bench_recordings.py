"""``speech bench asr --engine parakeet``: recordings, in this process and through a daemon."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runtime.bench import recordings
from runtime.bench.in_process import claim_gib
from runtime.bench.private import private_daemon
from runtime.bench.report import report
from runtime.client import SpeechClient
from runtime.config import APPLICATION, ASR_DEPLOYMENT, BUILDER
from runtime.engines import cuda, make_recognizer
from runtime.engines.parakeet.checkpoint import inspect
from runtime.engines.parakeet.offline_options import read_offline_options
from runtime.memory.device import devices
from runtime.memory.device import read as read_devices
from runtime.models.store import path_of
from runtime.settings import Settings


def bench_recordings(
    options: Mapping[str, Any],
    streams: Sequence[int],
    utterances: int,
    seconds: float,
    on_row: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Recordings with NeMo's ``transcribe()``, the engine in this process, and a daemon of its own.

    Args:
        options: Of the engine ``parakeet``.
        streams: How many recordings at a time.
        utterances: At least how many in a row.
        seconds: The length of each.
        on_row: Told of each row when it is there.

    Raises:
        SpeechError: It does not take these options, or failed.
    """
    read = read_offline_options(options)
    weights = read.common.weights or path_of(read.common.model_name)
    rows = recordings.by_nemo(
        inspect(weights).weights, streams, utterances, seconds, read.common.dtype, on_row
    )

    async def here() -> dict[str, Any]:
        engine = make_recognizer("parakeet", options)
        try:
            loaded = await engine.load()
            await engine.exercise()
            rows.extend(await recordings.in_process(engine, streams, utterances, seconds, on_row))
            result = report("parakeet", loaded.seconds, loaded.warmup_ms, rows)
            if cuda.allocator_peak():
                result["device"] = f"{devices(read_devices())[0].name}; {result['device']}"
            return {**result, "details": loaded.details}
        finally:
            await engine.close()
            gc.collect()
            cuda.release_cached()

    async def through_daemon(settings: Settings) -> None:
        client = await SpeechClient.connect(settings=settings)
        try:
            rows.extend(await recordings.by_handle(client, streams, utterances, seconds, on_row))
        finally:
            await client.aclose()

    result = asyncio.run(here())
    application = {
        "name": APPLICATION,
        "route_prefix": None,
        "import_path": BUILDER,
        "args": {"asr": {"file": {"engine": "parakeet", "options": dict(options)}}},
        "deployments": [
            {
                "name": ASR_DEPLOYMENT,
                "max_ongoing_requests": 1024,
                "max_queued_requests": 1024,
                "user_config": {"max_waiting": 1024, "max_wait_s": 60},
            }
        ],
    }
    document = {"proxy_location": "Disabled", "applications": [application]}
    with private_daemon(document) as settings:
        asyncio.run(through_daemon(settings))
    return {**result, "claim_gib": claim_gib("parakeet", dict(options))}
