"""One batch through a restored model: features, encoder, and NeMo's greedy search.

In float32 a recording alone gives the tokens of NeMo's ``transcribe()``, number for number: the
modules, the order of their calls and the padding of short recordings are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from runtime.engines.parakeet.boosting import BoostingTrees, Tree
from runtime.engines.parakeet.checkpoint import Parakeet
from runtime.engines.parakeet.offline_graphs import MOST_S, EncoderGraphs, ladder
from runtime.engines.parakeet.words import Tokens, Vocabulary
from runtime.speech import Samples

_SHORTEST_S = 1.0  # NeMo pads what is shorter with silence, on both sides (TranscribeConfig)


class OfflineModel:
    """NeMo's modules as the offline engine calls them; on one thread."""

    def __init__(
        self, parakeet: Parakeet, rows: int, windows: int, window_s: float, longest_s: float
    ) -> None:
        """What a batch can have.

        Args:
            parakeet: The checkpoint, restored.
            rows: At most so many recordings,
            windows: and together as many samples as so many windows have.
            window_s: Seconds of a window; what is longer goes alone.
            longest_s: Seconds of the longest.

        Attributes:
            free: Samples of padding that cost no more than launching kernels does.
        """
        self.parakeet = parakeet
        geometry = parakeet.files.geometry
        self._model = parakeet.model
        self._model.preprocessor.featurizer.pad_to = 0  # as transcribe() does
        self._model.encoder.set_max_audio_length(round(longest_s / geometry.frame_s) + 2)
        # Else it would grow later, eight times too large, and away from under the graphs.
        self._model.encoder.max_audio_length = sys.maxsize
        self._shortest = round(_SHORTEST_S * geometry.sample_rate)
        # The graph of the search holds so many frames; what is longer is searched in parts.
        self._frames = round(window_s / geometry.frame_s) + 2
        self._rows = rows
        self.free = 0
        graphs = parakeet.device == "cuda"
        self._stream = _new_stream() if graphs else None
        # Each call ends before the next one fills it.
        largest = round(min(windows * window_s, MOST_S) * geometry.sample_rate)
        self._staging: Any = _page_locked(largest) if graphs else None
        sizes = ladder(rows, windows, window_s, geometry.sample_rate) if graphs else []
        self._encoder_graphs = EncoderGraphs(self._encode_signal, sizes)
        self._plain = _decoding(self._model, graphs, boosting=False)
        self._boosting = _decoding(self._model, graphs, boosting=True)
        multi_model = self._boosting.decoding.decoding_computer.biasing_multi_model
        multi_model.to(parakeet.device)
        self.trees = BoostingTrees(multi_model, self._model.tokenizer)
        self.vocabulary = Vocabulary(self._plain, geometry.vocabulary)
        if graphs:
            _keep_memory(self._plain, self._boosting)

    @property
    def graphs(self) -> str:
        """What runs in CUDA graphs, for people."""
        mode = self._plain.decoding.decoding_computer.cuda_graphs_mode
        if self.parakeet.device == "cpu" or mode is None:
            return "none"
        return f"search: {mode.value}, encoder: {len(self._encoder_graphs)} sizes of batches"

    def recognize(
        self, batch: Sequence[Samples], boosts: Sequence[Tree | None] | None = None
    ) -> list[Tokens]:
        """Tokens of each recording, float32 at the model's rate.

        Args:
            batch: Recordings, padded here to the longest.
            boosts: Phrases of each, if any has some: of ``self.trees``.
        """
        import torch

        with self._on_stream():
            ids = None
            if boosts is not None and any(boosts):
                ids = self.trees.show(boosts)
            with torch.inference_mode():
                encoded, lengths = self._encode(batch)
                return self._search(encoded, lengths, ids)

    def padding(self, samples: int) -> int:
        """How much silence is put before a recording of that length."""
        return max(0, self._shortest - samples) // 2

    def prepare(self) -> None:
        """Make the graphs: both searches' for the largest batch, the encoder's for all sizes."""
        import torch

        if self._stream is None:
            return
        # NeMo captures what the default stream has done so far.
        width = self.parakeet.files.geometry.d
        with torch.inference_mode():
            encoded = torch.zeros(self._rows, width, self._frames, device=self.parakeet.device)
            lengths = torch.full((self._rows,), self._frames, device=self.parakeet.device)
            self._search(encoded, lengths, None)
            self._search(encoded, lengths, [-1] * self._rows)
            self._encoder_graphs.capture()
        del encoded, lengths
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # blocks of the default stream, which nothing uses any more

    def _on_stream(self) -> Any:
        """A stream of its own: steps of live callers must not queue behind a whole batch."""
        import torch

        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _encode(self, batch: Sequence[Samples]) -> tuple[Any, Any]:
        """Encoder output ``(rows, d, frames)`` and its lengths."""
        import torch

        def fill(signal: Any, lengths: Any) -> None:
            signal[: len(batch), : max(sizes)].copy_(self._padded(batch, max(sizes)))
            lengths[: len(batch)].copy_(torch.tensor(sizes))

        sizes = [max(len(samples), self._shortest) for samples in batch]
        encoded = self._encoder_graphs.run(fill, len(batch), max(sizes), self.free)
        if encoded is None:
            device = self.parakeet.device
            signal = torch.zeros(len(batch), max(sizes), device=device)
            lengths = torch.zeros(len(batch), dtype=torch.long, device=device)
            fill(signal, lengths)
            encoded = self._encode_signal(signal, lengths)
        return encoded

    def _padded(self, batch: Sequence[Samples], longest: int) -> Any:
        """A batch on the host, ``(rows, longest)``: it goes to the device as one."""
        import torch

        shape = len(batch), longest
        staged = self._staging is not None and len(batch) * longest <= len(self._staging)
        sounds = self._staging[: len(batch) * longest].view(shape) if staged else torch.empty(shape)
        for row, samples in zip(sounds.numpy(), batch, strict=True):
            before = self.padding(len(samples))
            after = before + len(samples)
            row[:before], row[before:after], row[after:] = 0.0, samples, 0.0
        return sounds

    def _encode_signal(self, signal: Any, lengths: Any) -> tuple[Any, Any]:
        encoder = self._model.encoder
        features, frames = self._model.preprocessor(input_signal=signal, length=lengths)
        dtype = next(encoder.parameters()).dtype
        encoded, lengths = encoder(audio_signal=features.to(dtype), length=frames)
        return encoded.float(), lengths

    def _search(self, encoded: Any, lengths: Any, boosts: Sequence[int] | None) -> list[Tokens]:
        import torch

        decoding = self._plain if boosts is None else self._boosting
        computer = decoding.decoding.decoding_computer
        ids = None if boosts is None else torch.tensor(boosts, device=encoded.device)
        found = [Tokens([], [], [], []) for _ in range(len(encoded))]
        state = None
        frames = encoded.transpose(1, 2)
        for start in range(0, frames.shape[1], self._frames):
            part = frames[:, start : start + self._frames]
            hypotheses, state = computer(
                x=part,
                out_len=(lengths - start).clamp(0, part.shape[1]),
                prev_batched_state=state,
                multi_biasing_ids=ids,
            )
            _collect(hypotheses, found)
        return found


