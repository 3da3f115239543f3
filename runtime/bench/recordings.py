"""Recordings through one engine: NeMo's own ``transcribe()``, in this process, and a daemon.

The sound is made here and means nothing: how long recognising takes depends on its length, and
a little on how many tokens the model finds.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runtime.audio import float32_to_pcm16
from runtime.bench.in_process import own_peak
from runtime.bench.load import closed_loop
from runtime.bench.report import distribution
from runtime.client import SpeechClient
from runtime.engines import cuda
from runtime.engines.nemo import import_nemo, quietly
from runtime.memory.device import devices, process_bytes, read
from runtime.memory.footprint import GIB
from runtime.speech import RecognitionOptions, Recognizer, Samples

SAMPLE_RATE = 16_000
OnRow = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Tally:
    """What the recordings of a row took."""

    seconds: list[float] = field(default_factory=list)
    audio_s: float = 0.0

    async def time(self, job: Awaitable[Any], audio_s: float) -> None:
        """Wait for one."""
        asked = time.perf_counter()
        await job
        self.seconds.append(time.perf_counter() - asked)
        self.audio_s += audio_s

    def row(self, streams: int, path: str, wall_s: float) -> dict[str, Any]:
        """Its figures."""
        mean_s = sum(self.seconds) / len(self.seconds)
        recording_s = self.audio_s / len(self.seconds)
        return {
            "streams": streams,
            "path": path,
            "recording_s": round(recording_s, 2),
            "final_ms": distribution([seconds * 1e3 for seconds in self.seconds]),
            "rtf": round(mean_s / recording_s, 5),
            "x_realtime": round(self.audio_s / wall_s, 1),
        }


def sounds(count: int, seconds: float) -> list[Samples]:
    """Tones and noise that change every 60 to 300 ms, as those of speech do."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        parts: list[Samples] = []
        while sum(map(len, parts)) < seconds * SAMPLE_RATE:
            times = np.arange(int(draw.integers(960, 4800))) / SAMPLE_RATE
            tone = np.sin(2 * np.pi * draw.uniform(80, 3500) * times)
            noise = draw.uniform(0, 0.6) * draw.standard_normal(len(times))
            parts.append((draw.choice([0.0, 0.03, 0.1, 0.3]) * (tone + noise)).astype(np.float32))
        found.append(np.concatenate(parts)[: round(seconds * SAMPLE_RATE)])
    return found


def by_nemo(
    weights: Path,
    streams: Sequence[int],
    utterances: int,
    seconds: float,
    dtype: str,
    on_row: OnRow,
) -> list[dict[str, Any]]:
    """``transcribe()`` with as many recordings in a batch as there are streams; the yardstick."""
    models = import_nemo("nemo.collections.asr.models")
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with quietly():
        model = models.ASRModel.restore_from(str(weights), map_location=device).eval()
    mixed = torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32")
    rows = []
    for count in streams:
        batch, rounds = sounds(count, seconds), _rounds(utterances, count)
        tally = Tally()
        cuda.forget_peak()
        with quietly(), mixed:
            for turn in range(rounds + 1):
                asked = time.perf_counter()
                model.transcribe(batch, batch_size=count, verbose=False)
                if turn:  # the first warms up
                    tally.seconds.append(time.perf_counter() - asked)
                    tally.audio_s += count * seconds
        row = tally.row(count, "NeMo transcribe(), one batch", sum(tally.seconds))
        row["recording_s"], row["rtf"] = seconds, round(1 / row["x_realtime"], 5)
        if peak := cuda.allocator_peak():
            row["allocator_gib"] = round(peak / GIB, 3)
        rows.append(row)
        on_row(row)
    del model
    gc.collect()  # its graphs hold each other
    cuda.release_cached()
    return rows


async def in_process(
    engine: Recognizer, streams: Sequence[int], utterances: int, seconds: float, on_row: OnRow
) -> list[dict[str, Any]]:
    """The engine in this process; callers beyond its slots queue, as before a deployment's."""
    slots = asyncio.Semaphore(engine.capabilities.slots)
    options = RecognitionOptions(
        mode="file", partials=False, language=engine.capabilities.languages[0]
    )

    async def hear(sound: Samples) -> None:
        async with slots:
            await engine.transcribe(sound, options)

    rows = []
    for count in streams:
        rounds = _rounds(utterances, count)
        for turn in range(2):  # the first warms up
            tally = Tally()
            jobs = [
                partial(_timed, tally, hear, sound, seconds)
                for sound in sounds(count, seconds) * (rounds if turn else 1)
            ]
            async with own_peak() as peak:
                wall_s = await closed_loop(count, jobs)
        row = tally.row(count, "in process", wall_s) | peak.figures()
        rows.append(row)
        on_row(row)
    return rows


async def by_handle(
    client: SpeechClient, streams: Sequence[int], utterances: int, seconds: float, on_row: OnRow
) -> list[dict[str, Any]]:
    """The same through a daemon's deployment, from one process."""

    async def hear(pcm: bytes) -> None:
        await client.transcribe(pcm, sample_rate=SAMPLE_RATE)

    (replica,) = await client.replicas("ASR")
    rows = []
    for count in streams:
        rounds = _rounds(utterances, count)
        for turn in range(2):
            tally = Tally()
            pcm = [float32_to_pcm16(sound) for sound in sounds(count, seconds)]
            jobs = [
                partial(_timed, tally, hear, one, seconds) for one in pcm * (rounds if turn else 1)
            ]
            wall_s = await closed_loop(count, jobs)
        row = tally.row(count, "handle", wall_s)
        gpus = [device for device in devices(read()) if device.kind != "host"]
        held = [process_bytes(device, replica.pid) for device in gpus]
        if known := [size for size in held if isinstance(size, int) and size]:
            row["driver_gib"] = round(sum(known) / GIB, 3)
        rows.append(row)
        on_row(row)
    return rows


def _rounds(utterances: int, streams: int) -> int:
    return max(3, -(-utterances // streams))


async def _timed(
    tally: Tally, hear: Callable[[Any], Awaitable[None]], sound: Any, seconds: float
) -> None:
    await tally.time(hear(sound), seconds)
