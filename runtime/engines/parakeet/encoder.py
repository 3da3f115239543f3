"""A cache-aware FastConformer over the caches of many slots, which are changed in place.

NeMo's own modules, one after the other, as its ``ConformerEncoder.forward_internal`` and
``ConformerLayer.forward`` call them (3.0.0, nemo/collections/asr/modules/conformer_encoder.py and
parts/submodules/conformer_modules.py), but for attention and convolutions (``attention.py``,
``convolution.py``). NeMo gathers the new caches of all layers, stacks them and hands them back:
three times the state. Here what a slot keeps stays where it is, and only what is new is written.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from runtime.engines.cuda import shared_memory
from runtime.engines.parakeet.attention import CachedAttention, Past
from runtime.engines.parakeet.convolution import CachedConvolution
from runtime.errors import CheckpointError

_log = logging.getLogger(__name__)


class StreamingEncoder:
    """The encoder's caches for all slots, and the step that takes some of them forward.

    Attributes:
        frames: That a step yields for a slot: one, and its lookahead.
        overlap: Frames of features before a chunk that it sees again.
        chunk: Frames of features of a step.
        width: Of what it yields.
    """

    def __init__(self, encoder: Any, rows: int, context: tuple[int, int]) -> None:
        """Take NeMo's ``ConformerEncoder`` on its device.

        Args:
            encoder: With chunked attention and causal convolutions.
            rows: Slots.
            context: Frames of left context, and of lookahead, for as long as this lives.

        Raises:
            CheckpointError: Adapters are switched on, which are not run here.
        """
        if any(layer.is_adapter_available() for layer in encoder.layers):
            raise CheckpointError("The encoder has adapters: they cannot be run on live streams.")
        encoder.set_default_att_context_size(list(context))
        config = encoder.streaming_cfg
        self._encoder = encoder
        self._left = int(config.last_channel_cache_size)
        self._drop = int(config.drop_extra_pre_encoded)
        self.overlap = _steady(config.pre_encode_cache_size)
        self.chunk = _steady(config.chunk_size)
        self.frames = context[1] + 1
        self.width = int(encoder.out_proj.out_features if encoder.out_proj else encoder.d_model)
        weight = next(encoder.parameters())
        self._dtype = weight.dtype
        self._rings = weight.new_zeros(len(encoder.layers), rows, self._left, encoder.d_model)
        self._told = torch.zeros(rows, dtype=torch.int64, device=weight.device)
        chunk = weight.new_empty(1, self.frames, encoder.d_model)
        _, positions = encoder.pos_enc(x=chunk, cache_len=self._left)
        fused = _can_fuse(weight, encoder.d_model, self._left + self.frames)
        self._layers = [
            (
                layer,
                CachedAttention(layer.self_attn, positions, ring, self.frames, fused=fused),
                CachedConvolution(layer.conv, rows, fused=fused),
            )
            for layer, ring in zip(encoder.layers, self._rings, strict=True)
        ]

    @property
    def state_bytes(self) -> int:
        """Of the caches of all slots."""
        kept = [self._rings, self._told, *(convolve.kept for _, _, convolve in self._layers)]
        return sum(tensor.nbytes for tensor in kept)

    def reset(self, rows: Tensor) -> None:
        """Let these slots begin with nothing heard."""
        self._rings.index_fill_(1, rows, 0.0)  # not to be seen, but NaN would be
        for _, _, convolve in self._layers:
            convolve.kept.index_fill_(0, rows, 0.0)
        self._told.index_fill_(0, rows, 0)

    def step(self, features: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the next chunk of some slots.

        Args:
            features: ``(batch, mels, overlap + chunk)`` float32.
            lengths: How many frames of each count, ``(batch,)``; fewer than all only in the last
                chunk of a stream.
            rows: Their slots, ``(batch,)``; a row that nobody has may come several times.

        Returns:
            Float32 ``(batch, frames, width)``, and how many of the frames count.
        """
        encoder, left = self._encoder, self._left
        hidden, lengths = encoder.pre_encode(
            x=features.transpose(1, 2).to(self._dtype), lengths=lengths
        )
        hidden = hidden[:, self._drop :]
        lengths = (lengths.to(torch.int64) - self._drop).clamp(min=0)
        told = self._told.index_select(0, rows)
        hidden, _ = encoder.pos_enc(x=hidden, cache_len=left)
        past = Past.of(rows, told, lengths, left, self.frames)
        for layer, attend, convolve in self._layers:
            half = layer.feed_forward1(layer.norm_feed_forward1(hidden))
            hidden = hidden + half * layer.fc_factor
            hidden = hidden + attend(layer.norm_self_att(hidden), past)
            hidden = hidden + convolve(layer.norm_conv(hidden), past)
            half = layer.feed_forward2(layer.norm_feed_forward2(hidden))
            hidden = layer.norm_out(hidden + half * layer.fc_factor)
        if encoder.out_proj is not None:
            hidden = encoder.out_proj(hidden)
        self._told.index_copy_(0, rows, told + self.frames)
        return hidden.float(), lengths


def _can_fuse(weight: Tensor, d: int, keys: int) -> bool:
    """Whether the kernels run here: half precision on a GPU with Triton, and room for a tile."""
    if not weight.is_cuda or weight.dtype not in (torch.bfloat16, torch.float16):
        return False
    if find_spec("triton") is None:
        _log.warning("no Triton: live streams' layers run unfused, at a fraction of their speed")
        return False
    from runtime.engines.parakeet.kernels import stages_within

    if d % 16 or not stages_within(shared_memory(weight.device), d, keys):
        _log.warning("%d frames of %d do not fit the kernels: layers run unfused", keys, d)
        return False
    return True


def _steady(size: Any) -> int:
    """NeMo gives two sizes, of which the first is that of a stream's first chunk alone."""
    return int(size[1] if isinstance(size, list | tuple) else size)
