"""A live recognition session: audio pushed in, events read out, both at once."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from typing import TYPE_CHECKING, Self

import numpy as np

from runtime.audio import float32_to_pcm16, silence_invalid
from runtime.errors import AudioFormatError, DaemonUnavailable, SessionClosed
from runtime.replica import RecognitionStarted
from runtime.speech import (
    PROTOCOL_VERSION,
    FinalTranscript,
    PartialTranscript,
    RecognitionEvent,
    RecognitionOptions,
    Samples,
)

if TYPE_CHECKING:
    from runtime.client.calls import CallStream, DeploymentCalls

_MAX_BLOCK_BYTES = 1 << 20  # a handle call carries at most 4 MiB


class RecognitionSession:
    """Use as ``async with client.open_recognition(...) as session``.

    Push blocks and iterate events in two tasks, or push, then ``await finalize()``.
    Iteration yields every event, the finals that ``finalize()`` returns included, and
    ends after ``finish()``. Unread partials are replaced by newer ones; finals are kept.
    """

    def __init__(self, calls: DeploymentCalls, options: RecognitionOptions) -> None:
        """Opened by entering the context."""
        self._calls = calls
        self._id = uuid.uuid4().hex
        self.options = options
        self._pushed = 0  # samples
        self._in_order = asyncio.Lock()
        self._stream: CallStream | None = None
        self._reader: asyncio.Task[None] | None = None
        self._events: deque[RecognitionEvent] = deque()
        self._news = asyncio.Event()
        self._answers: dict[int, FinalTranscript] = {}
        self._finished = False

    async def __aenter__(self) -> Self:
        self._stream = self._calls.stream("recognize", PROTOCOL_VERSION, self._id, self.options)
        try:
            started = await anext(self._stream, None)
        except BaseException:
            self._stream.cancel()
            raise
        if not isinstance(started, RecognitionStarted):
            raise DaemonUnavailable("The daemon closed the session before it began.")
        self._reader = asyncio.create_task(self._read(self._stream))
        self._reader.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the session at once; the replica's slot becomes free."""
        self._finished = True
        if self._stream is not None:
            self._stream.cancel()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._reader

    async def push(self, audio: bytes | Samples, sample_rate: int | None = None) -> None:
        """Add a block of PCM16 bytes or float32 samples, of any length.

        Args:
            audio: Mono, at the session's rate. NaN and infinite samples become silence.
            sample_rate: Its rate in Hz if the caller knows it, to be checked.

        Raises:
            AudioFormatError: Another rate than the session's, or no mono PCM16 or float32.
            SessionClosed: The session has ended.
        """
        pcm = self._as_pcm16(audio, sample_rate)
        async with self._in_order:
            self._check_open()
            for start in range(0, len(pcm), _MAX_BLOCK_BYTES):
                block = pcm[start : start + _MAX_BLOCK_BYTES]
                self._pushed = await self._calls.call("push", self._id, self._pushed, block)

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

    async def finalize(self) -> FinalTranscript:
        """End the utterance here and return its transcript; empty text if there was no speech.

        Raises:
            SessionClosed: The session has ended.
        """
        async with self._in_order:
            self._check_open()
            request = await self._calls.call("finalize", self._id)
        while request not in self._answers:
            self._raise_failure()
            if self._is_over():
                raise SessionClosed("The session was closed before its final transcript came.")
            await self._wait_for_news()
        return self._answers.pop(request)

    async def finish(self) -> None:
        """No more audio will come; iteration ends after the last final."""
        async with self._in_order:
            self._check_open()
            self._finished = True
            await self._calls.call("finish", self._id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RecognitionEvent:
        while not self._events:
            self._raise_failure()
            if self._is_over():
                raise StopAsyncIteration
            await self._wait_for_news()
        return self._events.popleft()

    async def _read(self, stream: CallStream) -> None:
        async for event in stream:
            self._keep(event)
            self._news.set()

    async def _wait_for_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _keep(self, event: RecognitionEvent) -> None:
        if isinstance(event, FinalTranscript):
            if event.request:
                self._answers[event.request] = event
        elif self._events and isinstance(self._events[-1], PartialTranscript):
            self._events.pop()
        self._events.append(event)

    def _is_over(self) -> bool:
        return self._reader is None or self._reader.done()

    def _check_open(self) -> None:
        self._raise_failure()
        if self._finished or self._is_over():
            raise SessionClosed("The recognition session has ended; open another one.")

    def _raise_failure(self) -> None:
        if self._reader is not None and self._reader.done() and not self._reader.cancelled():
            self._reader.result()


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
