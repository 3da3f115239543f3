"""A Pipecat pipeline that a test drives frame by frame, with all that comes out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self, TypeVar

from loguru import logger
from pipecat.frames.frames import EndFrame, Frame, StartFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

F = TypeVar("F", bound=Frame)

logger.disable("pipecat")  # it tells of every frame

WITHIN_S = 30.0  # of a machine that does much else
IN_RATE = 16_000


class _Tap(FrameProcessor):
    """Notes what passes in one direction."""

    def __init__(self, call: Call, direction: FrameDirection, frames: list[Frame]) -> None:
        super().__init__(enable_direct_mode=True)
        self._call, self._tapped, self._frames = call, direction, frames

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction == self._tapped and not isinstance(frame, StartFrame):
            self._frames.append(frame)
            self._call.news.set()
        await self.push_frame(frame, direction)


class Call:
    """Use as ``async with Call(service) as call``; leaving it ends the pipeline with an EndFrame.

    ``down`` and ``up`` hold the frames that have left it in each direction.
    """

    def __init__(
        self, *processors: FrameProcessor, out_rate: int = 8_000, tracing: bool = False
    ) -> None:
        self.down: list[Frame] = []
        self.up: list[Frame] = []
        self.news = asyncio.Event()
        source = _Tap(self, FrameDirection.UPSTREAM, self.up)
        sink = _Tap(self, FrameDirection.DOWNSTREAM, self.down)
        self._worker = PipelineWorker(
            Pipeline([source, *processors, sink]),
            cancel_on_idle_timeout=False,
            enable_rtvi=False,
            enable_tracing=tracing,
            params=PipelineParams(
                audio_in_sample_rate=IN_RATE,
                audio_out_sample_rate=out_rate,
                enable_metrics=True,
                enable_usage_metrics=True,
                report_only_initial_ttfb=False,
            ),
        )
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        started = asyncio.Event()

        @self._worker.event_handler("on_pipeline_started")
        async def on_pipeline_started(*_: Any) -> None:
            started.set()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self._worker)
        self._running = asyncio.create_task(runner.run())
        async with asyncio.timeout(WITHIN_S):
            await started.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def end(self) -> None:
        """The call is over, in order."""
        if self._running is not None:
            await self.send(EndFrame())
            async with asyncio.timeout(WITHIN_S):
                await self._running
            self._running = None

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self._worker.queue_frame(frame, FrameDirection.DOWNSTREAM)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition says once it says something; it is asked after each frame."""
        async with asyncio.timeout(WITHIN_S):
            while not (found := condition()):
                self.news.clear()
                await self.news.wait()
        return found

    async def next(self, kind: type[F], count: int = 1, up: bool = False) -> F:
        """The ``count``-th frame of a kind, from the first on."""
        found: list[F] = await self.until(
            lambda: len(some := self.all(kind, up=up)) >= count and some
        )
        return found[count - 1]

    def all(self, kind: type[F], up: bool = False) -> list[F]:
        """Those that have come so far."""
        return [frame for frame in (self.up if up else self.down) if isinstance(frame, kind)]

    def kinds(self, *kinds: type[Frame]) -> list[str]:
        """Names of the frames of some kinds in their order, each run of them once."""
        names = [type(frame).__name__ for frame in self.down if isinstance(frame, kinds)]
        return [name for i, name in enumerate(names) if not i or name != names[i - 1]]
