"""A recording that is longer than the model takes at once, or arrives in pieces.

It is cut into windows as it comes; what two windows both heard is joined where they agree, and
sentences leave as soon as no later window can change them. Memory is bounded: ``push`` waits
while enough windows are under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace

from runtime.audio import silence_invalid
from runtime.engines.parakeet.windows import SAMPLE_RATE, Layout, Window, Windower, seam
from runtime.engines.parakeet.words import ends_sentence, sentences, utterance
from runtime.errors import SessionClosed
from runtime.speech import FinalTranscript, RecognitionEvent, Samples, Word

_HOLD_S = 20.0  # a sentence that does not end is given out in parts no longer than this


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A window whose words are on their way; ``request`` is that of whoever ended it."""

    window: Window
    words: asyncio.Task[list[Word]]
    request: int


class RecordingStream:
    """Audio in, sentences out; see ``RecognitionStream``."""

    def __init__(
        self,
        layout: Layout,
        recognize: Callable[[Samples], Awaitable[list[Word]]],
        *,
        with_words: bool,
        ahead: int,
        on_close: Callable[[RecordingStream], None],
    ) -> None:
        """Needs a running event loop.

        Args:
            layout: How it is cut.
            recognize: Words of a window, times since its first sample.
            with_words: Whether the finals carry words.
            ahead: How many windows may be under way.
            on_close: Called when the slot is free.
        """
        self._layout = layout
        self._recognize = recognize
        self._with_words = with_words
        self._ahead = ahead
        self._on_close = on_close
        self._windower = Windower(layout)
        self._under_way: deque[_UnderWay] = deque()
        self._held: list[Word] = []  # of the last window, and what a sentence still lacks
        self._outbox: deque[RecognitionEvent] = deque()
        self._changed = asyncio.Condition()
        self._requests = 0
        self._utterances = 0
        self._ended = False  # by finish() or close(): nothing more is taken
        self._complete = False  # and the last window is under way
        self._finished = False  # and all is said
        self._failure: BaseException | None = None
        self._joining = asyncio.create_task(self._join())

    async def push(self, samples: Samples) -> None:
        """Add samples; see ``RecognitionStream.push``."""
        step = self._layout.core  # windows must not pile up within one push
        samples, _ = silence_invalid(samples)
        for start in range(0, len(samples), step):
            self._check_open()
            for window in self._windower.push(samples[start : start + step]):
                await self._start(window, request=0)

    async def finalize(self) -> int:
        """End the utterance; see ``RecognitionStream.finalize``."""
        self._check_open()
        self._requests += 1
        request = self._requests
        await self._start(self._windower.flush(), request)
        return request

    async def finish(self) -> None:
        """No more audio; see ``RecognitionStream.finish``."""
        self._check_open()
        self._ended = True
        await self._start(self._windower.flush(), request=0)
        self._complete = True
        await self._tell()

    async def events(self) -> AsyncGenerator[RecognitionEvent, None]:
        """Finals; see ``RecognitionStream.events``."""
        while True:
            while self._outbox:
                yield self._outbox.popleft()
            if self._failure is not None:
                raise self._failure
            if self._finished:
                return
            async with self._changed:
                await self._changed.wait_for(
                    lambda: bool(self._outbox or self._failure or self._finished)
                )

    async def close(self) -> None:
        """Free the slot; see ``RecognitionStream.close``."""
        self._ended = self._finished = True
        self._joining.cancel()
        for one in self._under_way:
            one.words.cancel()
        self._under_way.clear()
        self._on_close(self)
        await self._tell()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._ended:
            raise SessionClosed("The recognition stream has ended; open another one.")

    async def _start(self, window: Window, request: int) -> None:
        async with self._changed:
            await self._changed.wait_for(
                lambda: len(self._under_way) < self._ahead or self._failure or self._finished
            )
            if self._failure is not None:
                raise self._failure
            if self._finished:
                raise SessionClosed("The recognition stream was closed.")
            words = asyncio.create_task(self._hear(window))
            self._under_way.append(_UnderWay(window, words, request))
            self._changed.notify_all()

    async def _hear(self, window: Window) -> list[Word]:
        if not len(window.samples):
            return []
        offset = window.start / SAMPLE_RATE
        return [
            replace(word, start_s=word.start_s + offset, end_s=word.end_s + offset)
            for word in await self._recognize(window.samples)
        ]

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # --- joining -------------------------------------------------------------

    async def _join(self) -> None:
        """Take windows as they are done, in order, until the last of a finished stream."""
        try:
            seam_s: float | None = None
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: bool(self._under_way or self._complete))
                if not self._under_way:
                    break
                one = self._under_way[0]
                self._add(await one.words, seam_s)
                end_s = one.window.cut / SAMPLE_RATE
                seam_s = None if one.window.last else end_s
                self._give(end_s, one)
                self._under_way.popleft()
                await self._tell()
        except Exception as error:
            self._failure = error
        else:
            self._finished = True
        await self._tell()

    def _add(self, words: list[Word], seam_s: float | None) -> None:
        if seam_s is None:
            self._held = words
            return
        kept, first = seam(self._held, words, seam_s, self._layout.context / SAMPLE_RATE)
        self._held = self._held[:kept] + words[first:]

    def _give(self, cut_s: float, one: _UnderWay) -> None:
        """Say what is certain by now: sentences that end well before the next window begins."""
        if one.window.last:
            self._say(len(self._held), cut_s, one.request)
            return
        certain = cut_s - self._layout.context / SAMPLE_RATE
        sure = sum(word.end_s < certain for word in self._held)
        ends = [i + 1 for i in range(sure) if ends_sentence(self._held[i])]
        if not ends and sure and certain - self._held[0].start_s > _HOLD_S:
            ends = [sure]
        if ends:
            settled = self._held[ends[-1]].start_s if ends[-1] < len(self._held) else certain
            self._say(ends[-1], settled, 0)

    def _say(self, count: int, settled_s: float, request: int) -> None:
        said, self._held = self._held[:count], self._held[count:]
        finals = [utterance(words, 0, self._with_words) for words in sentences(said)]
        if request and not finals:
            finals = [FinalTranscript("", 0, settled_s, settled_s)]
        for index, final in enumerate(finals):
            last = index == len(finals) - 1
            self._outbox.append(
                replace(
                    final,
                    utterance=self._utterances,
                    request=request if last else 0,
                    settled_s=settled_s if last else final.end_s,
                )
            )
            self._utterances += 1
