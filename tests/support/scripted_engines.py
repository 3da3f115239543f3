"""Engines that follow the contract and cost nothing: for sizes and faults of any kind."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.bench.engines import CountingStream, Weightless
from runtime.errors import EngineFailed, Overloaded, SessionClosed
from runtime.growing import pieces_of
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

RATE = 8_000
UNPLUGS = 31_123  # PCM16; the next sample is the number of whoever asks for it


class ScriptedSynthesizer(Weightless):
    """10 ms of audio for each character: the samples count up, so that none can hide.

    A sentence with the word "explode" fails; one with "forever" never ends; each with
    "slowly" takes 50 ms. One with "unplugged WORD" loses the device of the replica that is the
    first to say it.
    """

    def __init__(self, *, slots: int = 8) -> None:
        self.capabilities = SynthesizerCapabilities(
            voices=(Voice("ada", ("en", "de")), Voice("bo", ("zh",))),
            sample_rate=RATE,
            streaming=True,
            seed=True,
            slots=slots,
        )
        self._lost = False

    def check(self) -> None:
        if self._lost:
            raise EngineFailed("the scripted device is lost")

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        position = said = texts = 0
        index = request.first_piece
        async for piece in pieces_of(replace(request, first_piece=0), more):
            if piece.index < request.first_piece:
                said += 80 * len(piece.text)
                continue
            index = piece.index
            if "explode" in piece.text:
                raise RuntimeError("the scripted model exploded")
            unplugged = re.search(r"unplugged (\w+)", piece.text)
            if unplugged and _first_to_touch(mark_of(unplugged[1])):
                self._lost = True
            self.check()
            while True:
                ramp = said + position + np.arange(80 * len(piece.text), dtype=np.int64)
                pcm = (ramp % 30_000).astype("<i2").tobytes()
                ends = "forever" not in piece.text
                texts = piece.texts if ends else texts
                yield AudioChunk(pcm, RATE, position, index, ends, texts)
                position += len(ramp)
                await asyncio.sleep(0.05 if "slowly" in piece.text else 0)
                if ends:
                    break
        yield AudioChunk(b"", RATE, position, index, texts=texts, end=True)


def mark_of(word: str) -> Path:
    """What the replica leaves that lost its device at this word; for the test to remove."""
    return Path(tempfile.gettempdir()) / f"speech-unplugged-{word}"


def _first_to_touch(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class BrokenSynthesizer(ScriptedSynthesizer):
    """Can be made and not loaded."""

    async def load(self) -> LoadReport:
        raise EngineFailed("there are no weights here")


class ScriptedRecognizer(Weightless):
    """Hears how many samples there were; a partial each second, a final when asked.

    A push that begins with ``UNPLUGS`` and a number loses the device of the replica that is the
    first to hear it.
    """

    def __init__(self, *, slots: int = 4) -> None:
        self._lost = False
        self.capabilities = RecognizerCapabilities(
            languages=("en", "de"), sample_rate=RATE, streaming=True, words=True, slots=slots
        )
        self._open: set[CountingStream] = set()

    def open(self, options: RecognitionOptions) -> ScriptedStream:
        if len(self._open) >= self.capabilities.slots:
            raise Overloaded("all scripted slots are taken", retry_after_s=0.5)
        stream = ScriptedStream(self._open, options, self._hear)
        self._open.add(stream)
        return stream

    def check(self) -> None:
        if self._lost:
            raise EngineFailed("the scripted device is lost")

    def _hear(self, samples: Samples) -> None:
        first, number = (int(sample) for sample in np.round(samples[:2] * 32_768))
        if first == UNPLUGS and _first_to_touch(mark_of(str(number))):
            self._lost = True
        self.check()

    async def transcribe(self, samples: Samples, options: RecognitionOptions) -> Transcript:
        seconds = len(samples) / RATE
        words = (Word("samples", 0.0, seconds),) if options.words else ()
        final = FinalTranscript(f"{len(samples)} samples", 0, 0.0, seconds, words)
        return Transcript.of([final], seconds)


class ScriptedStream(CountingStream):
    """Also heeds the options, says what is left at its end, and takes nothing after it."""

    def __init__(
        self,
        siblings: set[CountingStream],
        options: RecognitionOptions,
        hear: Callable[[Samples], None],
    ) -> None:
        super().__init__(siblings, RATE)
        self._options = options
        self._hear = hear
        self._over = False

    async def push(self, samples: Samples) -> None:
        if self._over:
            raise SessionClosed("the scripted stream has ended")
        if len(samples) > 1:
            self._hear(samples)
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
