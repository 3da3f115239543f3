"""Synthesis under load, from the caller's side of the handle."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runtime.bench.corpus import SENTENCES, TEN_WORDS
from runtime.bench.load import closed_loop, peak_memory, poisson_arrivals
from runtime.bench.report import distribution
from runtime.client import SpeechClient
from runtime.playback import Playback
from runtime.requests import resolve_synthesis
from runtime.speech import AudioChunk, SynthesisRequest, Synthesizer


@dataclass(slots=True)
class Tally:
    """What the utterances of one row took."""

    first_audio_ms: list[float] = field(default_factory=list)
    utterance_ms: list[float] = field(default_factory=list)
    rtf: list[float] = field(default_factory=list)
    audio_s: float = 0.0
    underruns: int = 0
    underrun_s: float = 0.0

    async def listen(self, chunks: AsyncIterator[AudioChunk]) -> None:
        """Read an utterance to its end as a listener would hear it."""
        asked = time.perf_counter()
        playback = Playback()
        heard = False
        async for chunk in chunks:
            now = time.perf_counter()
            if chunk.pcm and not heard:
                self.first_audio_ms.append((now - asked) * 1e3)
                heard = True
            playback.arrived(now, chunk.samples / chunk.sample_rate)
        took = time.perf_counter() - asked
        seconds = chunk.next_sample / chunk.sample_rate
        self.utterance_ms.append(took * 1e3)
        self.rtf.append(took / seconds)
        self.audio_s += seconds
        self.underruns += playback.underruns
        self.underrun_s += playback.underrun_s


async def sweep(
    client: SpeechClient,
    streams: Sequence[int],
    utterances: int,
    paced_s: float | None,
    on_row: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """One row for throughput and one at real-time load, for each number of streams.

    Pacing off: each stream starts its next utterance when its last has ended. Pacing on:
    Poisson arrivals at the rate that keeps ``streams`` listeners busy, for ``paced_s`` seconds,
    or as many utterances as without pacing; 0 leaves these rows out.
    """
    voices = itertools.cycle(await client.voices())
    pid = (await client.info())["TTS"].pid
    rows = []
    for count in streams:
        texts = list(itertools.islice(itertools.cycle(SENTENCES), max(utterances, count)))
        requests = [SynthesisRequest(text, next(voices).name) for text in texts]
        mean_audio_s = 4.0
        for paced in (False, True) if paced_s != 0 else (False,):
            tally = Tally()
            if paced:
                requests = arriving(requests, count / mean_audio_s, paced_s)
            jobs = [partial(_speak, client, request, tally) for request in requests]
            async with peak_memory([pid]) as peak:
                if paced:
                    wall_s = await poisson_arrivals(count / mean_audio_s, jobs)
                else:
                    wall_s = await closed_loop(count, jobs)
                    mean_audio_s = tally.audio_s / len(jobs)
            row = _row(count, "handle", tally, wall_s, peak)
            row["pacing"] = f"Poisson, {count / mean_audio_s:.2f}/s" if paced else "off"
            rows.append(row)
            on_row(row)
    return rows


def arriving(
    requests: Sequence[SynthesisRequest], rate: float, seconds: float | None
) -> list[SynthesisRequest]:
    """As many of the requests, again and again, as arrive in that time at ``rate`` a second."""
    count = len(requests) if seconds is None else max(1, round(rate * seconds))
    return list(itertools.islice(itertools.cycle(requests), count))


async def _speak(client: SpeechClient, request: SynthesisRequest, tally: Tally) -> None:
    async with client.synthesize(request) as stream:
        await tally.listen(stream)


async def overhead(client: SpeechClient, engine: Synthesizer, repeats: int) -> list[dict[str, Any]]:
    """A ten-word sentence through the handle and from the engine in this process, in turns."""
    request, _ = resolve_synthesis(SynthesisRequest(TEN_WORDS), engine.capabilities)
    handle, in_process = Tally(), Tally()
    for turn in range(repeats + 1):
        if turn == 1:  # the first of each warms up
            handle, in_process = Tally(), Tally()
        await _speak(client, SynthesisRequest(TEN_WORDS), handle)
        async with aclosing(engine.synthesize(request)) as chunks:
            await in_process.listen(chunks)
    return [
        _row(1, "handle, ten words", handle, None, []),
        _row(1, "in process, ten words", in_process, None, []),
    ]


def _row(
    streams: int, path: str, tally: Tally, wall_s: float | None, peak: list[int]
) -> dict[str, Any]:
    return {
        "streams": streams,
        "path": path,
        "first_audio_ms": distribution(tally.first_audio_ms),
        "rtf": round(sum(tally.rtf) / len(tally.rtf), 4),
        "x_realtime": round(tally.audio_s / wall_s, 2) if wall_s else None,
        "underruns": tally.underruns,
        "underrun_s": round(tally.underrun_s, 3),
        "peak_gib": round(peak[0] / 2**30, 3) if peak else None,
    }
