"""Callers whose replica is killed or drained while they talk or listen.

What they got is compared with an undisturbed run of the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from runtime.bench.asr import SAMPLE_RATE, Clip, push_live
from runtime.bench.corpus import SENTENCES
from runtime.bench.outcome import Outcome
from runtime.bench.wer import words_lost
from runtime.client import RecognitionSession, SpeechClient, SynthesisStream
from runtime.config import ASR_DEPLOYMENT, TTS_DEPLOYMENT
from runtime.errors import SpeechError
from runtime.speech import AudioChunk, FinalTranscript

SPEECH = " ".join(SENTENCES[:6])
"""About half a minute."""

_CALLERS = 2  # one on each replica
_STRIKE_S = 4.0  # into the clip, in the middle of a sentence
_PLAYED_S = 0.1  # for each chunk of half a second

Strike: TypeAlias = Callable[[str, str], Awaitable[None]]
"""At a replica of a deployment."""

# --- recognition -------------------------------------------------------------


async def listen(client: SpeechClient, clip: Clip) -> str:
    """What is understood of a clip that nothing disturbs."""
    async with client.open_recognition() as session:
        await push_live(clip, session.push)
        await session.finish()
        finals = [event async for event in session if isinstance(event, FinalTranscript)]
    return " ".join(final.text for final in finals)


async def listen_under(
    client: SpeechClient, clip: Clip, undisturbed: str, strike: Strike
) -> Outcome:
    """A caller on each replica, who talks while the first one's is struck."""
    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(client.open_recognition()) for _ in range(_CALLERS)
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


async def speak(client: SpeechClient) -> list[AudioChunk]:
    """The text, spoken while nothing disturbs."""
    async with client.synthesize(SPEECH, seed=0) as stream:
        return [chunk async for chunk in stream]


async def speak_under(
    client: SpeechClient, undisturbed: list[AudioChunk], strike: Strike
) -> Outcome:
    """A listener on each replica, while the first one's is struck."""
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(client.synthesize(SPEECH, seed=0))
            for _ in range(_CALLERS)
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
