"""Taking chunks of text into a decoder's slots: a batch of them at once, in static shapes.

Encodes the texts, fills the caches of cross-attention with them and those of self-attention
with the voices. What does not depend on the text is done once: the rows of guidance, which know
neither voice nor text, and of each voice the self-attention of the first layer.

The arithmetic is that of NeMo 3.0.0's ``generate_speech`` (prepare_context_tensors and
_prepare_text_inference_multi_chunk in nemo/collections/tts/models/magpietts.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.engines.magpie.layers import (
    attend_text,
    cross_memory,
    feed_forward,
    joined,
    norm,
    project,
)
from runtime.engines.magpie.options import HISTORY
from runtime.engines.magpie.rules import Rules
from runtime.engines.magpie.state import NEVER, State
from runtime.engines.magpie.weights import Layer, Weights

_MICRO = 1e6


@dataclass(frozen=True, slots=True)
class Voice:
    """What a voice brings to every text.

    Attributes:
        length: Places of its context.
        keys: Of the first layer's self-attention, ``(heads, places, width)``.
        values: Likewise.
        hidden: What that layer's self-attention leaves, ``(places, d)``.
    """

    length: int
    keys: Tensor
    values: Tensor
    hidden: Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of text for a slot.

    Attributes:
        ids: Token ids, the end of text last.
        voice: Who speaks.
        seed: Of the random numbers that its codes are drawn with.
        temperature: Of sampling; 0 takes the likeliest.
        last: Whether no chunk of its text follows.
    """

    ids: tuple[int, ...]
    voice: Voice
    seed: int = 0
    temperature: float = 0.6
    last: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """A chunk on its way into a slot.

    Attributes:
        slot: Which.
        chunk: What to speak.
        ids: Its tokens with those of the history before them.
        kept: How many of them are history.
        shift: Where in the slot's text before they began.
        dropped: How many tokens of that text are not in it any more; -1 in a first chunk.
    """

    slot: int
    chunk: Chunk
    ids: tuple[int, ...]
    kept: int = 0
    shift: int = 0
    dropped: int = -1

    @classmethod
    def after(cls, slot: int, chunk: Chunk, before: tuple[int, ...] | None) -> Entry:
        """For a chunk that goes on with the text ``before``; None for a first chunk."""
        if before is None:
            return cls(slot, chunk, chunk.ids)
        history = min(len(chunk.ids), HISTORY)
        ids = (*before, *chunk.ids)[-(len(chunk.ids) + history) :]
        kept = len(ids) - len(chunk.ids)
        dropped = len(before) + len(chunk.ids) - len(ids)
        return cls(slot, chunk, ids, kept, len(before) - kept, dropped)


