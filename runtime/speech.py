"""The contract between callers, deployments and engines.

Requests, audio chunks, transcripts, events and capabilities are frozen values
that travel through Serve handles; the two Protocols are what an engine is.
Nothing here imports an engine, a cluster or a numerical library beyond numpy's
types.

Conventions, everywhere in the project:

* PCM16 is signed 16-bit little-endian, mono, no header.
* Samples inside engines are float32 in [-1, 1], shape ``(n,)``.
* Positions and lengths are sample counts (int); times are seconds (float) since
  the first sample of the stream or file, never wall-clock times.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

PROTOCOL_VERSION = 4
"""Version of the calls between client and deployments; both sides must agree."""

Samples: TypeAlias = npt.NDArray[np.float32]
"""Mono float32 samples in [-1, 1], shape ``(n,)``."""


# --- synthesis ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SynthesisRequest:
    """One utterance to be spoken, of any length up to ``runtime.requests.MAX_TEXT_BYTES``.

    Attributes:
        text: What to say; Unicode, any number of sentences.
        voice: A voice's name, case-insensitive; None takes the engine's default.
        language: BCP 47 tag such as ``en`` or ``en-US``; only the primary subtag
            counts. None takes the language of the voice.
        normalise: Read numbers, dates and currency as words. False hands the text
            to the model as it stands, where the engine can.
        seed: Makes the audio repeatable, where the engine can; None draws one.
        speed: 1.0 is the voice's own pace, 2.0 twice as fast, where the engine can.
        first_piece: Index of the piece of the text (see ``AudioChunk.piece``) to start
            with. Those before it are not spoken; samples count from the start of this one.
    """

    text: str
    voice: str | None = None
    language: str | None = None
    normalise: bool = True
    seed: int | None = None
    speed: float = 1.0
    first_piece: int = 0


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """A stretch of synthesised audio.

    Attributes:
        pcm: PCM16 mono little-endian; empty at the most where a piece, a text or all of it ends.
        sample_rate: Hz, the same for all chunks of an utterance.
        first_sample: Index within the utterance of the first sample in ``pcm``;
            chunks are contiguous and in order.
        piece: Index of the text piece (sentence) that the samples belong to.
        piece_end: True on the last chunk of a piece, where the engine marks it.
        texts: How many texts of the utterance have been spoken to their end with this chunk,
            the request's own included; of use where the utterance grows.
        end: True on the last chunk of the utterance, and only there.
    """

    pcm: bytes
    sample_rate: int
    first_sample: int
    piece: int = 0
    piece_end: bool = False
    texts: int = 0
    end: bool = False

    @property
    def samples(self) -> int:
        """Number of samples in this chunk."""
        return len(self.pcm) // 2

    @property
    def next_sample(self) -> int:
        """Index of the sample that follows this chunk."""
        return self.first_sample + self.samples

    @property
    def start_s(self) -> float:
        """Audio time of the first sample, in seconds since the start of the utterance."""
        return self.first_sample / self.sample_rate

    @property
    def end_s(self) -> float:
        """Audio time of the sample that follows this chunk."""
        return self.next_sample / self.sample_rate


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice an engine can speak with, and the languages it speaks."""

    name: str
    languages: tuple[str, ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class SynthesizerCapabilities:
    """What a synthesizer can do.

    Attributes:
        voices: All voices; the first is the default.
        sample_rate: Native output rate in Hz.
        streaming: True if audio leaves the engine before its sentence is complete;
            False means sentence by sentence.
        speed: Slowest and fastest pace, or None where the pace cannot be changed.
        seed: True if a fixed seed repeats the audio of a piece exactly, whichever piece a
            request starts with; the daemon then draws a seed where none is given.
        raw_text: True if ``normalise=False`` is possible.
        slots: How many utterances the engine synthesises at the same time.
        blends: True if a voice may be a blend of voices, such as ``aria:0.7+leo:0.3``.
    """

    voices: tuple[Voice, ...]
    sample_rate: int
    streaming: bool
    speed: tuple[float, float] | None = None
    seed: bool = False
    raw_text: bool = False
    slots: int = 1
    blends: bool = False

    @property
    def languages(self) -> tuple[str, ...]:
        """Primary language subtags of all voices, in order, each once."""
        return tuple(dict.fromkeys(tag for voice in self.voices for tag in voice.languages))


# --- recognition -------------------------------------------------------------

RecognitionMode: TypeAlias = Literal["live", "file"]
"""``live`` answers early with partials; ``file`` takes its time and is accurate."""


@dataclass(frozen=True, slots=True)
class RecognitionOptions:
    """How a stream or a file is to be recognised.

    Attributes:
        sample_rate: Hz of the PCM16 that will be pushed, 8,000 to 192,000.
        mode: Which of the deployment's engines listens.
        language: BCP 47 tag; None takes the engine's default.
        words: Ask for the time of each word, where the engine can.
        partials: Ask for partial transcripts, where the engine can.
        endpoint_ms: Silence that ends an utterance by itself, in ms of audio; None
            leaves it to ``finalize()``, as a bot with its own VAD wants it.
        phrases: Names and terms to expect, written as they should read, where the engine can.
        boost: How much they are preferred: 1.0 is moderate, more finds them more often, also
            where they were not said.
        deadline_s: Seconds within which a recording in one call must be recognised. The
            sooner it is due, the sooner is its turn; one that is late is given up.
    """

    sample_rate: int = 16_000
    mode: RecognitionMode = "live"
    language: str | None = None
    words: bool = False
    partials: bool = True
    endpoint_ms: int | None = 800
    phrases: tuple[str, ...] = ()
    boost: float = 1.0
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word; times in seconds since the first sample of the stream."""

    text: str
    start_s: float
    end_s: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class PartialTranscript:
    """What an utterance sounds like so far; the next event may change it.

    Attributes:
        text: The whole utterance so far.
        utterance: Counts utterances of the stream from 0; the final carries the same.
        start_s: Audio time at which the utterance starts.
        end_s: Audio time up to which it has been heard.
        stable: How many characters at the start of ``text`` no later event of the utterance
            changes; 0 where the engine cannot tell.
    """

    text: str
    utterance: int
    start_s: float
    end_s: float
    stable: int = 0


@dataclass(frozen=True, slots=True)
class FinalTranscript:
    """What an utterance was; nothing will change it.

    Attributes:
        text: The utterance; empty if there was no speech after all.
        utterance: Counts utterances of the stream from 0.
        start_s: Audio time at which the utterance starts.
        end_s: Audio time at which it ends.
        words: Times of its words; empty where they were not asked for.
        request: Which ``finalize()`` call this answers, counted from 1; 0 where the
            stream ended the utterance by itself.
        settled_s: Audio time before which nothing is left to recognise: a stream that has
            to start over starts there. 0 where the engine cannot tell.
    """

    text: str
    utterance: int
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    request: int = 0
    settled_s: float = 0.0


RecognitionEvent: TypeAlias = PartialTranscript | FinalTranscript


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole recording.

    Attributes:
        text: All utterances, joined by spaces.
        seconds: Length of the recording.
        words: Times of its words; empty where they were not asked for.
        utterances: The finals it is made of.
    """

    text: str
    seconds: float
    words: tuple[Word, ...] = ()
    utterances: tuple[FinalTranscript, ...] = ()

    @classmethod
    def of(cls, finals: list[FinalTranscript], seconds: float) -> Transcript:
        """Join the finals of a recording that lasts ``seconds``."""
        spoken = tuple(final for final in finals if final.text)
        return cls(
            text=" ".join(final.text for final in spoken),
            seconds=seconds,
            words=tuple(word for final in spoken for word in final.words),
            utterances=spoken,
        )


@dataclass(frozen=True, slots=True)
class RecognizerCapabilities:
    """What a recognizer can do.

    Attributes:
        languages: Primary language subtags; the first is the default.
        sample_rate: Hz of the samples it takes.
        streaming: True if it gives partial transcripts while audio arrives.
        words: True if it gives the times of words.
        slots: How many streams it holds at the same time.
        phrases: How many phrases a request may ask it to expect; 0 where it cannot.
    """

    languages: tuple[str, ...]
    sample_rate: int
    streaming: bool
    words: bool
    slots: int
    phrases: int = 0


# --- engines -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What it took to load an engine: seconds, first-inference ms, and what was loaded.

    ``sustains`` is how many slots keep real time, by the step time measured in the warm-up;
    None where the engine does not tell. ``slots: auto`` gives no more than that.
    """

    seconds: float
    warmup_ms: float
    details: dict[str, str] = field(default_factory=dict)
    sustains: int | None = None


FALLBACK = "fallback:"
"""How ``Counting`` tells that something slower or lesser took over: ``fallback:eager step``."""


@runtime_checkable
class Counting(Protocol):
    """An engine that counts what it did to its requests, beyond what it says of each."""

    @property
    def counts(self) -> Mapping[str, int]:
        """What happened, and how often since the engine was made; never less than before.

        A name that begins with ``FALLBACK`` goes to the metric of fallbacks, any other to that
        of events.
        """
        ...


@runtime_checkable
class Checked(Protocol):
    """An engine that can be beyond help within its process: its device is lost, say."""

    def check(self) -> None:
        """Return if it can go on; else its replica is replaced, and its streams go on elsewhere.

        Asked before each call as well, on the event loop: it must be quick.

        Raises:
            EngineFailed: It cannot.
        """
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a model, all streams in it together.

    Attributes:
        stage: Which of the engine's steps it was; a few words that do not vary, such as
            ``decode``, ``codec``, ``encoder`` or ``prefill``.
        ms: How long it took.
        batch: Streams that shared it.
    """

    stage: str
    ms: float
    batch: int = 1


@runtime_checkable
class Stepping(Protocol):
    """An engine that tells of its steps; ``runtime.engines.steps.StepLog`` does the keeping."""

    def take_steps(self) -> Sequence[Step]:
        """The steps since the last call, oldest first; called once a second.

        An engine keeps a bounded number of them, and forgets the oldest if nobody asks.
        """
        ...


@runtime_checkable
class Synthesizer(Protocol):
    """An engine that speaks.

    Constructors take keyword options only and load nothing; ``load`` does. Model work
    never runs on the event loop that calls these methods.
    """

    @property
    def capabilities(self) -> SynthesizerCapabilities:
        """Known before ``load``."""
        ...

    async def load(self) -> LoadReport:
        """Read the weights and run once, so that the first request is not the slow one."""
        ...

    async def exercise(self) -> None:
        """Fill every slot once with the largest input, so that memory has peaked afterwards."""
        ...

    def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        """Speak a request that ``resolve_synthesis`` has validated.

        Chunks come as they are made, contiguous from sample 0, the last with ``end``
        set. Closing the iterator frees the slot within one step of the engine.

        Args:
            request: What to say, and how.
            more: Texts that follow its own, as they come; see ``runtime.growing``. What has
                been said of one text shapes the next where the engine can, and nobody waits
                for a text before the last one is spoken.

        Raises:
            EngineFailed: The model failed; the engine goes on serving others.
        """
        ...

    async def close(self) -> None:
        """Free everything, and return once it is free; calls that are still running fail."""
        ...


class RecognitionStream(Protocol):
    """One caller's audio on its way through a recognizer."""

    async def push(self, samples: Samples) -> None:
        """Add float32 samples at the engine's rate, any number of them.

        Returns as soon as the stream can take more, which is what bounds its memory
        when audio arrives faster than it can be recognised.

        Raises:
            SessionClosed: After ``finish`` or ``close``.
        """
        ...

    async def finalize(self) -> int:
        """End the utterance here; its final carries the number returned.

        Audio pushed afterwards opens the next utterance.
        """
        ...

    async def finish(self) -> None:
        """No more audio: what was said gets its final, then ``events`` ends."""
        ...

    def events(self) -> AsyncGenerator[RecognitionEvent, None]:
        """Partials and finals in order, until the stream is finished or closed.

        Raises:
            EngineFailed: The model failed on this stream.
        """
        ...

    async def close(self) -> None:
        """Drop the stream and free its slot; harmless when called again."""
        ...


@runtime_checkable
class Recognizer(Protocol):
    """An engine that listens. The same rules as for a Synthesizer."""

    @property
    def capabilities(self) -> RecognizerCapabilities:
        """Known before ``load``."""
        ...

    async def load(self) -> LoadReport:
        """Read the weights and run once, so that the first request is not the slow one."""
        ...

    async def exercise(self) -> None:
        """Fill every slot once with the largest input, so that memory has peaked afterwards."""
        ...

    def open(self, options: RecognitionOptions) -> RecognitionStream:
        """Take a slot for a stream whose options ``resolve_recognition`` has validated.

        Raises:
            Overloaded: All slots are taken.
        """
        ...

    async def transcribe(self, samples: Samples, options: RecognitionOptions) -> Transcript:
        """Recognise a recording that is in memory as a whole, float32 at the engine's rate.

        Raises:
            Overloaded: All slots are taken.
            EngineFailed: The model failed on this recording.
        """
        ...

    async def close(self) -> None:
        """Free everything, and return once it is free; calls that are still running fail."""
        ...
