"""Recordings with Parakeet TDT through NeMo: batched over callers, of any length.

What fits into memory is recognised in one piece with full attention, as NeMo's ``transcribe()``
does it; what is longer is cut into windows (``recording.py``). Batches form while the one
before runs (``batching.py``); short recordings never wait behind more than a few windows of a
long one. A stream in mode ``live`` is cut by the voice activity detector of the embedded
engines and its utterances recognised as wholes: for real live recognition there is the engine
``parakeet-streaming``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from runtime.audio import silence_invalid
from runtime.engines.cuda import release_cached, share_interpreter
from runtime.engines.embedded.segmenter import Segmenter, SegmentRules
from runtime.engines.embedded.silero import SileroProbability
from runtime.engines.embedded.stream import Decoded, SegmentStream
from runtime.engines.nemo import pick_device
from runtime.engines.parakeet.batches import Heard, Waiting
from runtime.engines.parakeet.batching import Batching
from runtime.engines.parakeet.boosting import MAX_PHRASES, Boost, Tree
from runtime.engines.parakeet.checkpoint import inspect, load
from runtime.engines.parakeet.footprint import longest_s
from runtime.engines.parakeet.offline_graphs import lengths_s
from runtime.engines.parakeet.offline_model import OfflineModel
from runtime.engines.parakeet.offline_options import read_offline_options
from runtime.engines.parakeet.recording import RecordingStream
from runtime.engines.parakeet.windows import SAMPLE_RATE, Layout
from runtime.engines.parakeet.words import Tokens, sentences, utterance
from runtime.engines.steps import StepLog
from runtime.engines.worker import ModelWorker
from runtime.errors import CheckpointError, EngineFailed, Overloaded
from runtime.memory.footprint import GIB
from runtime.models.store import path_of
from runtime.speech import (
    FinalTranscript,
    LoadReport,
    RecognitionOptions,
    RecognitionStream,
    RecognizerCapabilities,
    Samples,
    Step,
    Transcript,
    Word,
)

_CLOSED = "parakeet has been closed."
_SILENT = 1e-4  # full scale is 1: three steps of 16 bits, below any microphone's own noise
_CONTEXT_S = 2.0  # what a window sees beyond its cuts: several words
_SEARCH_S = 5.0  # of speech there is a pause in almost any 5 s
_AHEAD = 2  # windows of a stream under way: its caller keeps no more than a minute to say again


class ParakeetRecognizer:
    """NeMo's FastConformer-TDT behind the ``Recognizer`` contract.

    Twice as many callers are let in as a batch has rows: the next batch gathers while one runs.
    """

    def __init__(self, **options: Any) -> None:
        """Options are those of ``OfflineOptions``; the file is looked at, nothing is loaded.

        Raises:
            ConfigError: An option that there is not, or a value that cannot be.
            CheckpointError: The file is not there, damaged, or of no kind that runs here.
        """
        self._options = read_offline_options(options)
        common = self._options.common
        self._files = inspect(common.weights or path_of(common.model_name))
        geometry = self._files.geometry
        if geometry.decoder != "tdt":
            mend = " `parakeet-streaming` runs it." if geometry.streaming else ""
            raise CheckpointError(
                f"{self._files.weights} has a {geometry.decoder.upper()} decoder; the engine "
                f"`parakeet` runs TDT, such as parakeet-tdt-0.6b-v2.{mend}"
            )
        if geometry.sample_rate != SAMPLE_RATE:
            raise CheckpointError(
                f"{self._files.weights} takes {geometry.sample_rate} Hz; this engine runs models "
                f"of {SAMPLE_RATE} Hz."
            )
        self._slots, self._rows = common.batch, self._options.rows
        self._capabilities = RecognizerCapabilities(
            languages=geometry.languages,
            sample_rate=SAMPLE_RATE,
            streaming=False,
            words=True,
            slots=2 * self._rows,
            phrases=MAX_PHRASES,
        )
        window_s = self._options.window_s
        self._window = round(window_s * SAMPLE_RATE)
        self._longest = round(longest_s(self._options) * SAMPLE_RATE)
        self._layout = Layout(
            window=self._window,
            context=round(min(_CONTEXT_S, window_s / 8) * SAMPLE_RATE),
            search=round(min(_SEARCH_S, window_s / 4) * SAMPLE_RATE),
        )
        self._worker = ModelWorker("parakeet", extra="nemo")
        self._gate = ModelWorker("parakeet-gate")
        self._model: OfflineModel | None = None
        lengths = [round(length * SAMPLE_RATE) for length in lengths_s(window_s)]
        waiting = Waiting(self._rows, self._window, self._slots * self._window, lengths)
        self._batching = Batching(waiting, self._worker, self._recognize, self._read)
        self._streams: set[SegmentStream | RecordingStream] = set()
        self._whole = 0  # recordings in one piece under way
        self._steps = StepLog()
        self._closed = False

    @property
    def capabilities(self) -> RecognizerCapabilities:
        """Languages are those of the checkpoint, which finds out by itself which it hears."""
        return self._capabilities

    def take_steps(self) -> Sequence[Step]:
        """Batches; see ``Stepping``."""
        return self._steps.take()

    def check(self) -> None:
        """See ``Checked``.

        Raises:
            EngineFailed: The device is lost.
        """
        if self._batching.lost is not None:
            raise self._batching.lost

    async def load(self) -> LoadReport:
        """Restore the checkpoint and recognise a second of noise."""
        return await self._worker.run(self._load)

    def _load(self) -> LoadReport:
        started = time.perf_counter()
        device = pick_device(self._options.device)
        parakeet = load(self._files, device, self._options.common.dtype)
        self._model = model = OfflineModel(
            parakeet,
            self._rows,
            self._slots,
            self._options.window_s,
            self._longest / SAMPLE_RATE,
        )
        if device == "cuda":
            share_interpreter()
        loaded = time.perf_counter()
        model.prepare()
        model.recognize([_noise(1.0)])
        geometry = self._files.geometry
        return LoadReport(
            seconds=loaded - started,
            warmup_ms=(time.perf_counter() - loaded) * 1e3,
            details={
                "checkpoint": str(self._files.weights),
                "geometry": geometry.describe(),
                "saved by": f"NeMo {geometry.nemo_version or 'of unknown version'}",
                "device": device,
                "dtype": f"{parakeet.dtype}, features and decoder float32",
                "weights": f"{parakeet.weight_bytes / GIB:.2f} GiB",
                "batch": f"{self._slots} x {self._options.window_s:g} s, at most {self._rows} rows",
                "in one piece": f"up to {self._longest / SAMPLE_RATE:.0f} s",
                "CUDA graphs": model.graphs,
                "languages": ", ".join(geometry.languages),
            },
        )

    async def exercise(self) -> None:
        """Recognise the largest batch and the longest recording there can be.

        What a batch costs beyond its audio is measured here, and so how much padding is worth
        one batch less.
        """
        await self._worker.run(self._exercise)

    def _exercise(self) -> None:
        model = self._loaded
        window_s = self._options.window_s
        model.recognize([_noise(self._longest / SAMPLE_RATE)])
        release_cached()  # or its blocks would lie beside those of a batch
        largest = [_noise(window_s)] * self._slots
        model.recognize(largest)
        per_sample = _seconds(model, largest) / (self._slots * self._window)

        def free() -> int:
            once_s = _seconds(model, [_noise(1.0)]) - per_sample * SAMPLE_RATE
            self._batching.once_s = max(0.0, once_s)
            return round(min(self._batching.once_s / per_sample, self._slots * self._window))

        model.free = free()  # a second by eager launches; from now on by its graph
        self._batching.waiting.free = free()

    def open(self, options: RecognitionOptions) -> RecognitionStream:
        """Take a slot for a stream; see ``Recognizer.open``."""
        self._check_room()
        stream: SegmentStream | RecordingStream
        if options.mode == "file":
            stream = self._recording(options, ahead=_AHEAD)
        else:
            stream = self._live(options)
        self._streams.add(stream)
        return stream

    async def transcribe(self, samples: Samples, options: RecognitionOptions) -> Transcript:
        """Recognise a recording in memory; see ``Recognizer.transcribe``.

        Raises:
            Overloaded: All slots are taken.
            EngineFailed: The model failed on this recording.
        """
        samples, _ = silence_invalid(samples)
        seconds = len(samples) / SAMPLE_RATE
        if len(samples) > self._longest:
            return await self._transcribe_long(samples, options)
        with self._slot():
            text, words = await self._hear(samples, options, options.deadline_s)
        return Transcript(
            text=text,
            seconds=seconds,
            words=tuple(words) if options.words else (),
            utterances=tuple(
                replace(utterance(said, number, options.words), settled_s=said[-1].end_s)
                for number, said in enumerate(sentences(words))
            ),
        )

    async def close(self) -> None:
        """Drop all streams and the model."""
        self._closed = True
        self._batching.close(_CLOSED)
        for stream in tuple(self._streams):
            await stream.close()
        self._gate.close()
        self._worker.close()
        await self._gate.finished()
        await self._worker.finished()
        await self._batching.finished()
        self._model = None

    @property
    def _loaded(self) -> OfflineModel:
        if self._model is None:
            raise RuntimeError("parakeet was asked to recognise before load()")
        return self._model

    # --- slots and streams ---------------------------------------------------

    def _check_room(self) -> None:
        slots = self._capabilities.slots
        if len(self._streams) + self._whole >= slots:
            raise Overloaded(f"All {slots} recognition slots of parakeet are taken.")

    @contextmanager
    def _slot(self) -> Iterator[None]:
        self._check_room()
        self._whole += 1
        try:
            yield
        finally:
            self._whole -= 1

    def _recording(self, options: RecognitionOptions, ahead: int) -> RecordingStream:
        async def recognize(samples: Samples) -> list[Word]:
            return (await self._hear(samples, options, None)).words

        return RecordingStream(
            self._layout,
            recognize,
            with_words=options.words,
            ahead=ahead,
            on_close=self._streams.discard,
        )

    def _live(self, options: RecognitionOptions) -> SegmentStream:
        async def decode(samples: Samples, background: bool) -> Decoded:
            text, words = await self._hear(samples, options, 0.0)  # somebody waits for an answer
            return Decoded(text, tuple(words) if options.words else ())

        silence_ms, closes = options.endpoint_ms or 800, options.endpoint_ms is not None
        rules = SegmentRules(silence_ms, self._options.window_s, closes=closes)
        return SegmentStream(
            self._gate,
            Segmenter(SileroProbability(), rules),
            decode,
            partials=False,
            on_close=self._streams.discard,
        )

    async def _transcribe_long(self, samples: Samples, options: RecognitionOptions) -> Transcript:
        self._check_room()
        # Half of a batch is left to others.
        stream = self._recording(options, ahead=max(_AHEAD, self._slots // 2))
        self._streams.add(stream)

        async def push() -> None:
            await stream.push(samples)
            await stream.finish()

        pushing = asyncio.create_task(push())
        try:
            finals = [e async for e in stream.events() if isinstance(e, FinalTranscript)]
            await pushing
        finally:
            pushing.cancel()
            await stream.close()
        return Transcript.of(finals, len(samples) / SAMPLE_RATE)

    # --- batches -------------------------------------------------------------

    async def _hear(
        self, samples: Samples, options: RecognitionOptions, deadline_s: float | None
    ) -> Heard:
        """Wait for a turn; a caller that is cancelled leaves the queue."""
        if self._closed:
            raise EngineFailed(_CLOSED)
        model = self._loaded
        if not len(samples) or float(np.abs(samples).max()) < _SILENT:
            return Heard("", [])
        boost = None
        if options.phrases:
            phrases = Boost(tuple(options.phrases), options.boost)
            boost = await asyncio.to_thread(model.trees.tree, phrases)
        return await self._batching.hear(samples, boost, deadline_s)

    def _recognize(self, sounds: Sequence[Samples], boosts: Sequence[Tree | None]) -> list[Tokens]:
        with self._steps.timed("batch", len(sounds)):
            return self._loaded.recognize(sounds, boosts)

    def _read(self, tokens: Tokens, samples: int) -> Heard:
        """Text and words; times since the first sample, also where silence was put before it."""
        model = self._loaded
        before_s, end_s = model.padding(samples) / SAMPLE_RATE, samples / SAMPLE_RATE
        frame_s = self._files.geometry.frame_s
        vocabulary = model.vocabulary
        words = vocabulary.words(tokens, frame_s, -before_s)
        inside = [
            replace(
                word,
                start_s=min(max(word.start_s, 0.0), end_s),
                end_s=min(max(word.end_s, 0.0), end_s),
            )
            for word in words
        ]
        return Heard(vocabulary.text(tokens.ids), inside)


def _noise(seconds: float) -> Samples:
    noise = np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE))
    return (0.1 * noise).astype(np.float32)


def _seconds(model: OfflineModel, batch: list[Samples]) -> float:
    started = time.perf_counter()
    model.recognize(batch)
    return time.perf_counter() - started
