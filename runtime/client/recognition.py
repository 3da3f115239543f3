"""A live recognition session: audio pushed in, events read out, both at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Self

import numpy as np

from runtime.audio import float32_to_pcm16, silence_invalid
from runtime.client.listening import Listening
from runtime.errors import AudioFormatError, SessionClosed
from runtime.settings import Settings
from runtime.speech import (
    FinalTranscript,
    PartialTranscript,
    RecognitionEvent,
    RecognitionOptions,
    Samples,
)

if TYPE_CHECKING:
    from runtime.client.calls import DeploymentCalls

_UNACKNOWLEDGED_S = 10.0  # seconds of audio on their way before push() waits


class RecognitionSession:
    """Use as ``async with client.open_recognition(...) as session``.

    Push blocks and iterate events in two tasks, or push, then ``await finalize()``.
    Iteration yields every event, the finals that ``finalize()`` returns included, and
    ends after ``finish()``. Unread partials are replaced by newer ones; finals are kept.

    The session outlives its replica: audio since the last final is kept (``SPEECH_REPLAY_S``,
    60 s) and replayed to another one. Leaving the context, cancelling the task that is in
    it, or dropping the session frees the replica's slot.
    """

    def __init__(
        self, calls: DeploymentCalls, options: RecognitionOptions, settings: Settings
    ) -> None:
        """Opened by entering the context."""
        self.options = options
        self._listening = Listening(calls, options, settings)
        self._inbox = _Inbox()
        self._clock = _AudioClock()
        self._unacknowledged = round(
            min(_UNACKNOWLEDGED_S, settings.replay_s / 4) * options.sample_rate
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        # Bound to the inbox and not to the session, which may be dropped.
        await self._listening.start(self._inbox.put, self._inbox.news.set)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the session at once; the replica's slot becomes free."""
        self.cancel()
        await self._listening.closed()

    def cancel(self) -> None:
        """The same, from a callback of the event loop."""
        self._closed = True
        self._listening.cancel()
        self._inbox.news.set()

    def __del__(self) -> None:
        if self._loop is not None and not self._closed:
            with contextlib.suppress(RuntimeError):  # its loop has been closed
                self._loop.call_soon_threadsafe(self._listening.cancel)

    @property
    def id(self) -> str:
        """Under which the replicas know it."""
        return self._listening.id

    @property
    def replica(self) -> str:
        """Which replica listens, or did last."""
        started = self._listening.started
        return started.replica if started is not None else ""

    @property
    def queued_s(self) -> float:
        """Seconds the session waited for its slot."""
        started = self._listening.started
        return started.queued_s if started is not None else 0.0

    @property
    def moves(self) -> int:
        """How many times another replica took the session over."""
        return self._listening.moves

    # --- audio in ------------------------------------------------------------

    async def push(self, audio: bytes | Samples, sample_rate: int | None = None) -> None:
        """Add a block of PCM16 bytes or float32 samples, of any length.

        Returns at once unless ten seconds of audio are on their way already.

        Args:
            audio: Mono, at the session's rate. NaN and infinite samples become silence.
            sample_rate: Its rate in Hz if the caller knows it, to be checked.

        Raises:
            AudioFormatError: Another rate than the session's, or no mono PCM16 or float32.
            SessionClosed: The session has ended.
        """
        pcm = self._as_pcm16(audio, sample_rate)
        self._check_open()
        self._clock.captured(self._listening.buffer.end, len(pcm) // 2)
        for start in range(0, len(pcm), 2 * self._unacknowledged):
            await self._catch_up()  # what is on its way must not be dropped for what is new
            self._listening.push(pcm[start : start + 2 * self._unacknowledged])
        await self._catch_up()

    async def _catch_up(self) -> None:
        listening = self._listening
        while listening.buffer.end - listening.acknowledged > self._unacknowledged:
            await self._inbox.changed()
            self._check_open()

    async def flush(self) -> None:
        """Wait until a replica has all that was pushed so far.

        Raises:
            SessionClosed: The session has ended.
        """
        end = self._listening.buffer.end
        while self._listening.acknowledged < end:
            self._check_open()
            await self._inbox.changed()

    def _as_pcm16(self, audio: bytes | Samples, sample_rate: int | None) -> bytes:
        if sample_rate is not None and sample_rate != self.options.sample_rate:
            raise AudioFormatError(
                f"The block is at {sample_rate} Hz, the session was opened at "
                f"{self.options.sample_rate} Hz; open it at the rate of the audio."
            )
        if isinstance(audio, np.ndarray):
            return as_pcm16(audio)
        if len(audio) % 2:
            raise AudioFormatError(
                f"{len(audio)} bytes are not PCM16: two bytes make a sample, so the count is even."
            )
        return bytes(audio)

    # --- events out ----------------------------------------------------------

    async def finalize(self) -> FinalTranscript:
        """End the utterance here and return its transcript; empty text if there was no speech.

        Raises:
            SessionClosed: The session has ended.
        """
        self._check_open()
        request = self._listening.finalize()
        while request not in self._inbox.answers:
            self._raise_failure()
            if self._listening.over:
                raise SessionClosed("The session was closed before its final transcript came.")
            await self._inbox.changed()
        return self._inbox.answers.pop(request)

    async def finish(self) -> None:
        """No more audio will come; iteration ends after the last final."""
        self._check_open()
        self._closed = True
        self._listening.finish()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RecognitionEvent:
        while not self._inbox.events:
            self._raise_failure()
            if self._listening.over:
                raise StopAsyncIteration
            await self._inbox.changed()
        return self._inbox.events.popleft()

    def latency_s(self, event: RecognitionEvent) -> float | None:
        """Seconds since the audio was pushed up to which an event has heard.

        Counted from audio time, not from the last push: silence after the end of speech
        does not hide behind it. None where that audio was pushed too long ago.
        """
        pushed = self._clock.at(int(event.end_s * self.options.sample_rate))
        return None if pushed is None else time.monotonic() - pushed

    def _check_open(self) -> None:
        self._raise_failure()
        if self._loop is None:
            raise SessionClosed("The session is not open yet: use `async with`.")
        if self._closed or self._listening.over:
            raise SessionClosed("The recognition session has ended; open another one.")

    def _raise_failure(self) -> None:
        if self._listening.failure is not None:
            raise self._listening.failure


class _Inbox:
    """What has come for a session's caller."""

    def __init__(self) -> None:
        self.events: deque[RecognitionEvent] = deque()
        self.answers: dict[int, FinalTranscript] = {}
        self.news = asyncio.Event()

    def put(self, event: RecognitionEvent) -> None:
        if isinstance(event, FinalTranscript):
            if event.request:
                self.answers[event.request] = event
        elif self.events and isinstance(self.events[-1], PartialTranscript):
            self.events.pop()
        self.events.append(event)
        self.news.set()

    async def changed(self) -> None:
        self.news.clear()
        await self.news.wait()


class _AudioClock:
    """When audio was pushed: maps samples to seconds of ``time.monotonic``."""

    _KEPT = 4096  # blocks

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, float]] = deque(maxlen=self._KEPT)  # end, pushed at

    def captured(self, first_sample: int, samples: int) -> None:
        self._blocks.append((first_sample + samples, time.monotonic()))

    def at(self, sample: int) -> float | None:
        """When the block came that holds the last sample before ``sample``."""
        latest: float | None = None
        for end, pushed in reversed(self._blocks):
            if end < sample:
                return latest if latest is not None else pushed
            latest = pushed
        whole = self._blocks and len(self._blocks) < self._KEPT
        return latest if whole else None


def as_pcm16(samples: Samples) -> bytes:
    """Mono float32 samples as PCM16; NaN and infinity become silence.

    Raises:
        AudioFormatError: Not a vector of floats.
    """
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise AudioFormatError(
            f"An array of shape {samples.shape} and type {samples.dtype} is not mono float audio: "
            "give shape (n,), float32, in [-1, 1]."
        )
    return float32_to_pcm16(silence_invalid(samples.astype(np.float32, copy=False))[0])
