"""Decode by the fused codec in Triton's interpreter and by the plain one; print how they differ.

A process of its own: Triton reads ``TRITON_INTERPRET`` when it is imported.
"""

from __future__ import annotations

import json

import torch
from codec_parts import SIZE, random_codec

from runtime.engines.magpie import fused_layers
from runtime.engines.magpie.codec import IncrementalCodec
from runtime.engines.magpie.fused_codec import FusedCodec


def main() -> None:
    """In float32, so that only wrong kernels differ."""
    # Few programs, each of which takes its time here; and some launches with few, some with many.
    fused_layers.tile = lambda *_: fused_layers.Tile(32, 128, 64, 4, 1)
    fused_layers._MANY = 3
    torch.use_deterministic_algorithms(True)  # fills memory that is empty with NaN
    codec = random_codec(144, (2, 2))
    codes = torch.randint(0, SIZE, (2, 8, 3), generator=torch.Generator().manual_seed(5))
    plain = IncrementalCodec(codec, 2).decode(torch.arange(2), codes)
    fused = FusedCodec(codec, 2, device="cpu", dtype=torch.float32)
    fused.decode(torch.tensor([0]), codes[1:, :, :1])  # a stream that has ended
    fused.clear(torch.tensor([0]))
    first = fused.decode(torch.tensor([1, fused.spare, 0]), codes[[1, 1, 0], :, :1])
    rest = fused.decode(torch.tensor([0, 1]), codes[:, :, 1:])
    audio = torch.cat([first[[2, 0]], rest], 1)
    clamped = (plain.abs() == 1.0).float().mean()
    print(
        json.dumps(
            {
                "difference": float((audio - plain).abs().max()),
                "loudness": float(plain.square().mean().sqrt()),
                "clamped": float(clamped),
            }
        )
    )


if __name__ == "__main__":
    main()
