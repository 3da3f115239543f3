"""A stream over a model of which a test can tell exactly what it decoded, and how often.

The model says how many samples it was given, and loud frames are speech.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np

from runtime.engines.embedded.segmenter import FRAME, SAMPLE_RATE, Segmenter, SegmentRules
from runtime.engines.embedded.stream import Decoded, SegmentStream
from runtime.engines.worker import ModelWorker
from runtime.speech import FinalTranscript, RecognitionEvent, Samples, Word

LIVE = SegmentRules(silence_ms=500, max_s=10.0)
TURN = SegmentRules(silence_ms=500, max_s=10.0, closes=False)
TAIL = 8  # frames without speech that the model hears where speech has paused
FRAME_S = FRAME / SAMPLE_RATE


class Loudness:
    """How likely a frame is speech: as likely as it is loud."""

    def __call__(self, frame: Samples) -> float:
        return float(np.abs(frame).mean())

    def reset(self) -> None:
        pass


def speech(frames: float) -> Samples:
    return np.full(round(frames * FRAME), 0.9, dtype=np.float32)


def silence(frames: float) -> Samples:
    return np.zeros(round(frames * FRAME), dtype=np.float32)


class Model:
    """Says how many samples it was given; may be held, and may fail."""

    def __init__(self) -> None:
        self.decoded: list[int] = []
        self.failure: Exception | None = None
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, samples: Samples) -> Decoded:
        self.begun.set()
        assert self.may_go_on.wait(60), "a test has held the model and not let it go"
        if self.failure is not None:
            raise self.failure
        self.decoded.append(len(samples))
        words = (Word("first", 0.0, 0.1), Word("last", 0.2, len(samples) / SAMPLE_RATE))
        return Decoded(str(len(samples)), words)


class Fixture:
    """A stream with its model, and what it told of its slot."""

    def __init__(self, rules: SegmentRules, *, partials: bool) -> None:
        self.model = Model()
        self.gate = ModelWorker("gate")
        self.worker = ModelWorker("scripted")
        self.freed: list[SegmentStream] = []
        self.stream = SegmentStream(
            self.gate,
            Segmenter(Loudness(), rules),
            self._decode,
            partials=partials,
            on_close=self.freed.append,
        )

    async def _decode(self, samples: Samples, background: bool) -> Decoded:
        return await self.worker.run(self.model, samples, background=background)

    async def events(self) -> list[RecognitionEvent]:
        """All events to the end of the stream."""
        return [event async for event in self.stream.events()]

    async def finals(self) -> list[FinalTranscript]:
        return [event for event in await self.events() if isinstance(event, FinalTranscript)]

    async def model_is_busy(self) -> None:
        await asyncio.to_thread(self.model.begun.wait, 60)


Script = Callable[[Fixture], Coroutine[Any, Any, None]]


def play(script: Script, rules: SegmentRules = LIVE, *, partials: bool = False) -> Fixture:
    """Run a script on a stream; whatever it does, the model is let go afterwards."""

    async def main() -> Fixture:
        fixture = Fixture(rules, partials=partials)
        try:
            async with asyncio.timeout(60):
                await script(fixture)
        finally:
            fixture.model.may_go_on.set()
            await fixture.stream.close()
            fixture.worker.close()
        return fixture

    return asyncio.run(main())


async def turns_of_the_loop(count: int = 10) -> None:
    """Let everything that can run do so; the model, which is held, cannot."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until_decoded(f: Fixture, count: int) -> None:
    """Return once so many segments are decoded and what was said of them has arrived."""
    while len(f.model.decoded) < count:  # noqa: ASYNC110  # the model's thread sets no asyncio.Event
        await asyncio.sleep(0.001)
    await f.worker.run(len, "")  # behind the decoding in the same queue
    await turns_of_the_loop()


async def start(call: Awaitable[Any]) -> asyncio.Future[Any]:
    """Begin a call and give it every chance to end."""
    future = asyncio.ensure_future(call)
    await turns_of_the_loop()
    return future
