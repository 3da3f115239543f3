"""Trials of a Parakeet checkpoint: its engine restores it and recognises something short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from runtime.engines.parakeet.offline import ParakeetRecognizer
from runtime.engines.parakeet.streaming import StreamingParakeetRecognizer
from runtime.engines.trials.line import Outcome
from runtime.engines.trials.twice import twice
from runtime.speech import LoadReport, RecognitionOptions, Samples

SECONDS = 2.0
"""Of audio: enough to see that it works, little enough for a CPU."""

Engine = ParakeetRecognizer | StreamingParakeetRecognizer


def on_cpu(options: Mapping[str, Any]) -> Iterator[Outcome]:
    """Restore the checkpoint, and recognise noise: two outcomes."""
    with _loaded(options, "cpu") as (runner, engine, loaded):
        details = loaded.details
        yield Outcome(
            "pass",
            f"{details['geometry']}, {details['saved by']}, {details['weights']} as "
            f"{details['dtype']}; restored in {loaded.seconds:.1f} s",
        )
        _, seconds = runner.run(_hear(engine))
        yield Outcome("pass", _pace(seconds))


def on_gpu(options: Mapping[str, Any]) -> Iterator[Outcome]:
    """Restore it to the GPU and recognise; recognise the same again: two outcomes.

    The second is with the engine warm; it is what the graphs give where there are graphs.
    """
    with _loaded(options, "cuda") as (runner, engine, loaded):
        yield from twice(
            lambda: runner.run(_hear(engine)),
            lambda _, seconds: _pace(seconds),
            loaded,
            warm=", warm",
            same="the same text for the same audio",
            other="another text for the same audio",
            mend="a kernel that is not deterministic: texts may differ by a word on this device",
        )


@contextmanager
def _loaded(
    options: Mapping[str, Any], device: str
) -> Iterator[tuple[asyncio.Runner, Engine, LoadReport]]:
    given = dict(options)
    streams = given.pop("streaming")
    make = StreamingParakeetRecognizer if streams else ParakeetRecognizer
    with asyncio.Runner() as runner:
        engine: Engine = make(**given, device=device, slots=1)
        try:
            loaded = runner.run(engine.load())
            yield runner, engine, loaded
        finally:
            runner.run(engine.close())


async def _hear(engine: Engine) -> tuple[str, float]:
    """The text of some noise, and the seconds that it took."""
    started = time.perf_counter()
    transcript = await engine.transcribe(_noise(), RecognitionOptions(mode="file"))
    return transcript.text, time.perf_counter() - started


def _noise() -> Samples:
    noise = np.random.default_rng(0).standard_normal(round(SECONDS * 16_000))
    return (0.1 * noise).astype(np.float32)


def _pace(seconds: float) -> str:
    return f"{SECONDS:g} s of audio in {seconds:.2f} s, RTF {seconds / SECONDS:.2f}"
