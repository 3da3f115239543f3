"""What the two Parakeet engines need of the GPU: from the geometry, held against an H100.

The offline engine is bounded by its first convolution, which makes 256 channels out of
every spectrogram; the streaming one by the caches that it keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.engines.models import ParakeetModel
from runtime.engines.nvidia import CUDA_HOST, HOST, OUTSIDE, RESERVE, megabytes
from runtime.engines.parakeet.offline_graphs import MOST_S
from runtime.engines.parakeet.offline_options import (
    MAX_WINDOW_S,
    WINDOW_S,
    OfflineOptions,
    read_offline_options,
)
from runtime.engines.parakeet.options import MAX_BATCH, read_streaming_options
from runtime.memory.footprint import Footprint

SAMPLE_RATE = 16_000
MEL_RATE = 100  # frames of features a second
FRAME_RATE = 12.5  # frames of the encoder a second
_FLOAT32 = 4
_LONGEST_TENSOR = 1 << 31  # numbers; NeMo splits the first convolution's batch beyond that
# Tensors of the first convolution that are alive at once: its output, and what masking and
# activation make of it. By the peaks measured at 10 s and 60 s it is 2.9.
_CONVOLUTION_COPIES = 3
# Of attention in NeMo (RelPositionMultiHeadAttention.forward): by content 1, by position 2 (it is
# twice as wide), their sum 1; and in forward_attention masked 1, softmax 1, masked again 1.
_SCORE_COPIES = 7
# With one recording each of them is a block of its own: what goes leaves gaps that nothing else
# fits. 437 s used 3.31 GiB and took 3.85 of torch's allocator.
_LONE_COPIES = 8
# Numbers alive for a frame of the widest layer, in widths d: the residual, norms, queries,
# keys, values, and the feed-forward part (4 d) before and after its activation.
_FRAME_WIDTHS = 16
_KEPT_COPIES = 2  # of what a stream keeps of a layer, in plain torch: taken out, and joined
_QUERY_COPIES = 4  # of what each head asks and finds, as wide as a frame; and turned around
# In a graph, which gives back at once: 160 s of audio kept 0.61 GiB, 360 s 1.36.
_GRAPH_COPIES = 2.5
# Bytes that the graphs of both searches keep, with phrases and without: cuBLAS's for each of their
# streams, and what a row of 30 s has. 48 rows kept 0.61 GiB, 96 0.72.
_SEARCHES = 530_000_000
_SEARCH_ROW = 2_550_000
_OVERLAP_MELS = 9  # frames of features that a step sees again (NeMo: pre_encode_cache_size)


def footprint(options: Mapping[str, Any]) -> Footprint:
    """Estimate what a replica that recognises recordings needs.

    Options are those of ``OfflineOptions``; a batch has as many windows as there are slots.

    The shipped 12 slots of 30 s, bfloat16, took 5.05 GiB of torch's allocator at the most, for
    287 s in one piece, and 3.42 once they were there. Without graphs 64 slots took 5.2 GB (10 s)
    and 11.2 GB (60 s). At 60 s it is above that by more: NeMo halves a batch of 64, but one of
    43, which may come as well, is just not split.

    Raises:
        ConfigError: An option that there is not, or a value that cannot be.
    """
    offline = read_offline_options(options)
    read = offline.common
    number, window = read.number, offline.window_s
    weights, source = read.weight_bytes(read.model.parameters)
    share, once = _batch_bytes(offline)
    held = _window_bytes(read.model, window, number)
    on_gpu = offline.device != "cpu"
    reserve, graphs = (RESERVE, _graph_bytes(offline)) if on_gpu else (0, 0)
    return Footprint(
        on_gpu=on_gpu,
        weights=weights,
        weights_from=source,
        workspace=once + graphs + reserve,
        state_per_slot=held + share,
        host=_host_bytes(weights, number, on_gpu),
        host_kept=CUDA_HOST if on_gpu else 0,
        outside=OUTSIDE if on_gpu else 0,
        slots=read.slots,
        max_slots=read.max_slots,
        formula=(
            f"a slot: {megabytes(held)} for {window:g} s of audio, {megabytes(share)} in a "
            f"batch; once: {megabytes(once)} of a batch that is split, {megabytes(graphs)} of "
            f"graphs, {megabytes(reserve)} for slack"
        ),
    )


def longest_s(offline: OfflineOptions) -> float:
    """The longest recording, in seconds, that alone needs no more than a full batch of windows.

    All of its frames attend to all others, as in NeMo's ``transcribe()``; what is longer is
    cut into windows.
    """
    read = offline.common
    share, once = _batch_bytes(offline)
    room = (once or read.batch * share) // read.number
    low, high = offline.window_s, MAX_WINDOW_S
    while high - low > 1:
        middle = (low + high) / 2
        needed = _numbers(read.model, middle, _LONE_COPIES)
        low, high = (middle, high) if needed <= room else (low, middle)
    return low


def _batch_bytes(offline: OfflineOptions) -> tuple[int, int]:
    """What a window adds to a batch, or else what a batch that is split needs, in bytes."""
    read = offline.common
    share = _numbers(read.model, offline.window_s) * read.number
    layer = _layer_numbers(read.model, offline.window_s) * read.number
    split = _LONGEST_TENSOR * _CONVOLUTION_COPIES * read.number
    if read.batch * layer <= split < read.batch * share:
        return 0, split
    return share, 0


def _graph_bytes(offline: OfflineOptions) -> int:
    """What graphs keep for themselves: the encoder's as much as the largest of them needs."""
    audio_s = min(MOST_S, offline.common.batch * offline.window_s)
    model, window = offline.common.model, offline.window_s
    convolution = round(_convolution_numbers(model, audio_s) * _GRAPH_COPIES)
    layer = int(audio_s / window) * _layer_numbers(model, window)
    row = _SEARCH_ROW * max(1.0, window / WINDOW_S)
    return max(convolution, layer) * offline.common.number + _SEARCHES + round(offline.rows * row)


