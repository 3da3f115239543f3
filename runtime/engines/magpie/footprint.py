"""What Magpie needs of the GPU: a slot's caches from the geometry, the rest from a bound.

Measured on an H100, bfloat16, slots of 8 s of audio, by the driver. With plain kernels: 64 slots
held 4.39 GB of torch's allocator once all graphs were captured. With fused ones: 64 slots 3.86 GB,
and 4.06 at the most while loading; 128 slots 5.58 and 5.78; 64 without guidance 3.10 and 3.30. A
slot is 26.8 MB by that: 23.3 of caches, which fused kernels read where they are, and what the codec
needs for it in a graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runtime.engines.magpie.options import (
    CODEC_CONTEXT,
    CODEC_WINDOW,
    FRAME_RATE,
    MAX_FRAMES,
    chunk_tokens,
    read_magpie_options,
    read_reference_options,
    text_places,
)
from runtime.engines.models import MagpieModel
from runtime.engines.nvidia import HOST, OUTSIDE, RESERVE, megabytes
from runtime.memory.footprint import GIB, Footprint

MAX_SLOTS = 64  # the most of `auto`, unless told; 128 were measured, too

_CFG = 2  # rows of a slot, with its text and without: classifier-free guidance
_KV = 2  # a key and a value
_SPARE = 1  # slots more, for rows that only fill up a batch
_PREFILL_BATCH = 8  # requests whose contexts and texts are taken in at once, at the most
# Numbers alive for a row of the widest layer, in widths d: its input and norm, queries,
# keys, values and attention, and the feed-forward part (4 d) before and after its GELU.
_ROW_WIDTHS = 16
# A step's attention computes in float32, with copies of one layer's keys and values, in graphs and
# outside of them: their pool shares nothing. Six cover the 4.39 GB above. Fused kernels make none.
_ATTENTION_COPIES = 6
_FLOAT32 = 4
# The decoder of the nano codec: its convolutions keep 184,000 numbers a stream (0.37 MB in
# float16, measured), and its widest layers compute 27,648 a frame (27 channels x 1024
# samples), of which about six tensors are alive at once. Eight are the most of a block.
_CODEC_STATE = 184_000
_CODEC_FRAME = 6 * 27_648
_CODEC_FRAMES = 8
# What torch's allocator keeps for NeMo's caches, by second of audio, row and byte of a number.
# Measured on an H100: 3.1 GiB after 23.2 s in float32 with guidance, 1.2 to 1.5 after 8 s, 0.6
# in bfloat16, 0.7 without guidance (docs/benchmarks.md); 15.6 MiB covers each of them.
_GROWING_CACHES = 15.6 * (1 << 20)
_GRAMMARS = 450_000_000  # bytes: NeMo's grammars in a process of their own, after compiling
_MASKS = ".causal_mask"  # float32, saved with every layer; none is kept
_TOKENS = 2_024  # of a codebook, special ones included
# What graphs, libraries and the allocator's gaps took with fused kernels, beyond what is computed
# here: 0.52 to 0.60 GiB with 64 slots or 128, with guidance or without, for 8 s or for 23 s; and of
# that, outside of the allocator, beyond a context.
_FUSED_RESERVE = round(0.65 * GIB)
_FUSED_OUTSIDE = round(0.25 * GIB)  # 0.18 measured
_FOLDED = 140_000_000  # bytes: 117 MB of copies at the public geometry, 20 MB to work in
_WHOLE_CODEC = 62_600_000  # numbers, its encoder included


def footprint(options: Mapping[str, Any]) -> Footprint:
    """Estimate what a replica with these options needs.

    Options are those of ``MagpieOptions``.

    Raises:
        ConfigError: An option that there is not, or a value that cannot be.
    """
    magpie = read_magpie_options("magpie", options, MAX_SLOTS, "bfloat16")
    read = magpie.common
    model, number = read.model, read.number
    longest = magpie.max_utterance_s or MAX_FRAMES / FRAME_RATE
    acoustic, source = read.weight_bytes(model.parameters, _MASKS)
    rows, text = cache_rows(model, longest), text_rows(longest)
    guided = _CFG if magpie.cfg else 1
    state = state_bytes(model, rows, text, number, guided)
    prefill = (model.context_rows * guided + text) * _ROW_WIDTHS * model.d * number
    on_gpu = magpie.device != "cpu"
    share = _CODEC_FRAMES * _CODEC_FRAME * number
    if on_gpu and magpie.fused and number < _FLOAT32:
        fused, reserve, outside = _fused_bytes(model), _FUSED_RESERVE, _FUSED_OUTSIDE
        prefill *= 2  # in graphs, and outside of them, whose pool shares nothing
    else:
        share += _attention_bytes(model, rows, guided)
        fused, reserve, outside = 0, RESERVE, OUTSIDE if on_gpu else 0
    once = min(_PREFILL_BATCH, read.batch) * prefill + _SPARE * state
    weights = acoustic + model.codec_parameters * number  # a .nemo is without its codec
    restoring = _restoring(acoustic // number)
    return Footprint(
        on_gpu=on_gpu,
        weights=weights,
        weights_from=source,
        workspace=once + reserve + fused,
        state_per_slot=state + share,
        host=_host(magpie.normalizer) + restoring - (0 if on_gpu else weights),
        slots=read.slots,
        max_slots=read.max_slots,
        outside=outside,
        formula=(
            f"a slot: {megabytes(state)} of state ({rows} rows of context and steps, {text} of "
            f"text), {megabytes(share)} in a step; once: {min(_PREFILL_BATCH, read.batch)} x "
            f"{megabytes(prefill)} of prefill, {megabytes(reserve)} for graphs and slack, "
            f"{megabytes(fused)} of fused kernels; while restoring, {megabytes(restoring)} of the "
            f"host"
        ),
    )


def reference_footprint(options: Mapping[str, Any]) -> Footprint:
    """Estimate what a replica of ``MagpieReference`` with these options needs.

    NeMo's caches take a new size with every step, and torch's allocator keeps blocks of the old
    ones: what it held is counted as measured, not as computed. The codec decodes a window of
    frames at once, with those before it. While NeMo restores it holds the float32 weights twice
    in host memory, wherever they go then.

    Raises:
        ConfigError: An option that there is not, or a value that cannot be.
    """
    magpie = read_reference_options(options)
    read = magpie.common
    model, number = read.model, read.number
    acoustic, source = read.weight_bytes(model.parameters)
    frames = magpie.frames(MAX_FRAMES, model.stacking)
    rows = _CFG if magpie.cfg else 1
    caches = int(frames / FRAME_RATE * rows * number * _GROWING_CACHES)
    codec = (min(frames, CODEC_WINDOW) + CODEC_CONTEXT) * _CODEC_FRAME * _FLOAT32
    restoring = _restoring(acoustic // number)
    weights = acoustic + model.codec_parameters * _FLOAT32
    host = _host(magpie.normalizer)
    on_gpu = magpie.device != "cpu"
    return Footprint(
        on_gpu=on_gpu,
        weights=weights,
        weights_from=source,
        workspace=RESERVE if on_gpu else 0,
        outside=OUTSIDE if on_gpu else 0,
        state_per_slot=caches + codec,
        host=host + (restoring if on_gpu else restoring - weights),
        slots=1,
        max_slots=1,
        formula=(
            f"one slot: {megabytes(caches)} for caches that grow, "
            f"{megabytes(codec)} of the codec; while restoring, {megabytes(restoring)} of the host"
        ),
    )


def cache_rows(model: MagpieModel, longest_s: float) -> int:
    """Rows of self-attention's caches: the voice's context, and a row a step."""
    frames = min(MAX_FRAMES, math.ceil(longest_s * FRAME_RATE))
    return model.context_rows + math.ceil(frames / model.stacking)


def text_rows(longest_s: float) -> int:
    """Rows of cross-attention's caches: the tokens that are spoken in that time, and history."""
    return text_places(chunk_tokens(longest_s))


