"""NeMo's own streaming pipeline, as the reference of what live streams say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.speech import Samples


class NemoPipeline:
    """``CacheAwareRNNTPipeline`` of NeMo 3.0 on a checkpoint, in float32."""

    def __init__(self, path: Path, right_context: int, *, device: str = "cpu") -> None:
        from nemo.collections.asr.inference.factory.pipeline_builder import PipelineBuilder
        from omegaconf import OmegaConf
        from tiny_magpie import quiet

        with quiet():
            config = OmegaConf.create(_config(path, right_context, device))
            self._pipeline: Any = PipelineBuilder.build_pipeline(config)
        self._tokens: dict[int, list[int]] = {}
        decode = self._pipeline.run_greedy_decoder

        def spy(state: Any, request: Any, hypothesis: Any) -> bool:
            self._tokens[request.stream_id] = hypothesis.y_sequence.tolist()
            return bool(decode(state, request, hypothesis))

        self._pipeline.run_greedy_decoder = spy
        self.chunk = round(self._pipeline.chunk_size_in_secs * 16_000)
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
        import torch
        from nemo.collections.asr.inference.streaming.framing.request import Frame
        from nemo.collections.asr.inference.streaming.framing.request_options import (
            ASRRequestOptions,
        )

        size, texts = self.chunk, [""] * len(clips)
        self._pipeline.open_session()
        for start in range(0, max(map(len, clips)), size):
            frames = []
            for stream, clip in enumerate(clips):
                part = clip[start : start + size]
                if not len(part):
                    continue
                last = start + size >= len(clip)
                frames.append(
                    Frame(
                        samples=torch.from_numpy(np.pad(part, (0, size - len(part)))),
                        stream_id=stream,
                        is_first=start == 0,
                        is_last=last,
                        length=len(part) if last else -1,
                        options=ASRRequestOptions() if start == 0 else None,
                    )
                )
            for said in self._pipeline.transcribe_step(frames):
                texts[said.stream_id] += said.final_transcript
        self._pipeline.close_session()
        return [self._tokens[stream] for stream in range(len(clips))], texts


def _config(path: Path, right_context: int, device: str) -> dict[str, Any]:
    return {
        "asr": {
            "model_name": str(path),
            "device": device,
            "device_id": 0,
            "compute_dtype": "float32",
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
            "sample_rate": 16_000,
            "batch_size": 16,
            "word_boundary_tolerance": 4,
            "att_context_size": [70, right_context],
            "use_cache": True,
            "use_feat_cache": True,
            "chunk_size_in_secs": None,
            "request_type": "frame",
            "num_slots": 16,
        },
        "matmul_precision": "highest",
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
