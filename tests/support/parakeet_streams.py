"""Live streams over a scripted model: what a frame holds is the word that it says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from runtime.engines.parakeet.chunks import NOTHING, Chunk, Said
from runtime.engines.parakeet.scheduler import Scheduler
from runtime.engines.parakeet.session import ParakeetStream
from runtime.engines.parakeet.steps import StepLoop
from runtime.engines.parakeet.transcript import Transcriber
from runtime.engines.worker import ModelWorker
from runtime.speech import FinalTranscript, RecognitionEvent, Samples

RATE, FRAME, FRAMES = 1_000, 80, 2
CHUNK, TAIL, LEAST = FRAMES * FRAME, FRAME, 10


def said(*words: int) -> Samples:
    """Audio of a frame for each word; 0 is silence."""
    return np.repeat(np.asarray(words, dtype=np.float32) / 1000, FRAME)


def silence(frames: float) -> Samples:
    return np.zeros(round(frames * FRAME), dtype=np.float32)


class Numbers:
    """A vocabulary in which each token is a word: its number."""

    def begins_word(self, token: int) -> bool:
        return True

    def text(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))


class ScriptedModel:
    """Says what frames hold; may be held within a step, and may fail."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.batches: list[int] = []
        self._current: Sequence[Chunk] | None = None
        self.failure: Exception | None = None
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def prepare(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        assert 0 < len(chunks) <= self.batch
        rows = [chunk.row for chunk in (*chunks, *(self._current or ()))]
        assert len(set(rows)) == len(rows), "a slot is in one step at a time"
        return chunks

    def launch(self, chunks: Sequence[Chunk]) -> None:
        assert self._current is None, "one step at a time"
        self._current = chunks

    def collect(self, chunks: Sequence[Chunk]) -> list[Said]:
        assert self._current is chunks
        self._current = None
        self.begun.set()
        assert self.may_go_on.wait(60), "a test has held the model and not let it go"
        if self.failure is not None:
            raise self.failure
        self.batches.append(len(chunks))
        return [self._said(chunk) for chunk in chunks]

    def _said(self, chunk: Chunk) -> Said:
        starts = chunk.samples[::FRAME]
        words = [(round(float(s) * 1000), f) for f, s in enumerate(starts) if s > 0]
        return Said(*zip(*words, strict=True)) if words else NOTHING


class Fixture:
    """A scripted model with slots."""

    def __init__(self, slots: int, batch: int) -> None:
        self.model = ScriptedModel(batch)
        self.worker = ModelWorker("scripted")
        scheduler = Scheduler(slots, CHUNK, TAIL, LEAST)
        self.steps = StepLoop(self.worker, scheduler, "scripted")
        self.steps.start(self.model)
        self.over: list[ParakeetStream] = []

    def open(
        self, *, endpoint_s: float | None = None, partials: bool = False, words: bool = False
    ) -> ParakeetStream:
        return ParakeetStream(
            self.steps,
            Transcriber(Numbers(), partials=partials, words=words, endpoint_s=endpoint_s),
            sample_rate=RATE,
            frame=FRAME,
            on_over=self.over.append,
        )

    async def model_is_busy(self) -> None:
        await asyncio.to_thread(self.model.begun.wait, 60)

    async def idle(self) -> None:
        """Return once everything that was pushed has been heard and handed over."""
        while self.steps.busy:
            await self.worker.run(len, "", background=True)  # behind the steps in the same queue
        await asyncio.sleep(0)  # what the last step said is handed over on the loop


async def events_of(stream: ParakeetStream) -> list[RecognitionEvent]:
    return [event async for event in stream.events()]


async def finals_of(stream: ParakeetStream) -> list[FinalTranscript]:
    return [event for event in await events_of(stream) if isinstance(event, FinalTranscript)]


def play(
    script: Callable[[Fixture], Coroutine[Any, Any, None]], slots: int = 4, batch: int = 96
) -> None:
    """Run a script; whatever it does, the model is let go afterwards, and no slot is taken."""

    async def main() -> None:
        fixture = Fixture(slots, batch)
        try:
            async with asyncio.timeout(60):
                await script(fixture)
        finally:
            fixture.model.may_go_on.set()
            fixture.worker.close()
            await fixture.worker.finished()

    asyncio.run(main())
