"""Streaming Parakeet on a GPU: graphs say what eager steps and NeMo say, within what is claimed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

import torch

from runtime.bench.babble import babble
from runtime.engines import footprint_of
from runtime.engines.parakeet.checkpoint import inspect, load
from runtime.engines.parakeet.chunks import Chunk
from runtime.engines.parakeet.step import StreamingModel
from runtime.engines.parakeet.streaming import StreamingParakeetRecognizer
from runtime.speech import RecognitionOptions, Samples

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

CLIPS = [babble(seconds, 50 + seed) for seed, seconds in enumerate((2.0, 1.17, 1.333, 0.64))]


def tokens(model: StreamingModel, clips: list[Samples]) -> list[list[int]]:
    """Of clips that begin together."""
    size, said = model.chunk_samples, [[] for _ in clips]  # type: list[list[int]]
    for start in range(0, max(map(len, clips)), size):
        rows = [row for row, clip in enumerate(clips) if start < len(clip)]
        step = [Chunk(row, clips[row][start : start + size], start == 0) for row in rows]
        for row, heard in zip(rows, model.step(step), strict=True):
            said[row] += heard.tokens
    return said


def test_graphs_say_what_eager_steps_and_nemo_say(
    tiny_parakeet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.bench.nemo_pipeline import NemoPipeline

    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    path = tiny_parakeet(streaming=True)
    theirs, _ = NemoPipeline(path, 1, device="cuda").hear(CLIPS)
    model = StreamingModel(load(inspect(path), "cuda", "float32"), 8, 1)
    assert tokens(model, CLIPS) == theirs
    model.capture()
    assert model.eager == []
    assert tokens(model, CLIPS) == theirs, "in a crowd"
    assert [tokens(model, [clip])[0] for clip in CLIPS] == theirs, "alone"


def test_an_engine_holds_less_than_it_claims(tiny_parakeet: Callable[..., Path]) -> None:
    path = tiny_parakeet(streaming=True)
    options = {"weights": str(path), "slots": 64}
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()

    async def main() -> None:
        engine = StreamingParakeetRecognizer(**options)
        try:
            report = await engine.load()
            await engine.exercise()
            assert engine.counts["graph_fallbacks"] == 0
            assert report.sustains == 64
            await asyncio.gather(
                *(engine.transcribe(CLIPS[i % 4], RecognitionOptions()) for i in range(64))
            )
        finally:
            await engine.close()

    asyncio.run(main())
    claim = footprint_of("parakeet-streaming", options)
    assert torch.cuda.max_memory_reserved() - before <= (
        claim.weights + claim.workspace + 64 * claim.state_per_slot
    )


def test_in_bfloat16_fused_layers_go_on_as_plain_ones_do(
    tiny_parakeet: Callable[..., Path],
) -> None:
    """Sixty steps of streams that begin at different times, in a batch that nobody fills up."""
    from runtime.engines.parakeet.encoder import StreamingEncoder

    encoder = load(inspect(tiny_parakeet(streaming=True)), "cuda", "bfloat16").model.encoder
    fused, plain = (StreamingEncoder(encoder, 5, (70, 1)) for _ in range(2))
    for _, attend, convolve in plain._layers:
        attend._fused = convolve._fused = False
    assert all(attend._fused and convolve._fused for _, attend, convolve in fused._layers)
    draw = torch.Generator().manual_seed(4)
    shape = (4, encoder._feat_in, fused.overlap + fused.chunk)
    full = torch.full((4,), fused.overlap + fused.chunk, device="cuda")
    rows = torch.tensor([3, 0, 4, 4], device="cuda")
    off, size = 0.0, 0.0
    with torch.no_grad():
        for step in range(60):
            if step == 20:
                for one in (fused, plain):
                    one.reset(rows[:1])
            features = torch.randn(shape, generator=draw).cuda()
            heard, wanted = (one.step(features, full, rows)[0][:2] for one in (fused, plain))
            off += float((heard - wanted).square().mean())
            size += float(wanted.square().mean())
    assert off < 3e-4 * size
