"""Magpie's decode step for many slots at once, in static shapes, all of it on the device.

One step takes some slots forward by ``stacking`` frames: self-attention over the slot's own
cache, cross-attention to its text under the attention prior, guidance as a second row of each
slot, the local transformer over all codebooks, sampling, the test for the end of speech.
Nothing in it depends on data, and nothing is read back, so that it can be one CUDA graph for
each number of slots.

The arithmetic is that of NeMo 3.0.0's cached ``generate_speech`` with the autoregressive local
transformer (nemo/collections/tts/models/magpietts.py), and the codes are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.engines.magpie.alignment import PATIENCE, Alignment
from runtime.engines.magpie.layers import attend_text, feed_forward, joined, norm, project
from runtime.engines.magpie.prefill import Chunk, Entry, Prefill
from runtime.engines.magpie.rules import Rules
from runtime.engines.magpie.sampling import draw
from runtime.engines.magpie.state import BROKEN, NEVER, Extent, State
from runtime.engines.magpie.weights import Weights, take

_log = logging.getLogger(__name__)

SPARE_FRAMES = 8
"""What may be read of a slot's frames beyond its last step."""


class Decoder:
    """Slots, the step that takes them forward, and what fills them."""

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

        Raises:
            CheckpointError: The checkpoint is of a kind that does not run here.
        """
        device = model.final_proj.weight.device
        self.rules, self.weights = Rules.of(model, cfg), take(model, dtype)
        self.extent = _extent(self.rules, self.weights, model, slots, max_text, max_steps)
        self.state = State.of(self.extent, device, dtype, SPARE_FRAMES)
        self.prefill = Prefill(self.weights, self.state, self.rules, self.extent.context)
        self._texts: list[tuple[int, ...] | None] = [None] * slots
        rules = self.rules
        self._offsets = torch.arange(rules.outputs, device=device) * rules.tokens
        self._places = torch.arange(self.extent.places, device=device)
        self._tokens = torch.arange(max_text, device=device)
        self._heads = torch.arange(self.extent.heads, device=device)
        forbidden = torch.zeros(rules.tokens, device=device)
        forbidden[rules.codes :] = float("-inf")
        forbidden[rules.end] = 0.0
        self._forbidden = forbidden
        self._no_end = torch.zeros_like(forbidden)
        self._no_end[rules.end] = float("-inf")

    @property
    def spare(self) -> int:
        """The slot for rows that only fill up a batch."""
        return self.extent.slots

    def entry(self, slot: int, chunk: Chunk, *, carries: bool = False) -> Entry:
        """Note that a slot speaks a chunk from now on; ``prefill`` takes what is returned.

        Args:
            slot: Which must be free, or at the end of its chunk.
            chunk: What to speak.
            carries: The chunk goes on with the text that the slot spoke last.
        """
        entry = Entry.after(slot, chunk, self._texts[slot] if carries else None)
        self._texts[slot] = entry.ids
        return entry

    def step(self, slots: Tensor) -> None:
        """Take some slots forward, ``(n,)``, int64, none twice but the spare one.

        The state's ``frames`` hold the new codes, ``ended`` who is done.
        """
        state, rules = self.state, self.rules
        with torch.no_grad():
            place, step = state.place[slots], state.step[slots]
            alignment = state.alignment.take(slots)
            hidden = F.embedding(state.codes[slots] + self._offsets, self.weights.audio).mean(1)
            hidden = hidden + self.weights.positions[place]
            hidden, scores = self._transform(hidden, slots, place, alignment)
            if rules.use_prior:
                alignment.advance(scores, rules.prior)
                state.alignment.put(slots, alignment)
            early = step * rules.stacking < rules.min_frames
            allowed = self._forbidden + torch.where(early[:, None], self._no_end, 0.0)
            new = self._local(hidden, allowed, slots, step)
            ended = self._ended(new, self._likeliest(hidden, allowed), slots, step, alignment)
            sound = torch.isfinite(hidden).all(-1).unflatten(0, (-1, rules.pair)).all(1)
            state.ended.index_copy_(0, slots, torch.where(sound, ended, BROKEN))
            state.codes.index_copy_(0, slots, new)
            at = (step * rules.stacking)[:, None] + self._offsets[: rules.stacking] // rules.tokens
            state.frames[slots[:, None], at] = new.unflatten(1, (rules.stacking, rules.codebooks))
            state.step.index_copy_(0, slots, (step + 1).clamp(max=self.extent.steps - 1))
            state.place.index_copy_(0, slots, (place + 1).clamp(max=self.extent.places - 1))

    def _transform(
        self, hidden: Tensor, slots: Tensor, place: Tensor, alignment: Alignment
    ) -> tuple[Tensor, Tensor]:
        """The decoder: hidden states ``(rows, d)``, and attention to the text ``(slots, text)``."""
        state, pair = self.state, self.rules.pair
        rows = (slots[:, None] * pair + torch.arange(pair, device=slots.device)).flatten()
        places = place.repeat_interleave(pair)
        hidden = hidden.repeat_interleave(pair, 0)[:, None]
        seen = (self._places <= places[:, None])[:, None, None]
        at = (rows[:, None], self._heads[None], places[:, None])
        there = self._tokens < alignment.length[:, None]
        scores = []
        for index, layer in enumerate(self.weights.layers):
            query, key, value = project(layer, hidden)
            state.keys[index][at] = key[:, :, 0]
            state.values[index][at] = value[:, :, 0]
            keys = state.keys[index].index_select(0, rows)
            values = state.values[index].index_select(0, rows)
            attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
            hidden = hidden + F.linear(joined(attended), layer.out)
            assert layer.cross is not None
            # Without voice and text there is nothing to attend to.
            told = hidden.unflatten(0, (-1, pair))[:, 0]
            change, share = attend_text(
                layer.cross,
                told,
                state.cross_keys[index].index_select(0, slots),
                state.cross_values[index].index_select(0, slots),
                there,
                alignment.prior if index in self.rules.guided else None,
            )
            told.add_(change)
            if index in self.rules.aligning:
                scores.append(share[:, :, 0].mean(1))
            hidden = hidden + feed_forward(layer, hidden)
        return norm(hidden[:, 0], self.weights.norm), torch.stack(scores).mean(0)

    def _local(self, hidden: Tensor, allowed: Tensor, slots: Tensor, step: Tensor) -> Tensor:
        """Codes of all outputs, one after another, shape ``(slots, outputs)``."""
        weights, rules = self.weights, self.rules
        seed, temperature = self.state.seed[slots], self.state.temperature[slots]
        hidden, codes = self._narrow(hidden), []
        past: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in weights.local_layers]
        for output in range(rules.outputs):
            hidden = hidden + weights.local_positions[output]
            for layer, (keys, values) in zip(weights.local_layers, past, strict=True):
                query, key, value = project(layer, hidden[:, None])
                keys.append(key)
                values.append(value)
                attended = F.scaled_dot_product_attention(
                    query, torch.cat(keys, 2), torch.cat(values, 2)
                )
                hidden = hidden + F.linear(joined(attended)[:, 0], layer.out)
                hidden = hidden + feed_forward(layer, hidden)
            logits = F.linear(hidden, weights.local_heads[output], weights.local_biases[output])
            drawn = draw(
                self._guide(logits.float()) + allowed,
                temperature,
                rules.top_k,
                seed,
                step * rules.outputs + output,
            )
            codes.append(drawn)
            said = F.embedding(drawn + output * rules.tokens, weights.audio)
            hidden = self._narrow(said).repeat_interleave(rules.pair, 0)
        return torch.stack(codes, 1)

    def _narrow(self, hidden: Tensor) -> Tensor:
        weights = self.weights
        if weights.local_in is None:
            return hidden
        return F.linear(hidden, weights.local_in, weights.local_in_bias)

    def _guide(self, logits: Tensor) -> Tensor:
        """Away from what would be said without voice and text."""
        if self.rules.pair == 1:
            return logits
        told, untold = logits.unflatten(0, (-1, 2)).unbind(1)
        return self.rules.scale * told + (1.0 - self.rules.scale) * untold

    def _likeliest(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        """The likeliest codes by the decoder's own heads, which are asked for the end only."""
        logits = F.linear(hidden, self.weights.head, self.weights.head_bias).float()
        logits = self._guide(logits).unflatten(-1, (self.rules.outputs, self.rules.tokens))
        return (logits + allowed[:, None]).argmax(-1)

    def _ended(
        self, new: Tensor, likeliest: Tensor, slots: Tensor, step: Tensor, alignment: Alignment
    ) -> Tensor:
        rules = self.rules
        ends = (new == rules.end) | (likeliest == rules.end)
        ends = ends.unflatten(1, (rules.stacking, rules.codebooks)).any(2)
        frames = torch.arange(rules.stacking, device=slots.device)
        first = torch.where(ends, frames, NEVER).amin(1)
        first = torch.where(first < NEVER, first + step * rules.stacking, NEVER)
        forced = ~self.state.last[slots] & (alignment.near_end >= PATIENCE)
        forced = torch.where(forced, (step + 1) * rules.stacking, NEVER)
        before = self.state.ended[slots]
        now = torch.where(first < NEVER, first, forced)
        return torch.where(before == NEVER, now, before)


def make_step(decoder: Decoder) -> Callable[[Tensor], None]:
    """The fused step for half precision on a GPU with Triton, else the decoder's own."""
    keys = decoder.state.keys
    if keys.device.type == "cuda" and keys.dtype != torch.float32:
        if find_spec("triton") is not None:
            from runtime.engines.magpie.fused import FusedStep

            return FusedStep(decoder, decoder.extent.slots).step
        _log.warning("no Triton: the decoder's steps run unfused, at a quarter of their speed")
    return decoder.step


def _extent(
    rules: Rules, weights: Weights, model: Any, slots: int, max_text: int, max_steps: int
) -> Extent:
    layer = weights.layers[0]
    assert layer.cross is not None
    return Extent(
        slots=slots,
        pair=rules.pair,
        context=int(model._baked_embedding_T),
        steps=max_steps,
        text=max_text,
        stacking=rules.stacking,
        codebooks=rules.codebooks,
        layers=len(weights.layers),
        d=weights.norm.shape[0],
        heads=layer.heads,
        cross_heads=layer.cross.heads,
        cross_width=layer.cross.query.shape[0] // layer.cross.heads,
    )
