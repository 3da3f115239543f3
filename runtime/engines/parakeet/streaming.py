"""Live recognition with a cache-aware Parakeet: many streams, one batched step for all of them.

Streams push on the event loop; the steps run on the model's thread (``steps.py``).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.engines.cuda import HUNG_S, share_interpreter
from runtime.engines.nemo import pick_device
from runtime.engines.parakeet.checkpoint import inspect, load
from runtime.engines.parakeet.chunks import Chunk
from runtime.engines.parakeet.options import read_streaming_options
from runtime.engines.parakeet.scheduler import Scheduler
from runtime.engines.parakeet.session import ParakeetStream
from runtime.engines.parakeet.steps import StepLoop
from runtime.engines.parakeet.transcript import Pieces, Transcriber, Vocabulary
from runtime.engines.worker import ModelWorker
from runtime.errors import ConfigError, EngineFailed
from runtime.memory.footprint import GIB
from runtime.models.store import path_of
from runtime.speech import (
    FinalTranscript,
    LoadReport,
    RecognitionOptions,
    RecognizerCapabilities,
    Samples,
    Step,
    Transcript,
)

if TYPE_CHECKING:
    from runtime.engines.parakeet.step import StreamingModel

_log = logging.getLogger(__name__)


class StreamingParakeetRecognizer:
    """NVIDIA's cache-aware streaming model behind the ``Recognizer`` contract."""

    def __init__(self, **options: Any) -> None:
        """Options are those of ``StreamingOptions``; files are looked at, nothing is loaded.

        Raises:
            ConfigError: An option that there is not, or a value that cannot be.
            CheckpointError: The checkpoint is not there, damaged, or of no kind that runs here.
        """
        self._options = read_streaming_options(options)
        common = self._options.common
        self._files = inspect(common.weights or path_of(common.model_name))
        geometry = self._files.geometry
        if not geometry.streaming:
            raise ConfigError(
                f"{self._files.weights} cannot stream ({geometry.describe()}): its attention or "
                f"its convolutions see all that follows. Engine 'parakeet' recognises recordings "
                f"with it."
            )
        if self._options.right_context not in geometry.right_contexts:
            listed = ", ".join(str(geometry.chunk_ms(r)) for r in geometry.right_contexts)
            raise ConfigError(
                f"chunk_ms is {self._options.chunk_ms}; {self._files.weights} was trained for "
                f"{listed}."
            )
        self._slots = common.batch
        right = self._options.right_context
        tail_ms = self._options.tail_ms
        tail = right * geometry.frame_samples
        if tail_ms is not None:
            tail = tail_ms * geometry.sample_rate // 1000
        self._capabilities = RecognizerCapabilities(
            languages=geometry.languages,
            sample_rate=geometry.sample_rate,
            streaming=True,
            words=True,
            slots=self._slots,
        )
        self._worker = ModelWorker("parakeet-streaming", extra="nemo")
        chunk = (right + 1) * geometry.frame_samples
        scheduler = Scheduler(self._slots, chunk, tail, geometry.hop)
        self._loop = StepLoop(self._worker, scheduler, "parakeet-streaming")
        self._model: StreamingModel | None = None
        self._vocabulary: Vocabulary | None = None
        self._streams: set[ParakeetStream] = set()
        self._hung_s = math.inf  # a CPU may be slow, and busy

    @property
    def capabilities(self) -> RecognizerCapabilities:
        """Languages and lookahead are those of the checkpoint."""
        return self._capabilities

    @property
    def counts(self) -> Mapping[str, int]:
        """Steps, those that failed, and sizes of batches that run without a CUDA graph."""
        return {
            "steps": self._loop.steps,
            "failed_steps": self._loop.failed_steps,
            "graph_fallbacks": len(self._model.eager) if self._model else 0,
        }

    def take_steps(self) -> Sequence[Step]:
        """Steps from their launch to their result; see ``Stepping``."""
        return self._loop.log.take()

    def check(self) -> None:
        """See ``Checked``.

        Raises:
            EngineFailed: The device is lost, or does not answer.
        """
        self._loop.check(self._hung_s)

    async def load(self) -> LoadReport:
        """Restore the checkpoint, allocate all slots, and capture the graphs."""
        report = await self._worker.run(self._load)
        if self._model is not None and report.details["device"] == "cuda":
            share_interpreter()
            self._hung_s = HUNG_S
        self._loop.start(self._model)
        return report

    def _load(self) -> LoadReport:
        from runtime.engines.parakeet.step import StreamingModel

        device, common = pick_device(self._options.device), self._options.common
        parakeet = load(self._files, device, common.dtype)
        loaded = time.perf_counter()
        model = StreamingModel(parakeet, self._slots, self._options.right_context)
        model.capture()
        step_ms = model.timed()
        nemo = parakeet.model
        self._vocabulary = Pieces(nemo.tokenizer, list(nemo.joint.vocabulary))
        self._model = model
        geometry = self._files.geometry
        return LoadReport(
            seconds=parakeet.seconds,
            warmup_ms=(time.perf_counter() - loaded) * 1e3,
            details={
                "checkpoint": str(self._files.weights),
                "geometry": geometry.describe(),
                "saved by": f"NeMo {geometry.nemo_version or 'of unknown version'}",
                "device": device,
                "dtype": f"{parakeet.dtype} encoder, float32 features and decoder",
                "weights": f"{parakeet.weight_bytes / GIB:.2f} GiB",
                "state": f"{model.state_bytes / (self._slots + 1) / 1e6:.2f} MB a stream",
                "chunk": f"{self._options.chunk_ms} ms",
                "steps": ", ".join(f"{size}: {ms:.1f} ms" for size, ms in step_ms.items()),
            },
            sustains=model.sustained(step_ms),
        )

    async def exercise(self) -> None:
        """Take a step with every slot."""
        await self._worker.run(self._exercise)

    def _exercise(self) -> None:
        if self._model is None:
            raise RuntimeError("exercise() was called before load()")
        silence = np.zeros(self._model.chunk_samples, dtype=np.float32)
        rows = range(self._slots)
        for start in range(0, self._slots, self._model.batch):
            batch = rows[start : start + self._model.batch]
            self._model.step([Chunk(row, silence, True) for row in batch])

    def open(self, options: RecognitionOptions) -> ParakeetStream:
        """Take a slot for a stream; see ``Recognizer.open``."""
        if self._vocabulary is None:
            raise RuntimeError("a stream was opened before load()")
        geometry = self._files.geometry
        endpoint = None if options.endpoint_ms is None else options.endpoint_ms / 1000
        transcriber = Transcriber(
            self._vocabulary,
            partials=options.partials,
            words=options.words,
            endpoint_s=endpoint,
        )
        stream = ParakeetStream(
            self._loop,
            transcriber,
            sample_rate=geometry.sample_rate,
            frame=geometry.frame_samples,
            on_over=self._streams.discard,
        )
        self._streams.add(stream)
        return stream

    async def transcribe(self, samples: Samples, options: RecognitionOptions) -> Transcript:
        """Recognise a recording in memory; see ``Recognizer.transcribe``."""
        stream = self.open(replace(options, partials=False))
        try:
            await stream.push(samples)
            await stream.finish()
            finals = [e async for e in stream.events() if isinstance(e, FinalTranscript)]
        finally:
            await stream.close()
        return Transcript.of(finals, len(samples) / self._capabilities.sample_rate)

    async def close(self) -> None:
        """End all streams, and free the model and its graphs."""
        self._loop.start(None)
        for stream in tuple(self._streams):
            stream.fail(EngineFailed("parakeet-streaming has been closed."))
        self._worker.close()
        await self._worker.finished()
        self._model = None
        self._vocabulary = None
