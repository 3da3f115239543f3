"""Engines of the size of real ones, made of tensors: for memory, where nothing is to be heard.

What they allocate is what the estimate of the engine they stand for says, so that what the
driver shows of a replica can be held against what the plan predicted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from runtime.bench.engines import CountingRecognizer, PacedSynthesizer
from runtime.engines import footprint_of
from runtime.engines.worker import ModelWorker
from runtime.memory.footprint import Footprint
from runtime.speech import AudioChunk, LoadReport, SynthesisRequest

_BLOCK = 256 << 20  # bytes of one tensor: large, so that the allocator rounds little
_SPARE = 160 << 20  # of the workspace: the allocator's rounding, cuBLAS and its kernels
_SIDE = 4096  # of the matrices that are multiplied


class _Ballast:
    """Tensors as large as the weights, the state and the workspace of engine ``like``."""

    def __init__(self, *, like: str, **options: Any) -> None:
        """``options`` are those of the engine it stands for."""
        footprint = footprint_of(like, options)
        slots = footprint.slots or footprint.max_slots
        super().__init__(slots=slots)  # type: ignore[call-arg]  # of the engine mixed with
        self._footprint = footprint
        self._state = slots * footprint.state_per_slot
        self._worker = ModelWorker(f"ballast like {like}")
        self._held: list[Any] = []

    @staticmethod
    def footprint(options: Mapping[str, Any]) -> Footprint:
        """That of the engine it stands for."""
        rest = {key: value for key, value in options.items() if key != "like"}
        return footprint_of(options["like"], rest)

    async def load(self) -> LoadReport:
        """Allocate weights and state."""
        await self._worker.run(self._allocate, self._footprint.weights)
        await self._worker.run(self._allocate, self._state)
        return LoadReport(0.0, 0.0)

    async def exercise(self) -> None:
        """Allocate the workspace and let it go again; the allocator keeps it."""
        await self._worker.run(self._work)

    async def close(self) -> None:
        """Free it all."""
        await self._worker.run(self._held.clear)
        self._worker.close()

    def _allocate(self, size: int) -> None:
        while size > 0:
            self._held.append(_tensor(min(size, _BLOCK)))
            size -= _BLOCK

    def _work(self) -> None:
        workspace = []
        left = self._footprint.workspace - self._footprint.outside - _SPARE - 3 * 2 * _SIDE**2
        while left > 0:
            workspace.append(_tensor(min(left, _BLOCK)))
            left -= _BLOCK
        self._multiply()
        del workspace

    def _multiply(self) -> None:
        import torch

        one = torch.ones(_SIDE, _SIDE, dtype=torch.bfloat16, device="cuda")
        (one @ one).sum().item()

    def _leak(self) -> None:
        leaked = []
        while True:
            leaked.append(_tensor(_BLOCK))


class BallastSynthesizer(_Ballast, PacedSynthesizer):
    """Ticks, and multiplies for each utterance; the word "leak" allocates until it may not."""

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        """Work, then tick; see ``Synthesizer.synthesize``."""
        work = self._leak if "leak" in request.text else self._multiply
        await self._worker.run(work)
        async for chunk in super().synthesize(request, more):
            yield chunk
            await asyncio.sleep(0)


class BallastRecognizer(_Ballast, CountingRecognizer):
    """Counts samples beside its tensors."""


def _tensor(size: int) -> Any:
    import torch

    return torch.ones(size, dtype=torch.uint8, device="cuda")
