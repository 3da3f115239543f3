"""Magpie's decode step for many slots at once, in static shapes, all of it on the device.

One step takes every live slot forward by ``stacking`` frames: self-attention over the slot's
own cache, cross-attention to its text under the attention prior, guidance as a second row of
each slot, the local transformer over all codebooks, sampling, the test for the end of speech.
Nothing in it depends on data, and nothing is read back, so that it can be one CUDA graph.

The arithmetic is that of NeMo 3.0.0's cached ``generate_speech`` with the autoregressive local
transformer (nemo/collections/tts/models/magpietts.py), and the codes are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.engines.magpie.alignment import PATIENCE, Alignment
from runtime.engines.magpie.sampling import draw
from runtime.engines.magpie.weights import Layer, Weights, take

NEVER = 1 << 30
"""The frame at which a chunk has ended that goes on."""

_HISTORY = 20  # tokens of text before a later chunk, at the most (history_len_heuristic)
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of text for a slot.

    Attributes:
        ids: Token ids, the end of text last.
        context: The voice, shape ``(rows, d)``.
        seed: Of the random numbers that its codes are drawn with.
        temperature: Of sampling; 0 takes the likeliest.
        last: Whether no chunk of its text follows.
    """

    ids: tuple[int, ...]
    context: Tensor
    seed: int = 0
    temperature: float = 0.6
    last: bool = True


@dataclass(slots=True)
class _Text:
    """What a slot keeps of its text for the chunk after the one it speaks."""

    ids: tuple[int, ...]
    encoded: Tensor  # (tokens, d)


