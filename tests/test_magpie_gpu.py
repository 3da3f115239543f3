"""Magpie's engine on a GPU: graphs give what eager work gives, and that is NeMo's audio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from magpie_speaking import BUILT, THREE, pcm, speak

from runtime.engines.magpie.engine import MagpieSynthesizer
from runtime.engines.magpie.reference import MagpieReference


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_gpu(), reason="needs a CUDA GPU that torch can use"),
]

VOICES = ("aria", "leo", "sofia", "jason", "aria")


@pytest.fixture
def options(tiny_magpie: Callable[..., Path], tiny_codec: Path) -> dict[str, Any]:
    return {
        "weights": str(tiny_magpie(stacking=2, **BUILT)),
        "codec": str(tiny_codec),
        "device": "cuda",
        "normalizer": "off",
        "temperature": 0.0,
    }


def spoken(engine: Any, voices: tuple[str, ...]) -> list[bytes]:
    """What callers hear who speak at once."""

    async def together() -> list[bytes]:
        from runtime.requests import resolve_synthesis
        from runtime.speech import SynthesisRequest

        async def one(voice: str) -> bytes:
            asked = SynthesisRequest(THREE, voice=voice, seed=1)
            request, _ = resolve_synthesis(asked, engine.capabilities)
            return pcm([chunk async for chunk in engine.synthesize(request)])

        return await asyncio.gather(*(one(voice) for voice in voices))

    return asyncio.run(together())


def difference(one: bytes, other: bytes) -> int:
    assert len(one) == len(other)
    a, b = (np.frombuffer(audio, dtype="<i2").astype(np.int32) for audio in (one, other))
    return int(np.abs(a - b).max())


def test_graphs_give_what_eager_work_gives_and_that_is_nemos_audio(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # NeMo's convolutions are cuDNN's, which rounds to 10 bits unless told not to.
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    engines = [
        MagpieSynthesizer(**options, dtype="float32", slots=8),
        MagpieSynthesizer(**options, dtype="float32", slots=8, cuda_graphs=False),
        MagpieReference(**options, dtype="float32"),
    ]
    heard = []
    for engine in engines:
        report = asyncio.run(engine.load())
        assert not any("fallback" in name and count for name, count in engine.counts.items())
        if isinstance(engine, MagpieSynthesizer):
            heard.append(spoken(engine, VOICES))
        else:  # a voice twice would say the same, and NeMo takes its time
            said = {voice: pcm(speak(engine, THREE, voice=voice, seed=1)) for voice in {*VOICES}}
            heard.append([said[voice] for voice in VOICES])
        assert engine is not engines[0] or ", 0 eager" in report.details["graphs"]
        asyncio.run(engine.close())
    graphs, eager, reference = heard
    for ours, plainly, nemos in zip(graphs, eager, reference, strict=True):
        assert difference(ours, plainly) <= 16  # cuDNN may pick other convolutions
        assert difference(ours, nemos) <= 16
    assert len(set(reference)) == len(set(VOICES))


def test_fused_kernels_in_graphs_give_what_they_give_without_and_all_are_there_at_the_start(
    options: dict[str, Any],
) -> None:
    from triton import knobs

    heard: list[list[bytes]] = []
    compiled: list[str] = []
    for graphs in (True, False):
        engine = MagpieSynthesizer(**options, dtype="bfloat16", slots=8, cuda_graphs=graphs)
        report = asyncio.run(engine.load())
        assert report.details["kernels"] == "step fused, codec fused"
        assert not graphs or ", 0 eager" in report.details["graphs"]
        knobs.runtime.jit_post_compile_hook = lambda **what: compiled.append(what["repr"])
        try:  # one at a time: bfloat16 rounds otherwise in another batch
            heard.append([*(spoken(engine, (voice,))[0] for voice in VOICES)])
            spoken(engine, VOICES)
        finally:
            knobs.runtime.jit_post_compile_hook = None
        asyncio.run(engine.close())
    assert compiled == [], "after the warm-up"
    assert all(difference(one, other) <= 16 for one, other in zip(*heard, strict=True))
    assert len(set(heard[0])) == len(set(VOICES))


def test_the_first_request_is_as_fast_as_the_tenth(options: dict[str, Any]) -> None:
    engine = MagpieSynthesizer(**options, slots=4)
    asyncio.run(engine.load())

    def seconds() -> float:
        began = time.perf_counter()
        spoken(engine, ("aria",))
        return time.perf_counter() - began

    took = [seconds() for _ in range(10)]
    asyncio.run(engine.close())
    assert took[0] < 2 * max(took[1:])


def test_a_lease_that_is_too_small_says_how_many_slots_would_fit(options: dict[str, Any]) -> None:
    import torch

    from runtime.engines.cuda import cap_allocator
    from runtime.errors import OutOfMemory

    torch.cuda.empty_cache()
    cap_allocator(48 << 20)
    try:
        engine = MagpieSynthesizer(**options, slots=64)
        with pytest.raises(OutOfMemory, match="64 slots"):
            asyncio.run(engine.load())
        asyncio.run(engine.close())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
