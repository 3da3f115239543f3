"""Features and encoder of batches as CUDA graphs.

Launching the encoder's kernels one by one takes 50 ms of a core, whatever the batch: longer
than computing does, up to some minutes of audio (H100), and longer still where callers of the
same process want the interpreter. Graphs are made once for a ladder of sizes, and a batch takes
the smallest that holds it. Larger ones, what is longer than a window, and all on a CPU, run
eagerly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.engines.cuda import is_out_of_memory, side_stream

_log = logging.getLogger(__name__)

MOST_S = 360.0
"""Seconds of audio in the largest batch with a graph: computing takes twice as long as launching,
and the graphs keep 1.4 GiB."""

_LENGTHS_S = (5.0, 7.5, 10.0, 15.0, 20.0)
_HALVES = 8  # from so many rows on there is a size between a power of two and the next
_WARM_UPS = 2  # cuFFT's plans and cuDNN's choices are made outside of a graph


@dataclass(frozen=True, slots=True)
class Size:
    """Rows of a batch, and samples of each."""

    rows: int
    samples: int

    @property
    def padded(self) -> int:
        """Samples in all."""
        return self.rows * self.samples


def ladder(rows: int, windows: int, window_s: float, rate: int) -> list[Size]:
    """Sizes of batches that get a graph, the largest first.

    Args:
        rows: The most recordings in a batch.
        windows: How many of ``window_s`` seconds fill one.
        window_s: The longest.
        rate: Samples a second.
    """
    sizes, most_s = set(), min(windows * window_s, MOST_S)
    for length in lengths_s(window_s):
        samples = round(length * rate)
        for count in _counts(min(rows, int(most_s / length))):
            sizes.add(Size(count, samples))
    return sorted(sizes, key=lambda size: (size.padded, size.samples), reverse=True)


def lengths_s(window_s: float) -> list[float]:
    """How long the rows of batches are made, in seconds, the shortest first."""
    return sorted({min(length, window_s) for length in (*_LENGTHS_S, window_s)})


def _counts(most: int) -> set[int]:
    """Rows from 1 to ``most``: each at most a third above the one before, once there are some."""
    if not most:
        return set()
    powers = [1 << power for power in range(most.bit_length())]
    between = [power + power // 2 for power in powers if power >= _HALVES]
    return {count for count in (*powers, *between) if count < most} | {most}


class EncoderGraphs:
    """Graphs of one function of a signal and its lengths, by the size of the batch."""

    def __init__(self, encode: Callable[[Any, Any], tuple[Any, Any]], sizes: Sequence[Size]):
        """``encode`` takes ``(rows, samples)`` and ``(rows,)`` on the GPU. Nothing is made yet."""
        self._encode = encode
        self._sizes = sizes
        self._graphs: dict[Size, tuple[Any, Any, Any]] = {}
        self._signal: Any = None
        self._lengths: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def capture(self) -> None:
        """Make the graphs, the largest first: they share its memory.

        One that cannot be made is logged, and its batches run eagerly.
        """
        import torch

        if not self._sizes:
            return
        self._signal = torch.zeros(self._sizes[0].padded, device="cuda")
        self._lengths = torch.zeros(
            max(size.rows for size in self._sizes), dtype=torch.long, device="cuda"
        )
        pool, current = torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
        for size in self._sizes:
            try:
                self._graphs[size] = self._captured(size, pool)
            except Exception as error:
                torch.cuda.set_stream(current)  # a capture that fails leaves the thread on its own
                if is_out_of_memory(error):
                    raise
                _log.warning(
                    "batches of %d x %d samples run without a CUDA graph: %s",
                    size.rows,
                    size.samples,
                    error,
                )

    def run(
        self, fill: Callable[[Any, Any], None], rows: int, samples: int, free: int
    ) -> tuple[Any, Any] | None:
        """Encode a batch by the smallest graph that holds it.

        Args:
            fill: Writes the batch into the first rows of a signal and of its lengths.
            rows: Of the batch.
            samples: Of its longest row.
            free: Samples of padding that cost no more than launching kernels does.

        Returns:
            Encoder output and lengths of the batch, valid until the next run; None where no
            graph fits.
        """
        fitting = [s for s in self._graphs if s.rows >= rows and s.samples >= samples]
        size = min(fitting, key=lambda size: size.padded, default=None)
        if size is None or size.padded - rows * samples > free:
            return None
        signal, lengths = self._inputs(size)
        signal.zero_()
        lengths.fill_(size.samples)
        fill(signal, lengths)
        graph, encoded, encoded_lengths = self._graphs[size]
        graph.replay()
        return encoded[:rows], encoded_lengths[:rows]

    def _inputs(self, size: Size) -> tuple[Any, Any]:
        return self._signal[: size.padded].view(size.rows, -1), self._lengths[: size.rows]

    def _captured(self, size: Size, pool: Any) -> tuple[Any, Any, Any]:
        import torch

        signal, lengths = self._inputs(size)
        lengths.fill_(size.samples)
        side = side_stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._encode(signal, lengths)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The other engine of this process may use the GPU meanwhile, from a thread of its own.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            encoded, encoded_lengths = self._encode(signal, lengths)
        return graph, encoded, encoded_lengths
