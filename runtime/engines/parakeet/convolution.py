"""The causal convolutions of a streaming FastConformer, over the frames that each slot keeps.

NeMo's ``ConformerConvolution`` turns each chunk to put channels first, and a convolution of width 1
over 2 frames is then as many small matrix products as there are streams: a third of a large step.
Here frames stay first, and the same weights make one product of all streams.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runtime.engines.parakeet.attention import Past


class CachedConvolution:
    """One layer's convolution, and what it sees again of each slot."""

    def __init__(self, convolution: Any, rows: int, *, fused: bool = False) -> None:
        """Take NeMo's ``ConformerConvolution``; its large weights are not copied.

        Args:
            convolution: A causal one, in evaluation.
            rows: Slots.
            fused: By the kernel, if it has this norm.
        """
        self._first, self._second = convolution.pointwise_conv1, convolution.pointwise_conv2
        self._depthwise, self._norm = convolution.depthwise_conv, convolution.batch_norm
        self._activation = convolution.activation
        self._by_layer = convolution.norm_type == "layer_norm"
        weight = self._depthwise.weight
        d, _, width = weight.shape
        self.kept = weight.new_zeros(rows, width - 1, d)
        self._fused = fused and self._by_layer

    def __call__(self, hidden: Tensor, past: Past) -> Tensor:
        """Convolve a chunk after what is kept, and keep its end: ``(batch, frames, d)``, both."""
        halves = functional.linear(hidden, self._first.weight[..., 0], self._first.bias)
        heard = self._convolve(halves, past)
        return functional.linear(heard, self._second.weight[..., 0], self._second.bias)

    def _convolve(self, halves: Tensor, past: Past) -> Tensor:
        """All between the products; ``halves`` are what is said, and gates: ``(.., .., 2 d)``."""
        if self._fused:
            from runtime.engines.parakeet.kernels import convolve

            return convolve(halves, self.kept, past, self._depthwise, self._norm)
        said = functional.glu(halves, -1).masked_fill(~past.counts_new[..., None], 0.0)
        seen = torch.cat([self.kept.index_select(0, past.rows), said], 1)
        self.kept.index_copy_(0, past.rows, seen[:, said.shape[1] :])
        depthwise = self._depthwise
        heard = functional.conv1d(
            seen.transpose(1, 2), depthwise.weight, depthwise.bias, groups=depthwise.groups
        )
        if self._by_layer:
            heard = self._norm(heard.transpose(1, 2))
        else:
            heard = self._norm(heard).transpose(1, 2)
        activated: Tensor = self._activation(heard)
        return activated
