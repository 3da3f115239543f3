"""What a replica tells of itself and of the streams it serves: the small print of a call."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import ProtocolMismatch, SpeechError
from runtime.speech import (
    PROTOCOL_VERSION,
    LoadReport,
    RecognizerCapabilities,
    SynthesizerCapabilities,
)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine in a replica.

    Attributes:
        role: ``tts``, ``live`` or ``file``.
        name: As in the configuration.
        capabilities: What it can do.
        load: What loading it took.
        active: Streams or utterances it serves now.
        waiting: Calls that wait for one of its slots.
    """

    role: str
    name: str
    capabilities: SynthesizerCapabilities | RecognizerCapabilities
    load: LoadReport
    active: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """A replica and its engines; ``resident_bytes`` is its proportional set size, or None."""

    deployment: str
    replica: str
    pid: int
    resident_bytes: int | None
    protocol: int
    engines: tuple[EngineInfo, ...]


@dataclass(frozen=True, slots=True)
class SynthesisStarted:
    """First item of a synthesis stream: the request as it was understood.

    Attributes:
        sample_rate: Hz of the audio that follows.
        voice: The voice that speaks.
        language: Primary subtag of the language spoken.
        removed: Characters of the text that cannot be spoken and were removed.
        lead: Samples the replica may be ahead of the reader before it waits.
        seed: With which the audio can be repeated; None where the engine cannot.
        replica: Which replica speaks, where reports of progress have to go.
        queued_s: Seconds the request waited for a slot.
    """

    sample_rate: int
    voice: str
    language: str
    removed: int
    lead: int
    seed: int | None
    replica: str
    queued_s: float


@dataclass(frozen=True, slots=True)
class Growth:
    """What an utterance whose text grows has beyond its request's own text.

    Attributes:
        texts: In order.
        complete: There will be no others.
    """

    texts: tuple[str, ...] = ()
    complete: bool = False


@dataclass(frozen=True, slots=True)
class RecognitionStarted:
    """First item of a recognition stream: pushes are welcome now.

    Attributes:
        engine: The engine that listens.
        language: Primary subtag of the language it listens for.
        replica: Where pushes have to go.
        queued_s: Seconds the session waited for a slot.
    """

    engine: str
    language: str
    replica: str
    queued_s: float


@dataclass(frozen=True, slots=True)
class Block:
    """Audio of one session in a push; blocks may come again and are taken once.

    Attributes:
        session: Which session.
        first_sample: Index in the session of the first sample in ``pcm``.
        pcm: PCM16 mono at the session's rate; may be empty.
        finalize: End the utterance after this block; counts such requests of the session
            from 1, so that one that comes twice ends one utterance. 0 does not.
        finish: No more audio will come.
    """

    session: str
    first_sample: int
    pcm: bytes
    finalize: int = 0
    finish: bool = False

    @property
    def next_sample(self) -> int:
        """Index of the sample that follows this block."""
        return self.first_sample + len(self.pcm) // 2


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The answer to a block.

    Attributes:
        received: Samples of the session that have arrived in all; less than the block's
            ``next_sample`` where the engine is too far behind to take more, or where
            audio before the block is missing. What is missing has to be pushed again.
        error: Why the session takes no more.
    """

    received: int
    error: SpeechError | None = None


@dataclass(frozen=True, slots=True)
class AbortedStream:
    """A stream whose caller left before its end.

    Attributes:
        stream: Its id.
        freed_at: When its slot was free again, as Unix time.
        orphaned_ms: How long that took, from the moment the replica knew.
    """

    stream: str
    freed_at: float
    orphaned_ms: float


@dataclass(frozen=True, slots=True)
class Census:
    """What a replica holds, to find leaks: streams, asyncio tasks, async generators, bytes."""

    streams: int
    tasks: int
    generators: int
    resident_bytes: int | None


def check_protocol(client: int, daemon: int = PROTOCOL_VERSION) -> None:
    """Compare a client's protocol with the daemon's.

    Raises:
        ProtocolMismatch: They differ; client and daemon are of different releases.
    """
    if client != daemon:
        raise ProtocolMismatch(
            f"The client speaks protocol {client}, the daemon {daemon}: install the same release "
            "of speech-runtime on both sides."
        )
