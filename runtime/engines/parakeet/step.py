"""One step of a streaming model: the next chunk of any of its streams, all in one batch.

Features, encoder and label loop run on the device without a word from the host, so that on a
GPU each size of batch is one CUDA graph; what is done eagerly there is logged and counted.
Slots beyond those in a batch stay untouched.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from runtime.engines.parakeet.checkpoint import Parakeet
from runtime.engines.parakeet.encoder import StreamingEncoder
from runtime.engines.parakeet.features import StreamingFeatures
from runtime.engines.parakeet.transducer import LabelLoop, Transducer
from runtime.speech import Samples

_log = logging.getLogger(__name__)

_MORE_TURNS = 4  # of the label loop, where some stream is not through
_WARM_UPS = 3
_MAX_SYMBOLS = 10  # NeMo's own default, where a checkpoint does not say

BUCKETS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Sizes of batches; a batch in between is filled up with rows that nobody has."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next samples of a slot.

    Attributes:
        row: The slot.
        samples: float32; as many as a step takes, or fewer at the end of an utterance.
        fresh: Whether an utterance begins with them.
    """

    row: int
    samples: Samples
    fresh: bool


@dataclass(frozen=True, slots=True)
class Said:
    """What a chunk said: token ids, and for each the frame within the chunk, from 0."""

    tokens: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()


NOTHING = Said()


