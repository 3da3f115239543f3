"""The nano codec's decoder, incremental: n new frames cost n frames, whatever came before.

NeMo's decoder is causal: every convolution looks back only, 25 frames in all. Here each keeps
the last samples of its own input per slot, so that audio made in parts is the audio made at
once, sample for sample. Shapes depend on nothing but the number of rows and of new frames, and
nothing is read back by the host: a step can be captured in a CUDA graph.

The arithmetic is that of ``CausalHiFiGANDecoder`` in NeMo 3.0.0
(nemo/collections/tts/modules/audio_codec_modules.py), with weight norm folded into weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from runtime.engines.magpie.fused_codec import FusedCodec

_log = logging.getLogger(__name__)

Codec: TypeAlias = "IncrementalCodec | FusedCodec"

SNAKE_EPS = 1e-9  # of NeMo's Snake, in the denominator


class IncrementalCodec:
    """Decodes codes of many streams, a few frames at a time, each stream in a slot of state."""

    def __init__(
        self,
        codec: Any,
        slots: int,
        *,
        quantizer: Any = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take the weights of NeMo's ``AudioCodecModel``; the model itself is left as it is.

        Args:
            codec: With a group-wise FSQ quantizer and a causal HiFi-GAN decoder.
            slots: How many streams there may be; one slot more takes rows that nobody wants.
            quantizer: What the codes are of, if not the codec's own: the same levels in other
                groups (NeMo's ``VectorQuantizerIndexConverter``).
            device: Where to decode.
            dtype: Of weights, state and arithmetic. Codes are looked up and audio is given in
                float32.

        Raises:
            TypeError: It is of other parts.
        """
        decoder, quantizer = known_parts(codec, quantizer)
        self.samples_per_frame = int(codec.samples_per_frame)
        self.codebooks = int(quantizer.num_groups)
        self.slots = slots
        self._states: list[Tensor] = []
        self._device, self.dtype = torch.device(device), dtype
        self._vectors = code_vectors(quantizer).to(self._device)
        self._group = torch.arange(self.codebooks, device=self._device)[:, None]
        self._layers = self._take(decoder)
        self._squash = _squash(decoder.out_activation)

    @property
    def spare(self) -> int:
        """The slot for rows that only fill up a batch."""
        return self.slots

    @property
    def state_bytes(self) -> int:
        """What a slot keeps."""
        return sum(state[0].nbytes for state in self._states)

    def clear(self, slots: Tensor) -> None:
        """Begin new streams in these slots; shape ``(n,)``, int64."""
        for state in self._states:
            state.index_fill_(0, slots, 0)

    def decode(self, slots: Tensor, codes: Tensor) -> Tensor:
        """Continue the streams in these slots by some frames.

        Args:
            slots: A slot for each row, none twice but the spare one; shape ``(rows,)``, int64.
            codes: Shape ``(rows, codebooks, frames)``, int64, each below the codebook's size.

        Returns:
            Audio in [-1, 1], shape ``(rows, frames * samples_per_frame)``, float32.
        """
        with torch.no_grad():
            # (rows, codebooks, frames, d) -> (rows, codebooks * d, frames), group by group.
            vectors = self._vectors[self._group, codes].movedim(-1, 2).flatten(1, 2)
            signal = vectors.to(self.dtype)
            for layer in self._layers:
                signal = layer(signal, slots)
            return self._squash(signal.float()).flatten(1)

    def _take(self, decoder: Any) -> list[_Layer]:
        layers: list[_Layer] = [self._convolution(decoder.pre_conv)]
        for activation, up, residual in zip(
            decoder.activations, decoder.up_sample_conv_layers, decoder.res_layers, strict=True
        ):
            paths = [
                [self._residual(block) for block in path.res_blocks] for path in residual.res_blocks
            ]
            layers += [self._activation(activation), self._upsampling(up), _Mean(paths)]
        return [
            *layers,
            self._activation(decoder.post_activation),
            self._convolution(decoder.post_conv),
        ]

    def _residual(self, block: Any) -> _Layer:
        inner = [
            self._activation(block.input_activation),
            self._convolution(block.input_conv),
            self._activation(block.skip_activation),
            self._convolution(block.skip_conv),
        ]

        def residual(signal: Tensor, slots: Tensor) -> Tensor:
            change = signal
            for layer in inner:
                change = layer(change, slots)
            return signal + change

        return residual

    def _activation(self, activation: Any) -> _Layer:
        """Half of the channels through Snake, half through leaky ReLU (NeMo's ``HalfSnake``)."""
        alpha = self._cast(activation.activation.snake_act.alpha)
        inverse = 1.0 / (alpha + SNAKE_EPS)
        channels = alpha.shape[1]

        def half_snake(signal: Tensor, _: Tensor) -> Tensor:
            snake, rest = signal[:, :channels], signal[:, channels:]
            snake = snake + inverse * torch.sin(alpha * snake).square()
            return torch.cat([snake, F.leaky_relu(rest)], 1)

        return half_snake

    def _convolution(self, module: Any) -> _Layer:
        conv = module.conv
        weight, bias = self._cast(conv.weight), self._cast(conv.bias)
        dilation = conv.dilation[0]
        past = self._keep(conv.in_channels, (conv.kernel_size[0] - 1) * dilation)

        def convolution(signal: Tensor, slots: Tensor) -> Tensor:
            return F.conv1d(past(signal, slots), weight, bias, dilation=dilation)

        return convolution

    def _upsampling(self, module: Any) -> _Layer:
        conv = module.conv
        weight, bias = self._cast(conv.weight), self._cast(conv.bias)
        rate, groups = conv.stride[0], conv.groups
        past = self._keep(conv.in_channels, 1)  # the kernel is two strides long

        def upsampling(signal: Tensor, slots: Tensor) -> Tensor:
            longer = past(signal, slots)
            up = F.conv_transpose1d(longer, weight, bias, stride=rate, groups=groups)
            return up[..., rate:-rate]

        return upsampling

    def _keep(self, channels: int, length: int) -> _Layer:
        """State of ``length`` samples a slot; gives a signal with its past before it."""
        state = torch.zeros(self.slots + 1, channels, length, device=self._device, dtype=self.dtype)
        self._states.append(state)

        def past(signal: Tensor, slots: Tensor) -> Tensor:
            longer = torch.cat([state.index_select(0, slots), signal], -1)
            state.index_copy_(0, slots, longer[..., longer.shape[-1] - length :])
            return longer

        return past

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self._device, self.dtype)


