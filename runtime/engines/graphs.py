"""Work on tensors of fixed shapes as CUDA graphs, or eagerly where there are none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from runtime.engines.cuda import is_out_of_memory, side_stream

_log = logging.getLogger(__name__)

Work: TypeAlias = Callable[..., tuple[Tensor, ...]]

_WARM = 2  # runs before a capture: what libraries make lazily must be there


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def replay(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        for mine, theirs in zip(self.inputs, inputs, strict=True):
            mine.copy_(theirs, non_blocking=True)
        self.graph.replay()
        return self.outputs


class Graphs:
    """A graph for each kind of work and its shapes, captured when it is run first.

    Work must be the same operations each time, on memory that stays where it is; it may change
    that memory. It is run a few times more when it is captured: with inputs that do no harm.
    All graphs share one pool of memory, so that one's outputs hold until the next is run.
    """

    def __init__(self, device: torch.device, *, wanted: bool = True) -> None:
        """On a device other than CUDA, or where they are not wanted, all work is eager."""
        self._device = device
        self._wanted = wanted and device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self._wanted else None
        self._captured: dict[Hashable, _Captured | None] = {}
        self.fallbacks = 0

    @property
    def captured(self) -> int:
        """How many graphs there are."""
        return sum(graph is not None for graph in self._captured.values())

    def run(self, key: Hashable, work: Work, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run a piece of work, which has the same shapes whenever it has the same key.

        Raises:
            Exception: What the work raises; out of memory while it is captured.
        """
        with torch.no_grad():
            if not self._wanted:
                return work(*inputs)
            if key not in self._captured:
                self._captured[key] = self._capture(key, work, inputs)
            captured = self._captured[key]
            return work(*inputs) if captured is None else captured.replay(inputs)

    def _capture(self, key: Hashable, work: Work, inputs: tuple[Tensor, ...]) -> _Captured | None:
        held = tuple(tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._device)
        try:
            side = side_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(_WARM):
                    work(*held)
            current.wait_stream(side)
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = work(*held)
        except Exception as error:
            torch.cuda.set_stream(current)  # a capture that fails leaves the thread on its own
            if is_out_of_memory(error):
                raise
            self.fallbacks += 1
            _log.warning("no CUDA graph for %s, which runs eagerly: %s", key, error)
            return None
        return _Captured(graph, held, outputs)
