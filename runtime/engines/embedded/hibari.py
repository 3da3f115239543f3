"""Speech synthesis with Hibari: an 8 MB English model, one voice, 24 kHz, CPU."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from runtime.audio import float32_to_pcm16, in_blocks
from runtime.engines.options import positive
from runtime.engines.steps import StepLog
from runtime.engines.worker import ModelWorker
from runtime.errors import NothingToSpeak
from runtime.growing import TextPiece, pieces_of
from runtime.speech import (
    AudioChunk,
    LoadReport,
    Samples,
    Step,
    SynthesisRequest,
    SynthesizerCapabilities,
    Voice,
)

if TYPE_CHECKING:
    from hibari import Hibari

SAMPLE_RATE = 24_000
_CHUNK_SAMPLES = SAMPLE_RATE // 2  # half a second a message: few messages, a small first one
_MAX_PIECE_CHARS = 300  # Hibari cuts at 400 phonemes, mid-clause; cut earlier, at a clause
# Where it finds no clause it does not cut: 300 digits are 911 phonemes, and memory grows with
# their square.
_MAX_PHONEMES = 400
_SLOWEST = 0.5  # pace; half of it is twice the audio, and the memory


class HibariSynthesizer:
    """Sentence by sentence: the first audio is there once the first sentence is.

    A seed repeats a sentence's audio exactly, whichever sentence a stream starts at.
    """

    def __init__(self, *, threads: int = 2, slots: int = 16) -> None:
        """Choose CPU threads per inference, and how many utterances may be under way."""
        self._threads = positive("threads", threads)
        self._worker = ModelWorker("hibari")
        self._steps = StepLog()
        self._model: Hibari | None = None
        self._capabilities = SynthesizerCapabilities(
            voices=(Voice("heart", ("en",), "American English, female"),),
            sample_rate=SAMPLE_RATE,
            streaming=False,
            speed=(_SLOWEST, 2.0),
            seed=True,
            raw_text=False,  # numbers are read by its own grapheme-to-phoneme step, always
            slots=positive("slots", slots),
        )

    @property
    def capabilities(self) -> SynthesizerCapabilities:
        """One English voice; pace and seed can be set."""
        return self._capabilities

    def take_steps(self) -> Sequence[Step]:
        """Sentences; see ``Stepping``."""
        return self._steps.take()

    async def load(self) -> LoadReport:
        """Load the model and its lexicon (0.2 GB resident) and speak one word."""
        return await self._worker.run(self._load)

    def _load(self) -> LoadReport:
        from hibari import Hibari

        started = time.perf_counter()
        self._model = Hibari(threads=self._threads)
        loaded = time.perf_counter()
        for _ in self._model.stream("Ready."):
            pass
        warm = time.perf_counter()
        return LoadReport(
            seconds=loaded - started,
            warmup_ms=(warm - loaded) * 1e3,
            details={"package": f"hibari-tts {version('hibari-tts')}"},
        )

    async def exercise(self) -> None:
        """Speak as many phonemes as it ever does at once; all slots share one model."""
        await self._worker.run(self._exercise)

    def _exercise(self) -> None:
        if self._model is None:
            raise RuntimeError("exercise() was called before load()")
        (word,) = self._model.phonemize("exercise")
        longest = f"{word} " * _MAX_PHONEMES
        self._model.from_ids(self._model.ids(longest[:_MAX_PHONEMES]), _SLOWEST, None)

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        """Speak; see ``Synthesizer.synthesize``."""
        seed = int(np.random.SeedSequence().generate_state(1)[0])
        seed = seed if request.seed is None else request.seed
        first_sample = texts = 0
        index = request.first_piece
        async with aclosing(pieces_of(request, more, _MAX_PIECE_CHARS)) as pieces:
            async for piece in pieces:
                index = piece.index
                samples = await self._worker.run(self._speak, piece, request.speed, seed)
                for block, last in in_blocks(float32_to_pcm16(samples), _CHUNK_SAMPLES):
                    texts = piece.texts if last else texts
                    yield AudioChunk(block, SAMPLE_RATE, first_sample, index, last, texts)
                    first_sample += len(block) // 2
        if not first_sample and not request.first_piece and more is None:
            raise NothingToSpeak(
                f"The voice knows no sound for {request.text[:40]!r}; it speaks: en."
            )
        yield AudioChunk(b"", SAMPLE_RATE, first_sample, index, texts=texts, end=True)

    def _speak(self, piece: TextPiece, speed: float, seed: int) -> Samples:
        if self._model is None:
            raise RuntimeError("synthesize() was called before load()")
        # The generator is seeded by piece too, so that a sentence sounds the same
        # whether or not the ones before it were synthesised in this stream.
        rng = np.random.default_rng([seed, piece.index])
        with self._steps.timed("sentence"):
            parts = [
                self._model.from_ids(self._model.ids(phonemes), speed, rng)
                for sentence in self._model.phonemize(piece.text)
                for phonemes in at_most(sentence, _MAX_PHONEMES)
            ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    async def close(self) -> None:
        """Free the model."""
        self._worker.close()
        await self._worker.finished()
        self._model = None


def at_most(phonemes: str, limit: int) -> list[str]:
    """Cut phonemes into parts of at most ``limit``, between words where there are any."""
    parts = []
    while len(phonemes) > limit:
        cut = phonemes.rfind(" ", 1, limit + 1)
        cut = limit if cut < 0 else cut
        parts.append(phonemes[:cut])
        phonemes = phonemes[cut:].lstrip(" ")
    return [*parts, phonemes] if phonemes else parts
