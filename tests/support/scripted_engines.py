"""Engines that follow the contract and cost nothing: for sizes and faults of any kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import islice

import numpy as np

from runtime.bench.engines import CountingStream, Weightless
from runtime.errors import EngineFailed, Overloaded, SessionClosed
from runtime.speech import (
    AudioChunk,
    FinalTranscript,
    LoadReport,
    RecognitionOptions,
    RecognizerCapabilities,
    Samples,
    SynthesisRequest,
    SynthesizerCapabilities,
    Transcript,
    Voice,
    Word,
)
from runtime.text import plan_chunks

RATE = 8_000


class ScriptedSynthesizer(Weightless):
    """10 ms of audio for each character: the samples count up, so that none can hide.

    A sentence with the word "explode" fails; one with "forever" never ends; each with
    "slowly" takes 50 ms.
    """

    def __init__(self, *, slots: int = 8) -> None:
        self.capabilities = SynthesizerCapabilities(
            voices=(Voice("ada", ("en", "de")), Voice("bo", ("zh",))),
            sample_rate=RATE,
            streaming=True,
            seed=True,
            slots=slots,
        )

    async def synthesize(self, request: SynthesisRequest) -> AsyncGenerator[AudioChunk, None]:
        position = 0
        plan = plan_chunks(request.text, request.language or "en")
        said = sum(80 * len(piece.text) for piece in islice(plan, request.first_piece))
        for piece in plan:
            if "explode" in piece.text:
                raise RuntimeError("the scripted model exploded")
            while True:
                ramp = said + position + np.arange(80 * len(piece.text), dtype=np.int64)
                pcm = (ramp % 30_000).astype("<i2").tobytes()
                yield AudioChunk(pcm, RATE, position, piece.index)
                position += len(ramp)
                await asyncio.sleep(0.05 if "slowly" in piece.text else 0)
                if "forever" not in piece.text:
                    break
        yield AudioChunk(b"", RATE, position, end=True)


class BrokenSynthesizer(ScriptedSynthesizer):
    """Can be made and not loaded."""

    async def load(self) -> LoadReport:
        raise EngineFailed("there are no weights here")


class ScriptedRecognizer(Weightless):
    """Hears how many samples there were; a partial each second, a final when asked."""

    def __init__(self, *, slots: int = 4) -> None:
        self.capabilities = RecognizerCapabilities(
            languages=("en", "de"), sample_rate=RATE, streaming=True, words=True, slots=slots
        )
        self._open: set[CountingStream] = set()

    def open(self, options: RecognitionOptions) -> ScriptedStream:
        if len(self._open) >= self.capabilities.slots:
            raise Overloaded("all scripted slots are taken", retry_after_s=0.5)
        stream = ScriptedStream(self._open, options)
        self._open.add(stream)
        return stream

    async def transcribe(self, samples: Samples, options: RecognitionOptions) -> Transcript:
        seconds = len(samples) / RATE
        words = (Word("samples", 0.0, seconds),) if options.words else ()
        final = FinalTranscript(f"{len(samples)} samples", 0, 0.0, seconds, words)
        return Transcript.of([final], seconds)


class ScriptedStream(CountingStream):
    """Also heeds the options, says what is left at its end, and takes nothing after it."""

    def __init__(self, siblings: set[CountingStream], options: RecognitionOptions) -> None:
        super().__init__(siblings, RATE)
        self._options = options
        self._over = False

    async def push(self, samples: Samples) -> None:
        if self._over:
            raise SessionClosed("the scripted stream has ended")
        await super().push(samples)

    async def finish(self) -> None:
        self._over = True
        if self._heard > self._settled:
            self._final(0)
        await super().finish()

    def _text(self) -> str:
        return f"{super()._text()} samples"

    def _partial(self) -> None:
        if self._options.partials:
            super()._partial()
