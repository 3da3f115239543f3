"""Engines that cost nothing, so that what is measured is everything around an engine."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from itertools import count
from typing import Any

from runtime.errors import Overloaded
from runtime.growing import texts_of
from runtime.memory.footprint import Footprint
from runtime.speech import (
    AudioChunk,
    FinalTranscript,
    LoadReport,
    PartialTranscript,
    RecognitionEvent,
    RecognitionOptions,
    RecognizerCapabilities,
    Samples,
    SynthesisRequest,
    SynthesizerCapabilities,
    Transcript,
    Voice,
)

SAMPLE_RATE = 16_000
CHUNK_S = 0.020
_CHUNK_BYTES = 2 * int(CHUNK_S * SAMPLE_RATE)
_CHUNKS_A_CHARACTER = 3  # 60 ms of audio, about the pace of speech
_STAMP = struct.Struct("<d")


class Weightless:
    """An engine with nothing to load, to fill or to free."""

    @staticmethod
    def footprint(options: Mapping[str, Any]) -> Footprint:
        """Next to nothing beside the process."""
        slots = int(options.get("slots", 1))
        return Footprint(
            on_gpu=False,
            weights=0,
            weights_from="table",
            workspace=32 << 20,
            state_per_slot=0,
            host=0,
            slots=slots,
            max_slots=slots,
        )

    async def load(self) -> LoadReport:
        """There is nothing to load."""
        return LoadReport(0.0, 0.0)

    async def exercise(self) -> None:
        """There is nothing to fill."""

    async def close(self) -> None:
        """There is nothing to free."""


class PacedSynthesizer(Weightless):
    """Chunks of 20 ms at the pace at which they play; each begins with the time it left.

    Chunks are due on a clock of their own, so that a late one does not delay the rest.
    """

    def __init__(self, *, slots: int = 256) -> None:
        """Choose how many utterances may be under way."""
        self.capabilities = SynthesizerCapabilities(
            (Voice("metronome", ("en",)),), SAMPLE_RATE, streaming=True, seed=True, slots=slots
        )

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        """Tick; see ``Synthesizer.synthesize``."""
        first = texts = 0
        async for text in texts_of(request, more):
            started = time.monotonic()
            chunks = _CHUNKS_A_CHARACTER * len(text)
            for number in range(chunks):
                pause = started + number * CHUNK_S - time.monotonic()
                if pause > 0:
                    await asyncio.sleep(pause)
                pcm = _STAMP.pack(time.monotonic()).ljust(_CHUNK_BYTES, b"\0")
                ends = number == chunks - 1
                yield AudioChunk(pcm, SAMPLE_RATE, first, texts, ends, texts + ends)
                first += _CHUNK_BYTES // 2
            texts += 1
        yield AudioChunk(b"", SAMPLE_RATE, first, texts - 1, texts=texts, end=True)


def left_at(chunk: AudioChunk) -> float:
    """When a chunk of ``PacedSynthesizer`` left it, as ``time.monotonic`` on its host."""
    (stamp,) = _STAMP.unpack_from(chunk.pcm)
    return float(stamp)


class CountingRecognizer(Weightless):
    """Hears how many samples there were; a partial each second of audio."""

    def __init__(self, *, slots: int = 256) -> None:
        """Choose how many streams may be open."""
        self.capabilities = RecognizerCapabilities(
            ("en",), SAMPLE_RATE, streaming=True, words=False, slots=slots
        )
        self._open: set[CountingStream] = set()

    def open(self, options: RecognitionOptions) -> CountingStream:
        """Take a slot; see ``Recognizer.open``."""
        if len(self._open) >= self.capabilities.slots:
            raise Overloaded(f"All {self.capabilities.slots} slots are taken.")
        stream = CountingStream(self._open)
        self._open.add(stream)
        return stream

    async def transcribe(self, samples: Samples, options: RecognitionOptions) -> Transcript:
        """Count a recording; see ``Recognizer.transcribe``."""
        seconds = len(samples) / SAMPLE_RATE
        return Transcript.of([FinalTranscript(f"{len(samples)}", 0, 0.0, seconds)], seconds)


class CountingStream:
    """Tells how many samples came since the last final: each second, and when asked."""

    def __init__(self, siblings: set[CountingStream], sample_rate: int = SAMPLE_RATE) -> None:
        """It is one of ``siblings``, which are open, until it is closed."""
        self._siblings = siblings
        self._sample_rate = sample_rate
        self._events: asyncio.Queue[RecognitionEvent | None] = asyncio.Queue()
        self._heard = self._settled = self._utterance = 0
        self._requests = count(1)

    async def push(self, samples: Samples) -> None:
        """Count; see ``RecognitionStream.push``."""
        before, self._heard = self._heard, self._heard + len(samples)
        if before // self._sample_rate != self._heard // self._sample_rate:
            self._partial()

    async def finalize(self) -> int:
        """Start to count anew; see ``RecognitionStream.finalize``."""
        request = next(self._requests)
        self._final(request)
        return request

    async def finish(self) -> None:
        """End the events; see ``RecognitionStream.finish``."""
        self._events.put_nowait(None)

    async def events(self) -> AsyncGenerator[RecognitionEvent, None]:
        """What was counted; see ``RecognitionStream.events``."""
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        """Free the slot; see ``RecognitionStream.close``."""
        self._siblings.discard(self)
        self._events.put_nowait(None)

    def _text(self) -> str:
        return f"{self._heard - self._settled}"

    def _times(self) -> tuple[float, float]:
        return self._settled / self._sample_rate, self._heard / self._sample_rate

    def _partial(self) -> None:
        self._events.put_nowait(PartialTranscript(self._text(), self._utterance, *self._times()))

    def _final(self, request: int) -> None:
        start_s, end_s = self._times()
        self._events.put_nowait(
            FinalTranscript(self._text(), self._utterance, start_s, end_s, (), request, end_s)
        )
        self._settled = self._heard
        self._utterance += 1
