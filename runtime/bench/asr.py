"""Recognition under load: live streams paced as microphones are, and recordings."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runtime.audio import float32_to_pcm16, pcm16_to_float32, resample
from runtime.bench.corpus import SENTENCES, TEN_WORDS
from runtime.bench.load import closed_loop, peak_memory
from runtime.bench.report import distribution
from runtime.bench.wer import word_error_rate
from runtime.client import SpeechClient
from runtime.speech import AudioChunk, RecognitionOptions, Recognizer

SAMPLE_RATE = 16_000
BLOCK_S = 0.08
TAIL_S = 0.2  # silence after the last word: what a bot's VAD waits before it calls the end


@dataclass(frozen=True, slots=True)
class Clip:
    """Speech at 16 kHz PCM16 with what is said in it."""

    text: str
    pcm: bytes

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.pcm) / 2 / SAMPLE_RATE


@dataclass(slots=True)
class Tally:
    """What the clips of one row took."""

    final_ms: list[float] = field(default_factory=list)
    rtf: list[float] = field(default_factory=list)
    heard: list[tuple[str, str]] = field(default_factory=list)
    audio_s: float = 0.0
    late_s: float = 0.0


async def spoken_clips(client: SpeechClient, texts: Sequence[str] = SENTENCES) -> list[Clip]:
    """Have the daemon's own synthesizer say some sentences."""
    clips = []
    for text in texts:
        async with client.synthesize(text, seed=0) as stream:
            chunks = [chunk async for chunk in stream]
        clips.append(clip_of(text, chunks))
    return clips


def clip_of(text: str, chunks: Sequence[AudioChunk]) -> Clip:
    """An utterance as a clip, with the silence after it that a bot's VAD waits for."""
    speech = pcm16_to_float32(b"".join(chunk.pcm for chunk in chunks))
    samples = resample(speech, chunks[0].sample_rate, SAMPLE_RATE)
    return Clip(text, float32_to_pcm16(samples) + bytes(2 * int(TAIL_S * SAMPLE_RATE)))


async def sweep(
    client: SpeechClient,
    streams: Sequence[int],
    utterances: int,
    on_row: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """A row of live streams and one of recordings, for each number of streams."""
    clips = await spoken_clips(client)
    pid = (await client.info())["ASR"].pid
    rows = []
    for count in streams:
        chosen = list(itertools.islice(itertools.cycle(clips), max(utterances, count)))
        for mode, job in (("live", _live), ("file", _file)):
            tally = Tally()
            jobs = [partial(job, client, clip, tally) for clip in chosen]
            async with peak_memory([pid]) as peak:
                wall_s = await closed_loop(count, jobs)
            row = _row(count, f"handle, {mode}", tally, wall_s, peak)
            rows.append(row)
            on_row(row)
    return rows


async def _live(client: SpeechClient, clip: Clip, tally: Tally) -> None:
    async with client.open_recognition(endpoint_ms=None) as session:
        await push_live(clip, session.push)
        ended = time.perf_counter()
        final = await session.finalize()
        tally.final_ms.append((time.perf_counter() - ended) * 1e3)
    tally.heard.append((clip.text, final.text))
    tally.audio_s += clip.seconds


async def push_live(clip: Clip, push: Callable[[bytes], Any]) -> None:
    """Push 80 ms blocks as a microphone would have them."""
    size = 2 * int(BLOCK_S * SAMPLE_RATE)
    start = time.perf_counter()
    for number, offset in enumerate(range(0, len(clip.pcm), size), 1):
        await asyncio.sleep(max(0.0, start + number * BLOCK_S - time.perf_counter()))
        await push(clip.pcm[offset : offset + size])


async def _file(client: SpeechClient, clip: Clip, tally: Tally) -> None:
    asked = time.perf_counter()
    transcript = await client.transcribe(clip.pcm, sample_rate=SAMPLE_RATE)
    seconds = time.perf_counter() - asked
    tally.final_ms.append(seconds * 1e3)
    tally.rtf.append(seconds / clip.seconds)
    tally.heard.append((clip.text, transcript.text))
    tally.audio_s += clip.seconds


async def overhead(
    client: SpeechClient, live: Recognizer, file: Recognizer, repeats: int
) -> list[dict[str, Any]]:
    """A clip of 4 s through the handle and from the engines in this process, in turns."""
    (clip,) = await spoken_clips(client, [TEN_WORDS])
    tallies = {path: Tally() for path in _PATHS}
    for turn in range(repeats + 1):
        if turn == 1:  # the first of each warms up
            tallies = {path: Tally() for path in _PATHS}
        await _live(client, clip, tallies[_PATHS[0]])
        await _live_in_process(live, clip, tallies[_PATHS[1]])
        await _file(client, clip, tallies[_PATHS[2]])
        await _file_in_process(file, clip, tallies[_PATHS[3]])
    return [_row(1, path, tally, None, []) for path, tally in tallies.items()]


_PATHS = (
    "handle, live, one clip",
    "in process, live, one clip",
    "handle, file, one clip",
    "in process, file, one clip",
)


async def _live_in_process(engine: Recognizer, clip: Clip, tally: Tally) -> None:
    stream = engine.open(RecognitionOptions(endpoint_ms=None, language="en"))
    try:
        await push_live(clip, lambda pcm: stream.push(pcm16_to_float32(pcm)))
        ended = time.perf_counter()
        request = await stream.finalize()
        async for event in stream.events():
            if getattr(event, "request", None) == request:
                break
        tally.final_ms.append((time.perf_counter() - ended) * 1e3)
        tally.heard.append((clip.text, event.text))
        tally.audio_s += clip.seconds
    finally:
        await stream.close()


async def _file_in_process(engine: Recognizer, clip: Clip, tally: Tally) -> None:
    asked = time.perf_counter()
    options = RecognitionOptions(mode="file", language="en", partials=False)
    transcript = await engine.transcribe(pcm16_to_float32(clip.pcm), options)
    seconds = time.perf_counter() - asked
    tally.final_ms.append(seconds * 1e3)
    tally.rtf.append(seconds / clip.seconds)
    tally.heard.append((clip.text, transcript.text))
    tally.audio_s += clip.seconds


def _row(
    streams: int, path: str, tally: Tally, wall_s: float | None, peak: list[int]
) -> dict[str, Any]:
    return {
        "streams": streams,
        "path": path,
        "final_ms": distribution(tally.final_ms),
        "rtf": round(sum(tally.rtf) / len(tally.rtf), 4) if tally.rtf else None,
        "x_realtime": round(tally.audio_s / wall_s, 2) if wall_s else None,
        "wer": round(word_error_rate(tally.heard), 4),
        "peak_gib": round(peak[0] / 2**30, 3) if peak else None,
    }