class Prefill:
    """Fills slots; ``fill`` is all on the device, and can be one CUDA graph for each shape."""

    def __init__(self, weights: Weights, state: State, rules: Rules, context: int) -> None:
        """``context`` is the places of the longest voice."""
        self._weights, self._state, self._rules = weights, state, rules
        self._context = context
        self._device, self._dtype = state.keys.device, state.keys.dtype
        self.untold = self._without_text() if rules.pair == 2 else None

    def voice(self, context: Tensor) -> Voice:
        """Prepare a voice, from its context embedding of shape ``(places, d)``."""
        length, layer = len(context), self._weights.layers[0]
        with torch.no_grad():
            hidden = torch.zeros(1, self._context, context.shape[1])
            hidden = hidden.to(self._device, self._dtype)
            hidden[0, :length] = context
            hidden = hidden + self._weights.positions[: self._context]
            query, keys, values = project(layer, hidden)
            attended = F.scaled_dot_product_attention(query, keys, values, is_causal=True)
            hidden = hidden + F.linear(joined(attended), layer.out)
        return Voice(length, keys[0].clone(), values[0].clone(), hidden[0])

    def pack(self, entries: list[Entry], rows: int, tokens: int, spare: int) -> Tensor:
        """What ``fill`` must know of some chunks, shape ``(rows, 8 + tokens)``, on the host."""
        packed = torch.zeros(rows, 8 + tokens, dtype=torch.int64)
        packed[:, 0], packed[:, 1], packed[:, 4] = spare, 1, -1
        for row, entry in zip(packed, entries, strict=False):
            chunk = entry.chunk
            row[:8] = torch.tensor(
                [
                    entry.slot,
                    len(entry.ids),
                    entry.kept,
                    entry.shift,
                    entry.dropped,
                    chunk.seed,
                    round(chunk.temperature * _MICRO),
                    2 * chunk.voice.length + chunk.last,
                ]
            )
            row[8 : 8 + len(entry.ids)] = torch.tensor(entry.ids)
        return packed

    def fill(self, packed: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> None:
        """Fill the slots of a batch.

        Args:
            packed: As ``pack`` gave it, on the device.
            keys: Of the voices, stacked: ``(rows, heads, places, width)``.
            values: Likewise.
            hidden: Of the voices, ``(rows, places, d)``.
        """
        state = self._state
        slots, length, kept, shift, dropped, seed, temperature, rest = packed[:, :8].unbind(1)
        ids = packed[:, 8:]
        tokens = ids.shape[1]
        at = torch.arange(tokens, device=self._device)
        there = at < length[:, None]
        encoded = self._encode(ids, there)
        # Of the history the encoding is kept too: it was made with what came before it.
        before = state.encoded[slots[:, None], (at + shift[:, None]).clamp(0, self._text - 1)]
        encoded = torch.where((at < kept[:, None])[..., None], before, encoded)
        state.encoded[:, :tokens].index_copy_(0, slots, encoded)
        state.alignment.begin(slots, length, dropped, kept, self._rules.prior)
        prior = state.alignment.prior.index_select(0, slots)[:, :tokens]
        self._fill_caches(slots, encoded, there, prior, (keys, values, hidden))
        state.place.index_copy_(0, slots, rest // 2)
        state.last.index_copy_(0, slots, rest % 2 == 1)
        state.step.index_fill_(0, slots, 0)
        state.seed.index_copy_(0, slots, seed)
        state.temperature.index_copy_(0, slots, temperature.float() / _MICRO)
        state.codes.index_fill_(0, slots, self._rules.begin)
        state.ended.index_fill_(0, slots, NEVER)

    @property
    def _text(self) -> int:
        return int(self._state.encoded.shape[1])

    def _fill_caches(
        self,
        slots: Tensor,
        encoded: Tensor,
        there: Tensor,
        prior: Tensor,
        voices: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        state, tokens = self._state, encoded.shape[1]
        told = slots * self._rules.pair
        key, value, hidden = voices
        for index, layer in enumerate(self._weights.layers):
            if index:  # the first layer's is the voice's own
                query, key, value = project(layer, hidden)
                attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
                hidden = hidden + F.linear(joined(attended), layer.out)
            state.keys[index, :, :, : self._context].index_copy_(0, told, key)
            state.values[index, :, :, : self._context].index_copy_(0, told, value)
            assert layer.cross is not None
            cross_keys, cross_values = cross_memory(layer.cross, encoded)
            state.cross_keys[index, :, :, :tokens].index_copy_(0, slots, cross_keys)
            state.cross_values[index, :, :, :tokens].index_copy_(0, slots, cross_values)
            # In a later chunk the prior holds for the context too.
            guided = index in self._rules.guided
            change, _ = attend_text(
                layer.cross, hidden, cross_keys, cross_values, there, prior if guided else None
            )
            hidden = hidden + change
            hidden = hidden + feed_forward(layer, hidden)
        if self.untold is not None:
            rows = len(slots)
            for cache, known in zip((state.keys, state.values), self.untold, strict=True):
                part = cache[:, :, :, : self._context]
                part.index_copy_(1, told + 1, known[:, None].expand(-1, rows, -1, -1, -1))

    def _without_text(self) -> tuple[Tensor, Tensor]:
        """Keys and values of a context without voice and text, ``(layers, heads, places, width)``.

        Its memory is zeros, to which cross-attention gives nothing: there is no bias.
        """
        keys, values = [], []
        with torch.no_grad():
            hidden = self._weights.positions[None, : self._context]
            for layer in self._weights.layers:
                query, key, value = project(layer, hidden)
                attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
                hidden = hidden + F.linear(joined(attended), layer.out)
                hidden = hidden + feed_forward(layer, hidden)
                keys.append(key[0])
                values.append(value[0])
        return torch.stack(keys), torch.stack(values)

    def _encode(self, ids: Tensor, there: Tensor) -> Tensor:
        """The text encoder: ``(rows, tokens, d)``."""
        weights = self._weights.encoder
        hidden = F.embedding(ids, weights.text) + weights.positions[: ids.shape[1]]
        keep = there[..., None].to(hidden.dtype)
        hidden = hidden * keep
        for layer in weights.layers:
            query, key, value = project(layer, hidden)
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = hidden + F.linear(joined(attended), layer.out)
            hidden = (hidden + _convolve(layer, hidden, keep)) * keep
        return norm(hidden, weights.norm)


def _convolve(layer: Layer, hidden: Tensor, keep: Tensor) -> Tensor:
    """The feed-forward part of the encoder, whose kernels look at the tokens before too."""
    signal = norm(hidden, layer.norm_ff)
    signal = F.gelu(_causal(layer.up, signal * keep), approximate="tanh")
    return _causal(layer.down, signal * keep)


def _causal(weight: Tensor, signal: Tensor) -> Tensor:
    if weight.ndim == 2:
        return F.linear(signal, weight)
    padded = F.pad(signal.transpose(1, 2), (weight.shape[2] - 1, 0))
    return F.conv1d(padded, weight).transpose(1, 2)
