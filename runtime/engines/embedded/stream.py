"""A recognition stream over a model that decodes whole segments.

A task per stream takes pushes and finalize requests in order, gates them and decodes
segments that ended. Beside it the open segment is decoded again from time to time for
partials, which give way to whatever is final.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np

from runtime.audio import silence_invalid
from runtime.engines.embedded.segmenter import FRAME, PAUSE, SAMPLE_RATE, Segment, Segmenter
from runtime.engines.worker import ModelWorker
from runtime.errors import SessionClosed
from runtime.speech import (
    FinalTranscript,
    PartialTranscript,
    RecognitionEvent,
    Samples,
    Word,
)

_MAX_BACKLOG = 30 * SAMPLE_RATE  # undecoded samples a stream may hold before push() waits
_BLOCK = 2 * SAMPLE_RATE  # samples gated in one go, so that no stream hogs the worker
_PARTIAL_INTERVAL_S = 0.3
# Silence that a model hears where speech has paused. It takes a shorter one for a comma; to wait
# for all of it in the caller's audio would make every answer later.
_HUSH = 2 * PAUSE


@dataclass(frozen=True, slots=True)
class Decoded:
    """A segment as text; word times in seconds since the segment's first sample."""

    text: str
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class _EndUtterance:
    request: int  # 0: nobody asked, the stream is finished
    last: bool


