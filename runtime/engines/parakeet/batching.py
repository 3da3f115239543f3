"""Batch after batch through the model, and answers while the next one runs.

Whatever waits when the model is free goes, and those who come meanwhile are in the next batch:
where there are more callers than a batch has room for, some are heard while the others, who
have been answered, ask again, and the device has no pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from runtime.engines.cuda import as_engine_error, is_device_failure
from runtime.engines.parakeet.batches import Heard, Job, Waiting, urgency
from runtime.engines.parakeet.boosting import Tree
from runtime.engines.parakeet.words import Tokens
from runtime.engines.worker import ModelWorker
from runtime.errors import EngineFailed, SpeechError
from runtime.speech import Samples

Recognize = Callable[[Sequence[Samples], Sequence[Tree | None]], list[Tokens]]
Read = Callable[[Tokens, int], Heard]

_PAUSE_S = 0.002  # between the arrivals of callers who come back together


class Batching:
    """Jobs in batches; used on one event loop."""

    def __init__(
        self, waiting: Waiting, worker: ModelWorker, recognize: Recognize, read: Read
    ) -> None:
        """Nothing runs before something is to be heard.

        Args:
            waiting: Which jobs are recognised together.
            worker: The model's thread.
            recognize: Tokens of a batch; called on that thread.
            read: Text and words of tokens and of how many samples they are; on any thread.

        Attributes:
            once_s: What a batch costs beyond its audio, in seconds: how long it is worth
                waiting for those who may come back together.
            lost: Why the device cannot be used any more.
        """
        self.waiting = waiting
        self.once_s = 0.0
        self.lost: SpeechError | None = None
        self._worker = worker
        self._recognize = recognize
        self._read = read
        self._arrived = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._closed: SpeechError | None = None

    async def hear(
        self, samples: Samples, boost: Tree | None = None, deadline_s: float | None = None
    ) -> Heard:
        """Wait for a turn; a caller that is cancelled leaves the queue.

        Raises:
            EngineFailed: The model failed on these samples.
            SpeechError: What ``close`` was given.
        """
        if self._closed is not None:
            raise self._closed
        loop = asyncio.get_running_loop()
        job = Job(samples, boost, urgency(loop.time(), deadline_s), loop.create_future())
        self.waiting.put(job)
        self._arrived.set()
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return await job.done

    def close(self, why: SpeechError) -> None:
        """Take no further batch; all who wait, and who come, are told ``why``."""
        self._closed = why
        if self._serving is not None:
            self._serving.cancel()
        _fail(self.waiting.drain(), why)

    async def finished(self) -> None:
        """Return once all batches that had run are answered."""
        if self._serving is not None:
            await asyncio.wait({self._serving})
        await asyncio.gather(*self._answering)

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self.waiting.take():
                await self._run(batch)
                if 1 < len(batch) > 2 * len(self.waiting):
                    await self._gather(len(batch))

    async def _gather(self, count: int) -> None:
        """Let those who were answered together, and ask again, come together.

        Unless others wait already, who are heard while these come back. As long as they keep
        coming, and no longer than it costs to recognise the first of them in a batch of its own.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self.once_s
        here = -1
        while here < len(self.waiting) < count and loop.time() < until:
            here = len(self.waiting)
            await asyncio.sleep(_PAUSE_S)

    async def _run(self, batch: list[Job]) -> None:
        sounds = [job.samples for job in batch]
        boosts = [job.boost for job in batch]
        try:
            found = await self._worker.run(self._recognize, sounds, boosts)
        except SpeechError as error:
            if isinstance(error.__cause__, Exception) and is_device_failure(error.__cause__):
                self.lost = error
            if len(batch) == 1:
                _fail(batch, error)
                return
            for job in batch:  # only the one that it failed of shall fail
                if not job.done.done():
                    await self._run([job])
        except asyncio.CancelledError:
            _fail(batch, self._closed or EngineFailed("parakeet was stopped."))
            raise
        else:
            answering = asyncio.create_task(self._answer(batch, found))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)

    async def _answer(self, batch: list[Job], found: list[Tokens]) -> None:
        """Tell callers what was heard, while the next batch runs."""
        try:
            heard = await asyncio.to_thread(self._read_all, batch, found)
        except Exception as error:
            _fail(batch, as_engine_error(error, "parakeet"))
            return
        for job, one in zip(batch, heard, strict=True):
            if not job.done.done():
                job.done.set_result(one)

    def _read_all(self, batch: list[Job], found: list[Tokens]) -> list[Heard]:
        return [
            self._read(tokens, len(job.samples)) for job, tokens in zip(batch, found, strict=True)
        ]


def _fail(jobs: list[Job], error: SpeechError) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)