class Decoder:
    """Slots, and the step that takes them forward."""

    def __init__(
        self,
        model: Any,
        slots: int,
        *,
        max_text: int,
        max_steps: int,
        cfg: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take NeMo's ``MagpieTTSModel`` on its device; it is left as it is.

        Args:
            model: With baked voices and an autoregressive local transformer.
            slots: How many chunks are spoken at the same time.
            max_text: Tokens of the longest chunk, its history included.
            max_steps: Steps of the longest chunk.
            cfg: Classifier-free guidance.
            dtype: Of weights, caches and arithmetic; scores, priors and logits are float32.
        """
        parameters = model.inference_parameters
        self._model, self._cfg, self._dtype = model, cfg, dtype
        self._device = model.final_proj.weight.device
        self.weights: Weights = take(model, dtype)
        self.slots, self.max_steps = slots, max_steps
        self.stacking = int(model.frame_stacking_factor)
        self.codebooks = int(model.num_audio_codebooks)
        self.outputs = self.stacking * self.codebooks
        self._tokens = int(model.num_all_tokens_per_codebook)
        self._end, self._begin = int(model.audio_eos_id), int(model.audio_bos_id)
        self._scale, self._top_k = float(parameters.cfg_scale), int(parameters.topk)
        self._min_frames = int(parameters.min_generated_frames)
        layers = range(len(self.weights.layers))
        self._guided = set(parameters.apply_prior_to_layers or layers)
        self._aligning = set(parameters.estimate_alignment_from_layers or layers)
        self._use_prior = bool(parameters.apply_attention_prior)
        self._texts: list[_Text | None] = [None] * slots
        self._allocate(max_text, int(model._baked_embedding_T), parameters)

    def _allocate(self, max_text: int, context: int, parameters: Any) -> None:
        rows = self.slots * (2 if self._cfg else 1)
        layers, d = self.weights.layers, self.weights.norm.shape[0]
        heads, places = layers[0].heads, context + self.max_steps
        assert layers[0].cross is not None
        cross = layers[0].cross.heads
        width = layers[0].cross.query.shape[0] // cross

        def whole(*shape: int, value: int = 0) -> Tensor:
            return torch.full(shape, value, dtype=torch.int64, device=self._device)

        def numbers(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=self._dtype, device=self._device)

        self._keys = numbers(len(layers), rows, heads, places, d // heads)
        self._values = torch.zeros_like(self._keys)
        self._cross_keys = numbers(len(layers), rows, cross, max_text, width)
        self._cross_values = torch.zeros_like(self._cross_keys)
        self._cross_mask = torch.zeros(rows, max_text, dtype=torch.bool, device=self._device)
        self._cross_mask[:, 0] = True  # so that no row is without anything to attend to
        self._place = whole(rows)
        self._step = whole(self.slots)
        self._seed = whole(self.slots)
        self._temperature = torch.zeros(self.slots, device=self._device)
        self._last_chunk = torch.ones(self.slots, dtype=torch.bool, device=self._device)
        self._live = torch.zeros(self.slots, dtype=torch.bool, device=self._device)
        self.codes = whole(self.slots, self.outputs, value=self._begin)
        self.ended = whole(self.slots, value=NEVER)
        self._alignment = Alignment.of(
            self.slots,
            max_text,
            float(parameters.attention_prior_epsilon),
            int(parameters.attention_prior_lookahead_window),
            self._device,
        )
        self._offsets = torch.arange(self.outputs, device=self._device) * self._tokens
        self._places = torch.arange(places, device=self._device)
        forbidden = torch.zeros(self._tokens, device=self._device)
        forbidden[int(self._model.codebook_size) :] = float("-inf")
        forbidden[self._end] = 0.0
        self._forbidden = forbidden
        self._no_end = torch.zeros_like(forbidden)
        self._no_end[self._end] = float("-inf")

    # --- admission -----------------------------------------------------------

    def begin(self, slot: int, chunk: Chunk, *, carries: bool = False) -> None:
        """Take a chunk in; the next step speaks its first frames.

        Args:
            slot: Which must be free, or at the end of its chunk.
            chunk: What to speak.
            carries: The chunk goes on with the text that the slot spoke last.
        """
        with torch.no_grad():
            before = self._texts[slot] if carries else None
            ids = chunk.ids
            if before is not None:
                history = min(len(ids), _HISTORY)
                ids = (*before.ids, *ids)[-(len(chunk.ids) + history) :]
            encoded = self._encode(ids)
            kept = len(ids) - len(chunk.ids)
            if before is not None and kept:
                encoded[:kept] = before.encoded[-kept:]
            dropped = None
            if before is not None:
                dropped = len(before.ids) + len(chunk.ids) - len(ids)
            self._texts[slot] = _Text(ids, encoded)
            self._alignment.begin(slot, len(ids), dropped, kept)
            self._prefill(slot, encoded, chunk.context)
            self._step[slot] = 0
            self._seed[slot] = chunk.seed
            self._temperature[slot] = chunk.temperature
            self._last_chunk[slot] = chunk.last
            self.codes[slot] = self._begin
            self.ended[slot] = NEVER
            self._live[slot] = True

    def free(self, slot: int) -> None:
        """Let a slot rest; its caches are overwritten by the next chunk."""
        self._live[slot] = False
        self._texts[slot] = None

    def _encode(self, ids: tuple[int, ...]) -> Tensor:
        """The text encoder, NeMo's own, shape ``(tokens, d)``."""
        model = self._model
        text = torch.tensor([ids], device=self._device)
        mask = torch.ones_like(text, dtype=torch.bool)
        encoded = model.encoder(model.text_embedding(text), mask, cond=None, cond_mask=None)
        output: Tensor = encoded["output"][0].to(self._dtype)
        return output

    def _rows(self, slot: int) -> list[int]:
        return [slot, slot + self.slots] if self._cfg else [slot]

    def _prefill(self, slot: int, encoded: Tensor, context: Tensor) -> None:
        """Fill the caches of a slot: its voice's context, and its text."""
        rows, length, tokens = self._rows(slot), len(context), len(encoded)
        # The second row of a slot knows neither voice nor text.
        hidden = torch.stack([context.to(self._dtype)])
        memory = torch.stack([encoded])
        if self._cfg:
            hidden = torch.cat([hidden, torch.zeros_like(hidden)])
            memory = torch.cat([memory, torch.zeros_like(memory)])
        hidden = hidden + self.weights.positions[:length]
        mask = torch.zeros(len(rows), tokens, dtype=torch.bool, device=self._device)
        mask[0] = True
        mask[:, 0] = True
        # In a later chunk the prior holds for the context too.
        prior = torch.ones(len(rows), 1, 1, tokens, device=self._device)
        prior[0, 0, 0] = self._alignment.prior[slot, :tokens]
        prior = prior + _TINY
        self._cross_mask[rows] = False
        self._cross_mask[rows, :tokens] = mask
        for index, layer in enumerate(self.weights.layers):
            assert layer.cross is not None
            query, key, value = _project(layer, hidden)
            self._keys[index, rows, :, :length] = key
            self._values[index, rows, :, :length] = value
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = hidden + F.linear(_joined(attended), layer.out)
            cross = layer.cross
            pair = F.linear(_norm(memory, cross.norm_memory), cross.key_value)
            pair = pair.unflatten(-1, (2, cross.heads, -1)).permute(2, 0, 3, 1, 4)
            self._cross_keys[index, rows, :, :tokens] = pair[0]
            self._cross_values[index, rows, :, :tokens] = pair[1]
            query = F.linear(_norm(hidden, cross.norm), cross.query)
            query = query.unflatten(-1, (cross.heads, -1)).transpose(1, 2)
            fit = torch.matmul(query, pair[0].transpose(2, 3)).float() * query.shape[-1] ** -0.5
            share = fit.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
            if self._use_prior and index in self._guided:
                share = share * prior
                share = share / share.sum(-1, keepdim=True)
            attended = torch.matmul(share.to(self._dtype), pair[1])
            hidden = hidden + F.linear(_joined(attended), cross.out)
            hidden = hidden + _feed_forward(layer, hidden)
        self._place[rows] = length

    # --- the step ------------------------------------------------------------

    def step(self) -> None:
        """Take all live slots forward; ``codes`` holds the new frames, ``ended`` who is done.

        ``codes`` has shape ``(slots, stacking * codebooks)``, frame by frame. ``ended`` is the
        frame of the chunk from which on nothing is speech any more, or ``NEVER``.
        """
        with torch.no_grad():
            hidden = F.embedding(self.codes + self._offsets, self.weights.audio).mean(1)
            hidden = torch.cat([hidden, hidden]) if self._cfg else hidden
            hidden, scores = self._transform(hidden + self.weights.positions[self._place])
            if self._use_prior:
                self._alignment.advance(scores, self._live)
            early = self._step * self.stacking < self._min_frames
            allowed = self._forbidden + torch.where(early[:, None], self._no_end, 0.0)
            new = self._local(hidden, allowed)
            likeliest = self._likeliest(hidden, allowed)
            self._note_end(new, likeliest)
            self.codes.copy_(torch.where(self._live[:, None], new, self.codes))
            self._step.add_(self._live.to(torch.int64))
            live = torch.cat([self._live, self._live]) if self._cfg else self._live
            self._place.copy_((self._place + live).clamp(max=len(self._places) - 1))

    def _transform(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder: hidden states ``(rows, d)``, and attention to the text ``(slots, text)``."""
        rows = hidden.shape[0]
        seen = (self._places <= self._place[:, None])[:, None, None]
        where = self._place.view(rows, 1, 1, 1)
        prior = self._alignment.prior
        prior = torch.cat([prior, torch.ones_like(prior)]) if self._cfg else prior
        prior = prior[:, None] + _TINY
        scores = []
        for index, layer in enumerate(self.weights.layers):
            assert layer.cross is not None
            query, key, value = _project(layer, hidden[:, None])
            keys, values = self._keys[index], self._values[index]
            at = where.expand(rows, keys.shape[1], 1, keys.shape[3])
            keys.scatter_(2, at, key)
            values.scatter_(2, at, value)
            attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
            hidden = hidden + F.linear(_joined(attended)[:, 0], layer.out)
            cross = layer.cross
            query = F.linear(_norm(hidden, cross.norm), cross.query)
            query = query.unflatten(-1, (cross.heads, 1, -1))
            fit = torch.matmul(query, self._cross_keys[index].transpose(2, 3))[:, :, 0].float()
            fit = fit * query.shape[-1] ** -0.5
            share = fit.masked_fill(~self._cross_mask[:, None], float("-inf")).softmax(-1)
            if self._use_prior and index in self._guided:
                share = share * prior
                share = share / share.sum(-1, keepdim=True)
            if index in self._aligning:
                scores.append(share[: self.slots].mean(1))
            attended = torch.matmul(share.to(self._dtype)[:, :, None], self._cross_values[index])
            hidden = hidden + F.linear(attended.flatten(1), cross.out)
            hidden = hidden + _feed_forward(layer, hidden)
        return _norm(hidden, self.weights.norm), torch.stack(scores).mean(0)

    def _local(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        """Codes of all outputs, one after another, shape ``(slots, outputs)``."""
        weights = self.weights
        state, codes = self._narrow(hidden), []
        past: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in weights.local_layers]
        for output in range(self.outputs):
            state = state + weights.local_positions[output]
            for layer, (keys, values) in zip(weights.local_layers, past, strict=True):
                query, key, value = _project(layer, state[:, None])
                keys.append(key)
                values.append(value)
                attended = F.scaled_dot_product_attention(
                    query, torch.cat(keys, 2), torch.cat(values, 2)
                )
                state = state + F.linear(_joined(attended)[:, 0], layer.out)
                state = state + _feed_forward(layer, state)
            logits = F.linear(state, weights.local_heads[output], weights.local_biases[output])
            drawn = draw(
                self._guide(logits.float()) + allowed,
                self._temperature,
                self._top_k,
                self._seed,
                self._step * self.outputs + output,
            )
            codes.append(drawn)
            said = F.embedding(drawn + output * self._tokens, weights.audio)
            said = self._narrow(said)
            state = torch.cat([said, said]) if self._cfg else said
        return torch.stack(codes, 1)

    def _narrow(self, hidden: Tensor) -> Tensor:
        weights = self.weights
        if weights.local_in is None:
            return hidden
        return F.linear(hidden, weights.local_in, weights.local_in_bias)

    def _guide(self, logits: Tensor) -> Tensor:
        """Away from what would be said without voice and text."""
        if not self._cfg:
            return logits
        told, untold = logits[: self.slots], logits[self.slots :]
        return self._scale * told + (1.0 - self._scale) * untold

    def _likeliest(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        """The likeliest codes by the decoder's own heads, which are asked for the end only."""
        logits = F.linear(hidden, self.weights.head, self.weights.head_bias).float()
        logits = self._guide(logits).unflatten(-1, (self.outputs, self._tokens))
        return (logits + allowed[:, None]).argmax(-1)

    def _note_end(self, new: Tensor, likeliest: Tensor) -> None:
        ends = (new == self._end) | (likeliest == self._end)
        ends = ends.unflatten(1, (self.stacking, self.codebooks)).any(2)
        frames = torch.arange(self.stacking, device=self._device)
        first = torch.where(ends, frames, NEVER).amin(1)
        first = torch.where(first < NEVER, first + self._step * self.stacking, NEVER)
        forced = ~self._last_chunk & (self._alignment.near_end >= PATIENCE)
        forced = torch.where(forced, (self._step + 1) * self.stacking, NEVER)
        ended = torch.where(first < NEVER, first, forced)
        going = self._live & (self.ended == NEVER)
        self.ended.copy_(torch.where(going, ended, self.ended))


def _norm(hidden: Tensor, weight: Tensor) -> Tensor:
    return F.layer_norm(hidden, weight.shape, weight)


def _project(layer: Layer, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each ``(rows, heads, places, width)``."""
    projected = F.linear(_norm(hidden, layer.norm), layer.qkv)
    query, key, value = projected.unflatten(-1, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _joined(attended: Tensor) -> Tensor:
    """``(rows, heads, places, width)`` to ``(rows, places, heads * width)``."""
    return attended.transpose(1, 2).flatten(2)


def _feed_forward(layer: Layer, hidden: Tensor) -> Tensor:
    hidden = F.gelu(F.linear(_norm(hidden, layer.norm_ff), layer.up), approximate="tanh")
    return F.linear(hidden, layer.down)
