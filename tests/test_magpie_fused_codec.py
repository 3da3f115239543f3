"""The fused codec, by Triton's interpreter: what its kernels compute, on a machine with no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")
pytest.importorskip("triton", reason="needs Triton, of which torch for CPUs brings none")

FRAMES = 3


@pytest.fixture(scope="module")
def codec(tiny_codec: Path) -> Any:
    """NeMo's parts, of 4 samples a frame; alphas and biases as different as trained ones."""
    import torch

    from runtime.engines.nemo import import_nemo, quietly

    models = import_nemo("nemo.collections.tts.models")
    modules = import_nemo("nemo.collections.tts.modules.audio_codec_modules")
    with quietly():
        whole = models.AudioCodecModel.restore_from(str(tiny_codec), map_location="cpu").eval()
        decoder = modules.CausalHiFiGANDecoder(
            32, [2, 2], 36, activation="half_snake", output_activation="clamp"
        ).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in decoder.named_parameters():
        low, high = (0.5, 3.0) if "alpha" in name else (-0.2, 0.2)
        parameter.data.uniform_(low, high, generator=generator)
        if "original0" in name:  # the norms of the weights
            parameter.data.fill_(1.0)
    return SimpleNamespace(
        audio_decoder=decoder, vector_quantizer=whole.vector_quantizer, samples_per_frame=4
    )


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Any]:
    """The class, with its kernels interpreted, in few and large tiles."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # read when a kernel is defined
        from runtime.engines.magpie import fused_layers
        from runtime.engines.magpie.fused_codec import FusedCodec

        patch.setattr(fused_layers, "tile", lambda *_: fused_layers.Tile(32, 128, 64, 4, 1))
        torch.use_deterministic_algorithms(True)  # fills memory that is empty with NaN
        yield FusedCodec
        torch.use_deterministic_algorithms(False)


def test_parts_beside_other_streams_are_what_plain_code_gives(codec: Any, interpreted: Any) -> None:
    import torch

    from runtime.engines.magpie.codec import IncrementalCodec

    codes = torch.randint(0, 2016, (2, 8, FRAMES), generator=torch.Generator().manual_seed(5))
    plain = IncrementalCodec(codec, 2).decode(torch.arange(2), codes)
    fused = interpreted(codec, 2, device="cpu", dtype=torch.float32)
    fused.decode(torch.tensor([0]), codes[1:, :, :1])  # a stream that has ended
    fused.clear(torch.tensor([0]))
    parts = [
        fused.decode(torch.tensor([1, fused.spare, 0]), codes[[1, 1, 0], :, :1]),
        fused.decode(torch.tensor([0, 1]), codes[:, :, 1:]),
    ]
    audio = torch.cat([parts[0][[2, 0]], parts[1]], 1)
    assert float(plain.abs().max()) > 1e-2
    assert float((plain.abs() < 1.0).float().mean()) > 0.5  # most is not clamped
    assert float((audio - plain).abs().max()) < 1e-5
