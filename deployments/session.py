"""A caller's audio on its way into an engine's stream, in a replica of the ASR deployment."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from runtime.audio import Resampler, pcm16_to_float32
from runtime.errors import SpeechError, StreamStalled
from runtime.replica import Acknowledgement, Block
from runtime.speech import (
    FinalTranscript,
    PartialTranscript,
    RecognitionEvent,
    RecognitionOptions,
    RecognitionStream,
)

_MAX_HELD_S = 30.0  # seconds of audio taken that the engine has not taken yet


class Session:
    """Takes blocks as they come, in one call for many sessions, and feeds an engine's stream.

    Attributes:
        failure: Has an exception once the session cannot go on.
    """

    def __init__(
        self,
        stream: RecognitionStream,
        options: RecognitionOptions,
        rate: int,
        asked: Callable[[], None] = lambda: None,
    ) -> None:
        """Needs a running event loop.

        Args:
            stream: The engine's.
            options: How to recognise.
            rate: The engine's, in Hz.
            asked: Called for each request to end the utterance, as it comes.
        """
        self.stream = stream
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rates = (options.sample_rate, rate)
        self._asked = asked
        self._resampler = Resampler(*self._rates)
        self._received = 0  # samples, at the caller's rate
        self._held = 0
        self._requests = 0  # to finalize
        self._finished = False
        self._inbox: deque[Block] = deque()
        self._arrived = asyncio.Event()
        self._last_heard = time.monotonic()
        self._idle: asyncio.TimerHandle | None = None
        # A recording has an end, and is heard out; so is whoever asked for no partials, as
        # nothing else tells that somebody speaks.
        self._always_busy = options.mode == "file" or not options.partials
        self._in_utterance = False
        self._unanswered = 0
        self._feeding = asyncio.create_task(self._feed())

    def take(self, block: Block) -> Acknowledgement:
        """Take what is new of a block, unless audio before it is missing or too much is held."""
        self._last_heard = time.monotonic()
        if self.failure.done():
            return Acknowledgement(self._received, _as_speech_error(self.failure.exception()))
        missing = block.first_sample > self._received
        # Ending an utterance costs no room; audio does.
        full = self._held > _MAX_HELD_S * self._rates[0] and block.next_sample > self._received
        if not missing and not full:
            news = Block(
                block.session,
                self._received,
                block.pcm[2 * (self._received - block.first_sample) :],
                block.finalize if block.finalize > self._requests else 0,
                block.finish and not self._finished,
            )
            self._received += len(news.pcm) // 2
            self._held += len(news.pcm) // 2
            self._requests = max(self._requests, block.finalize)
            if news.finalize:
                self._unanswered += 1
                self._asked()
            self._finished |= block.finish
            self._inbox.append(news)
            self._arrived.set()
        return Acknowledgement(self._received)

    def heard(self, event: RecognitionEvent) -> None:
        """Note an event of the stream that goes out to the caller."""
        if isinstance(event, PartialTranscript):
            self._in_utterance = True
        elif isinstance(event, FinalTranscript):
            self._unanswered -= bool(event.request)
            self._in_utterance = False

    @property
    def seconds(self) -> float:
        """How much audio has arrived."""
        return self._received / self._rates[0]

    @property
    def busy(self) -> bool:
        """Whether an utterance is under way or a final is owed."""
        owed = self._unanswered > 0 or self._finished or self._held > 0
        return self._always_busy or self._in_utterance or owed

    def close_when_idle(self, timeout_s: float) -> None:
        """Fail with StreamStalled once no audio has come for ``timeout_s`` seconds."""
        if self._idle is not None:
            self._idle.cancel()
        left = self._last_heard + timeout_s - time.monotonic()
        if left > 0:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(left, self.close_when_idle, timeout_s)
        elif not self._finished:
            self.fail(StreamStalled(f"No audio came for {timeout_s:g} s; the session was closed."))

    def fail(self, error: Exception) -> None:
        """End the session with an error, unless it has one already."""
        if not self.failure.done():
            self.failure.set_exception(error)
            self.failure.exception()  # seen: the stream's reader is told if there is one

    async def close(self) -> None:
        """Stop feeding and free the engine's slot."""
        if self._idle is not None:
            self._idle.cancel()
        self._feeding.cancel()
        await self.stream.close()

    async def _feed(self) -> None:
        try:
            while not self._finished or self._inbox:
                while not self._inbox:
                    self._arrived.clear()
                    await self._arrived.wait()
                block = self._inbox.popleft()
                await self.stream.push(self._resampler.push(pcm16_to_float32(block.pcm)))
                self._held -= len(block.pcm) // 2
                if block.finalize:
                    await self._flush()
                    await self.stream.finalize()
                if block.finish:
                    await self._flush()
                    await self.stream.finish()
        except Exception as error:
            self.fail(error)

    async def _flush(self) -> None:
        """Push what the resampler holds back, so that nothing leaks into the next utterance."""
        await self.stream.push(self._resampler.push(pcm16_to_float32(b""), last=True))
        self._resampler = Resampler(*self._rates)


def _as_speech_error(error: BaseException | None) -> SpeechError:
    return error if isinstance(error, SpeechError) else SpeechError(f"The session failed: {error}")
