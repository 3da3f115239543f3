"""A cache-aware FastConformer over the caches of many slots, which are changed in place.

NeMo's own layers, one after the other, as its ``ConformerEncoder.forward_internal`` calls
them (3.0.0, nemo/collections/asr/modules/conformer_encoder.py). NeMo gathers the new caches of
all layers, stacks them and hands them back: three times the state. Here a layer's rows are
taken out of the slots' tensors and put back before the next layer runs.

Each step projects keys and values of all cached frames anew. Who keeps them projected instead
changes this file alone: what is cached, and what a layer is called with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
        """
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
        # (layers, rows, frames, d) and (layers, rows, d, kernel - 1)
        self._channels, self._times, self._held = encoder.get_initial_cache_state(
            batch_size=rows, dtype=weight.dtype, device=weight.device
        )

    @property
    def state_bytes(self) -> int:
        """Of the caches of all slots."""
        return int(self._channels.nbytes + self._times.nbytes + self._held.nbytes)

    def reset(self, rows: Tensor) -> None:
        """Let these slots begin with nothing heard."""
        self._channels.index_fill_(1, rows, 0.0)
        self._times.index_fill_(1, rows, 0.0)
        self._held.index_fill_(0, rows, 0)

    def step(self, features: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the next chunk of some slots.

        Args:
            features: ``(batch, mels, overlap + chunk)`` float32.
            lengths: How many frames of each count, ``(batch,)``.
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
        held = self._held.index_select(0, rows)
        hidden, positions = encoder.pos_enc(x=hidden, cache_len=left)
        padding, attention = encoder._create_masks(
            att_context_size=encoder.att_context_size,
            padding_length=lengths + left,
            max_audio_length=hidden.shape[1] + left,
            offset=left - held,
            device=hidden.device,
        )
        padding, attention = padding[:, left:], attention[:, left:]
        for layer, channels, times in zip(encoder.layers, self._channels, self._times, strict=True):
            hidden, channel, time = layer(
                x=hidden,
                att_mask=attention,
                pos_emb=positions,
                pad_mask=padding,
                cache_last_channel=channels.index_select(0, rows),
                cache_last_time=times.index_select(0, rows),
            )
            channels.index_copy_(0, rows, channel)
            times.index_copy_(0, rows, time)
        if encoder.out_proj is not None:
            hidden = encoder.out_proj(hidden)
        self._held.index_copy_(0, rows, (held + hidden.shape[1]).clamp(max=left))
        return hidden.float(), lengths


def _steady(size: Any) -> int:
    """NeMo gives two sizes, of which the first is that of a stream's first chunk alone."""
    return int(size[1] if isinstance(size, list | tuple) else size)
