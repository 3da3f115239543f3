"""What Magpie needs of the GPU: a slot's caches from the geometry, the rest from a bound.

The shapes are those of an engine with one static cache per slot and one CUDA graph for a
step of all slots, as it was tried on an H100: 64 slots in bfloat16, 8 s of audio each, took
5.5 GB at the peak, of which 1.45 GB were NeMo's own float32 model beside the engine's copy
of it. The estimate is for an engine that drops that: above 5.5 GB for the longest
utterances, above 4.05 GB for those of 8 s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runtime.engines.models import MAGPIE, MagpieModel
from runtime.engines.nvidia import HOST, RESERVE, megabytes, read_options
from runtime.engines.options import seconds
from runtime.memory.footprint import Footprint

FRAME_RATE = 22050 / 1024  # the codec's: 1024 samples a frame at 22050 Hz
MAX_FRAMES = 500  # NeMo's own limit (max_decoder_steps), whatever the stacking
MAX_UTTERANCE_S = 23.2  # the same in seconds, rounded down
MAX_SLOTS = 64  # the most that have been measured

_CFG = 2  # rows of a slot: with its text, and without (classifier-free guidance)
_KV = 2  # a key and a value
_ALIGNMENT = 64  # rows; caches are made in such steps, so that attention's kernels fit
_TOKENS_PER_SECOND = 20  # of text, spoken fast: phonemes, spaces, punctuation
_PREFILL_BATCH = 16  # requests whose contexts and texts are taken in at once, at the most
# Numbers alive for a row of the widest layer, in widths d: its input and norm, queries,
# keys, values and attention, and the feed-forward part (4 d) before and after its GELU.
_ROW_WIDTHS = 16
# A step's attention computes in float32, at the worst with copies of one layer's keys and
# values, and twice: the graph's pool does not share with what was warmed up outside it.
_ATTENTION_COPIES = 2
_FLOAT32 = 4
# The decoder of the nano codec: its convolutions keep 184,000 numbers a stream (0.37 MB in
# float16, measured), and its widest layers compute 27,648 a frame (27 channels x 1024
# samples), of which about six tensors are alive at once. Steps of 4 frames were measured.
_CODEC_STATE = 184_000
_CODEC_FRAME = 6 * 27_648
_CODEC_FRAMES = 4


def footprint(options: Mapping[str, Any]) -> Footprint:
    """Estimate what a replica with these options needs.

    Options: ``model``, ``weights``, ``dtype``, ``slots``, ``max_slots``, and
    ``max_utterance_s``, the longest stretch of speech that is generated in one go.

    By a checkpoint's own count the weights come out 57 M numbers higher at the public
    geometry of 2026: causal masks, saved as float32, which need not be kept on the GPU.

    Raises:
        ConfigError: An option that there is not, or a value that cannot be.
    """
    read = read_options("magpie", options, MAGPIE, MAX_SLOTS, ("max_utterance_s",))
    model, number = read.model, read.number
    longest = seconds(
        "max_utterance_s",
        options.get("max_utterance_s", MAX_UTTERANCE_S),
        MAX_FRAMES / FRAME_RATE,
    )
    acoustic, source = read.weight_bytes(model.parameters)
    rows, text = cache_rows(model, longest), text_rows(longest)
    state = state_bytes(model, rows, text, number)
    share = _attention_bytes(model, rows) + _CODEC_FRAMES * _CODEC_FRAME * number
    prefill = (model.context_rows * _CFG + text) * _ROW_WIDTHS * model.d * number
    return Footprint(
        on_gpu=True,
        weights=acoustic + model.codec_parameters * number,  # a .nemo is without its codec
        weights_from=source,
        workspace=min(_PREFILL_BATCH, read.batch) * prefill + RESERVE,
        state_per_slot=state + share,
        host=HOST,
        slots=read.slots,
        max_slots=read.max_slots,
        formula=(
            f"a slot: {megabytes(state)} of state ({rows} rows of context and steps, {text} of "
            f"text), {megabytes(share)} in a step; once: {min(_PREFILL_BATCH, read.batch)} x "
            f"{megabytes(prefill)} of prefill, {megabytes(RESERVE)} for graphs and slack"
        ),
    )


def cache_rows(model: MagpieModel, longest_s: float) -> int:
    """Rows of self-attention's caches: the voice's context, and a row a step."""
    frames = min(MAX_FRAMES, math.ceil(longest_s * FRAME_RATE))
    return _aligned(model.context_rows + math.ceil(frames / model.stacking) + 1)


def text_rows(longest_s: float) -> int:
    """Rows of cross-attention's caches: the tokens that are spoken in that time."""
    return _aligned(math.ceil(longest_s * _TOKENS_PER_SECOND))


def state_bytes(model: MagpieModel, rows: int, text: int, number: int) -> int:
    """What a slot keeps, ``number`` bytes a number, indices and float32 weights apart.

    Keys and values of self-attention (2 x layers x 2 rows x cache rows x d) and of
    cross-attention, the local transformer's within a step, the encoded text, the codec's
    convolutions; and for each token of the text its weight and how often it was attended.
    """
    outputs = model.stacking * model.codebooks
    numbers = (
        _KV * model.layers * _CFG * rows * model.d
        + _KV * model.layers * _CFG * text * model.cross_d
        + _KV * model.local_layers * _CFG * outputs * model.local_d
        + _CFG * text * model.d
        + _CODEC_STATE
    )
    return numbers * number + text * (8 + _FLOAT32) + (outputs + 8) * 8


def _attention_bytes(model: MagpieModel, rows: int) -> int:
    """A slot's share of what a step's attention needs, in the layer that needs most."""
    return _ATTENTION_COPIES * _KV * _CFG * rows * model.d * _FLOAT32


def _aligned(rows: int) -> int:
    return -(-rows // _ALIGNMENT) * _ALIGNMENT
