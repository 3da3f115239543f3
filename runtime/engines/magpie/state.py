"""What Magpie's decoder keeps of its slots, in tensors whose shapes never change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.engines.magpie.alignment import Alignment

NEVER = 1 << 30
"""The frame at which a chunk has ended that goes on."""

BROKEN = -1
"""In place of that frame where the model's numbers are none any more."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Sizes that a decoder's state is made of.

    Attributes:
        slots: Chunks that are spoken at the same time.
        pair: Rows of a slot: 2 with guidance (with voice and text, and without), else 1.
        context: Places of the longest voice.
        steps: Of the longest chunk.
        text: Tokens of the longest text, history included.
        stacking: Frames of a step.
        codebooks: Codes of a frame.
        layers: Of the decoder.
        d: Its width.
        heads: Of self-attention.
        cross_heads: Of cross-attention.
        cross_width: Of one of those.
    """

    slots: int
    pair: int
    context: int
    steps: int
    text: int
    stacking: int
    codebooks: int
    layers: int
    d: int
    heads: int
    cross_heads: int
    cross_width: int

    @property
    def places(self) -> int:
        """Of the self-attention caches."""
        return self.context + self.steps


@dataclass(frozen=True, slots=True)
class State:
    """All slots, and one slot more: the spare one, for rows that only fill up a batch.

    A slot's rows are ``slot * pair`` and, with guidance, the one after it, which knows neither
    voice nor text. Cross-attention gives that row nothing, so its caches are by slot.

    Attributes:
        keys: Of self-attention, ``(layers, rows, heads, places, width)``.
        values: Likewise.
        cross_keys: Of the text, ``(layers, slots, heads, tokens, width)``.
        cross_values: Likewise.
        encoded: The text that a slot spoke last, ``(slots, tokens, d)``.
        place: Where the next step writes in the self-attention caches, ``(slots,)``.
        step: Steps of the chunk so far, ``(slots,)``.
        seed: Of the chunk's random numbers, ``(slots,)``.
        temperature: Of sampling, ``(slots,)``, float32.
        last: Whether no chunk of the text follows, ``(slots,)``.
        codes: Of the last step, frame by frame, ``(slots, stacking * codebooks)``.
        frames: All codes of the chunk, ``(slots, frames, codebooks)``.
        ended: The frame from which on nothing is speech any more; ``NEVER``, or ``BROKEN``.
        alignment: Where in their texts they are.
    """

    keys: Tensor
    values: Tensor
    cross_keys: Tensor
    cross_values: Tensor
    encoded: Tensor
    place: Tensor
    step: Tensor
    seed: Tensor
    temperature: Tensor
    last: Tensor
    codes: Tensor
    frames: Tensor
    ended: Tensor
    alignment: Alignment

    @classmethod
    def of(
        cls, extent: Extent, device: torch.device, dtype: torch.dtype, spare_frames: int
    ) -> State:
        """Zeros; ``spare_frames`` more than the longest chunk has can be read at its end."""
        slots, heads = extent.slots + 1, extent.heads

        def whole(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        def numbers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        places = (slots * extent.pair, heads, extent.places, extent.d // heads)
        tokens = (slots, extent.cross_heads, extent.text, extent.cross_width)
        frames = extent.steps * extent.stacking + spare_frames
        return cls(
            keys=numbers(extent.layers, *places),
            values=numbers(extent.layers, *places),
            cross_keys=numbers(extent.layers, *tokens),
            cross_values=numbers(extent.layers, *tokens),
            encoded=numbers(slots, extent.text, extent.d),
            place=whole(slots),
            step=whole(slots),
            seed=whole(slots),
            temperature=torch.zeros(slots, device=device),
            last=torch.ones(slots, dtype=torch.bool, device=device),
            codes=whole(slots, extent.stacking * extent.codebooks),
            frames=whole(slots, frames, extent.codebooks),
            ended=torch.full((slots,), NEVER, dtype=torch.int64, device=device),
            alignment=Alignment.of(slots, extent.text, device),
        )

    def forget(self, slot: int) -> None:
        """Zero what a slot keeps of its keys and values.

        A text is only written over as much of the one before as it is long, and the rest is
        masked: harmless numbers are not seen there, but 0 times NaN is NaN.
        """
        pair = self.keys.shape[1] // self.cross_keys.shape[1]
        for cache in (self.keys, self.values):
            cache[:, slot * pair : (slot + 1) * pair] = 0
        for cache in (self.cross_keys, self.cross_values):
            cache[:, slot] = 0
        self.encoded[slot] = 0

    @property
    def bytes_per_slot(self) -> int:
        """What a slot keeps on the device."""
        tensors = [getattr(self, name) for name in self.__slots__ if name != "alignment"]
        tensors += [getattr(self.alignment, name) for name in self.alignment.__slots__]
        return sum(int(tensor.nbytes) for tensor in tensors) // len(self.step)
