"""Recognition without a daemon: an engine in this process, under live streams and recordings.

What is said to it is babble: weights may be random, and what matters is time. Word errors are
measured with a daemon, which can speak (``runtime.bench.asr``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from runtime.bench.asr import BLOCK_S, SAMPLE_RATE
from runtime.bench.babble import babble
from runtime.bench.in_process import own_peak
from runtime.bench.load import closed_loop
from runtime.bench.report import distribution
from runtime.requests import resolve_recognition
from runtime.speech import (
    FinalTranscript,
    RecognitionOptions,
    Recognizer,
    Samples,
    Stepping,
)

_TURN_S = (2.0, 5.0)  # shortest and longest
_CLIPS = 32


@dataclass(slots=True)
class _Tally:
    final_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    rtf: list[float] = field(default_factory=list)
    audio_s: float = 0.0
    words: int = 0


async def sweep(
    engine: Recognizer,
    streams: Sequence[int],
    utterances: int,
    on_row: Callable[[dict[str, Any]], None],
    *,
    block_s: float = BLOCK_S,
    live_only: bool = False,
) -> list[dict[str, Any]]:
    """A row of live streams and one of recordings, for each number of streams.

    Live streams push blocks of ``block_s`` as a microphone would, each begun at a time of its own,
    and end their turns by ``finalize()``; an engine that does not stream has no such row. Steps of
    an engine that tells of them are in ``step_ms``, and ``batch`` says how many streams shared
    one. ``live_only``: no recordings.
    """
    lengths = np.random.default_rng(0).uniform(*_TURN_S, _CLIPS)
    clips = [babble(float(seconds), seed) for seed, seconds in enumerate(lengths)]
    rows = []
    for count in streams:
        for path, speak in (("live", partial(_live, block_s)), ("file", _file)):
            if path == "live" and not engine.capabilities.streaming:
                continue
            if path == "file" and live_only:
                continue
            tally = _Tally()
            _steps(engine)
            turns = max(1, -(-utterances // count))
            jobs = [partial(speak, engine, clips, turns, number, tally) for number in range(count)]
            async with own_peak() as peak:
                wall_s = await closed_loop(count, jobs)
            row = {
                "streams": count,
                "slots": engine.capabilities.slots,
                "path": f"in process, {path}",
                "final_ms": distribution(tally.final_ms),
                "late_ms": distribution(tally.late_ms),
                **_steps(engine),
                "rtf": round(sum(tally.rtf) / len(tally.rtf), 4) if tally.rtf else None,
                "x_realtime": round(tally.audio_s / wall_s, 2),
                "words": tally.words,
                **peak.figures(),
            }
            rows.append(row)
            on_row(row)
    return rows


def _steps(engine: Recognizer) -> dict[str, Any]:
    """Those since the last call."""
    steps = engine.take_steps() if isinstance(engine, Stepping) else ()
    if not steps:
        return {}
    return {
        "step_ms": distribution([step.ms for step in steps]),
        "batch": round(sum(step.batch for step in steps) / len(steps), 1),
    }


async def _live(
    block_s: float,
    engine: Recognizer,
    clips: Sequence[Samples],
    turns: int,
    number: int,
    tally: _Tally,
) -> None:
    """Speak some turns into one stream; ``late_ms`` is how late the load itself was."""
    options = resolve_recognition(RecognitionOptions(endpoint_ms=None), engine.capabilities)
    block = round(block_s * SAMPLE_RATE)
    draw = np.random.default_rng(number)
    stream = engine.open(options)
    try:
        events = stream.events()
        await asyncio.sleep(float(draw.uniform(0, 2 * block_s)))
        for turn in range(turns):
            clip = clips[(number + turn * 7) % len(clips)]
            clip = clip[: len(clip) - int(draw.integers(block))]  # ends where it will
            started = time.perf_counter()
            for start in range(0, len(clip), block):
                part = clip[start : start + block]
                due = started + (start + len(part)) / SAMPLE_RATE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tally.late_ms.append((time.perf_counter() - due) * 1e3)
                await stream.push(part)
            ended = time.perf_counter()
            request = await stream.finalize()
            async for event in events:
                if isinstance(event, FinalTranscript) and event.request == request:
                    tally.words += len(event.text.split())
                    break
            tally.final_ms.append((time.perf_counter() - ended) * 1e3)
            tally.audio_s += len(clip) / SAMPLE_RATE
    finally:
        await stream.close()


async def _file(
    engine: Recognizer, clips: Sequence[Samples], turns: int, number: int, tally: _Tally
) -> None:
    """Recognise some recordings one after the other."""
    asked = RecognitionOptions(mode="file", endpoint_ms=None, partials=False)
    options = resolve_recognition(asked, engine.capabilities)
    for turn in range(turns):
        clip = clips[(number + turn * 7) % len(clips)]
        started = time.perf_counter()
        transcript = await engine.transcribe(clip, options)
        seconds = time.perf_counter() - started
        tally.final_ms.append(seconds * 1e3)
        tally.rtf.append(seconds / transcript.seconds)
        tally.audio_s += transcript.seconds
        tally.words += len(transcript.text.split())
