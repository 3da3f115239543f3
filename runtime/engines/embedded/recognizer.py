"""What the embedded recognizers share: slots, the speech gate, and packing recordings.

Silence never reaches a model, which is what keeps it from inventing words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from runtime.engines.embedded.segmenter import SAMPLE_RATE, Segmenter, SegmentRules
from runtime.engines.embedded.silero import SileroProbability
from runtime.engines.embedded.stream import Decoded, SegmentStream
from runtime.engines.options import positive
from runtime.engines.steps import StepLog
from runtime.engines.worker import ModelWorker
from runtime.errors import Overloaded
from runtime.speech import (
    FinalTranscript,
    LoadReport,
    RecognitionOptions,
    RecognizerCapabilities,
    Samples,
    Step,
    Transcript,
)


class SegmentRecognizer(ABC):
    """A Recognizer around a model that turns one segment of speech into text."""

    def __init__(
        self, name: str, capabilities: RecognizerCapabilities, max_segment_s: float
    ) -> None:
        """``max_segment_s`` is the longest segment, in seconds, that the model decodes well."""
        positive("slots", capabilities.slots)
        self._name = name
        self._capabilities = capabilities
        self._max_segment_s = max_segment_s
        self._gate = ModelWorker(f"{name}-gate")
        self._worker = ModelWorker(name)
        self._streams: set[SegmentStream] = set()
        self._steps = StepLog()

    @property
    def capabilities(self) -> RecognizerCapabilities:
        """Known before ``load``."""
        return self._capabilities

    def take_steps(self) -> Sequence[Step]:
        """Segments; see ``Stepping``."""
        return self._steps.take()

    async def load(self) -> LoadReport:
        """Load the weights and decode once; see ``Recognizer.load``."""
        return await self._worker.run(self._load)

    @abstractmethod
    def _load(self) -> LoadReport:
        """Load the model and run it once; on the worker thread."""

    @abstractmethod
    def _decode(self, options: RecognitionOptions, samples: Samples) -> Decoded:
        """Decode one segment of 16 kHz float32 speech; on the worker thread."""

    def _timed_decode(self, options: RecognitionOptions, samples: Samples) -> Decoded:
        with self._steps.timed("segment"):
            return self._decode(options, samples)

    async def exercise(self) -> None:
        """Decode the longest segment; all slots share one model, which decodes one at a time."""
        longest = np.zeros(round(self._max_segment_s * SAMPLE_RATE), dtype=np.float32)
        await self._worker.run(self._decode, RecognitionOptions(), longest)

    def open(self, options: RecognitionOptions) -> SegmentStream:
        """Take a slot for a stream; see ``Recognizer.open``."""
        if len(self._streams) >= self._capabilities.slots:
            raise Overloaded(
                f"All {self._capabilities.slots} recognition slots of {self._name} are taken."
            )

        async def decode(samples: Samples, background: bool) -> Decoded:
            return await self._worker.run(
                self._timed_decode, options, samples, background=background
            )

        stream = SegmentStream(
            self._gate,
            Segmenter(SileroProbability(), self._rules(options)),
            decode,
            partials=options.partials and self._capabilities.streaming,
            on_close=self._streams.discard,
        )
        self._streams.add(stream)
        return stream

    def _rules(self, options: RecognitionOptions) -> SegmentRules:
        longest = self._max_segment_s
        if options.mode == "file":
            # Recordings are packed into segments about as long as the model decodes
            # well: a segment costs it the same however short, and context helps.
            return SegmentRules(silence_ms=600, max_s=longest, min_s=longest / 2)
        if options.endpoint_ms is None:
            return SegmentRules(silence_ms=800, max_s=longest, closes=False)
        return SegmentRules(silence_ms=options.endpoint_ms, max_s=longest)

    async def transcribe(self, samples: Samples, options: RecognitionOptions) -> Transcript:
        """Recognise a recording in memory; see ``Recognizer.transcribe``."""
        stream = self.open(replace(options, mode="file", partials=False))
        try:
            await stream.push(samples)
            await stream.finish()
            finals = [e async for e in stream.events() if isinstance(e, FinalTranscript)]
        finally:
            await stream.close()
        return Transcript.of(finals, len(samples) / SAMPLE_RATE)

    async def close(self) -> None:
        """Drop all streams and the model."""
        for stream in tuple(self._streams):
            await stream.close()
        self._gate.close()
        self._worker.close()
        await self._gate.finished()
        await self._worker.finished()
