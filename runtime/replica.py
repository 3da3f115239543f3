"""What a replica tells of itself and of the streams it serves: the small print of a call."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import InvalidRequest
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
    """

    role: str
    name: str
    capabilities: SynthesizerCapabilities | RecognizerCapabilities
    load: LoadReport
    active: int


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
    """

    sample_rate: int
    voice: str
    language: str
    removed: int
    lead: int


@dataclass(frozen=True, slots=True)
class RecognitionStarted:
    """First item of a recognition stream: pushes are welcome now."""

    engine: str
    language: str


def check_protocol(version: int) -> None:
    """Compare a caller's protocol with this one.

    Raises:
        InvalidRequest: They differ; client and daemon are of different releases.
    """
    if version != PROTOCOL_VERSION:
        raise InvalidRequest(
            f"The client speaks protocol {version}, the daemon {PROTOCOL_VERSION}: install the "
            "same release of speech-runtime on both sides."
        )
