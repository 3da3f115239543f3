"""A turn of a conversation without the LLM: from the user's last sample to the bot's first."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runtime.bench.asr import TAIL_S, Clip, clip_of, push_live, spoken_clips
from runtime.bench.corpus import SENTENCES, TEN_WORDS
from runtime.bench.load import closed_loop, peak_memory
from runtime.bench.report import distribution
from runtime.client import SpeechClient
from runtime.engines import make_synthesizer
from runtime.speakable import has_speech
from runtime.speech import SynthesisRequest, Synthesizer


@dataclass(slots=True)
class _Tally:
    final_ms: list[float] = field(default_factory=list)
    first_audio_ms: list[float] = field(default_factory=list)
    turn_ms: list[float] = field(default_factory=list)


async def clips(client: SpeechClient | None) -> list[Clip]:
    """What users say: spoken by the daemon, or without one by the embedded engine here."""
    if client is not None:
        return await spoken_clips(client)
    engine = make_synthesizer("hibari")
    await engine.load()
    try:
        return [await _spoken(engine, text) for text in SENTENCES]
    finally:
        await engine.close()


async def _spoken(engine: Synthesizer, text: str) -> Clip:
    chunks = [c async for c in engine.synthesize(SynthesisRequest(text, seed=0, language="en"))]
    return clip_of(text, chunks)


async def sweep(
    client: SpeechClient,
    clips: Sequence[Clip],
    streams: Sequence[int],
    turns: int,
    on_row: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """A row for each number of conversations at once; the bot repeats what it heard.

    ``turn_ms`` starts at the end of the user's speech, so it includes the 200 ms of silence
    by which a bot's VAD knows that the user has ended.
    """
    pids = [info.pid for info in (await client.info()).values()]
    rows = []
    for count in streams:
        chosen = itertools.islice(itertools.cycle(clips), max(turns, count))
        tally = _Tally()
        jobs = [partial(_turn, client, clip, tally) for clip in chosen]
        async with peak_memory(pids) as peak:
            await closed_loop(count, jobs)
        row = {
            "streams": count,
            "final_ms": distribution(tally.final_ms),
            "first_audio_ms": distribution(tally.first_audio_ms),
            "turn_ms": distribution(tally.turn_ms),
            "peak_gib": round(peak[0] / 2**30, 3) if peak else None,
        }
        rows.append(row)
        on_row(row)
    return rows


async def _turn(client: SpeechClient, clip: Clip, tally: _Tally) -> None:
    async with client.open_recognition(endpoint_ms=None) as session:
        await push_live(clip, session.push)
        ended = time.perf_counter()
        final = await session.finalize()
        heard = time.perf_counter()
        # Random weights may have heard nothing that can be said.
        async with client.synthesize(final.text if has_speech(final.text) else TEN_WORDS) as reply:
            await anext(reply)
            spoken = time.perf_counter()
    tally.final_ms.append((heard - ended) * 1e3)
    tally.first_audio_ms.append((spoken - heard) * 1e3)
    tally.turn_ms.append((spoken - ended + TAIL_S) * 1e3)
