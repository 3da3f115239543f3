"""Streaming recognition with Moonshine tiny (27 M parameters, English, 16 kHz, CPU)."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from runtime.engines.embedded.recognizer import SegmentRecognizer
from runtime.engines.embedded.segmenter import SAMPLE_RATE
from runtime.engines.embedded.stream import Decoded
from runtime.speech import LoadReport, RecognitionOptions, RecognizerCapabilities, Samples

if TYPE_CHECKING:
    from moonshine_voice import Transcriber

# Moonshine's own VAD drops words, and without one the model answers "You" to silence:
# the gate in front of it is Silero's. Returning the audio again would only cost time.
_OPTIONS = {"vad_threshold": 0.0, "return_audio_data": "false"}


class MoonshineRecognizer(SegmentRecognizer):
    """Partials while speech goes on, a final soon after it ends."""

    def __init__(self, *, slots: int = 16) -> None:
        """``slots`` is how many streams may be open at once."""
        capabilities = RecognizerCapabilities(
            languages=("en",), sample_rate=SAMPLE_RATE, streaming=True, words=False, slots=slots
        )
        super().__init__("moonshine", capabilities, max_segment_s=15.0)
        self._model: Transcriber | None = None

    def _load(self) -> LoadReport:
        from moonshine_voice import ModelArch, Transcriber, get_model_path

        started = time.perf_counter()
        self._model = Transcriber(str(get_model_path("tiny-en")), ModelArch.TINY, options=_OPTIONS)
        loaded = time.perf_counter()
        self._model.transcribe_without_streaming([0.0] * SAMPLE_RATE, SAMPLE_RATE)
        warm = time.perf_counter()
        return LoadReport(
            seconds=loaded - started,
            warmup_ms=(warm - loaded) * 1e3,
            details={
                "package": f"moonshine-voice {version('moonshine-voice')}",
                "model": "tiny-en",
            },
        )

    def _decode(self, options: RecognitionOptions, samples: Samples) -> Decoded:
        if self._model is None:
            raise RuntimeError("a stream was opened before load()")
        # A burst under half a second comes back empty; silence around it does not change it.
        missing = SAMPLE_RATE // 2 - len(samples)
        padded = np.pad(samples, (0, missing)) if missing > 0 else samples
        transcript = self._model.transcribe_without_streaming(padded.tolist(), SAMPLE_RATE)
        return Decoded(" ".join(line.text.strip() for line in transcript.lines if line.text))

    async def close(self) -> None:
        """Drop all streams and the model."""
        await super().close()
        self._model = None
