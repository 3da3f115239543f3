"""The weights of Magpie's decoder and local transformer, taken out of NeMo's model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runtime.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Layer:
    """A transformer's layer; norms have no bias, projections neither.

    Attributes:
        norm: Before self-attention, shape ``(d,)``.
        qkv: Queries, keys and values, ``(3 * d, d)``.
        out: After self-attention, ``(d, d)``.
        norm_ff: Before the feed-forward part.
        up: ``(d_ffn, d)``; in the text encoder ``(d_ffn, d, kernel)``.
        down: ``(d, d_ffn)``; in the text encoder ``(d, d_ffn, kernel)``.
        heads: Of self-attention.
        cross: Cross-attention; None in the local transformer.
    """

    norm: Tensor
    qkv: Tensor
    out: Tensor
    norm_ff: Tensor
    up: Tensor
    down: Tensor
    heads: int
    cross: Cross | None


@dataclass(frozen=True, slots=True)
class Cross:
    """A layer's cross-attention.

    Attributes:
        norm: Before the query.
        norm_memory: Before keys and values, of the encoded text.
        query: ``(heads * width, d)``.
        key_value: ``(2 * heads * width, d)``.
        out: ``(d, heads * width)``.
        heads: How many.
    """

    norm: Tensor
    norm_memory: Tensor
    query: Tensor
    key_value: Tensor
    out: Tensor
    heads: int


@dataclass(frozen=True, slots=True)
class Encoder:
    """The text encoder.

    Attributes:
        text: Embeddings of all tokens, ``(tokens, d)``.
        positions: ``(max, d)``.
        layers: Each of them causal; their feed-forward parts are convolutions.
        norm: After them.
    """

    text: Tensor
    positions: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """All that the engine reads of the acoustic model.

    Attributes:
        encoder: Of the text.
        audio: Embeddings of the codes of all codebooks of a step, ``(outputs * tokens, d)``.
        positions: Of the decoder, ``(max, d)``.
        layers: Of the decoder.
        norm: After them.
        head, head_bias: Logits of all outputs at once, ``(outputs * tokens, d)``.
        local_in, local_in_bias: From the decoder's width to the local transformer's; None
            where they are the same.
        local_positions: ``(max, local d)``.
        local_layers: Of the local transformer.
        local_heads, local_biases: Logits of one output each, ``(outputs, tokens, local d)``.
    """

    encoder: Encoder
    audio: Tensor
    positions: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor
    head_bias: Tensor
    local_in: Tensor | None
    local_in_bias: Tensor | None
    local_positions: Tensor
    local_layers: tuple[Layer, ...]
    local_heads: Tensor
    local_biases: Tensor


def take(model: Any, dtype: torch.dtype = torch.float32) -> Weights:
    """Take the weights of NeMo's ``MagpieTTSModel``, on its device, in ``dtype``.

    What is of that type already is shared with the model, not copied.

    Raises:
        CheckpointError: Its text encoder is not causal.
    """
    device = model.final_proj.weight.device

    def cast(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, dtype)

    def narrow(kernel: Tensor) -> Tensor:
        return kernel.squeeze(-1) if kernel.shape[-1] == 1 else kernel

    def layer(source: Any) -> Layer:
        attention, feed = source.self_attention, source.pos_ff
        return Layer(
            norm=cast(source.norm_self.weight),
            qkv=cast(attention.qkv_net.weight),
            out=cast(attention.o_net.weight),
            norm_ff=cast(source.norm_pos_ff.weight),
            up=cast(narrow(feed.proj.conv.weight)),
            down=cast(narrow(feed.o_net.conv.weight)),
            heads=int(attention.n_heads),
            cross=cross(source) if source.has_xattn else None,
        )

    def cross(source: Any) -> Cross:
        attention = source.cross_attention
        return Cross(
            norm=cast(source.norm_xattn_query.weight),
            norm_memory=cast(source.norm_xattn_memory.weight),
            query=cast(attention.q_net.weight),
            key_value=cast(attention.kv_net.weight),
            out=cast(attention.o_net.weight),
            heads=int(attention.n_heads),
        )

    def encoder_layer(source: Any) -> Layer:
        if not (source.self_attention.is_causal and source.pos_ff.proj.is_causal):
            raise CheckpointError(
                "The text encoder of this checkpoint is not causal, which is not supported here: "
                "run it with the engine magpie-reference."
            )
        return layer(source)

    local, projection = model.local_transformer, model.local_transformer_in_projection
    widens = isinstance(projection, torch.nn.Linear)
    heads = model.local_transformer_out_projections
    return Weights(
        encoder=Encoder(
            text=cast(model.text_embedding.weight),
            positions=cast(model.encoder.position_embeddings.weight),
            layers=tuple(encoder_layer(source) for source in model.encoder.layers),
            norm=cast(model.encoder.norm_out.weight),
        ),
        audio=cast(torch.cat([table.weight for table in model.audio_embeddings])),
        positions=cast(model.decoder.position_embeddings.weight),
        layers=tuple(layer(source) for source in model.decoder.layers),
        norm=cast(model.decoder.norm_out.weight),
        head=cast(model.final_proj.weight),
        head_bias=cast(model.final_proj.bias),
        local_in=cast(projection.weight) if widens else None,
        local_in_bias=cast(projection.bias) if widens else None,
        local_positions=cast(local.position_embeddings.weight),
        local_layers=tuple(layer(source) for source in local.layers),
        local_heads=cast(torch.stack([head.weight for head in heads])),
        local_biases=cast(torch.stack([head.bias for head in heads])),
    )
