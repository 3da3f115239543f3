"""One step of a streaming model: the next chunk of any of its streams, all in one batch.

Features, encoder and label loop run on the device without a word from the host, so that on a
GPU each size of batch is one CUDA graph; what is done eagerly there is logged and counted.
Slots beyond those in a batch stay untouched.

A step is prepared, launched and collected. The next one may be prepared while one is under
way: what the host does for it then costs no time on the device.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from runtime.engines.cuda import is_out_of_memory, side_stream
from runtime.engines.parakeet.checkpoint import Parakeet
from runtime.engines.parakeet.chunks import NOTHING, Chunk, Said
from runtime.engines.parakeet.encoder import StreamingEncoder
from runtime.engines.parakeet.features import StreamingFeatures
from runtime.engines.parakeet.inputs import Inputs
from runtime.engines.parakeet.options import MAX_BATCH
from runtime.engines.parakeet.transducer import LabelLoop, Transducer
from runtime.speech import Samples

_log = logging.getLogger(__name__)

_MORE_TURNS = 4  # of the label loop, where some stream is not through
_WARM_UPS = 3
_MAX_SYMBOLS = 10  # NeMo's own default, where a checkpoint does not say

BUCKETS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""Sizes of batches; a batch in between is filled up with rows that nobody has."""

_STEADY = 0.6
"""Of what full steps do, as not every step is full: 1,000 streams that needed 0.69 of it, on an
H100 and with steps four times as long, were late."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step whose inputs are on their way to the device: its streams, and its bucket."""

    batch: int
    bucket: int


class StreamingModel:
    """A model with preallocated state for a number of slots.

    Attributes:
        slots: How many streams it holds.
        batch: How many of them a step takes, at the most.
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
        self.batch = min(slots, MAX_BATCH)
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
        self._chunk_s = self.chunk_samples / geometry.sample_rate
        self._buckets: list[int] = [size for size in BUCKETS if size < self.batch] + [self.batch]
        self._inputs = Inputs(self.batch, self.chunk_samples, self._device)
        self._loops: dict[int, LabelLoop] = {}
        self._graphs: dict[tuple[int, str], Any] = {}
        self.eager: list[int] = []

    @property
    def state_bytes(self) -> int:
        """Of all slots' caches and prediction networks."""
        return self._encoder.state_bytes + self._transducer.state_bytes

    def step(self, chunks: Sequence[Chunk]) -> list[Said]:
        """Take some slots one chunk on, in one go; what each of them said, in order."""
        prepared = self.prepare(chunks)
        self.launch(prepared)
        return self.collect(prepared)

    def prepare(self, chunks: Sequence[Chunk]) -> Prepared:
        """Send the inputs of a step to the device, and reset the slots of those who begin.

        One step at the most may be under way meanwhile, and none of its slots be in this one;
        no slot may come twice.
        """
        bucket = self._buckets[bisect_left(self._buckets, len(chunks))]
        with torch.no_grad():
            begins = self._inputs.send(chunks, bucket, self._nobody)
            if begins is not None:
                for part in (self._features, self._encoder, self._transducer):
                    part.reset(begins)
        return Prepared(len(chunks), bucket)

    def launch(self, prepared: Prepared) -> None:
        """Begin a step that was prepared; the one before must have been collected."""
        self._run(prepared.bucket, "step")

    def collect(self, prepared: Prepared) -> list[Said]:
        """Wait for a step; what each of its streams said, in order."""
        loop = self._loop(prepared.bucket)
        result = loop.result[: prepared.batch].cpu().numpy()
        while not result[:, 1].all():
            self._run(prepared.bucket, "more")
            result = loop.result[: prepared.batch].cpu().numpy()
        return _unpack(result, loop.most)

    def _run(self, bucket: int, what: str) -> None:
        graph = self._graphs.get((bucket, what))
        if graph is not None:
            graph.replay()
        else:
            with torch.no_grad():
                self._work(bucket, what)()

    def _work(self, bucket: int, what: str) -> Callable[[], None]:
        loop = self._loop(bucket)
        if what == "more":
            return lambda: loop.turns(_MORE_TURNS)
        samples, lengths, rows = self._inputs.on_device(bucket)

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
        pool, current = torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
        for bucket in reversed(self._buckets):
            self._inputs.send([], bucket, self._nobody)
            try:
                for what in ("step", "more"):
                    self._graphs[bucket, what] = _captured(self._work(bucket, what), pool)
            except Exception as error:
                torch.cuda.set_stream(current)  # a capture that fails leaves the thread on its own
                if is_out_of_memory(error):
                    raise
                for what in ("step", "more"):
                    self._graphs.pop((bucket, what), None)
                self.eager.append(bucket)
                _log.warning("batches of %d run without a CUDA graph: %s", bucket, error)
                torch.cuda.synchronize()

    def timed(self) -> dict[int, float]:
        """Milliseconds of a step of the largest sizes, all rows in it: the median of three."""
        took = {}
        for bucket in reversed(self._buckets[-4:]):
            chunks = [Chunk(row, _noise(self.chunk_samples), True) for row in range(bucket)]
            self.step(chunks)
            runs = []
            for _ in range(3):
                started = time.perf_counter()
                self.step(chunks)
                runs.append((time.perf_counter() - started) * 1e3)
            took[bucket] = sorted(runs)[1]
        return took

    def sustained(self, step_ms: Mapping[int, float]) -> int:
        """How many streams keep real time by steps that take so long."""
        rate = max(bucket / ms for bucket, ms in step_ms.items())  # streams a millisecond
        return max(1, min(self.slots, int(_STEADY * rate * self._chunk_s * 1e3)))


def _captured(work: Callable[[], None], pool: Any) -> Any:
    side = side_stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad():
        with torch.cuda.stream(side):  # what is made lazily must be made before the capture
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the graph has memory of its own: not both at the same time
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
    return graph


def _unpack(result: Any, most: int) -> list[Said]:
    said = [NOTHING] * len(result)
    for index in result[:, 0].nonzero()[0].tolist():
        row = result[index].tolist()
        count = row[0]
        said[index] = Said(tuple(row[2 : 2 + count]), tuple(row[2 + most : 2 + most + count]))
    return said


def _max_symbols(model: Any) -> int:
    greedy = (model.cfg.get("decoding") or {}).get("greedy") or {}
    return int(greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or _MAX_SYMBOLS)


def _noise(samples: int) -> Samples:
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)
