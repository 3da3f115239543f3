"""A nano codec's decoder and quantizer with random weights, laid out as NeMo's, without NeMo.

What reads the weights goes by the names of NeMo's classes and attributes; these have the same.
The weights are such that the signal neither dies nor grows, alphas and biases matter, and the
audio is seldom clamped.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

SIZE = 2016  # codes of a codebook


def random_codec(channels: int = 864, rates: Sequence[int] = (8, 8, 4, 2, 2)) -> Any:
    """A codec of the public geometry, or of fewer channels and other rates, in float32."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        decoder = _named("CausalHiFiGANDecoder")
        decoder.pre_conv = _convolution(32, channels, 7)
        decoder.activations, decoder.up_sample_conv_layers, decoder.res_layers = [], [], []
        for rate in rates:
            decoder.activations.append(_half_snake(channels))
            channels //= 2
            up = nn.ConvTranspose1d(2 * channels, channels, 2 * rate, rate, groups=channels)
            nn.init.normal_(up.weight, std=0.5)
            decoder.up_sample_conv_layers.append(SimpleNamespace(conv=up))
            paths = [[_block(channels, taps, gap) for gap in (1, 3, 5)] for taps in (3, 7, 11)]
            decoder.res_layers.append(
                SimpleNamespace(res_blocks=[SimpleNamespace(res_blocks=path) for path in paths])
            )
        decoder.post_activation = _half_snake(channels)
        decoder.post_conv = _convolution(channels, 1, 3, gain=0.1)
        decoder.out_activation = _named("ClampActivation")
        quantizer = _named("GroupFiniteScalarQuantizer")
        quantizer.num_groups = 8
        quantizer.fsqs = [_codebook() for _ in range(8)]
    return SimpleNamespace(
        audio_decoder=decoder, vector_quantizer=quantizer, samples_per_frame=prod(rates)
    )


def _named(name: str) -> Any:
    return type(name, (SimpleNamespace,), {})()


def _half_snake(channels: int) -> Any:
    activation = _named("HalfSnake")
    activation.snake_act = SimpleNamespace(alpha=torch.rand(1, channels // 2, 1) * 2 + 0.5)
    return SimpleNamespace(activation=activation)


def _convolution(inside: int, out: int, taps: int, dilation: int = 1, gain: float = 1.0) -> Any:
    conv = nn.Conv1d(inside, out, taps, dilation=dilation)
    nn.init.normal_(conv.weight, std=gain / (inside * taps) ** 0.5)
    nn.init.uniform_(conv.bias, -0.05, 0.05)
    return SimpleNamespace(conv=conv)


def _block(channels: int, taps: int, dilation: int) -> Any:
    return SimpleNamespace(
        input_activation=_half_snake(channels),
        input_conv=_convolution(channels, channels, taps, dilation, 0.7),
        skip_activation=_half_snake(channels),
        skip_conv=_convolution(channels, channels, taps, gain=0.4),
    )


def _codebook() -> Any:
    table = torch.rand(4, SIZE) * 2 - 1
    return SimpleNamespace(
        codebook_size=SIZE,
        num_levels=table[0, :4],
        decode=lambda indices, input_len: table[None, :, indices[0, 0].cpu()],
    )
