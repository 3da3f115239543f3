"""Synthesis without a daemon: an engine in this process, and what it holds of memory."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runtime.bench.corpus import SENTENCES
from runtime.bench.load import closed_loop, poisson_arrivals
from runtime.bench.report import distribution
from runtime.bench.tts import Tally, arriving
from runtime.engines import cuda, footprint_of
from runtime.errors import ConfigError
from runtime.memory.claims import CONTEXT
from runtime.memory.device import DeviceMemory, devices, process_bytes, read
from runtime.memory.footprint import GIB
from runtime.memory.process import resident_bytes
from runtime.requests import resolve_synthesis
from runtime.speech import Step, Stepping, SynthesisRequest, Synthesizer

_SAMPLE_S = 0.5
_CANCELLED = 10  # utterances
_QUIET_S = 0.05  # and three steps at the least, until an engine is taken to have stopped
_GIVEN_UP_S = 10.0


@dataclass(slots=True)
class Peak:
    """The most that this process has held, in bytes; None where nobody tells.

    Attributes:
        host: Proportional set size.
        device: On the GPUs, by their driver's account: the CUDA context is in it.
        allocator: Of torch's allocator on the GPU; None where it is not used.
    """

    host: int | None = None
    device: int | None = None
    allocator: int | None = None

    def figures(self) -> dict[str, float | None]:
        """In GiB, as rows have them; ``peak_gib`` is the best account of what the engine holds."""
        gpu = None if self.allocator is None else (self.device or self.allocator)
        figures = {"peak_gib": self.host if gpu is None else gpu}
        if self.allocator is not None:
            figures |= {
                "allocator_gib": self.allocator,
                "driver_gib": self.device,
                "host_gib": self.host,
            }
        return {
            name: None if size is None else round(size / GIB, 3) for name, size in figures.items()
        }


@asynccontextmanager
async def own_peak(interval_s: float = _SAMPLE_S) -> AsyncIterator[Peak]:
    """Sample what this process holds; the figures are whole once the context has ended."""
    peak = Peak()
    cuda.forget_peak()

    def sample() -> None:
        peak.host = _larger(peak.host, resident_bytes(os.getpid()))
        if cuda.allocator_reserved():
            peak.device = _larger(peak.device, _on_gpus(devices(read())))

    async def watch() -> None:
        while True:
            await asyncio.to_thread(sample)
            await asyncio.sleep(interval_s)

    watching = asyncio.create_task(watch())
    try:
        yield peak
    finally:
        watching.cancel()
        sample()
        peak.allocator = cuda.allocator_peak() or None


def claim_gib(name: str, options: dict[str, Any]) -> float | None:
    """What a replica with this engine claims of a GPU; None if it has no estimate of its own."""
    try:
        footprint = footprint_of(name, options)
    except ConfigError:
        return None
    slots = footprint.slots or footprint.max_slots
    size = footprint.weights + footprint.workspace + slots * footprint.state_per_slot
    return round((size + (CONTEXT if footprint.on_gpu else 0)) / GIB, 3)


def _on_gpus(here: Sequence[DeviceMemory]) -> int | None:
    held = [process_bytes(device, os.getpid()) for device in here if device.kind != "host"]
    known = [size for size in held if isinstance(size, int)]
    return sum(known) if known else None


def _larger(one: int | None, other: int | None) -> int | None:
    known = [size for size in (one, other) if size is not None]
    return max(known, default=None)


@dataclass(slots=True)
class _Direct:
    """Callers of an engine; beyond its slots they queue, as before a deployment's."""

    engine: Synthesizer
    tally: Tally = field(default_factory=Tally)
    slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.engine.capabilities.slots)

    async def speak(self, request: SynthesisRequest) -> None:
        resolved, _ = resolve_synthesis(request, self.engine.capabilities)
        await self.tally.listen(self._chunks(resolved))

    async def _chunks(self, request: SynthesisRequest) -> AsyncIterator[Any]:
        async with self.slots, aclosing(self.engine.synthesize(request)) as chunks:
            async for chunk in chunks:
                yield chunk


