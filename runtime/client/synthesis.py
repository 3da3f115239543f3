"""An utterance on its way from the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Self

from runtime.errors import SpeechError
from runtime.replica import SynthesisStarted
from runtime.speech import PROTOCOL_VERSION, AudioChunk, SynthesisRequest

if TYPE_CHECKING:
    from runtime.client.calls import CallStream, DeploymentCalls


class SynthesisStream:
    """Audio chunks of one utterance, as an async iterator and context manager.

    Leaving the context, ``aclose()``, cancelling the task that reads, or dropping the
    stream stops the synthesis in the replica. The replica runs only a few seconds of
    audio ahead of what has been read, so a slow reader costs bounded memory.

    Attributes:
        started: How the request was understood; None until the first chunk was asked for.
    """

    def __init__(self, calls: DeploymentCalls, request: SynthesisRequest) -> None:
        """Starts with the first chunk that is asked for."""
        self._calls = calls
        self._request = request
        self._id = uuid.uuid4().hex
        self._stream: CallStream | None = None
        self._read = 0
        self._reported = 0
        self._reports: set[asyncio.Task[None]] = set()
        self.started: SynthesisStarted | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AudioChunk:
        """The next chunk.

        Raises:
            SpeechError: The request is invalid, or the daemon or engine failed.
        """
        if self._stream is None:
            self._stream = self._calls.stream(
                "synthesize", PROTOCOL_VERSION, self._id, self._request
            )
        while True:
            item = await anext(self._stream)
            if isinstance(item, AudioChunk):
                self._read = item.next_sample
                self._report_progress()
                return item
            self.started = item

    def _report_progress(self) -> None:
        """Tell the replica how far we are, often enough that it need never wait for us."""
        lead = self.started.lead if self.started is not None else 0
        if self._read - self._reported >= lead // 4:
            self._reported = self._read
            report = asyncio.ensure_future(self._advance(self._read))
            self._reports.add(report)  # a task nobody holds may be collected before it ran
            report.add_done_callback(self._reports.discard)

    async def _advance(self, read: int) -> None:
        # A report that is lost is made good by the next; a failure shows in the stream.
        with contextlib.suppress(SpeechError):
            await self._calls.call("advance", self._id, read)

    async def aclose(self) -> None:
        """Stop the synthesis if it has not ended."""
        self.cancel()

    def cancel(self) -> None:
        """The same, from a callback of the event loop."""
        if self._stream is not None:
            self._stream.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be going down
            self.cancel()
