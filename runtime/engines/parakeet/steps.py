"""The step loop of live Parakeet: streams on event loops, batched steps on the model's thread.

The steps run one after the other for as long as any stream has a full chunk, without a word to
the event loop in between but what each step said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.engines.cuda import as_engine_error, is_device_failure
from runtime.engines.parakeet.chunks import NOTHING, Chunk, Said
from runtime.engines.parakeet.scheduler import Lane, Scheduler, Work
from runtime.engines.parakeet.session import ParakeetStream
from runtime.engines.steps import StepLog
from runtime.engines.worker import ModelWorker
from runtime.errors import EngineFailed, SpeechError
from runtime.speech import Samples

_log = logging.getLogger(__name__)

_EARLY = 64
"""So many streams must wait for a step to be prepared while another runs. Fewer are prepared
in no time, and meanwhile others may join them."""


class Model(Protocol):
    """What the steps need of a model; see ``StreamingModel``."""

    batch: int

    def prepare(self, chunks: Sequence[Chunk]) -> Any:
        """Send the inputs of a step."""
        ...

    def launch(self, prepared: Any) -> None:
        """Begin it."""
        ...

    def collect(self, prepared: Any) -> list[Said]:
        """Wait for it."""
        ...


@dataclass(slots=True)
class _Step:
    """A step under way: its parts, what the model knows it by, and what has gone wrong."""

    works: list[Work]
    prepared: Any = None
    launched: float = 0.0  # by the performance counter
    failure: SpeechError | None = None
    said: list[Said] = field(default_factory=list)


class StepLoop:
    """Streams on an event loop, steps on a thread, and the scheduler between the two."""

    def __init__(self, worker: ModelWorker, scheduler: Scheduler, name: str) -> None:
        """``name`` is the engine's, for errors."""
        self._worker, self._scheduler, self._name = worker, scheduler, name
        self._lock = threading.Lock()  # around the scheduler, and whether the steps run
        self._running = False
        self._model: Model | None = None
        self._broken: SpeechError | None = None
        self._step_began: float | None = None  # by the monotonic clock
        self.steps = 0
        self.failed_steps = 0
        self.log = StepLog()

    def start(self, model: Model | None) -> None:
        """Step with this model from now on; None ends it after the step under way."""
        self._model = model
        if model is not None:
            self._worker.meanwhile(self._step_on)

    def open(self, stream: ParakeetStream) -> Lane:
        """Take a slot for a stream.

        Raises:
            Overloaded: All slots are taken.
        """
        with self._lock:
            return self._scheduler.open(stream)

    def push(self, lane: Lane, samples: Samples) -> None:
        """See ``Steps``."""
        with self._lock:
            self._scheduler.push(lane, samples)
        self._go()

    def end(self, lane: Lane, request: int, *, last: bool = False) -> None:
        """See ``Steps``."""
        with self._lock:
            self._scheduler.end(lane, request, last=last)
        self._go()

    def leave(self, lane: Lane) -> bool:
        """See ``Steps``."""
        with self._lock:
            return self._scheduler.close(lane)

    def check(self, hung_s: float) -> None:
        """See ``Checked``; a step that takes longer than ``hung_s`` will never end.

        Raises:
            EngineFailed: The model cannot go on.
        """
        if self._broken is not None:
            raise self._broken
        began = self._step_began
        if began is not None and (took := time.monotonic() - began) > hung_s:
            raise EngineFailed(f"{self._name}: the GPU has not answered for {took:.0f} s.")

    @property
    def taken(self) -> int:
        """Slots that are not free."""
        with self._lock:
            return self._scheduler.taken

    @property
    def busy(self) -> bool:
        """Whether a step runs, or waits to."""
        with self._lock:
            return self._running or self._scheduler.waiting > 0

    def _go(self) -> None:
        """Let the model's thread step, unless it does."""
        with self._lock:
            if self._running or self._model is None or not self._scheduler.waiting:
                return
            self._running = True
        self._worker.nudge()

    def _step_on(self) -> bool:
        """Step until nothing waits, or until other work does; on the model's thread.

        No step is under way when it returns: whether there may be another.
        """
        current = self._take(stop=True)
        if current is None:
            return False
        self._guard(current, self._launch)
        while current is not None:
            following = self._take() if self._many_wait() else None
            self._guard(current, self._collect)
            with self._lock:
                self._scheduler.done(current.works)
            if following is None and not self._worker.has_jobs:
                following = self._take()
            if following is not None:
                self._guard(following, self._launch)
            self._hand_over(current)
            current = following
        return True

    def _many_wait(self) -> bool:
        if self._worker.has_jobs:
            return False
        with self._lock:
            return self._scheduler.waiting >= _EARLY

    def _take(self, *, stop: bool = False) -> _Step | None:
        """Prepare the next step; if there is none, and ``stop``, the thread is done."""
        model = self._model
        with self._lock:
            works = [] if model is None else self._scheduler.take(model.batch)
            if not works:
                self._running = self._running and not stop
                return None
        step = _Step(works)
        self._guard(step, self._prepare)
        return step

    def _prepare(self, model: Model, step: _Step) -> None:
        chunks = [work.chunk for work in step.works if work.chunk is not None]
        if chunks:
            step.prepared = model.prepare(chunks)

    def _launch(self, model: Model, step: _Step) -> None:
        if step.prepared is not None:
            step.launched = time.perf_counter()
            model.launch(step.prepared)
            self.steps += 1

    def _collect(self, model: Model, step: _Step) -> None:
        heard: list[Said] = []
        if step.prepared is not None:
            self._step_began = time.monotonic()
            try:
                heard = model.collect(step.prepared)
            finally:
                self._step_began = None
            ms = (time.perf_counter() - step.launched) * 1e3
            self.log.add("step", ms, len(heard))
        said = iter(heard)
        step.said = [NOTHING if work.chunk is None else next(said) for work in step.works]

    def _guard(self, step: _Step, part: Callable[[Model, _Step], None]) -> None:
        """Do a part of a step; one that fails is given up."""
        model = self._model
        if step.failure is not None:
            return
        try:
            if model is None:
                raise EngineFailed(f"{self._name} has been closed.")
            part(model, step)
        except SpeechError as error:
            step.failure = error
        except Exception as error:
            self.failed_steps += 1
            _log.exception("%s: a step with %d streams failed", self._name, len(step.works))
            step.failure = as_engine_error(error, self._name)
            if is_device_failure(error):
                self._broken = step.failure

    def _hand_over(self, step: _Step) -> None:
        for loop in {_owner(work).loop for work in step.works}:  # in a replica: the one there is
            with contextlib.suppress(RuntimeError):  # closed, and its streams with it
                loop.call_soon_threadsafe(self._hear, step, loop)

    def _hear(self, step: _Step, loop: asyncio.AbstractEventLoop) -> None:
        for index, work in enumerate(step.works):
            stream = _owner(work)
            if stream.loop is not loop:
                continue
            if step.failure is not None:
                # What its state holds after half a step nobody knows.
                stream.fail(step.failure)
                continue
            try:
                stream.hear(work, step.said[index])
            except Exception as error:  # must not cost the other streams of the step their words
                _log.exception("%s: what a stream said cannot be read", self._name)
                stream.fail(as_engine_error(error, self._name))


def _owner(work: Work) -> ParakeetStream:
    stream = work.lane.owner
    assert isinstance(stream, ParakeetStream)
    return stream
