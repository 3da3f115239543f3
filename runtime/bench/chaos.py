"""Replicas are killed and drained, come and go, and callers barge in, while people talk.

Each scenario compares what a caller got with an undisturbed run of the same, and looks
afterwards for slots that nobody freed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from runtime.bench import barging, scaling, struck
from runtime.bench.asr import spoken_clips
from runtime.bench.cluster import changes, replicas_are, slots_left
from runtime.bench.engines import SAMPLE_RATE
from runtime.bench.outcome import Outcome
from runtime.client import SpeechClient
from runtime.config import ASR_DEPLOYMENT, BUILDER, TTS_DEPLOYMENT
from runtime.errors import SpeechError

REPLICAS = 2

COUNTING = "counting"
"""The application whose engine counts what it hears."""


def document(replicas: int = REPLICAS, counting: int = 1) -> dict[str, Any]:
    """The Serve configuration under attack: embedded engines, and one that counts."""
    counter = {"engine": "runtime.bench.engines:CountingRecognizer"}
    return {
        "proxy_location": "Disabled",
        "applications": [
            {
                "name": "speech",
                "route_prefix": None,
                "import_path": BUILDER,
                "args": {"asr": {"live": {"engine": "moonshine"}}, "tts": {"engine": "hibari"}},
                "deployments": [
                    {"name": name, "num_replicas": replicas}
                    for name in (ASR_DEPLOYMENT, TTS_DEPLOYMENT)
                ],
            },
            {
                "name": COUNTING,
                "route_prefix": None,
                "import_path": BUILDER,
                "args": {"asr": {"live": counter}},
                "deployments": [{"name": ASR_DEPLOYMENT, "num_replicas": counting}],
            },
        ],
    }


async def run(
    client: SpeechClient, counter: SpeechClient, on_row: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """One row for each scenario.

    Args:
        client: Of a daemon on this host that runs ``document()``.
        counter: Of the same daemon's application ``COUNTING``.
        on_row: Called with each row.
    """
    (clip,) = await spoken_clips(client, [struck.SPEECH])
    undisturbed = await struck.listen(client, clip)
    spoken = await struck.speak(client)

    async def kill(deployment: str, replica: str) -> None:
        pids = {info.replica: info.pid for info in await client.replicas(deployment)}
        os.kill(pids[replica], signal.SIGKILL)

    async def drain(deployment: str, _: str) -> None:
        # Serve chooses which replica has to go: there are callers on both.
        await _deploy(1)
        async with changes(client, deployment) as changed:
            while len(client.known_replicas(deployment).serving) > 1:
                await changed()

    async def scale(counting: int) -> None:
        await _deploy(REPLICAS, counting)

    scenarios: dict[str, tuple[str, Callable[[], Awaitable[Outcome]]]] = {
        "recognition, replica killed": (
            ASR_DEPLOYMENT,
            lambda: struck.listen_under(client, clip, undisturbed, kill),
        ),
        "recognition, replica drained": (
            ASR_DEPLOYMENT,
            lambda: struck.listen_under(client, clip, undisturbed, drain),
        ),
        "synthesis, replica killed": (
            TTS_DEPLOYMENT,
            lambda: struck.speak_under(client, spoken, kill),
        ),
        "synthesis, replica drained": (
            TTS_DEPLOYMENT,
            lambda: struck.speak_under(client, spoken, drain),
        ),
        "barge-in": (TTS_DEPLOYMENT, lambda: barging.one_by_one(client, struck.SPEECH)),
        "barge-in, many at random moments": (
            TTS_DEPLOYMENT,
            lambda: barging.thousand(client, struck.SPEECH),
        ),
        "live sessions that count, scaled 1 -> 3 -> 1": (
            ASR_DEPLOYMENT,
            lambda: scaling.scaled(counter, scale, SAMPLE_RATE),
        ),
    }
    rows = []
    for name, (deployment, scenario) in scenarios.items():
        await _deploy(REPLICAS)
        for one in (ASR_DEPLOYMENT, TTS_DEPLOYMENT):
            await replicas_are(client, one, REPLICAS)
        outcome = await scenario()
        left = await slots_left(client, (ASR_DEPLOYMENT, TTS_DEPLOYMENT))
        row = {
            "scenario": name,
            "words_lost": outcome.words_lost,
            "samples_doubled": outcome.samples_doubled,
            "leaked_slots": outcome.leaked_slots + left,
            "orphaned_ms": await _orphaned_ms(client, deployment, outcome.streams),
            "recovery_ms": round(outcome.recovery_ms, 1),
            **outcome.more,
        }
        rows.append(row)
        on_row(row)
    return rows


async def _deploy(replicas: int, counting: int = 1) -> None:
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(document(replicas, counting))
    await asyncio.to_thread(_get_global_client().deploy_apps, schema, _blocking=False)


async def _orphaned_ms(client: SpeechClient, deployment: str, streams: dict[str, float]) -> float:
    """The longest that a replica worked for nobody, from the caller's leaving on."""
    aborted = {stream.stream: stream.freed_at for stream in await client.aborted(deployment)}
    waits = [
        (aborted[stream] - left) * 1e3 for stream, left in streams.items() if stream in aborted
    ]
    if len(waits) < len(streams):
        raise SpeechError(f"{len(streams) - len(waits)} aborted streams were never freed.")
    return round(max(waits, default=0.0), 2)