async def sweep(
    engine: Synthesizer,
    streams: Sequence[int],
    utterances: int,
    paced_s: float | None,
    on_row: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """One row for throughput and one at real-time load, for each number of streams.

    As ``runtime.bench.tts.sweep`` does through the handle. A row at real-time load is left out
    where the engine was too slow for so many listeners: its queue would only grow.
    """
    spoken = engine.capabilities
    language = "en" if "en" in spoken.languages else spoken.languages[0]
    speakers = [voice.name for voice in spoken.voices if language in voice.languages]
    voices = itertools.cycle(speakers)
    rows = []
    for count in streams:
        texts = list(itertools.islice(itertools.cycle(SENTENCES), max(utterances, count)))
        requests = [SynthesisRequest(text, next(voices), language) for text in texts]
        mean_audio_s, x_realtime = 1.0, float(count)
        for paced in (False, True) if paced_s != 0 else (False,):
            if paced and x_realtime < count:
                continue
            callers = _Direct(engine)
            if paced:
                requests = arriving(requests, count / mean_audio_s, paced_s)
            jobs = [partial(callers.speak, request) for request in requests]
            async with own_peak() as peak:
                if paced:
                    wall_s = await poisson_arrivals(count / mean_audio_s, jobs)
                else:
                    wall_s = await closed_loop(count, jobs)
            tally = callers.tally
            if not paced:
                mean_audio_s, x_realtime = tally.audio_s / len(jobs), tally.audio_s / wall_s
            row = {
                "streams": count,
                "slots": spoken.slots,
                "path": "in process",
                **_figures(tally, wall_s),
                **peak.figures(),
                "pacing": f"Poisson, {count / mean_audio_s:.2f}/s" if paced else "off",
            }
            rows.append(row)
            on_row(row)
    if isinstance(engine, Stepping):
        request = SynthesisRequest(SENTENCES[-1], speakers[0], language)
        rows.append(await _cancelled(engine, request))
        on_row(rows[-1])
    return rows


async def _cancelled(engine: Synthesizer, request: SynthesisRequest) -> dict[str, Any]:
    """What an engine still does for utterances whose listeners leave at the first audio."""
    assert isinstance(engine, Stepping)
    resolved, _ = resolve_synthesis(request, engine.capabilities)
    steps, took_ms = [], []
    await _still_done(engine, 0.0)  # of the rows before
    for _ in range(_CANCELLED):
        longest_ms = 0.0
        async with aclosing(engine.synthesize(resolved)) as chunks:
            async for _chunk in chunks:
                longest_ms = max((step.ms for step in engine.take_steps()), default=0.0)
                break
        after = await _still_done(engine, longest_ms)
        steps.append(len(after))
        took_ms.append(sum(step.ms for step in after))
    return {
        "streams": 1,
        "slots": engine.capabilities.slots,
        "path": "in process, dropped at first audio",
        "steps_after": max(steps),
        "after_ms": distribution(took_ms),
    }


async def _still_done(engine: Stepping, longest_ms: float) -> list[Step]:
    """The steps until none has ended for as long as three of them take, or for 10 s in all."""
    done: list[Step] = []
    ends = time.perf_counter() + _GIVEN_UP_S
    while time.perf_counter() < ends:
        await asyncio.sleep(max(_QUIET_S, 3 * longest_ms / 1e3))
        more = engine.take_steps()
        if not more:
            break
        done += more
        longest_ms = max(longest_ms, *(step.ms for step in more))
    return done


def _figures(tally: Tally, wall_s: float) -> dict[str, Any]:
    return {
        "first_audio_ms": distribution(tally.first_audio_ms),
        "utterance_ms": distribution(tally.utterance_ms),
        "rtf": round(sum(tally.rtf) / len(tally.rtf), 4),
        "x_realtime": round(tally.audio_s / wall_s, 2),
        "audio_s": round(tally.audio_s, 2),
        "underruns": tally.underruns,
        "underrun_s": round(tally.underrun_s, 3),
    }
