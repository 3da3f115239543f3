"""The fused codec gives what plain code gives: by Triton's interpreter, and on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs Triton, of which torch for CPUs brings none"
)


@needs_triton
def test_kernels_interpreted_on_a_cpu_compute_what_plain_code_does() -> None:
    """In parts, beside streams that end and rows for nobody, in memory that was NaN."""
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "support" / "interpreted_codec.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["loudness"] > 1e-2
    assert found["clamped"] < 0.1
    assert found["difference"] < 1e-5


def test_without_a_gpu_or_in_float32_the_codec_is_the_plain_one() -> None:
    import torch
    from codec_parts import random_codec

    from runtime.engines.magpie.codec import IncrementalCodec, make_codec

    made = make_codec(random_codec(32, (2,)), 2, device="cpu", dtype=torch.float16)
    assert type(made) is IncrementalCodec


@pytest.mark.gpu
@needs_triton
def test_on_a_gpu_its_error_is_inaudible_and_a_graph_gives_the_same() -> None:
    """The public geometry in float16: over 50 dB against float32, whatever the parts."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    from codec_parts import SIZE, random_codec

    from runtime.engines.magpie.codec import IncrementalCodec, make_codec
    from runtime.engines.magpie.fused_codec import FusedCodec

    codec, rows = random_codec(), torch.tensor([5, 0, 7], device="cuda")
    codes = torch.randint(0, SIZE, (3, 8, 12), device="cuda")
    plain = IncrementalCodec(codec, 8, device="cuda").decode(rows, codes)
    fused = make_codec(codec, 8, device="cuda", dtype=torch.float16)
    assert isinstance(fused, FusedCodec)
    parts = codes.split([1, 4, 2, 4, 1], 2)
    eager = torch.cat([fused.decode(rows, part) for part in parts], 1)
    assert _decibels(eager, plain) > 50.0

    fused.clear(rows)
    graph, some = torch.cuda.CUDAGraph(), parts[0].clone()
    with torch.cuda.graph(graph):
        audio = fused.decode(rows, some)
    fused.clear(rows)
    played = []
    for part in codes.split(1, 2):
        some.copy_(part)
        graph.replay()
        played.append(audio.clone())
    assert _decibels(torch.cat(played, 1), plain) > 50.0


def _decibels(audio: Any, wanted: Any) -> float:
    """Of what is wanted over the error."""
    error = (audio - wanted).double().square().sum()
    return float(10.0 * (wanted.double().square().sum() / error).log10())