_Layer = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Mean:
    """The mean of what parallel chains of blocks give."""

    paths: Sequence[Sequence[_Layer]]

    def __call__(self, signal: Tensor, slots: Tensor) -> Tensor:
        total: Tensor | None = None
        for path in self.paths:
            out = signal
            for block in path:
                out = block(out, slots)
            total = out if total is None else total + out
        assert total is not None
        return total / len(self.paths)


def make_codec(
    codec: Any,
    slots: int,
    *,
    quantizer: Any = None,
    device: str | torch.device,
    dtype: torch.dtype,
) -> Codec:
    """The fused codec for half precision on a GPU with Triton, else the plain one.

    Arguments and errors are those of `IncrementalCodec`.
    """
    if torch.device(device).type == "cuda" and dtype != torch.float32:
        if find_spec("triton") is not None:
            from runtime.engines.magpie.fused_codec import FusedCodec

            return FusedCodec(codec, slots, quantizer=quantizer, device=device, dtype=dtype)
        _log.warning("no Triton: the codec runs unfused, at a fifth of its speed")
    return IncrementalCodec(codec, slots, quantizer=quantizer, device=device, dtype=dtype)


def known_parts(codec: Any, quantizer: Any = None) -> tuple[Any, Any]:
    """The decoder and the quantizer of a codec, or the given quantizer.

    Raises:
        TypeError: They are not the nano codec's kind.
    """
    decoder, quantizer = codec.audio_decoder, quantizer or codec.vector_quantizer
    for part, wanted in (
        (decoder, "CausalHiFiGANDecoder"),
        (quantizer, "GroupFiniteScalarQuantizer"),
    ):
        if type(part).__name__ != wanted:
            raise TypeError(f"The codec has a {type(part).__name__}; {wanted} is known.")
    return decoder, quantizer


def code_vectors(quantizer: Any) -> Tensor:
    """What each code of each codebook stands for, shape ``(codebooks, codes, d)``, float32."""
    return torch.stack(
        [
            fsq.decode(
                indices=torch.arange(fsq.codebook_size)[None, None].to(fsq.num_levels.device),
                input_len=None,
            )[0].T.float()
            for fsq in quantizer.fsqs
        ]
    )


def _squash(activation: Any) -> Callable[[Tensor], Tensor]:
    clamps = type(activation).__name__ == "ClampActivation"
    return lambda signal: signal.clamp(-1.0, 1.0) if clamps else torch.tanh(signal)
