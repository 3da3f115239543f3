"""A CUDA graph of a small network of torch's: captured, replayed, and compared with eager."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runtime.engines.trials.line import Outcome
from runtime.errors import UnknownEngine

_LAYERS, _WIDTH, _ROWS = 4, 256, 8
_REPEATS = 100
_TOLERANCE = 1e-4
"""Of numbers about 1: within a graph cuBLAS may pick another kernel."""


def replay(_: Mapping[str, Any]) -> Iterator[Outcome]:
    """Capture with one input and replay with another: one outcome."""
    import torch

    if not torch.cuda.is_available():
        raise UnknownEngine(
            f"torch {torch.__version__} finds no GPU: install a build of it for this driver's CUDA."
        )
    torch.manual_seed(0)
    layers: list[Any] = []
    for _layer in range(_LAYERS):
        layers += [
            torch.nn.Linear(_WIDTH, 4 * _WIDTH),
            torch.nn.GELU(),
            torch.nn.Linear(4 * _WIDTH, _WIDTH),
            torch.nn.LayerNorm(_WIDTH),
        ]
    network = torch.nn.Sequential(*layers).to("cuda").eval()
    with torch.no_grad():
        held, other = (torch.randn(_ROWS, _WIDTH, device="cuda") for _ in range(2))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is made lazily must be made before the capture
            for _warm in range(3):
                network(held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            given = network(held)
        held.copy_(other)
        graph.replay()
        error = float((given - network(other)).abs().max())
        eager_us = _microseconds(torch, lambda: network(other))
        graph_us = _microseconds(torch, graph.replay)
    found = (
        f"torch {torch.__version__} on {torch.cuda.get_device_name()}: {4 * _LAYERS} operations "
        f"replay in {graph_us:.0f} us, eager takes {eager_us:.0f} us; largest difference "
        f"{error:.1e}"
    )
    if error <= _TOLERANCE:
        yield Outcome("pass", found)
    else:
        mend = "torch and the driver do not go together: install a build for this driver's CUDA"
        yield Outcome("fail", found, mend)


def _microseconds(torch: Any, work: Callable[[], object]) -> float:
    """Of one call, on average."""
    work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(_REPEATS):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / _REPEATS * 1e6
