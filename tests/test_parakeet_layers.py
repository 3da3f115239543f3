"""Attention and convolution over what slots keep are NeMo's, plainly and in their kernels.

On a machine with no GPU Triton's interpreter runs the kernels, in float32; on a GPU they run in the
public geometry, in bfloat16.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from interpreted import INTERPRETED, assert_passes_interpreted

torch = pytest.importorskip("torch", reason="needs the extra `nemo`")

from runtime.engines.parakeet.attention import (  # noqa: E402
    CachedAttention,
    Past,
    attend_rings_plainly,
)
from runtime.engines.parakeet.convolution import CachedConvolution  # noqa: E402

GPU = torch.cuda.is_available()
ROWS = (3, 0, 4, 4)  # the last slot is nobody's, and comes twice


def step(
    *, left: int, frames: int, heads: int = 2, d: int = 32, batch: int = 4, seed: int = 0
) -> tuple[Any, ...]:
    """Queries and frames of a step: slots that begin, are filling up, and went round."""
    draw = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Any:
        return torch.randn(*shape, generator=draw)

    rows = torch.tensor((ROWS * batch)[:batch]) if batch <= 4 else torch.arange(batch)
    told = torch.tensor(([0, 3 * frames, 0, left + 5 * frames] * batch)[:batch])
    lengths = torch.tensor(([frames, frames, 0, 1] * batch)[:batch])
    return (
        numbers(heads, batch * frames, d) * d**-0.5,
        numbers(heads, batch * frames, -(-(left + 2 * frames - 1) // 8) * 8),
        numbers(max(5, batch), left, d),
        numbers(batch, frames, d),
        Past.of(rows, told, lengths, left, frames),
        1.0,
    )


@pytest.mark.skipif(
    INTERPRETED, reason="needs no kernel: has run in the process that started this one"
)
@pytest.mark.parametrize(("left", "frames"), [(6, 2), (7, 1), (14, 14)])
def test_a_stream_is_attended_to_as_by_nemo(left: int, frames: int) -> None:
    nemo = pytest.importorskip(
        "nemo.collections.asr.parts.submodules.multi_head_attention",
        reason="needs the extra `nemo`",
    )
    torch.manual_seed(1)
    theirs = nemo.RelPositionMultiHeadAttention(4, 32, 0.0, None, None, left).eval()
    theirs.cache_drop_size = 0
    torch.nn.init.normal_(theirs.pos_bias_u)
    torch.nn.init.normal_(theirs.pos_bias_v)
    encoding = nemo.RelPositionalEncoding(32, 0.0)
    encoding.extend_pe(64, torch.device("cpu"), torch.float32)
    ring = torch.full((3, left, 32), torch.nan)
    ring[[0, 2]] = 0.0
    with torch.no_grad():
        _, positions = encoding(torch.zeros(1, frames, 32), cache_len=left)
        ours = CachedAttention(theirs, positions, ring, frames)
        rows, cache = torch.tensor([2, 0]), torch.zeros(2, left, 32)
        for number in range(3 * (left // frames) + 2):
            told = torch.tensor([number * frames] * 2)
            chunk = torch.randn(2, frames, 32)
            past = Past.of(rows, told, torch.tensor([frames] * 2), left, frames)
            unseen = torch.arange(left + frames) < left - told[0]
            wanted, cache = theirs(
                chunk,
                chunk,
                chunk,
                unseen.expand(2, frames, -1),
                positions,
                cache=cache,
            )
            torch.testing.assert_close(ours(chunk, past), wanted, atol=1e-5, rtol=1e-5)
    assert bool(ring[1].isnan().all()), "a slot that was in no step"


def nemos_convolution(d: int, norm: str = "layer_norm", width: int = 9) -> Any:
    nemo = pytest.importorskip(
        "nemo.collections.asr.parts.submodules.conformer_modules",
        reason="needs the extra `nemo`",
    )
    torch.manual_seed(2)
    made = nemo.ConformerConvolution(d, width, norm, [width - 1, 0]).eval()
    made.depthwise_conv.cache_drop_size = 0
    torch.nn.init.normal_(made.batch_norm.weight)
    torch.nn.init.normal_(made.batch_norm.bias)
    return made


@pytest.mark.skipif(
    INTERPRETED, reason="needs no kernel: has run in the process that started this one"
)
@pytest.mark.parametrize("norm", ["layer_norm", "batch_norm"])
@pytest.mark.parametrize("frames", [1, 2, 14])
def test_a_stream_is_convolved_as_by_nemo(norm: str, frames: int) -> None:
    theirs = nemos_convolution(32, norm)
    ours = CachedConvolution(theirs, 3)
    ours.kept[1] = torch.nan
    rows, cache = torch.tensor([2, 0]), torch.zeros(2, 32, 8)
    with torch.no_grad():
        for lengths in ([frames, frames], [frames, frames], [1, frames], [0, 1]):
            chunk, counting = torch.randn(2, frames, 32), torch.tensor(lengths)
            past = Past.of(rows, torch.zeros(2, dtype=torch.int64), counting, 16, frames)
            padding = torch.arange(frames) >= counting[:, None]
            wanted, cache = theirs(chunk, pad_mask=padding, cache=cache)
            torch.testing.assert_close(ours(chunk, past), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.kept[rows].transpose(1, 2), cache)
    assert bool(ours.kept[1].isnan().all()), "a slot that was in no step"


@pytest.mark.skipif(
    INTERPRETED, reason="needs no kernel: has run in the process that started this one"
)
def test_a_chunk_must_fit_into_what_is_kept() -> None:
    class Attention:
        h, d_k = 2, 16

    with pytest.raises(ValueError, match="a chunk of 4 frames, of which 3 are kept"):
        CachedAttention(Attention(), torch.zeros(1, 16, 32), torch.zeros(2, 3, 32), 4)


@pytest.mark.skipif(INTERPRETED, reason="is what started this process")
@pytest.mark.skipif(
    find_spec("triton") is None, reason="needs Triton, of which torch for CPUs brings none"
)
def test_under_the_interpreter() -> None:
    assert_passes_interpreted(__file__)


@pytest.mark.skipif(not INTERPRETED, reason="runs within test_under_the_interpreter")
@pytest.mark.parametrize(
    ("left", "frames", "heads", "d"),
    [(6, 2, 2, 32), (7, 1, 3, 48), (14, 14, 2, 32), (70, 2, 8, 256)],
)
def test_the_kernel_attends_as_it_is_done_plainly(
    left: int, frames: int, heads: int, d: int
) -> None:
    from runtime.engines.parakeet.kernels import attend_rings

    given = step(left=left, frames=frames, heads=heads, d=d)
    found = attend_rings(*given)
    wanted = attend_rings_plainly(*given)
    lines = torch.ones(4, frames, dtype=torch.bool)
    lines[2] = False  # a slot that has heard nothing, ever: of it nothing is asked
    torch.testing.assert_close(
        found[:, lines.flatten()], wanted[:, lines.flatten()], atol=2e-5, rtol=1e-5
    )
    assert bool(found.isfinite().all())


@pytest.mark.skipif(not INTERPRETED, reason="runs within test_under_the_interpreter")
@pytest.mark.parametrize(("frames", "d"), [(1, 32), (2, 48), (14, 32)])
def test_the_kernel_convolves_as_it_is_done_plainly(frames: int, d: int) -> None:
    plain = CachedConvolution(nemos_convolution(d), 5)
    fused = CachedConvolution(nemos_convolution(d), 5, fused=True)
    rows, told = torch.tensor([3, 0, 4, 4]), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        for lengths in ([frames, frames, 0, 0], [1, frames, 0, 0], [frames, 0, 0, 0]):
            chunk = torch.randn(4, frames, d)
            chunk[3] = chunk[2]  # one slot twice, as nobody's: both write the same
            past = Past.of(rows, told, torch.tensor(lengths), 16, frames)
            torch.testing.assert_close(fused(chunk, past), plain(chunk, past), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(fused.kept, plain.kept)


@pytest.mark.skipif(
    find_spec("triton") is None, reason="needs Triton, of which torch for CPUs brings none"
)
@pytest.mark.parametrize(
    ("memory", "keys", "stages"),
    [(232_448, 72, 3), (101_376, 72, 2), (101_376, 129, 1), (101_376, 257, 0)],
)
def test_a_device_with_less_memory_has_fewer_tiles_on_their_way(
    memory: int, keys: int, stages: int
) -> None:
    from runtime.engines.parakeet.kernels import stages_within

    assert stages_within(memory, 1024, keys) == stages


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
@pytest.mark.parametrize(("batch", "frames"), [(1, 2), (512, 2), (64, 14), (64, 1)])
def test_in_bfloat16_convolving_is_no_further_from_float32_than_plain_torch(
    batch: int, frames: int
) -> None:
    errors = {}
    exact = CachedConvolution(nemos_convolution(1024).bfloat16().double().cuda(), batch)
    layers = {
        fused: CachedConvolution(nemos_convolution(1024).bfloat16().cuda(), batch, fused=fused)
        for fused in (True, False)
    }
    rows = torch.arange(batch, device="cuda").flip(0)
    full = torch.full((batch,), frames, device="cuda")
    with torch.no_grad():
        for fused, layer in layers.items():
            exact.kept.zero_()
            draw = torch.Generator().manual_seed(3)
            for _ in range(8):
                chunk = torch.randn(batch, frames, 1024, generator=draw).cuda().bfloat16()
                past = Past.of(rows, full * 0, full, 70, frames)
                difference = layer(chunk, past).double() - exact(chunk.double(), past)
            errors[fused] = float(difference.abs().max())
    assert errors[True] <= 1.5 * errors[False]
    assert errors[False] < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
@pytest.mark.parametrize(("batch", "frames"), [(1, 2), (512, 2), (64, 14), (64, 1)])
def test_in_bfloat16_attending_is_no_further_from_float32_than_plain_torch(
    batch: int, frames: int
) -> None:
    from dataclasses import astuple

    from runtime.engines.parakeet.kernels import attend_rings

    *numbers, past, scale = step(left=70, frames=frames, heads=8, d=1024, batch=batch)
    past = Past(*(part.cuda() for part in astuple(past)))
    half = [tensor.cuda().bfloat16() for tensor in numbers]
    exact = attend_rings_plainly(*(tensor.double() for tensor in half), past, scale)
    plain = attend_rings_plainly(*half, past, scale).double()
    found = attend_rings(*half, past, scale).double()
    asked = (past.lengths + past.told > 0).repeat_interleave(frames)
    errors = [float((one - exact)[:, asked].abs().max()) for one in (found, plain)]
    assert errors[0] <= 1.5 * errors[1]
    assert errors[1] < 0.05
