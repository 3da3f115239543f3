"""Trials of a Magpie checkpoint: NeMo's own loop restores it and says something short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runtime.engines.magpie.reference import MagpieReference
from runtime.engines.trials.line import Outcome
from runtime.engines.trials.twice import twice
from runtime.requests import resolve_synthesis
from runtime.speech import LoadReport, SynthesisRequest

LONGEST_S = 1.0
"""Of audio: enough to see that it works, little enough for a CPU."""

_TEXT = "Hello."  # one chunk of that length


def on_cpu(options: Mapping[str, Any]) -> Iterator[Outcome]:
    """Restore the checkpoint, and speak: two outcomes."""
    with _loaded(options, "cpu") as (runner, engine, loaded):
        details = loaded.details
        yield Outcome(
            "pass",
            f"{details['geometry']}, {details['saved by']}, {details['weights']} as "
            f"{details['dtype']}; restored in {loaded.seconds:.1f} s, first frames in "
            f"{loaded.warmup_ms / 1e3:.1f} s",
        )
        pcm, seconds = runner.run(_speak(engine))
        yield Outcome("pass", _pace(engine, pcm, seconds))


def on_gpu(options: Mapping[str, Any]) -> Iterator[Outcome]:
    """Restore the checkpoint to the GPU and speak; speak the same again: two outcomes.

    The second is NeMo's own loop as it is, without CUDA graphs, once it is warm.
    """
    with _loaded(options, "cuda") as (runner, engine, loaded):
        yield from twice(
            lambda: runner.run(_speak(engine)),
            lambda pcm, seconds: _pace(engine, pcm, seconds),
            loaded,
            warm="; NeMo's own loop, no graphs",
            same="the same audio for the same seed",
            other="other audio for the same seed",
            mend="a kernel that is not deterministic: seeds do not repeat audio on this device",
        )


@contextmanager
def _loaded(
    options: Mapping[str, Any], device: str
) -> Iterator[tuple[asyncio.Runner, MagpieReference, LoadReport]]:
    short = {"max_utterance_s": LONGEST_S, "normalizer": "off", "device": device}
    with asyncio.Runner() as runner:
        engine = MagpieReference(**options, **short)
        try:
            loaded = runner.run(engine.load())
            yield runner, engine, loaded
        finally:
            runner.run(engine.close())


async def _speak(engine: MagpieReference) -> tuple[bytes, float]:
    """PCM16 of a short text, and the seconds that it took."""
    spoken = engine.capabilities.languages
    language = "en" if "en" in spoken else spoken[0]
    asked = SynthesisRequest(_TEXT, language=language, seed=0, normalise=False)
    request, _ = resolve_synthesis(asked, engine.capabilities)
    started = time.perf_counter()
    pcm = b"".join([chunk.pcm async for chunk in engine.synthesize(request)])
    return pcm, time.perf_counter() - started


def _pace(engine: MagpieReference, pcm: bytes, seconds: float) -> str:
    audio_s = len(pcm) / 2 / engine.capabilities.sample_rate
    return f"{audio_s:.2f} s of audio in {seconds:.2f} s, RTF {seconds / audio_s:.2f}"
