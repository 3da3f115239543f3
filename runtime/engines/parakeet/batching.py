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
        self._closed: str | None = None  # why

    async def hear(
        self, samples: Samples, boost: Tree | None = None, deadline_s: float | None = None
    ) -> Heard:
        """Wait for a turn; a caller that is cancelled leaves the queue.

        Raises:
            EngineFailed: The model failed on these samples, or ``close`` was called.
        """
        if self._closed is not None:
            raise EngineFailed(self._closed)
        loop = asyncio.get_running_loop()
        job = Job(samples, boost, urgency(loop.time(), deadline_s), loop.create_future())
        self.waiting.put(job)
        self._arrived.set()
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return await job.done

    def close(self, why: str) -> None:
        """Take no further batch; all who wait, and who come, are told why."""
        self._closed = why
        if self._serving is not None:
            self._serving.cancel()
        self._leave(self.waiting.drain())

    async def finished(self) -> None:
        """Return once all batches that had run are answered."""
        for tasks in ({self._serving} if self._serving else set(), set(self._answering)):
            if tasks:
                await asyncio.wait(tasks)

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self.waiting.take():
                answering = await self._run(batch)
                if answering is not None and 1 < len(batch) > 2 * len(self.waiting):
                    await self._gather(len(batch), answering)

    async def _gather(self, count: int, answering: asyncio.Task[None]) -> None:
        """Let those who are answered together, and ask again, come together.

        Unless others wait already, who are heard while these come back. As long as they keep
        coming, and no longer than it costs to recognise the first of them in a batch of its own.
        """
        await asyncio.wait({answering})
        loop = asyncio.get_running_loop()
        until = loop.time() + self.once_s
        here = -1
        while here < len(self.waiting) < count and loop.time() < until:
            here = len(self.waiting)
            await asyncio.sleep(_PAUSE_S)

    async def _run(self, batch: list[Job]) -> asyncio.Task[None] | None:
        """Recognise a batch.

        Returns:
            What answers it; None where the model failed of it and its jobs have been run alone.
        """
        sounds = [job.samples for job in batch]
        boosts = [job.boost for job in batch]
        try:
            found = await self._worker.run(self._recognize, sounds, boosts)
        except asyncio.CancelledError:
            self._leave(batch)
            raise
        except SpeechError as error:
            failure = error
        else:
            answering = asyncio.create_task(self._answer(batch, found))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)
            return answering
        if isinstance(failure.__cause__, Exception) and is_device_failure(failure.__cause__):
            self.lost = failure
        if len(batch) == 1:
            _settle(batch[0], failure)
        else:
            await self._run_alone(batch)
        return None

    async def _run_alone(self, batch: list[Job]) -> None:
        """Only the one that the model failed of shall fail."""
        for number, job in enumerate(batch):
            try:
                if not job.done.done():
                    await self._run([job])
            except asyncio.CancelledError:
                self._leave(batch[number:])
                raise

    async def _answer(self, batch: list[Job], found: list[Tokens]) -> None:
        """Tell callers what was heard, while the next batch runs."""
        try:
            heard = await asyncio.to_thread(self._read_all, batch, found)
        except BaseException:  # the loop, or its threads, are at their end
            self._leave(batch)
            raise
        for job, one in zip(batch, heard, strict=True):
            _settle(job, one)

    def _read_all(self, batch: list[Job], found: list[Tokens]) -> list[Heard | SpeechError]:
        return [
            self._read_one(tokens, len(job.samples))
            for job, tokens in zip(batch, found, strict=True)
        ]

    def _read_one(self, tokens: Tokens, samples: int) -> Heard | SpeechError:
        try:
            return self._read(tokens, samples)
        except Exception as error:
            return as_engine_error(error, "parakeet")

    def _leave(self, jobs: list[Job]) -> None:
        """Tell those who have no answer that there will be none."""
        for job in jobs:
            _settle(job, EngineFailed(self._closed or "parakeet was stopped."))


def _settle(job: Job, heard: Heard | SpeechError) -> None:
    if job.done.done():
        return  # its caller has left, or was told
    if isinstance(heard, SpeechError):
        job.done.set_exception(heard)
    else:
        job.done.set_result(heard)
