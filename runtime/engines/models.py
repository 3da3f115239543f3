"""NVIDIA's models as far as an estimate of their memory needs to know them.

Sizes and geometry only; nothing here downloads, opens or runs a model. Parameters are
those of NeMo 3.0.0's modules at the public geometries, rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import TypeVar

from runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MagpieModel:
    """A Magpie TTS checkpoint and the nano codec it speaks through.

    Attributes:
        parameters: Of the acoustic model.
        codec_parameters: Of the codec's decoder, the half of it that runs here; the whole
            codec has 62.6 M.
        layers: Of the decoder.
        d: Width of encoder and decoder.
        cross_d: Width of keys and of values in cross-attention (1 head of 128).
        context_rows: Rows of a voice's baked context, which the decoder sees first.
        stacking: Frames of 1024 samples at 22050 Hz that one step yields.
        local_layers: Of the local transformer, which fills a step codebook by codebook.
        local_d: Its width.
        codebooks: Of the codec, for each frame.
    """

    parameters: int
    context_rows: int
    stacking: int
    local_layers: int
    local_d: int
    codec_parameters: int = 31_600_000
    layers: int = 12
    d: int = 768
    cross_d: int = 128
    codebooks: int = 8


@dataclass(frozen=True, slots=True)
class ParakeetModel:
    """A FastConformer with a transducer (TDT offline, RNNT streaming).

    Attributes:
        parameters: Of the whole model.
        layers: Of the encoder.
        d: Its width.
        heads: Of its self-attention.
        kernel: Frames that its depthwise convolutions see.
        cached_frames: Frames of left context that a stream keeps; 0 where it cannot stream.
        mels: Features of a frame of 10 ms.
        subsampling_channels: Of the convolutions that make frames of 80 ms out of 10 ms.
        prediction_layers: LSTM layers of the prediction network.
        prediction_d: Their width.
    """

    parameters: int
    cached_frames: int = 0
    layers: int = 24
    d: int = 1024
    heads: int = 8
    kernel: int = 9
    mels: int = 128
    subsampling_channels: int = 256
    prediction_layers: int = 2
    prediction_d: int = 640


# The name alone is the checkpoint of 2026. NeMo builds 299.8 M and 240.5 M parameters at
# the two geometries with an English vocabulary; 5 M more leave room for 6,500 more tokens.
MAGPIE: Mapping[str, MagpieModel] = MappingProxyType(
    {
        "magpie_tts_multilingual_357m": MagpieModel(
            parameters=305_000_000, context_rows=217, stacking=2, local_layers=2, local_d=768
        ),
        "magpie_tts_multilingual_357m@2025-12": MagpieModel(
            parameters=245_000_000, context_rows=110, stacking=1, local_layers=1, local_d=256
        ),
    }
)
PARAKEET: Mapping[str, ParakeetModel] = MappingProxyType(
    {
        "parakeet-tdt-0.6b-v2": ParakeetModel(parameters=618_000_000),  # vocabulary of 1,024
        "parakeet-tdt-0.6b-v3": ParakeetModel(parameters=627_000_000),  # vocabulary of 8,192
    }
)
PARAKEET_STREAMING: Mapping[str, ParakeetModel] = MappingProxyType(
    {
        "nemotron-speech-streaming-en-0.6b": ParakeetModel(
            parameters=618_000_000, cached_frames=70
        ),
    }
)

ModelT = TypeVar("ModelT")


def find_model(name: object, table: Mapping[str, ModelT]) -> ModelT:
    """Look a model up by its name.

    Raises:
        ConfigError: There is none; the message names the nearest, or all there are.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    near = get_close_matches(str(name), table, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"model is {name!r}, which is not known.{hint} Models: {', '.join(table)}.")
