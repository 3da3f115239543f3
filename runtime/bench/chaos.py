"""Replicas are killed and drained and callers barge in, while people talk.

Each scenario compares what a caller got with an undisturbed run of the same, and looks
afterwards for slots that nobody freed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from runtime.bench.asr import SAMPLE_RATE, Clip, push_live, spoken_clips
from runtime.bench.corpus import SENTENCES
from runtime.bench.wer import words_lost
from runtime.client import RecognitionSession, SpeechClient, SynthesisStream
from runtime.config import ASR_DEPLOYMENT, BUILDER, TTS_DEPLOYMENT
from runtime.errors import SpeechError
from runtime.speech import AudioChunk, FinalTranscript

REPLICAS = 2
BARGE_INS = 100
_SPEECH = " ".join(SENTENCES[:6])  # about half a minute
_STRIKE_S = 4.0  # into the clip, in the middle of a sentence
_PLAYED_S = 0.1  # for each chunk of half a second
_READY_S = 90.0  # for replicas to be started again
_SETTLE_S = 5.0  # for slots to become free


def document(replicas: int = REPLICAS) -> dict[str, Any]:
    """The Serve configuration under attack: embedded engines, several replicas each."""
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
            }
        ],
    }


@dataclass(slots=True)
class Outcome:
    """What a scenario did to its callers.

    Attributes:
        words_lost: Words missing or changed against the undisturbed run.
        samples_doubled: Samples of audio heard or spoken twice.
        recovery_ms: Recognition: between the blow, or the last event that still came after
            it, and the first event of another replica. Synthesis: the longest wait for audio
            after the blow. Barge-in: to the first audio of the next answer, the median.
        streams: The streams that were aborted on purpose, and when (Unix time).
    """

    words_lost: int = 0
    samples_doubled: int = 0
    recovery_ms: float = 0.0
    streams: dict[str, float] = field(default_factory=dict)


Strike = Callable[[str, str], Awaitable[None]]  # at a replica of a deployment


async def run(
    client: SpeechClient, on_row: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """One row for each scenario; the daemon has to run ``document()`` on this host."""
    (clip,) = await spoken_clips(client, [_SPEECH])
    undisturbed = await _listen(client, clip)
    spoken = await _speak(client)

    async def kill(deployment: str, replica: str) -> None:
        pids = {info.replica: info.pid for info in await client.replicas(deployment)}
        os.kill(pids[replica], signal.SIGKILL)

    async def drain(deployment: str, _: str) -> None:
        # Serve chooses which replica has to go: there are callers on both.
        await _deploy(1)
        async with _changes(client) as changed:
            while len(client.known_replicas(deployment).serving) > 1:
                await changed()

    scenarios: dict[str, tuple[str, Callable[[], Awaitable[Outcome]]]] = {
        "recognition, replica killed": (
            ASR_DEPLOYMENT,
            lambda: _listen_under(client, clip, undisturbed, kill),
        ),
        "recognition, replica drained": (
            ASR_DEPLOYMENT,
            lambda: _listen_under(client, clip, undisturbed, drain),
        ),
        "synthesis, replica killed": (TTS_DEPLOYMENT, lambda: _speak_under(client, spoken, kill)),
        "synthesis, replica drained": (TTS_DEPLOYMENT, lambda: _speak_under(client, spoken, drain)),
        "barge-in": (TTS_DEPLOYMENT, lambda: _barge_in(client)),
    }
    rows = []
    for name, (deployment, scenario) in scenarios.items():
        await _deploy(REPLICAS)
        await _ready(client)
        outcome = await scenario()
        row = {
            "scenario": name,
            "words_lost": outcome.words_lost,
            "samples_doubled": outcome.samples_doubled,
            "leaked_slots": await _leaked(client),
            "orphaned_ms": await _orphaned_ms(client, deployment, outcome.streams),
            "recovery_ms": round(outcome.recovery_ms, 1),
        }
        rows.append(row)
        on_row(row)
    return rows


# --- recognition -------------------------------------------------------------


async def _listen(client: SpeechClient, clip: Clip) -> str:
    async with client.open_recognition() as session:
        await push_live(clip, session.push)
        await session.finish()
        finals = [event async for event in session if isinstance(event, FinalTranscript)]
    return " ".join(final.text for final in finals)


async def _listen_under(
    client: SpeechClient, clip: Clip, undisturbed: str, strike: Strike
) -> Outcome:
    """A caller on each replica, who talks while the first one's is struck."""
    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(client.open_recognition()) for _ in range(REPLICAS)
        ]
        callers = [_Caller(session) for session in sessions]
        talking = [asyncio.create_task(caller.talk(clip)) for caller in callers]
        await asyncio.sleep(_STRIKE_S)
        struck = time.monotonic()
        await strike(ASR_DEPLOYMENT, sessions[0].replica)
        await asyncio.gather(*talking)
    waits = [wait for caller in callers if (wait := caller.silence_s(struck)) is not None]
    if not waits:
        raise SpeechError("No session moved: the blow reached none of their replicas.")
    return Outcome(
        words_lost=sum(words_lost(undisturbed, caller.text) for caller in callers),
        samples_doubled=sum(caller.samples_doubled for caller in callers),
        recovery_ms=max(waits) * 1e3,
    )