class StreamingModel:
    """A model with preallocated state for a number of slots.

    Attributes:
        slots: How many streams it holds.
        frames: Frames of the encoder that a chunk yields.
        chunk_samples: Samples of a chunk.
        hop: Samples of a frame of features: an end shorter than that says nothing.
        eager: Sizes of batches that run without a graph on a GPU, for want of one.
    """

    def __init__(self, parakeet: Parakeet, slots: int, right_context: int) -> None:
        """Allocate everything; ``capture`` is still to come on a GPU.

        Args:
            parakeet: A streaming checkpoint, restored; it is set up for this use.
            slots: How many streams.
            right_context: Frames of lookahead, one that the checkpoint lists.
        """
        geometry, model = parakeet.files.geometry, parakeet.model
        rows = slots + 1  # the last one is nobody's, and fills batches up
        self.slots, self._nobody = slots, slots
        self._device = torch.device(parakeet.device)
        model.joint.preserve_memory = False
        with torch.no_grad():
            self._encoder = StreamingEncoder(
                model.encoder, rows, (geometry.left_context, right_context)
            )
            self.frames, self.hop = self._encoder.frames, geometry.hop
            self.chunk_samples = self._encoder.chunk * geometry.hop
            self._features = StreamingFeatures(
                model.preprocessor.featurizer, rows, self.chunk_samples, self._encoder.overlap
            )
            self._transducer = Transducer(model, rows, _max_symbols(model))
        self._buckets = [size for size in BUCKETS if size < slots] + [slots]
        self._loops: dict[int, LabelLoop] = {}
        self._graphs: dict[tuple[int, str], Any] = {}
        self.eager: list[int] = []
        self._allocate_inputs()

    def _allocate_inputs(self) -> None:
        on_gpu = self._device.type == "cuda"

        def pair(*shape: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
            """The same tensor on the host and on the device; one and the same on a CPU."""
            host = torch.zeros(shape, dtype=dtype, pin_memory=on_gpu)
            return host, torch.zeros(shape, dtype=dtype, device="cuda") if on_gpu else host

        self._samples = pair(self.slots, self.chunk_samples, dtype=torch.float32)
        self._lengths = pair(self.slots, dtype=torch.int64)
        self._rows = pair(self.slots, dtype=torch.int64)
        self._fresh = pair(self.slots, dtype=torch.int64)

    @property
    def state_bytes(self) -> int:
        """Of all slots' caches and prediction networks."""
        return self._encoder.state_bytes + self._transducer.state_bytes

    def step(self, chunks: Sequence[Chunk]) -> list[Said]:
        """Take some slots one chunk on; what each of them said, in order.

        No slot may come twice.
        """
        batch = len(chunks)
        bucket = self._buckets[bisect_left(self._buckets, batch)]
        with torch.no_grad():
            self._load(chunks, bucket)
            loop = self._loop(bucket)
            self._run(bucket, "step")
            result = loop.result[:batch].cpu()
            while not bool(result[:, 1].all()):
                self._run(bucket, "more")
                result = loop.result[:batch].cpu()
        return _unpack(result.numpy(), loop.most)

    def _load(self, chunks: Sequence[Chunk], bucket: int) -> None:
        """Put the inputs of a batch where its graph reads them, and reset who begins."""
        batch = len(chunks)
        samples, lengths = self._samples[0].numpy(), self._lengths[0].numpy()
        rows, fresh = self._rows[0].numpy(), self._fresh[0].numpy()
        begins = 0
        for index, chunk in enumerate(chunks):
            length = len(chunk.samples)
            samples[index, :length] = chunk.samples
            samples[index, length:] = 0.0
            lengths[index], rows[index] = length, chunk.row
            if chunk.fresh:
                fresh[begins] = chunk.row
                begins += 1
        lengths[batch:bucket], rows[batch:bucket] = 0, self._nobody
        for host, device in (self._samples, self._lengths, self._rows):
            if host is not device:
                device[:bucket].copy_(host[:bucket], non_blocking=True)
        if begins:
            host, device = self._fresh
            if host is not device:
                device[:begins].copy_(host[:begins], non_blocking=True)
            for part in (self._features, self._encoder, self._transducer):
                part.reset(device[:begins])

    def _run(self, bucket: int, what: str) -> None:
        graph = self._graphs.get((bucket, what))
        if graph is not None:
            graph.replay()
        else:
            self._work(bucket, what)()

    def _work(self, bucket: int, what: str) -> Callable[[], None]:
        loop = self._loop(bucket)
        if what == "more":
            return lambda: loop.turns(_MORE_TURNS)
        samples, lengths, rows = (
            pair[1][:bucket] for pair in (self._samples, self._lengths, self._rows)
        )

        def work() -> None:
            features, seen = self._features.step(samples, lengths, rows)
            encoded, heard = self._encoder.step(features, seen, rows)
            loop.begin(encoded, heard, rows)
            # In a larger batch somebody says more than most do in a chunk.
            loop.turns(self.frames + (2 if bucket <= 4 else 4))

        return work

    def _loop(self, bucket: int) -> LabelLoop:
        if bucket not in self._loops:
            self._loops[bucket] = self._transducer.loop(bucket, self.frames)
        return self._loops[bucket]

    # --- graphs --------------------------------------------------------------

    def capture(self) -> None:
        """Capture a graph for each size of batch, the largest first: they share its memory."""
        if self._device.type != "cuda":
            return
        pool = torch.cuda.graph_pool_handle()
        self._lengths[1].fill_(self.chunk_samples)
        self._rows[1].fill_(self._nobody)
        for bucket in reversed(self._buckets):
            try:
                for what in ("step", "more"):
                    self._graphs[bucket, what] = _captured(self._work(bucket, what), pool)
            except Exception as error:
                for what in ("step", "more"):
                    self._graphs.pop((bucket, what), None)
                self.eager.append(bucket)
                _log.warning("batches of %d run without a CUDA graph: %s", bucket, error)
                torch.cuda.synchronize()

    def sustained(self) -> int:
        """How many streams keep real time by the steps of all sizes, with a fifth in hand."""
        chunk_s = self.frames * self._encoder.chunk * self.hop / self.frames / 16_000
        rates = []
        for bucket in self._buckets[-4:]:
            chunks = [Chunk(row, _noise(self.chunk_samples), True) for row in range(bucket)]
            self.step(chunks)
            started = time.perf_counter()
            self.step(chunks)
            rates.append(bucket / (time.perf_counter() - started))
        return max(1, min(self.slots, int(0.8 * max(rates) * chunk_s)))


def _captured(work: Callable[[], None], pool: Any) -> Any:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad():
        with torch.cuda.stream(side):  # what is made lazily must be made before the capture
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
    return graph


def _unpack(result: Any, most: int) -> list[Said]:
    said = []
    for row in result:
        count = int(row[0])
        if not count:
            said.append(NOTHING)
            continue
        tokens, frames = row[2 : 2 + count], row[2 + most : 2 + most + count]
        said.append(Said(tuple(tokens.tolist()), tuple(frames.tolist())))
    return said


def _max_symbols(model: Any) -> int:
    greedy = (model.cfg.get("decoding") or {}).get("greedy") or {}
    return int(greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or _MAX_SYMBOLS)


def _noise(samples: int) -> Samples:
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)
