"""The numbers of one utterance, gathered as it runs: for metrics and for its line in the log.

Times of a monotonic clock, in seconds. What was said is in a line only if words are asked for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from runtime.playback import Playback
from runtime.speech import (
    AudioChunk,
    FinalTranscript,
    RecognitionEvent,
    RecognitionMode,
    SynthesisRequest,
    Transcript,
)

Clock = Callable[[], float]


class SpokenTally:
    """An utterance that is synthesised.

    Attributes:
        outcome: How it ended: ``done``, ``cancelled`` until then, or the name of an error.
        resumed: Whether another replica began it.
        removed: Characters of the text that could not be spoken.
        queued_s: Seconds it waited for a slot; None if it never had one.
        first_audio_s: From its arrival to its first audio; None before.
        audio_s: Seconds of audio made so far.
        playback: What a listener hears who plays from the first audio on. The time in which
            the reader was waited for is left out of it.
    """

    def __init__(self, stream: str, *, resumed: bool, clock: Clock = time.monotonic) -> None:
        """An utterance has arrived; ``resumed`` if another replica began it."""
        self._clock = clock
        self._stream = stream
        self.resumed = resumed
        self._arrived = clock()
        self._asked = self._arrived  # since when the engine has been waited for
        self._engine_s = 0.0
        self._request: SynthesisRequest | None = None
        self.removed = 0
        self._grown: list[str] = []
        self._texts = 0
        self._pieces = 0
        self.outcome = "cancelled"
        self.queued_s: float | None = None
        self.first_audio_s: float | None = None
        self.audio_s = 0.0
        self.playback = Playback()

    def resolved(self, request: SynthesisRequest, removed: int) -> None:
        """The request as the engine takes it, and how many characters it lost."""
        self._request, self.removed = request, removed

    def grew(self, texts: Sequence[str], removed: int) -> None:
        """Texts were added to it, which lost so many characters."""
        if self._texts > len(self._grown):  # all has been said: nothing was asked of the engine
            self._asked = self._clock()
        self._grown += texts
        self.removed += removed

    def began(self, queued_s: float) -> None:
        """It has a slot, for which it waited."""
        self.queued_s = queued_s
        self._asked = self._clock()

    def made(self, chunk: AudioChunk) -> None:
        """The engine has made a chunk; until ``read`` nothing is asked of it."""
        now = self._clock()
        self._engine_s += now - self._asked
        self._asked = now
        self._texts = chunk.texts
        self.audio_s = chunk.end_s
        if not chunk.pcm:
            return
        self._pieces = chunk.piece + 1
        if self.first_audio_s is None:
            self.first_audio_s = now - self._arrived
        self.playback.arrived(self._engine_s, chunk.samples / chunk.sample_rate)

    def read(self) -> None:
        """The reader has taken the chunk, and the engine is asked for the next."""
        self._asked = self._clock()

    @property
    def rtf(self) -> float | None:
        """Seconds the engine took per second of audio; None before there is any."""
        return self._engine_s / self.audio_s if self.audio_s else None

    def line(self, *, words: bool) -> dict[str, Any]:
        """Its line in the log; what was said is in it only with ``words``."""
        request = self._request
        line = {
            "event": "synthesis",
            "stream": self._stream,
            "outcome": self.outcome,
            "resumed": self.resumed,
            "voice": request.voice if request else None,
            "language": request.language if request else None,
            "characters": sum(map(len, self._said)) if request else None,
            "texts": len(self._said),
            "removed_characters": self.removed,
            "first_piece": request.first_piece if request else None,
            "pieces": self._pieces - request.first_piece if request and self._pieces else 0,
            "queued_ms": _ms(self.queued_s),
            "first_audio_ms": _ms(self.first_audio_s),
            "audio_s": round(self.audio_s, 3),
            "rtf": None if self.rtf is None else round(self.rtf, 4),
            "underruns": self.playback.underruns,
            "underrun_s": round(self.playback.underrun_s, 3),
        }
        if words and request:
            line["text"] = " ".join(self._said)
        return line

    @property
    def _said(self) -> list[str]:
        return [self._request.text, *self._grown] if self._request else []


class HeardTally:
    """A session, or a recording in one call, that is recognised.

    Attributes:
        mode: ``live`` or ``file``.
        outcome: As for ``SpokenTally``.
        resumed: Whether another replica began it.
        language: Which language is listened for.
        queued_s: Seconds it waited for a slot; None if it never had one.
        engine_s: Seconds the engine took for a recording; 0 for a session.
        audio_s: Seconds of audio that came.
    """

    def __init__(
        self, stream: str, mode: RecognitionMode, *, resumed: bool, clock: Clock = time.monotonic
    ) -> None:
        """It has arrived; ``stream`` is empty for a recording."""
        self._clock = clock
        self._stream = stream
        self.mode = mode
        self.resumed = resumed
        self._requests: deque[float] = deque()
        self._partials = 0
        self._utterances = 0
        self.language: str | None = None
        self.outcome = "cancelled"
        self.queued_s: float | None = None
        self.engine_s = 0.0
        self.audio_s = 0.0

    def began(self, queued_s: float, language: str | None) -> None:
        """It has a slot, for which it waited."""
        self.queued_s, self.language = queued_s, language

    def asked(self) -> None:
        """A request to end the utterance has come."""
        self._requests.append(self._clock())

    def heard(self, event: RecognitionEvent) -> float | None:
        """Note an event; returns the seconds since the request that a final answers, if one."""
        if not isinstance(event, FinalTranscript):
            self._partials += 1
            return None
        self._utterances += bool(event.text)
        if event.request and self._requests:
            return self._clock() - self._requests.popleft()
        return None

    def final_line(
        self, final: FinalTranscript, final_s: float | None, *, words: bool
    ) -> dict[str, Any]:
        """The line of an utterance; ``final_s`` is what ``heard`` returned."""
        line = {
            "event": "recognition",
            "stream": self._stream,
            "mode": self.mode,
            "language": self.language,
            "utterance": final.utterance,
            "start_s": round(final.start_s, 3),
            "end_s": round(final.end_s, 3),
            "words": len(final.text.split()),
            "partials": self._partials,
            "asked_for": bool(final.request),
            "final_ms": _ms(final_s),
        }
        self._partials = 0
        if words:
            line["text"] = final.text
        return line

    @property
    def rtf(self) -> float | None:
        """Seconds the engine took per second of a recording."""
        return self.engine_s / self.audio_s if self.engine_s and self.audio_s else None

    def session_line(self) -> dict[str, Any]:
        """The line of a session's end."""
        return {
            "event": "session",
            "stream": self._stream,
            "mode": self.mode,
            "language": self.language,
            "outcome": self.outcome,
            "resumed": self.resumed,
            "queued_ms": _ms(self.queued_s),
            "audio_s": round(self.audio_s, 3),
            "utterances": self._utterances,
        }

    def recording_line(self, transcript: Transcript | None, *, words: bool) -> dict[str, Any]:
        """The line of a recording in one call; ``transcript`` is None if there is none."""
        line = {
            "event": "recording",
            "mode": self.mode,
            "language": self.language,
            "outcome": self.outcome,
            "resumed": self.resumed,
            "queued_ms": _ms(self.queued_s),
            "audio_s": round(self.audio_s, 3),
            "rtf": None if self.rtf is None else round(self.rtf, 4),
            "words": len(transcript.text.split()) if transcript else 0,
        }
        if words and transcript:
            line["text"] = transcript.text
        return line


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)