def _numbers(model: ParakeetModel, window_s: float, score_copies: int = _SCORE_COPIES) -> int:
    """Numbers of a window that are alive at once, at the most.

    The first convolution's tensors are gone when the layers run.
    """
    convolution = _convolution_numbers(model, window_s) * _CONVOLUTION_COPIES
    return max(convolution, _layer_numbers(model, window_s, score_copies))


def streaming_footprint(options: Mapping[str, Any]) -> Footprint:
    """Estimate what a replica that recognises live streams needs.

    Options are those of ``StreamingOptions``.

    Raises:
        ConfigError: An option that there is not, or a value that cannot be.
    """
    streaming = read_streaming_options(options)
    read, chunk = streaming.common, streaming.chunk_ms
    model, number = read.model, read.number
    weights, source = read.weight_bytes(model.parameters)
    state = state_bytes(model, number)
    batch = min(read.batch, MAX_BATCH)
    frames = streaming.right_context + 1
    mels = chunk * MEL_RATE // 1000 + _OVERLAP_MELS
    # The two do not meet: the convolution's tensors are gone when the layers run.
    convolution = _convolution_numbers(model, mels / MEL_RATE) * _CONVOLUTION_COPIES
    widths = (model.cached_frames + frames) * _KEPT_COPIES
    widths += frames * (model.heads * _QUERY_COPIES + _FRAME_WIDTHS) + model.kernel - 1
    layer = widths * model.d
    share = max(convolution, layer) * number
    on_gpu = streaming.device != "cpu"
    reserve = RESERVE if on_gpu else 0
    return Footprint(
        on_gpu=on_gpu,
        weights=weights,
        weights_from=source,
        workspace=batch * share + reserve,
        state_per_slot=state,
        host=_host_bytes(weights, number, on_gpu),
        host_kept=CUDA_HOST if on_gpu else 0,
        outside=OUTSIDE if on_gpu else 0,
        slots=read.slots,
        max_slots=read.max_slots,
        formula=(
            f"a slot: {megabytes(state)} of state; once: {batch} x {megabytes(share)} of a step "
            f"of {chunk} ms, {megabytes(reserve)} for graphs and slack"
        ),
    )


def _host_bytes(weights: int, number: int, on_gpu: bool) -> int:
    """While NeMo restores it holds the float32 weights twice, wherever they go then."""
    restoring = 2 * (weights // number) * _FLOAT32
    return HOST + (restoring if on_gpu else max(0, restoring - weights))


def state_bytes(model: ParakeetModel, number: int) -> int:
    """What a stream keeps: the encoder's caches, and the prediction network's h and c.

    Beside them it keeps 18 kB: what that network said last, and the ends of its samples and
    features. 3.85 MB were measured in bfloat16, with all of it.
    """
    prediction = 2 * model.prediction_layers * model.prediction_d * _FLOAT32
    return _cached_numbers(model) * number + prediction


def _cached_numbers(model: ParakeetModel) -> int:
    """A layer keeps the frames it attends to, and those its convolution sees again."""
    return model.layers * model.d * (model.cached_frames + model.kernel - 1)


def _convolution_numbers(model: ParakeetModel, window_s: float) -> int:
    """Numbers that the first convolution makes of a window: stride 2 in time and in mels."""
    return round(window_s * MEL_RATE / 2) * model.subsampling_channels * model.mels // 2


def _layer_numbers(model: ParakeetModel, window_s: float, score_copies: int = _SCORE_COPIES) -> int:
    """Numbers of a window that are alive in one layer; its attention is quadratic."""
    frames = round(window_s * FRAME_RATE)
    return frames * _FRAME_WIDTHS * model.d + score_copies * model.heads * frames**2


def _window_bytes(model: ParakeetModel, window_s: float, number: int) -> int:
    """Samples and features in float32, and the encoder's output."""
    host = SAMPLE_RATE + MEL_RATE * model.mels
    return round(window_s * (host * _FLOAT32 + FRAME_RATE * model.d * number))
