"""NeMo's own streaming pipeline, with which live streams are compared: their words, their time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bench.babble import babble
from runtime.bench.report import distribution
from runtime.engines import cuda
from runtime.engines.nemo import import_nemo, quietly
from runtime.engines.parakeet.checkpoint import inspect
from runtime.speech import Samples

SAMPLE_RATE = 16_000
_MOST = 128  # streams that are timed; it takes them all in one batch
_WARM_UPS = 5


class NemoPipeline:
    """``CacheAwareRNNTPipeline`` of NeMo 3.0 on a checkpoint.

    Attributes:
        chunk: Samples of each stream that a step takes.
    """

    def __init__(
        self,
        path: Path,
        right_context: int,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        streams: int = 16,
    ) -> None:
        """Restore a checkpoint.

        Args:
            path: The ``.nemo``.
            right_context: Frames of lookahead, one that the checkpoint lists.
            device: ``cpu`` or ``cuda``.
            dtype: Of the whole model.
            streams: How many there may be.
        """
        builder = import_nemo("nemo.collections.asr.inference.factory.pipeline_builder")
        from omegaconf import OmegaConf

        with quietly():
            context = [inspect(path).geometry.left_context, right_context]
            config = OmegaConf.create(_config(path, context, device, dtype, streams))
            self._pipeline: Any = builder.PipelineBuilder.build_pipeline(config)
        self._tokens: dict[int, list[int]] = {}
        decode = self._pipeline.run_greedy_decoder

        def spy(state: Any, request: Any, hypothesis: Any) -> bool:
            self._tokens[request.stream_id] = hypothesis.y_sequence.tolist()
            return bool(decode(state, request, hypothesis))

        self._pipeline.run_greedy_decoder = spy
        self.chunk: int = round(self._pipeline.chunk_size_in_secs * SAMPLE_RATE)
        self._mend_overlap()

    def _mend_overlap(self) -> None:
        """Give it the frames of features that the model says it must see again.

        At 80 ms NeMo 3.0.0 keeps one too few of them: 0.17 s are 0.16999999999999998, and it
        cuts off where it should round.
        """
        pipeline = self._pipeline
        wanted = pipeline.pre_encode_cache_size + pipeline.model_chunk_size
        if pipeline.expected_feature_buffer_len != wanted:
            pipeline.buffer_size_in_secs += 1e-6
            pipeline.expected_feature_buffer_len = wanted
            pipeline.init_bufferer_for_cache_aware_streaming()
        assert pipeline.bufferer.feature_buffer_len == wanted

    def hear(self, clips: Sequence[Samples]) -> tuple[list[list[int]], list[str]]:
        """Token ids and text of clips that begin together, each a stream of its own."""
        texts = [""] * len(clips)
        self._pipeline.open_session()
        for start in range(0, max(map(len, clips)), self.chunk):
            for said in self._pipeline.transcribe_step(self._frames(clips, start)):
                texts[said.stream_id] += said.final_transcript
        self._pipeline.close_session()
        return [self._tokens[stream] for stream in range(len(clips))], texts

    def step_ms(self, clips: Sequence[Samples]) -> list[float]:
        """How long each step of clips of one length takes, the first few left out."""
        took = []
        self._pipeline.open_session()
        for start in range(0, len(clips[0]), self.chunk):
            frames = self._frames(clips, start)
            began = time.perf_counter()
            self._pipeline.transcribe_step(frames)  # its texts are on the host: it has waited
            took.append((time.perf_counter() - began) * 1e3)
        self._pipeline.close_session()
        return took[_WARM_UPS:]

    def _frames(self, clips: Sequence[Samples], start: int) -> list[Any]:
        import torch

        request = import_nemo("nemo.collections.asr.inference.streaming.framing.request")
        options = import_nemo("nemo.collections.asr.inference.streaming.framing.request_options")
        frames = []
        for stream, clip in enumerate(clips):
            part = clip[start : start + self.chunk]
            if not len(part):
                continue
            last = start + self.chunk >= len(clip)
            frames.append(
                request.Frame(
                    samples=torch.from_numpy(np.pad(part, (0, self.chunk - len(part)))),
                    stream_id=stream,
                    is_first=start == 0,
                    is_last=last,
                    length=len(part) if last else -1,
                    options=options.ASRRequestOptions() if start == 0 else None,
                )
            )
        return frames


def sweep(
    path: Path,
    right_context: int,
    streams: Sequence[int],
    steps: int,
    on_row: Callable[[dict[str, Any]], None],
    *,
    device: str,
    dtype: str,
) -> list[dict[str, Any]]:
    """A row for each number of streams up to 128: steps that take a chunk of all of them."""
    import torch

    counts = [count for count in streams if count <= _MOST]
    if not counts:
        return []
    gc.collect()  # what was closed before may be in cycles
    cuda.release_cached()
    precision = torch.get_float32_matmul_precision()
    pipeline = NemoPipeline(path, right_context, device=device, dtype=dtype, streams=max(counts))
    clips = [
        babble((steps + _WARM_UPS) * pipeline.chunk / SAMPLE_RATE, seed)
        for seed in range(max(counts))
    ]
    rows = []
    for count in counts:
        cuda.forget_peak()
        with quietly():
            took = pipeline.step_ms(clips[:count])
        row = {"streams": count, "path": "NeMo's pipeline", "step_ms": distribution(took)}
        if peak := cuda.allocator_peak():
            row["allocator_gib"] = round(peak / 2**30, 3)
        rows.append(row)
        on_row(row)
    torch.set_float32_matmul_precision(precision)  # which NeMo has set
    del pipeline
    gc.collect()
    cuda.release_cached()
    return rows


def _config(
    path: Path, context: list[int], device: str, dtype: str, streams: int
) -> dict[str, Any]:
    return {
        "asr": {
            "model_name": str(path),
            "device": device,
            "device_id": 0,
            "compute_dtype": dtype,
            "use_amp": False,
            "decoding": {
                "strategy": "greedy_batch",
                "preserve_alignments": False,
                "fused_batch_size": -1,
                "greedy": {
                    "use_cuda_graph_decoder": False,
                    "enable_per_stream_biasing": False,
                    "preserve_frame_confidence": False,
                    "max_symbols": 10,
                },
            },
        },
        "itn": {
            "input_case": "lower_cased",
            "whitelist": None,
            "overwrite_cache": False,
            "max_number_of_permutations_per_split": 729,
            "left_padding_size": 4,
            "batch_size": 32,
            "n_jobs": 1,
        },
        "confidence": {
            "exclude_blank": True,
            "aggregation": "mean",
            "method_cfg": {
                "name": "entropy",
                "entropy_type": "tsallis",
                "alpha": 0.5,
                "entropy_norm": "exp",
            },
        },
        "endpointing": {"stop_history_eou": -1, "residue_tokens_at_end": 0},
        "streaming": {
            "sample_rate": SAMPLE_RATE,
            "batch_size": streams,
            "word_boundary_tolerance": 4,
            "att_context_size": context,
            "use_cache": True,
            "use_feat_cache": True,
            "chunk_size_in_secs": None,
            "request_type": "frame",
            "num_slots": streams,
        },
        "matmul_precision": "highest" if dtype == "float32" else "high",
        "log_level": 40,
        "pipeline_type": "cache_aware",
        "asr_decoding_type": "rnnt",
        "enable_itn": False,
        "enable_nmt": False,
        "asr_output_granularity": "word",
        "cache_dir": None,
        "lang": None,
        "return_tail_result": False,
    }