class SegmentStream:
    """One caller's audio on its way through a speech gate and a model."""

    def __init__(
        self,
        gate: ModelWorker,
        segmenter: Segmenter,
        decode: Callable[[Samples, bool], Awaitable[Decoded]],
        *,
        partials: bool,
        on_close: Callable[[SegmentStream], None],
    ) -> None:
        """Needs a running event loop; segmenting runs on the gate.

        ``decode`` is told whether it is only for a partial, which gives way to all others.
        """
        self._gate = gate
        self._segmenter = segmenter
        self._decode = decode
        self._partials = partials
        self._on_close = on_close
        self._inbox: deque[Samples | _EndUtterance] = deque()
        self._arrived = asyncio.Event()
        self._backlog = 0
        self._room = asyncio.Event()
        self._outbox: deque[RecognitionEvent] = deque()
        self._news = asyncio.Event()
        self._requests = 0
        self._ended = False  # by finish() or close()
        self._utterance = 0
        self._spoken: list[tuple[Segment, Decoded]] = []  # the utterance's segments so far
        self._latest: tuple[Segment, Decoded] | None = None  # the open segment, last decoded
        self._partial_due = 0.0
        self._partial_sent = False
        self._partial: tuple[Segment, asyncio.Task[None]] | None = None
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._stopped)

    # --- the caller's side ---------------------------------------------------

    async def push(self, samples: Samples) -> None:
        """Add samples; see ``RecognitionStream.push``."""
        self._check_open()
        samples, _ = silence_invalid(samples)  # one of them, and the gate would hear no more
        for start in range(0, len(samples), _BLOCK):
            while self._backlog > _MAX_BACKLOG and not self._task.done():
                self._room.clear()
                await self._room.wait()
            block = samples[start : start + _BLOCK]
            self._put(block)
            self._backlog += len(block)

    async def finalize(self) -> int:
        """End the utterance; see ``RecognitionStream.finalize``."""
        self._put(_EndUtterance(self._requests + 1, last=False))
        self._requests += 1
        return self._requests

    async def finish(self) -> None:
        """No more audio; see ``RecognitionStream.finish``."""
        self._put(_EndUtterance(0, last=True))
        self._ended = True

    async def events(self) -> AsyncGenerator[RecognitionEvent, None]:
        """Partials and finals; see ``RecognitionStream.events``."""
        while True:
            self._news.clear()
            while self._outbox:
                yield self._outbox.popleft()
            if self._task.done():
                if not self._task.cancelled():
                    self._task.result()  # raises what the stream died of
                return
            await self._news.wait()

    async def close(self) -> None:
        """Free the slot; see ``RecognitionStream.close``."""
        self._ended = True
        self._task.cancel()
        self._on_close(self)

    def _check_open(self) -> None:
        if self._task.done() and not self._task.cancelled():
            self._task.result()
        if self._ended:
            raise SessionClosed("The recognition stream has ended; open another one.")

    def _put(self, item: Samples | _EndUtterance) -> None:
        self._check_open()
        self._inbox.append(item)
        self._arrived.set()

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._room.set()
        self._news.set()
        if not task.cancelled():
            task.exception()  # seen: push() and events() raise it

    # --- the stream's own task -----------------------------------------------

    async def _run(self) -> None:
        try:
            await self._work_through()
        finally:
            self._stop_partial()

    async def _work_through(self) -> None:
        while True:
            while not self._inbox:
                self._arrived.clear()
                await self._arrived.wait()
                if self._partial is not None and self._partial[1].done():
                    self._partial[1].result()  # raises what it failed of
            item = self._inbox.popleft()
            if isinstance(item, _EndUtterance):
                await self._end_utterance(item.request)
                if item.last:
                    return
                continue
            for segment in await self._gate.run(self._segmenter.push, item):
                await self._segment_ended(segment)
            self._backlog -= len(item)
            self._room.set()
            if self._partials and not self._inbox:
                self._start_partial()

    async def _segment_ended(self, segment: Segment) -> None:
        await self._keep(segment)
        if segment.closes:
            self._final(request=0, settled=segment.end)

    async def _end_utterance(self, request: int) -> None:
        segment = self._segmenter.flush()
        if segment is not None:
            await self._keep(segment)
        self._final(request, settled=self._segmenter.position)

    async def _keep(self, segment: Segment) -> None:
        # Once speech has paused, the open segment no longer changes: its partial is its final,
        # and little or nothing is left to do when the end of the turn is called.
        if self._partial is not None and _same_samples(self._partial[0], segment):
            await self._partial[1]
        self._stop_partial()
        if not len(segment.samples):
            return
        if self._latest is not None and _same_samples(self._latest[0], segment):
            decoded = self._latest[1]
        else:
            decoded = await self._decode(_to_decode(segment), False)
        self._latest = None
        if decoded.text:
            self._spoken.append((segment, decoded))

    def _start_partial(self) -> None:
        if self._partial is not None and not self._partial[1].done():
            return
        segment = self._segmenter.open_segment()
        if segment is None or (self._latest and _same_samples(self._latest[0], segment)):
            return
        # Where speech may be about to pause, the model is kept free for what then is final. What
        # is less than a frame has not been looked at yet.
        pausing = segment.silence >= FRAME
        if not segment.paused and (pausing or time.monotonic() < self._partial_due):
            return
        task = asyncio.create_task(self._decode_partial(segment))
        task.add_done_callback(lambda _: self._arrived.set())
        self._partial = (segment, task)

    def _stop_partial(self) -> None:
        if self._partial is not None:
            self._partial[1].cancel()
            self._partial = None

    async def _decode_partial(self, segment: Segment) -> None:
        asked = time.monotonic()
        decoded = await self._decode(_to_decode(segment), True)
        # Waiting counts: the more streams there are, the rarer are the partials of each.
        cost = time.monotonic() - asked
        self._partial_due = asked + max(_PARTIAL_INTERVAL_S, 2 * cost)
        self._latest = (segment, decoded)
        parts = [*self._spoken, (segment, decoded)]
        text = _join(parts)
        if not text:
            return
        start_s, end_s = parts[0][0].start / SAMPLE_RATE, segment.end / SAMPLE_RATE
        if self._outbox and isinstance(self._outbox[-1], PartialTranscript):
            self._outbox.pop()  # unread and outdated
        self._partial_sent = True
        self._emit(PartialTranscript(text, self._utterance, start_s, end_s))

    def _final(self, request: int, settled: int) -> None:
        spoken, self._spoken = self._spoken, []
        if not spoken and not request and not self._partial_sent:
            return  # nothing was said, nobody asked, and no partial waits for its final
        self._partial_sent = False
        start, end = (spoken[0][0].start, spoken[-1][0].end) if spoken else (settled, settled)
        words = tuple(
            replace(
                word,
                start_s=_on_stream(word.start_s, segment),
                end_s=_on_stream(word.end_s, segment),
            )
            for segment, decoded in spoken
            for word in decoded.words
        )
        self._emit(
            FinalTranscript(
                _join(spoken),
                self._utterance,
                start / SAMPLE_RATE,
                end / SAMPLE_RATE,
                words,
                request,
                settled / SAMPLE_RATE,
            )
        )
        self._utterance += 1

    def _emit(self, event: RecognitionEvent) -> None:
        self._outbox.append(event)
        self._news.set()


def _on_stream(seconds: float, segment: Segment) -> float:
    """A time within what was decoded of a segment; what was added to it is its end."""
    return min(segment.start / SAMPLE_RATE + seconds, segment.end / SAMPLE_RATE)


def _to_decode(segment: Segment) -> Samples:
    missing = max(0, _HUSH - segment.silence) if segment.paused else 0
    return np.pad(segment.samples, (0, missing))


def _same_samples(a: Segment, b: Segment) -> bool:
    return a.start == b.start and a.end == b.end


def _join(parts: list[tuple[Segment, Decoded]]) -> str:
    return " ".join(decoded.text for _, decoded in parts if decoded.text)