class _Caller:
    """Talks at the pace of speech and notes what was understood."""

    def __init__(self, session: RecognitionSession) -> None:
        self._session = session
        self._finals: list[FinalTranscript] = []
        self._last: float | None = None  # when the last event came before it moved
        self._recovered: float | None = None  # when the first event of another replica came

    async def talk(self, clip: Clip) -> None:
        reading = asyncio.create_task(self._read())
        await push_live(clip, self._session.push)
        await self._session.finish()
        await reading

    async def _read(self) -> None:
        async for event in self._session:
            if not self._session.moves:
                self._last = time.monotonic()
            elif self._recovered is None:
                self._recovered = time.monotonic()
            if isinstance(event, FinalTranscript):
                self._finals.append(event)

    def silence_s(self, struck: float) -> float | None:
        """From the blow, or the last event after it, to another replica's first; None: no move."""
        return self._recovered and self._recovered - max(struck, self._last or struck)

    @property
    def text(self) -> str:
        return " ".join(final.text for final in self._finals)

    @property
    def samples_doubled(self) -> int:
        overlaps = (
            max(0.0, before.end_s - after.start_s) for before, after in pairwise(self._finals)
        )
        return round(sum(overlaps) * SAMPLE_RATE)


# --- synthesis ---------------------------------------------------------------


async def _speak(client: SpeechClient) -> list[AudioChunk]:
    async with client.synthesize(_SPEECH, seed=0) as stream:
        return [chunk async for chunk in stream]


async def _speak_under(
    client: SpeechClient, undisturbed: list[AudioChunk], strike: Strike
) -> Outcome:
    """A listener on each replica, while the first one's is struck."""
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(client.synthesize(_SPEECH, seed=0))
            for _ in range(REPLICAS)
        ]
        players = [_Player(stream) for stream in streams]
        for player in players:
            await player.begin()
        playing = [asyncio.create_task(player.play()) for player in players]
        started = streams[0].started
        assert started is not None
        struck = time.monotonic()
        await strike(TTS_DEPLOYMENT, started.replica)
        await asyncio.gather(*playing)
    outcome = Outcome(recovery_ms=players[0].longest_wait_ms(struck))
    for player in players:
        given = np.zeros(undisturbed[-1].next_sample, dtype=np.int64)
        for chunk in player.chunks:
            given[chunk.first_sample : chunk.next_sample] += 1
        outcome.samples_doubled += int((given > 1).sum())
        if _pcm(player.chunks) != _pcm(undisturbed):
            expected = await _recognise(client, undisturbed)
            outcome.words_lost += words_lost(expected, await _recognise(client, player.chunks))
    return outcome