def state_bytes(model: MagpieModel, rows: int, text: int, number: int, guided: int = _CFG) -> int:
    """What a slot keeps, ``number`` bytes a number, indices and float32 weights apart.

    Keys and values of self-attention (2 x layers x ``guided`` x cache rows x d) and, by slot, of
    cross-attention; the local transformer's within a step, the encoded text, the codec's
    convolutions; and for each token of the text its weight and how often it was attended.
    """
    outputs = model.stacking * model.codebooks
    numbers = (
        _KV * model.layers * guided * rows * model.d
        + _KV * model.layers * text * model.cross_d
        + _KV * model.local_layers * guided * outputs * model.local_d
        + text * model.d
        + _CODEC_STATE
    )
    return numbers * number + text * (8 + _FLOAT32) + (outputs + 8) * 8


def _restoring(parameters: int) -> int:
    """Host memory while NeMo restores a checkpoint: its float32 weights, twice."""
    return 2 * (parameters + _WHOLE_CODEC) * _FLOAT32


def _host(normalizer: str) -> int:
    return HOST + (_GRAMMARS if normalizer in ("auto", "nemo") else 0)


def _fused_bytes(model: MagpieModel) -> int:
    """What the fused step keeps besides the weights.

    That is what the local transformer's first layer makes of each code, and copies of weights with
    their norms folded in.
    """
    looked_up = model.stacking * model.codebooks * _TOKENS * 3 * model.local_d * 2
    return looked_up + _FOLDED


def _attention_bytes(model: MagpieModel, rows: int, guided: int) -> int:
    """A slot's share of what a step's attention needs, in the layer that needs most."""
    return _ATTENTION_COPIES * _KV * guided * rows * model.d * _FLOAT32
