"""The incremental codec in a few fused launches, for half precision on a GPU.

The same arithmetic as `IncrementalCodec`'s, with the same use; 38 launches instead of some
800. What is fused, and how state is carried, is in `kernels/convolution.py`; the layers, and
the order in which the kernels read weights, are in `fused_layers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runtime.engines.magpie.codec import code_vectors, known_parts
from runtime.engines.magpie.fused_layers import Begin, Convolution, Finish, Layer, Run, Upsampling
from runtime.engines.magpie.kernels.convolution import SLACK

_AT_ONCE = 256  # frames of all rows, with which a GPU is busy: more only take more memory


class FusedCodec:
    """Decodes codes of many streams, a few frames at a time, each stream in a slot of state."""

    def __init__(
        self,
        codec: Any,
        slots: int,
        *,
        quantizer: Any = None,
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Take the weights of NeMo's ``AudioCodecModel``; the model itself is left as it is.

        Args:
            codec: With a group-wise FSQ quantizer and a causal HiFi-GAN decoder with half
                snakes, of which each transposed convolution makes one channel of two.
            slots: How many streams there may be; one slot more takes rows that nobody wants.
            quantizer: What the codes are of, if not the codec's own: the same levels in other
                groups (NeMo's ``VectorQuantizerIndexConverter``).
            device: Where to decode: a GPU, or any with Triton's interpreter.
            dtype: Of weights, state and what layers give each other: float16, in which the
                error is 56 dB under the audio, or bfloat16, 38 dB. Sums and activations are in
                float32.

        Raises:
            TypeError: It is of other parts.
        """
        decoder, quantizer = known_parts(codec, quantizer)
        self.samples_per_frame = int(codec.samples_per_frame)
        self.codebooks = int(quantizer.num_groups)
        self.slots = slots
        self._device, self.dtype = torch.device(device), dtype

        with torch.no_grad():
            self._begin = Begin(code_vectors(quantizer))
            self._first = Convolution([decoder.pre_conv], None, raw=True)
            self._stages: list[_Stage] = []
            paths = 1
            for activation, up, residual in zip(
                decoder.activations, decoder.up_sample_conv_layers, decoder.res_layers, strict=True
            ):
                chains = [path.res_blocks for path in residual.res_blocks]
                self._stages.append(_Stage.take(activation, up, paths, chains))
                paths = len(chains)
            self._finish = Finish(
                decoder.post_conv, decoder.post_activation, paths, decoder.out_activation
            )
            kept = self._link()
        # A multiple of 16 numbers: the kernels are compiled for that.
        self._state = torch.zeros(slots + 1, kept + -kept % 16, device=self._device, dtype=dtype)

    @property
    def spare(self) -> int:
        """The slot for rows that only fill up a batch."""
        return self.slots

    @property
    def state_bytes(self) -> int:
        """What a slot keeps."""
        return int(self._state[0].nbytes)

    def clear(self, slots: Tensor) -> None:
        """Begin new streams in these slots; shape ``(n,)``, int64."""
        self._state.index_fill_(0, slots, 0)

    def decode(self, slots: Tensor, codes: Tensor) -> Tensor:
        """Continue the streams in these slots by some frames.

        Args:
            slots: A slot for each row, none twice but the spare one; shape ``(rows,)``, int64.
            codes: Shape ``(rows, codebooks, frames)``, int64, each below the codebook's size.

        Returns:
            Audio in [-1, 1], shape ``(rows, frames * samples_per_frame)``, float32.
        """
        frames = codes.shape[-1]
        at_once = max(1, _AT_ONCE // frames)
        parts = zip(slots.split(at_once), codes.split(at_once), strict=True)
        audio = [self._decode(mine.contiguous(), some.contiguous()) for mine, some in parts]
        return audio[0] if len(audio) == 1 else torch.cat(audio)

    def _decode(self, slots: Tensor, codes: Tensor) -> Tensor:
        rows, _, times = codes.shape
        run = Run(self._state, slots, rows)
        # What was activated and changes the signal, the same inside a block, and the signal.
        buffers = torch.empty(3, self._buffer(rows, times), device=self._device, dtype=self.dtype)
        change, inside, signal = buffers
        self._begin(run, codes, change)
        self._first(run, times, change, raw=signal)
        for up, blocks in self._stages:
            begun = torch.empty(up.count(rows, times), device=self._device, dtype=self.dtype)
            up(run, times, signal, raw=begun, activated=change)
            times *= up.rate
            for number, (inner, outer) in enumerate(blocks):
                inner(run, times, change, activated=inside)
                before = signal if number else begun
                outer(run, times, inside, residual=before, raw=signal, activated=change)
        return self._finish(run, times, signal)

    def _link(self) -> int:
        """Tell each layer which one follows; give how many numbers a slot keeps for all."""
        layers: list[Layer] = [self._begin, self._first]
        for up, blocks in self._stages:
            layers += [up, *chain.from_iterable(blocks)]
        layers.append(self._finish)
        kept = 0
        for layer in layers:
            kept = layer.keep(kept)
        for layer, following in pairwise(layers):
            layer.link(following, self._device, self.dtype)
        self._finish.link(None, self._device, self.dtype)
        for _, blocks in self._stages:
            for _, outer in blocks:  # all write the signal where the layer after them reads it
                outer.raw_past = blocks[-1][1].raw_past
        return kept

    def _buffer(self, rows: int, frames: int) -> int:
        """How many numbers the largest buffer holds."""
        times, largest = frames, self._first.buffer(rows, frames)
        for up, blocks in self._stages:
            times *= up.rate
            largest = max(largest, *(c.buffer(rows, times) for pair in blocks for c in pair))
        return int(largest + SLACK.value)


class _Stage(NamedTuple):
    up: Upsampling
    blocks: list[tuple[Convolution, Convolution]]

    @classmethod
    def take(cls, activation: Any, up: Any, paths: int, chains: Sequence[Any]) -> _Stage:
        """Of NeMo's modules; ``chains`` are the parallel paths, each of residual blocks."""
        sides = [list(side) for side in zip(*chains, strict=True)]  # one block of each path
        entries = [[block.input_activation for block in side] for side in sides]
        return cls(
            Upsampling(up, activation, paths, entries[0]),
            [
                (
                    Convolution(
                        [block.input_conv for block in side],
                        [block.skip_activation for block in side],
                    ),
                    Convolution([block.skip_conv for block in side], after, raw=True, adds=True),
                )
                for side, after in zip(sides, [*entries[1:], None], strict=True)
            ],
        )
