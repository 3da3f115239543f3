"""An utterance on its way from the daemon, whichever replicas it takes."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from runtime.client.growing import GrowingTexts
from runtime.client.rerate import Rerate
from runtime.client.seam import Splice
from runtime.errors import Overloaded, ReplicaLost, SessionClosed, SpeechError
from runtime.replica import SynthesisStarted
from runtime.settings import Settings
from runtime.speech import PROTOCOL_VERSION, AudioChunk, SynthesisRequest

if TYPE_CHECKING:
    from runtime.client.calls import CallStream, DeploymentCalls


class SynthesisStream:
    """Audio chunks of one utterance, as an async iterator and context manager.

    Leaving the context, ``aclose()``, cancelling the task that reads, or dropping the
    stream stops the synthesis in the replica. The replica runs only a few seconds of
    audio ahead of what has been read, so a slow reader costs bounded memory.

    If the replica is lost, another goes on with the sentence it was at: from the very
    sample where the engine repeats its audio by seed, with the sentence said again
    where it does not. Indices of samples go on without a gap either way.

    A stream that grows speaks texts as they come, ``extend`` by ``extend``, until ``finish``:
    what has been said of one shapes the next where the engine can. ``AudioChunk.texts`` tells
    how many are spoken. With nothing to say it gives its slot back after ``text_timeout_s``,
    and takes one again when there is.

    Attributes:
        id: Under which the replicas know it.
        started: How the request was understood; None until the first chunk was asked for.
        takeovers: How many times another replica went on with it.
    """

    def __init__(
        self,
        calls: DeploymentCalls,
        request: SynthesisRequest,
        settings: Settings,
        sample_rate: int | None = None,
        *,
        growing: bool = False,
    ) -> None:
        """Starts with the first chunk that is asked for; at the engine's rate if None is given."""
        self._growth = GrowingTexts(request.text) if growing else None
        self._sending: asyncio.Task[None] | None = None
        self._speaker: str | None = None  # the replica that takes texts
        self._rerate = None if sample_rate is None else Rerate(sample_rate)
        self.id = uuid.uuid4().hex
        self.started: SynthesisStarted | None = None
        self.takeovers = 0
        self._calls = calls
        self._request = request
        self._answer_timeout_s = settings.answer_timeout_s
        self._patience = calls.patience(settings.takeover_timeout_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stream: CallStream | None = None
        self._closed = False
        self._splice: Splice | None = None
        self._read = 0  # samples
        self._last = 0  # the last of them
        self._piece = request.first_piece
        self._piece_start = 0
        self._piece_over = False
        self._ended = False
        self._told_end = False
        self._reported = 0
        self._reports: set[asyncio.Task[None]] = set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AudioChunk:
        """The next chunk.

        Raises:
            SpeechError: The request is invalid, the engine failed, or the daemon is gone.
        """
        self._loop = asyncio.get_running_loop()
        while not self._closed:
            try:
                if self._stream is None:
                    if self._growth is not None and self.started is not None:
                        if self._growth.complete:
                            return self._last_chunk(self._growth, self.started.sample_rate)
                        if await self._growth.waited():
                            continue
                    await self._open()
                    continue
                chunk = await anext(self._stream)
            except StopAsyncIteration:
                self._end_call()
                continue
            except (Overloaded, ReplicaLost) as error:
                await self._recover(error)
                continue
            self._report_progress(chunk.next_sample)
            placed = chunk if self._splice is None else self._splice.place(chunk)
            if placed is None:
                continue
            self._note(placed)
            if self._growth is not None:
                placed = self._grown(placed, self._growth)
            elif not placed.samples and not placed.end:
                continue
            heard = placed if self._rerate is None else self._rerate.convert(placed)
            if heard is not None:
                return heard
        raise StopAsyncIteration

    async def _open(self) -> None:
        begun = self.started is not None
        resumed = begun and not self._ended  # else it has come to the end of its texts
        request = self._remaining() if begun else self._request
        self._reported = 0
        self._speaker = None
        self._patience.begin()
        growth = None if self._growth is None else self._growth.begin()
        self._stream = self._calls.stream(
            "synthesize", PROTOCOL_VERSION, self.id, request, resumed, growth
        )
        started = await self._stream.first(min(self._answer_timeout_s, self._patience.left_s))
        if isinstance(started, SynthesisStarted):
            self._patience.answered()
            self.started = started
            self.takeovers += resumed
            self._speaker = started.replica
            self._ended = False
            self._send_texts()
        elif not self._closed:
            raise ReplicaLost("The replica ended the call before it began.")

    def _remaining(self) -> SynthesisRequest:
        """What is left to say, from the start of the piece that was under way."""
        assert self.started is not None
        repeats = self.started.seed is not None
        if self._piece_over:
            self._splice = Splice(self._read, self._read, None)
            piece = self._piece + 1
        else:
            starts_at = self._piece_start if repeats else self._read
            self._splice = Splice(starts_at, self._read, self._last)
            piece = self._piece
        return replace(self._request, first_piece=piece, seed=self.started.seed)

    async def _recover(self, error: Overloaded | ReplicaLost) -> None:
        """Return if another replica may do what this one could not."""
        if self._ended and self._speaker is not None:  # only the end of the call itself was lost
            self._end_call()
            return
        self._stream = None
        if isinstance(error, ReplicaLost) and self.started is not None:
            self._calls.replicas.lost(self.started.replica)
        await self._patience.wait(error, begun=self.started is not None)

    def _end_call(self) -> None:
        """The replica has said all it had; that was all, unless more is to come of the texts."""
        self._stream = None
        self._closed = self._closed or self._growth is None or self._told_end or not self._ended

    def _note(self, chunk: AudioChunk) -> None:
        if chunk.samples:
            self._last = int.from_bytes(chunk.pcm[-2:], "little", signed=True)
            if chunk.piece != self._piece:
                self._piece, self._piece_start = chunk.piece, chunk.first_sample
            self._piece_over = False
        self._piece_over = self._piece_over or chunk.piece_end or chunk.end
        self._read = chunk.next_sample
        self._ended = chunk.end

    # --- texts that follow ---------------------------------------------------

    def extend(self, text: str) -> None:
        """Speak this, too, after what has been given so far.

        Raises:
            NothingToSpeak: The text holds no letter and no number.
            TextTooLong: All texts together are more than one request carries.
            SessionClosed: The stream was finished or has ended, or does not grow.
        """
        if self._growth is None or self._closed:
            raise SessionClosed("The utterance takes no more text; begin another one.")
        self._growth.add(text)
        self._send_texts()

    def finish(self) -> None:
        """No more text: the stream ends once all has been spoken."""
        if self._growth is not None:
            self._growth.finish()
            self._send_texts()

    def _grown(self, chunk: AudioChunk, growth: GrowingTexts) -> AudioChunk:
        """The chunk with what is known of all texts; the end of a replica's is none of ours."""
        texts = growth.noted(chunk.texts)
        self._told_end = chunk.end and growth.complete
        if chunk.end and not self._told_end:
            return replace(chunk, texts=texts, piece_end=True, end=False)
        return replace(chunk, texts=texts)

    def _last_chunk(self, growth: GrowingTexts, rate: int) -> AudioChunk:
        self._closed = True
        last = AudioChunk(b"", rate, self._read, self._piece, texts=growth.spoken, end=True)
        return last if self._rerate is None else self._rerate.convert(last) or last

    def _send_texts(self) -> None:
        """Give the replica what it has not got, in one call after the other."""
        growth, speaker = self._growth, self._speaker
        if growth is None or speaker is None or self._sending is not None:
            return
        if growth.unsent() is not None:
            self._sending = asyncio.ensure_future(self._send(growth, self._stream, speaker))
            self._sending.add_done_callback(self._sent)

    async def _send(self, growth: GrowingTexts, stream: CallStream | None, replica: str) -> None:
        while stream is self._stream and (unsent := growth.unsent()) is not None:
            first, texts = unsent
            try:
                known = await self._calls.call("extend", self.id, first, texts, replica=replica)
            except SpeechError:
                # If the replica is lost, the next is given all texts. If only the call was, it
                # ends for want of text, and is asked again.
                known = -1
            if stream is self._stream:
                growth.sent(known, texts)

    def _sent(self, _: asyncio.Task[None]) -> None:
        self._sending = None
        self._send_texts()  # if another replica has begun meanwhile

    # --- how far we are ------------------------------------------------------

    def _report_progress(self, read: int) -> None:
        """Tell the replica how far we are, often enough that it need never wait for us.

        ``read`` counts the samples of this replica, those that are left out included.
        """
        assert self.started is not None
        if read - self._reported >= self.started.lead // 4:
            self._reported = read
            report = asyncio.ensure_future(self._advance(self.started.replica, read))
            self._reports.add(report)  # a task nobody holds may be collected before it ran
            report.add_done_callback(self._reports.discard)

    async def _advance(self, replica: str, read: int) -> None:
        # A report that is lost is made good by the next; a failure shows in the stream.
        with contextlib.suppress(SpeechError):
            await self._calls.call("advance", self.id, read, replica=replica)

    async def aclose(self) -> None:
        """Stop the synthesis if it has not ended."""
        self.cancel()

    def cancel(self) -> None:
        """The same, from a callback of the event loop."""
        self._closed = True
        if self._growth is not None:
            self._growth.finish()  # who waits for text is told
        if self._stream is not None:
            self._stream.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Perhaps in another thread, perhaps while the interpreter goes down.
        if self._loop is not None and not self._closed:
            with contextlib.suppress(Exception):
                self._loop.call_soon_threadsafe(_cancel, self._stream)


def _cancel(stream: CallStream | None) -> None:
    if stream is not None:
        stream.cancel()