def _new_stream() -> Any:
    import torch

    return torch.cuda.Stream()


def _page_locked(numbers: int) -> Any:
    import torch

    return torch.empty(numbers, pin_memory=True)


def _keep_memory(*decodings: Any) -> None:
    """Let NeMo capture each search in memory that is nobody else's as long as it lives.

    What the body of a conditional node needs is of a capture of its own, which torch does not know
    to be one: to its allocator that memory is free once it is captured, and may be given back or
    to others while the graph goes on writing to it.
    """
    import torch

    for decoding in decodings:
        computer, pool = decoding.decoding.decoding_computer, torch.cuda.MemPool()

        def captured(
            *arguments: Any, make: Any = computer._graph_reinitialize, pool: Any = pool
        ) -> None:
            with torch.cuda.use_mem_pool(pool):
                make(*arguments)

        computer._graph_reinitialize = captured


def _collect(hypotheses: Any, found: list[Tokens]) -> None:
    """Add what NeMo's search found in a part to what it found before."""
    # The buffers are as large as the largest batch with ten tokens a frame.
    lengths, *columns = hypotheses.get_data_without_blank()
    counts = lengths[: len(found)].tolist()
    filled = [column[: len(found), : max(counts)].tolist() for column in columns]
    for row, (tokens, count) in enumerate(zip(found, counts, strict=True)):
        ids, starts, durations, confidence = (column[row][:count] for column in filled)
        tokens.ids.extend(ids)
        tokens.starts.extend(starts)
        tokens.durations.extend(durations)
        tokens.confidence.extend(confidence)


def _decoding(model: Any, graphs: bool, boosting: bool) -> Any:
    """NeMo's greedy search with durations and confidence of every token."""
    from nemo.collections.asr.parts.submodules.rnnt_decoding import RNNTBPEDecoding
    from omegaconf import OmegaConf

    config = OmegaConf.merge(
        OmegaConf.create(OmegaConf.to_container(model.cfg.decoding, resolve=True)),
        {
            "strategy": "greedy_batch",
            "compute_timestamps": False,  # words.py makes them, many times as fast
            "tdt_include_token_duration": True,
            "preserve_alignments": False,
            "fused_batch_size": -1,
            "confidence_cfg": {
                "preserve_frame_confidence": False,
                "preserve_token_confidence": True,
                "exclude_blank": True,
            },
            "greedy": {
                "use_cuda_graph_decoder": graphs,
                "enable_per_stream_biasing": boosting,
            },
        },
    )
    return RNNTBPEDecoding(
        decoding_cfg=config, decoder=model.decoder, joint=model.joint, tokenizer=model.tokenizer
    )