class _Player:
    """Takes chunks a few times faster than they play, so that their synthesis lasts."""

    def __init__(self, stream: SynthesisStream) -> None:
        self._stream = stream
        self._asked: list[tuple[float, float]] = []  # from, until
        self.chunks: list[AudioChunk] = []

    async def begin(self) -> None:
        self.chunks.append(await anext(self._stream))

    async def play(self) -> None:
        while True:
            await asyncio.sleep(_PLAYED_S)
            asked = time.monotonic()
            chunk = await anext(self._stream, None)
            if chunk is None:
                return
            self._asked.append((asked, time.monotonic()))
            self.chunks.append(chunk)

    def longest_wait_ms(self, since: float) -> float:
        return max(until - asked for asked, until in self._asked if until > since) * 1e3


def _pcm(chunks: list[AudioChunk]) -> bytes:
    return b"".join(chunk.pcm for chunk in chunks)


async def _recognise(client: SpeechClient, chunks: list[AudioChunk]) -> str:
    transcript = await client.transcribe(
        _pcm(chunks), sample_rate=chunks[0].sample_rate, mode="live", partials=False
    )
    return transcript.text


async def _barge_in(client: SpeechClient) -> Outcome:
    moments = random.Random(0)
    outcome = Outcome()
    waits = []
    for _ in range(BARGE_INS):
        stream = client.synthesize(_SPEECH)
        await anext(stream)
        await asyncio.sleep(moments.random() * 0.1)
        outcome.streams[stream.id] = time.time()
        began = time.monotonic()
        await stream.aclose()
        async with client.synthesize("Yes?") as answer:
            await anext(answer)
        waits.append((time.monotonic() - began) * 1e3)
    outcome.recovery_ms = float(np.median(waits))
    return outcome


# --- the daemon --------------------------------------------------------------


async def _deploy(replicas: int) -> None:
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(document(replicas))
    await asyncio.to_thread(_get_global_client().deploy_apps, schema, _blocking=False)


async def _ready(client: SpeechClient) -> None:
    """Return once all replicas take calls."""
    for name in (ASR_DEPLOYMENT, TTS_DEPLOYMENT):
        async with _changes(client) as changed:
            while len(await client.replicas(name)) < REPLICAS:
                await changed()


@asynccontextmanager
async def _changes(client: SpeechClient) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Yields what waits for replicas to come or go, within ``_READY_S`` in all."""
    news = asyncio.Event()
    ends = [
        client.known_replicas(name).subscribe(news.set) for name in (ASR_DEPLOYMENT, TTS_DEPLOYMENT)
    ]

    async def changed() -> None:
        await news.wait()
        news.clear()

    try:
        async with asyncio.timeout(_READY_S):
            yield changed
    finally:
        for end in ends:
            end()


async def _leaked(client: SpeechClient) -> int:
    """Slots that are still taken after a while, though nobody calls."""
    deadline = time.monotonic() + _SETTLE_S
    while (taken := await _taken(client)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return taken


async def _taken(client: SpeechClient) -> int:
    infos = [i for name in (ASR_DEPLOYMENT, TTS_DEPLOYMENT) for i in await client.replicas(name)]
    return sum(engine.active for info in infos for engine in info.engines)


async def _orphaned_ms(client: SpeechClient, deployment: str, streams: dict[str, float]) -> float:
    """The longest that a replica worked for nobody, from the caller's leaving on."""
    aborted = {stream.stream: stream.freed_at for stream in await client.aborted(deployment)}
    waits = [
        (aborted[stream] - left) * 1e3 for stream, left in streams.items() if stream in aborted
    ]
    if len(waits) < len(streams):
        raise SpeechError(f"{len(streams) - len(waits)} aborted streams were never freed.")
    return round(max(waits, default=0.0), 2)
