"""The offline Parakeet in tests: its sizes, what its model is given, and waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from runtime.bench.babble import babble
from runtime.engines.parakeet.offline import ParakeetRecognizer
from runtime.engines.parakeet.words import Tokens
from runtime.speech import RecognitionOptions, Samples, Transcript

Run = Callable[[Coroutine[Any, Any, Any]], Any]

FILE = RecognitionOptions(mode="file", language="en", partials=False, words=True)
RATE = 16_000
ROWS, WINDOW_S = 4, 4.0


class Watched:
    """The engine's model, and the shapes of the batches that it is given."""

    def __init__(self, recognize: Callable[..., list[Tokens]]) -> None:
        self.recognize = recognize
        self.batches: list[list[int]] = []
        self.failing = 0  # length of the recordings that it fails of

    def __call__(self, batch: list[Samples], boosts: Any = None) -> list[Tokens]:
        self.batches.append([len(samples) for samples in batch])
        if self.failing in self.batches[-1]:
            raise ValueError("this one")
        return self.recognize(batch, boosts)


async def until(condition: Callable[[], bool]) -> None:
    """Return once the model's thread, which sets no event, has got so far."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def under_way(engine: ParakeetRecognizer, watched: Watched) -> asyncio.Task[Transcript]:
    """A call of 3 s that the model, which was idle before, has begun to recognise."""
    call = asyncio.create_task(engine.transcribe(babble(3.0), FILE))
    await until(lambda: bool(watched.batches))
    return call


async def together(engine: ParakeetRecognizer, *sounds: Samples) -> list[Transcript]:
    return await asyncio.gather(*(engine.transcribe(sound, FILE) for sound in sounds))
