"""What the streaming Parakeet engine is configured with, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from runtime.engines.models import PARAKEET_STREAMING
from runtime.engines.nvidia import NvidiaOptions, read_options
from runtime.engines.options import one_of
from runtime.errors import ConfigError

Device: TypeAlias = Literal["auto", "cpu", "cuda"]

MAX_STREAMS = 512  # of a replica, which one event loop feeds; 1,000 may be asked for, measured
MAX_BATCH = 512
"""Streams of a step: it takes 16 ms then on an H100. More at once saves little time, and takes
memory."""
CHUNKS_MS: Mapping[int, int] = {80: 0, 160: 1, 560: 6, 1120: 13}
"""Milliseconds of a step, and frames of lookahead within: what the model was trained for."""
CHUNK_MS = 160
LONGEST_TAIL_MS = 2_000

STREAMING = ("chunk_ms", "tail_ms", "device")
"""Options beyond those that all of NVIDIA's engines have."""


@dataclass(frozen=True, slots=True)
class StreamingOptions:
    """The options of the streaming engine.

    Attributes:
        common: Those that all of NVIDIA's engines have.
        chunk_ms: Audio of a step; what it is made of is a frame of 80 ms and its lookahead.
        tail_ms: Silence after the last sample of an utterance, so that a word which ends with
            it is heard as one in the middle is; None for as long as the lookahead.
        device: Where it runs; ``auto`` takes a GPU if there is one.
    """

    common: NvidiaOptions[Any]
    chunk_ms: int
    tail_ms: int | None
    device: Device

    @property
    def right_context(self) -> int:
        """Frames of lookahead."""
        return CHUNKS_MS[self.chunk_ms]


def read_streaming_options(options: Mapping[str, Any]) -> StreamingOptions:
    """Check the options of the streaming engine.

    Raises:
        ConfigError: An option that there is not, or a value that cannot be.
    """
    common = read_options("parakeet-streaming", options, PARAKEET_STREAMING, MAX_STREAMS, STREAMING)
    chunk, tail = options.get("chunk_ms", CHUNK_MS), options.get("tail_ms")
    one_of("chunk_ms", chunk, CHUNKS_MS)
    if tail is not None and not (
        isinstance(tail, int) and not isinstance(tail, bool) and 0 <= tail <= LONGEST_TAIL_MS
    ):
        raise ConfigError(
            f"tail_ms is {tail!r}; it must be a whole number from 0 to {LONGEST_TAIL_MS}."
        )
    device = options.get("device", "auto")
    one_of("device", device, ("auto", "cpu", "cuda"))
    return StreamingOptions(common, chunk, tail, device)
