"""A live stream of Parakeet: what a caller pushes, and the events that come back.

The model's thread hands over what a step said; everything else happens on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import numpy as np

from runtime.engines.parakeet.chunks import Said
from runtime.engines.parakeet.scheduler import Lane, Work
from runtime.engines.parakeet.transcript import Transcriber
from runtime.errors import AudioFormatError, SessionClosed, SpeechError
from runtime.speech import PartialTranscript, RecognitionEvent, Samples

_MAX_BACKLOG_S = 30.0  # audio that a stream may hold unheard before push() waits
_BLOCK_S = 2.0  # of audio that push() checks that for
_STEP_S = 2.0  # longer than any step


class Steps(Protocol):
    """What a stream needs of its engine."""

    def open(self, stream: ParakeetStream) -> Lane:
        """A slot for the stream."""
        ...

    def push(self, lane: Lane, samples: Samples) -> None:
        """Samples for the stream's next chunks."""
        ...

    def end(self, lane: Lane, request: int, *, last: bool = False) -> None:
        """The utterance ends here."""
        ...

    def leave(self, lane: Lane) -> bool:
        """The stream is over; whether its slot can be had, or only after the step it is in."""
        ...


class ParakeetStream:
    """One caller's audio on its way through the shared steps; see ``RecognitionStream``."""

    def __init__(
        self,
        steps: Steps,
        transcriber: Transcriber,
        *,
        sample_rate: int,
        frame: int,
        on_over: Callable[[ParakeetStream], None],
    ) -> None:
        """Take a slot, for calls on the running event loop.

        ``frame`` is a frame of the encoder in samples.

        Raises:
            Overloaded: All slots are taken.
        """
        self.loop = asyncio.get_running_loop()
        self.lane = steps.open(self)
        self._on_over = on_over
        self._steps = steps
        self._transcriber = transcriber
        self._rate, self._frame = sample_rate, frame
        self._room = asyncio.Event()
        self._outbox: deque[RecognitionEvent] = deque()
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._requests = 0
        self._pushed = 0  # samples, since the start of the stream
        self._ends: deque[int] = deque()  # of utterances that are not heard to their end
        self._start = 0  # of the utterance that is being heard
        self._ended = False  # by finish() or close()
        self._over = False  # nothing more will come
        self._free = asyncio.Event()  # the slot can be had

    # --- the caller's side ---------------------------------------------------

    async def push(self, samples: Samples) -> None:
        """Add samples; see ``RecognitionStream.push``.

        Those beyond [-1, 1] are clipped.

        Raises:
            AudioFormatError: A sample is no number; none of these is taken.
        """
        self._check_open()
        if not np.isfinite(samples).all():
            raise AudioFormatError(
                "The audio holds samples that are no numbers (NaN or infinite); float32 samples "
                "are in [-1, 1]. Nothing of it was taken."
            )
        samples = np.clip(samples, -1.0, 1.0, dtype=np.float32)
        size = round(_BLOCK_S * self._rate)
        for start in range(0, len(samples), size):
            while self.lane.backlog > _MAX_BACKLOG_S * self._rate and not self._over:
                self._room.clear()
                await self._room.wait()
            self._check_open()
            block = samples[start : start + size]
            self._pushed += len(block)
            self._steps.push(self.lane, block)

    async def finalize(self) -> int:
        """End the utterance; see ``RecognitionStream.finalize``."""
        self._check_open()
        self._requests += 1
        self._ends.append(self._pushed)
        self._steps.end(self.lane, self._requests)
        return self._requests

    async def finish(self) -> None:
        """No more audio; see ``RecognitionStream.finish``."""
        self._check_open()
        self._ended = True
        self._ends.append(self._pushed)
        self._steps.end(self.lane, 0, last=True)

    async def events(self) -> AsyncGenerator[RecognitionEvent, None]:
        """Partials and finals; see ``RecognitionStream.events``."""
        while True:
            self._news.clear()
            while self._outbox:
                yield self._outbox.popleft()
            if self._over:
                if self._failure is not None:
                    raise self._failure
                return
            await self._news.wait()

    async def close(self) -> None:
        """Free the slot; see ``RecognitionStream.close``."""
        self._ended = True
        self._leave()
        # Whoever is told that the slot is free must find it so.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STEP_S):
                await self._free.wait()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._ended:
            raise SessionClosed("The recognition stream has ended; open another one.")

    # --- the engine's side, on the event loop --------------------------------

    def hear(self, work: Work, said: Said) -> None:
        """Take what a part of a step said."""
        if self._over:
            self._free.set()
            return
        self._room.set()
        end = self._ends[0] if self._ends else None
        starts = (self._start + work.start + frame * self._frame for frame in said.frames)
        times = [(start / self._rate, (start + self._frame) / self._rate) for start in starts]
        heard = self._start + work.end
        heard_s = (heard if end is None else min(heard, end)) / self._rate
        for event in self._transcriber.hear(said.tokens, times, heard_s):
            self._emit(event)
        if work.request is None:
            return
        self._start = self._ends.popleft()
        for event in self._transcriber.end(work.request, self._start / self._rate):
            self._emit(event)
        if work.last:
            self._leave()

    def fail(self, error: SpeechError) -> None:
        """End the stream with an error, which its caller gets from whatever is called next."""
        if self._over:
            self._free.set()
            return
        self._failure = error
        self._leave()

    def _leave(self) -> None:
        self._over = True
        self._room.set()
        self._news.set()
        if self._steps.leave(self.lane):
            self._free.set()
        self._on_over(self)

    def _emit(self, event: RecognitionEvent) -> None:
        if self._outbox and isinstance(self._outbox[-1], PartialTranscript):
            last = self._outbox[-1]
            if last.utterance == event.utterance:
                self._outbox.pop()  # unread and outdated
        self._outbox.append(event)
        self._news.set()
