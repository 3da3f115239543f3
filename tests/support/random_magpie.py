"""A decoder of Magpie with random weights and slots in mid-speech, made without NeMo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class Linears:
    """Random tensors of the shapes that NeMo's modules have."""

    def __init__(self, device: torch.device, std: float, seed: int) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device, self.std = device, std

    def tensor(self, *shape: int, std: float | None = None) -> Tensor:
        std = self.std if std is None else std
        return torch.randn(shape, generator=self.generator, device=self.device) * std

    def module(self, *shape: int, bias: bool = False) -> Any:
        return SimpleNamespace(
            weight=self.tensor(*shape), bias=self.tensor(shape[0], std=0.5) if bias else None
        )

    def norm(self, d: int) -> Any:
        return SimpleNamespace(weight=1.0 + self.tensor(d, std=0.1))


def model_of(
    device: torch.device,
    *,
    d: int,
    ffn: int,
    heads: int,
    layers: int,
    cross: int,
    local_layers: int,
    local_d: int,
    local_heads: int,
    context: int,
    stacking: int = 2,
    codebooks: int = 8,
    codes: int = 2016,
    std: float = 0.02,
    seed: int = 0,
    **parameters: Any,
) -> Any:
    """What `weights.take` and `Rules.of` read of NeMo's model."""
    make = Linears(device, std, seed)
    tokens, outputs = codes + 8, stacking * codebooks

    def layer(width: int, inner: int, heads: int, has_cross: bool) -> Any:
        attention = SimpleNamespace(
            n_heads=heads,
            is_causal=True,
            qkv_net=make.module(3 * width, width),
            o_net=make.module(width, width),
        )
        feed = SimpleNamespace(
            proj=SimpleNamespace(conv=make.module(inner, width, 1), is_causal=True),
            o_net=SimpleNamespace(conv=make.module(width, inner, 1)),
        )
        made = SimpleNamespace(
            self_attention=attention,
            pos_ff=feed,
            norm_self=make.norm(width),
            norm_pos_ff=make.norm(width),
            has_xattn=has_cross,
        )
        if has_cross:
            made.norm_xattn_query, made.norm_xattn_memory = make.norm(width), make.norm(width)
            made.cross_attention = SimpleNamespace(
                n_heads=1,
                q_net=make.module(cross, width),
                kv_net=make.module(2 * cross, width),
                o_net=make.module(width, cross),
            )
        return made

    def stack(count: int, width: int, inner: int, heads: int, has_cross: bool) -> Any:
        return SimpleNamespace(
            layers=[layer(width, inner, heads, has_cross) for _ in range(count)],
            norm_out=make.norm(width),
            position_embeddings=SimpleNamespace(weight=make.tensor(2048, width)),
        )

    narrow = local_d != d
    projection = make.module(local_d, d, bias=True)
    into = torch.nn.Linear(d, local_d, device=device) if narrow else torch.nn.Identity()
    if isinstance(into, torch.nn.Linear):
        into.weight.data, into.bias.data = projection.weight, projection.bias
    settings = {
        "cfg_scale": 2.5,
        "topk": 80,
        "min_generated_frames": 4,
        "apply_prior_to_layers": [n for n in range(2, 11) if n < layers] or None,
        "estimate_alignment_from_layers": [n for n in (4, 5, 8, 9) if n < layers] or None,
        "apply_attention_prior": True,
        "attention_prior_epsilon": 0.1,
        "attention_prior_lookahead_window": 6,
        **parameters,
    }
    return SimpleNamespace(
        inference_parameters=SimpleNamespace(**settings),
        frame_stacking_factor=stacking,
        num_audio_codebooks=codebooks,
        num_all_tokens_per_codebook=tokens,
        codebook_size=codes,
        audio_bos_id=codes,
        audio_eos_id=codes + 1,
        _baked_embedding_T=context,
        text_embedding=SimpleNamespace(weight=make.tensor(64, d)),
        encoder=stack(1, d, ffn, heads, False),
        decoder=stack(layers, d, ffn, heads, True),
        final_proj=make.module(outputs * tokens, d, bias=True),
        audio_embeddings=[make.module(tokens, d) for _ in range(outputs)],
        local_transformer=stack(local_layers, local_d, 4 * local_d, local_heads, False),
        local_transformer_in_projection=into,
        local_transformer_out_projections=[
            make.module(tokens, local_d, bias=True) for _ in range(outputs)
        ],
    )


TINY = {
    "d": 32,
    "ffn": 64,
    "heads": 2,
    "layers": 3,
    "cross": 16,
    "local_layers": 2,
    "local_d": 32,
    "local_heads": 2,
    "context": 8,
    "codes": 56,
    "std": 0.15,
}
PUBLIC = {
    "d": 768,
    "ffn": 3072,
    "heads": 12,
    "layers": 12,
    "cross": 128,
    "local_layers": 2,
    "local_d": 768,
    "local_heads": 12,
    "context": 217,
    "std": 0.05,
}


def in_mid_speech(decoder: Any, seed: int = 0) -> None:
    """Fill the slots of a decoder as if each of them were somewhere in a chunk."""
    state, rules, context = decoder.state, decoder.rules, decoder.extent.context
    device = state.place.device
    generator = torch.Generator(device).manual_seed(seed)

    def drawn(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, device=device)

    slots, text = state.alignment.prior.shape
    for cache in (state.keys, state.values, state.cross_keys, state.cross_values):
        cache.normal_(generator=generator)
    if rules.pair == 2:
        for cache, known in zip((state.keys, state.values), decoder.prefill.untold, strict=True):
            cache[:, 1::2, :, :context] = known[:, None]
    state.step.copy_(drawn(0, 12, slots))
    state.place.copy_(drawn(context // 2, context + 1, slots) + state.step)
    state.seed.copy_(drawn(-(2**62), 2**62, slots))
    state.temperature.copy_(0.6 * (drawn(0, 4, slots) > 0))
    state.last.copy_(drawn(0, 2, slots).bool())
    state.codes.copy_(drawn(0, rules.codes, *state.codes.shape))
    follow = state.alignment
    follow.length.copy_(drawn(4, text + 1, slots))
    share = torch.rand(slots, generator=generator, device=device)
    follow.last.copy_((share * follow.length).long())
    follow.count.copy_(drawn(0, 12, slots, text))
    follow.count.mul_(torch.arange(text, device=device) <= follow.last[:, None])
    follow.near_end.copy_(drawn(0, 4, slots) * drawn(0, 2, slots))
    follow.later.copy_(drawn(0, 2, slots).bool())
    choices = torch.tensor([0.01, 0.1, 0.2, 0.4, 0.6, 1.0], device=device)
    follow.prior.copy_(choices[drawn(0, len(choices), slots, text)])
