"""Speaking with a Magpie engine, and noting what its model was asked and gave."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from runtime.engines.magpie.reference import MagpieReference
from runtime.requests import resolve_synthesis
from runtime.speech import AudioChunk, SynthesisRequest

FRAMES = 40  # of a chunk: 1.9 s, or 20 tokens
ONE = "Hello world."
THREE = "Hello world. This is a test. To the text."
BUILT = {"max_decoder_steps": FRAMES, "eos_bias": -100.0}


def speak(engine: MagpieReference, text: str, **fields: Any) -> list[AudioChunk]:
    request, _ = resolve_synthesis(SynthesisRequest(text, **fields), engine.capabilities)

    async def read() -> list[AudioChunk]:
        return [chunk async for chunk in engine.synthesize(request)]

    return asyncio.run(read())


def pcm(chunks: list[AudioChunk], since: int = 0) -> bytes:
    return b"".join(chunk.pcm for chunk in chunks if chunk.piece >= since)


class Spy:
    """Notes what NeMo was asked, and the codes it gave."""

    def __init__(self, engine: MagpieReference, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[list[int]] = []
        self.codes: list[np.ndarray[Any, Any]] = []
        assert engine._magpie is not None
        model = engine._magpie.model
        generate = model.generate_speech

        def noted(batch: Any, **options: Any) -> Any:
            self.ids.append(batch["text"][0].tolist())
            output = generate(batch, **options)
            self.codes.append(
                output.predicted_codes[0, :, : output.predicted_codes_lens[0]].numpy()
            )
            return output

        monkeypatch.setattr(model, "generate_speech", noted)
