"""What everything around the engines costs: many streams of engines that cost nothing.

Two replicas of each deployment. Sessions push 80 ms blocks as microphones do, from one
or several processes; synthesis streams tick in chunks of 20 ms. ``stolen_percent`` is
processor time that the machine did not get: latencies of a run that was robbed are not its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.bench.engines import SAMPLE_RATE, left_at
from runtime.bench.load import processor_ticks
from runtime.bench.report import distribution
from runtime.client import SpeechClient
from runtime.config import BUILDER
from runtime.playback import Playback
from runtime.settings import Settings
from runtime.speech import FinalTranscript

BLOCK_S = 0.080
_BLOCK = bytes(2 * int(BLOCK_S * SAMPLE_RATE))
_CHARACTERS_A_SECOND = 1 / 0.06  # see PacedSynthesizer
_BEGIN_WITHIN_S = 2.01  # utterances begin one after the other, and at odds with their chunks
_BUFFERED_S = 0.060  # what a player holds before it starts


def document(replicas: int = 2) -> dict[str, Any]:
    """The Serve configuration that is measured."""
    recognizer = {"engine": "runtime.bench.engines:CountingRecognizer"}
    synthesizer = {"engine": "runtime.bench.engines:PacedSynthesizer"}
    application = {
        "name": "speech",
        "route_prefix": None,
        "import_path": BUILDER,
        "args": {"asr": {"live": recognizer}, "tts": synthesizer},
        "deployments": [
            {"name": name, "num_replicas": replicas, "max_ongoing_requests": 512}
            for name in ("ASR", "TTS")
        ],
    }
    return {"proxy_location": "Disabled", "applications": [application]}


@dataclass(slots=True)
class Tally:
    """What streams of one process met."""

    latency_ms: list[float] = field(default_factory=list)
    behind_s: float = 0.0  # the latest a stream has been
    wrong: int = 0  # streams that did not get what they should have
    underruns: int = 0
    calls: int = 0


async def recognition(settings: Settings, sessions: int, seconds: float) -> Tally:
    """Push to many sessions from this process, and time each block to its acknowledgement."""
    client = await SpeechClient.connect(settings=settings)
    tally = Tally()
    blocks = int(seconds / BLOCK_S)
    try:
        opened = [client.open_recognition() for _ in range(sessions)]
        for session in opened:
            await session.__aenter__()
        began = time.monotonic()
        phases = random.Random(0)
        async with asyncio.TaskGroup() as group:
            for session in opened:
                start = began + phases.random() * BLOCK_S
                group.create_task(_push_live(session, start, blocks, tally))
        tally.calls = sum(client.push_calls().values())
    finally:
        await client.aclose()
    return tally


async def _push_live(session: Any, start: float, blocks: int, tally: Tally) -> None:
    for number in range(blocks):
        due = start + number * BLOCK_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        pushed = time.monotonic()
        tally.behind_s = max(tally.behind_s, pushed - due)
        await session.push(_BLOCK)
        await session.flush()
        tally.latency_ms.append((time.monotonic() - pushed) * 1e3)
    final = await session.finalize()
    await session.finish()
    finals = [event async for event in session if isinstance(event, FinalTranscript)]
    right = final.text == str(blocks * len(_BLOCK) // 2) and finals == [final]
    tally.wrong += not right or session.moves > 0


async def synthesis(settings: Settings, streams: int, seconds: float) -> Tally:
    """Read many utterances at once, and time each chunk from its engine to here."""
    client = await SpeechClient.connect(settings=settings)
    tally = Tally()
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(streams):
                delay_s = number * _BEGIN_WITHIN_S / streams
                group.create_task(_read(client, delay_s, seconds, tally))
    finally:
        await client.aclose()
    return tally


async def _read(client: SpeechClient, delay_s: float, seconds: float, tally: Tally) -> None:
    await asyncio.sleep(delay_s)
    player = Playback()
    expected = 0
    async with client.synthesize("a" * round(seconds * _CHARACTERS_A_SECOND)) as stream:
        async for chunk in stream:
            now = time.monotonic()
            tally.wrong += chunk.first_sample != expected
            expected = chunk.next_sample
            if chunk.samples:
                tally.latency_ms.append((now - left_at(chunk)) * 1e3)
                first = chunk.first_sample == 0
                player.arrived(now + _BUFFERED_S if first else now, chunk.samples / SAMPLE_RATE)
    tally.underruns += player.underruns


async def sweep(
    settings: Settings,
    sessions: Sequence[tuple[int, int]],
    streams: Sequence[int],
    seconds: float,
    on_row: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """A row for each number of sessions and processes, then for each number of utterances."""
    rows = []
    plan = [("recognition", count, processes) for count, processes in sessions]
    plan += [("synthesis", count, 1) for count in streams]
    for kind, count, processes in plan:
        before = processor_ticks()
        tallies = await asyncio.to_thread(_in_processes, settings, kind, count, processes, seconds)
        latencies = [ms for tally in tallies for ms in tally.latency_ms]
        calls = sum(tally.calls for tally in tallies)
        total, stolen = (now - then for now, then in zip(processor_ticks(), before, strict=True))
        row = {
            "path": "push to acknowledgement" if kind == "recognition" else "chunk delivery",
            "streams": count,
            "processes": processes,
            "latency_ms": distribution(latencies),
            "behind_ms": round(max(tally.behind_s for tally in tallies) * 1e3, 1),
            "wrong": sum(tally.wrong for tally in tallies),
            "underruns": sum(tally.underruns for tally in tallies),
            "push_calls_a_second": round(calls / seconds, 1) if calls else None,
            "stolen_percent": round(100 * stolen / total, 1) if total else None,
        }
        rows.append(row)
        on_row(row)
    return rows


def _in_processes(
    settings: Settings, kind: str, count: int, processes: int, seconds: float
) -> list[Tally]:
    environment = os.environ | {
        "SPEECH_STATE_DIR": str(settings.state_dir),
        "SPEECH_TEMP_DIR": str(settings.temp_dir or ""),
    }
    share = [count // processes + (number < count % processes) for number in range(processes)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "runtime.bench.transport", kind, str(streams), str(seconds)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for streams in share
    ]
    return [Tally(**json.loads(worker.communicate()[0])) for worker in workers]


def main() -> None:
    """One process of a row: ``recognition|synthesis STREAMS SECONDS``."""
    gc.freeze()
    kind, streams, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    work = recognition if kind == "recognition" else synthesis
    tally = asyncio.run(work(Settings(), streams, seconds))
    print(json.dumps(asdict(tally)))


if __name__ == "__main__":
    main()
