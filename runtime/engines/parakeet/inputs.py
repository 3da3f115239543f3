"""What a step reads: samples, lengths and slots of its streams, sent to the device in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.engines.parakeet.chunks import Chunk

_INT, _FLOAT = 8, 4  # bytes


class Inputs:
    """Memory that graphs read from, and twice the same on the host: to be filled in turns.

    Each bucket has its lengths, slots and samples one after the other in the same bytes, so
    that one copy carries a batch.
    """

    def __init__(self, batch: int, chunk: int, device: torch.device) -> None:
        """For ``batch`` streams of ``chunk`` samples at the most."""
        self._chunk = chunk
        on_gpu = device.type == "cuda"

        def host(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.uint8, pin_memory=on_gpu)

        size = batch * (2 * _INT + chunk * _FLOAT)
        self._hosts = [host(size) for _ in range(2 if on_gpu else 1)]
        self._begins = [host(batch * _INT) for _ in range(2 if on_gpu else 1)]
        # On a CPU a step has read its inputs once it is launched.
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        self._turn = 0

    def send(self, chunks: Sequence[Chunk], bucket: int, nobody: int) -> Tensor | None:
        """Send a batch, filled up to its bucket with the row ``nobody``.

        Returns:
            On the device, the slots of those who begin an utterance; None if nobody does.
        """
        self._turn = (self._turn + 1) % len(self._hosts)
        host, begins = self._hosts[self._turn], self._begins[self._turn]
        lengths, rows, samples = (part.numpy() for part in self._parts(host, bucket))
        for index, chunk in enumerate(chunks):
            length = len(chunk.samples)
            samples[index, :length] = chunk.samples
            lengths[index], rows[index] = length, chunk.row
            if length < self._chunk:
                samples[index, length:] = 0.0
        lengths[len(chunks) :], rows[len(chunks) :] = 0, nobody
        size = bucket * (2 * _INT + self._chunk * _FLOAT)
        self._device[:size].copy_(host[:size], non_blocking=True)
        fresh = [chunk.row for chunk in chunks if chunk.fresh]
        if not fresh:
            return None
        there = begins.view(torch.int64)[: len(fresh)]
        there.numpy()[:] = fresh
        return there.to(self._device.device, non_blocking=True)

    def on_device(self, bucket: int) -> tuple[Tensor, Tensor, Tensor]:
        """Samples ``(bucket, chunk)``, lengths and slots ``(bucket,)``, where graphs read them."""
        lengths, rows, samples = self._parts(self._device, bucket)
        return samples, lengths, rows

    def _parts(self, memory: Tensor, bucket: int) -> tuple[Any, Any, Any]:
        ends = np.cumsum([bucket * _INT, bucket * _INT, bucket * self._chunk * _FLOAT])
        lengths = memory[: ends[0]].view(torch.int64)
        rows = memory[ends[0] : ends[1]].view(torch.int64)
        samples = memory[ends[1] : ends[2]].view(torch.float32).view(bucket, self._chunk)
        return lengths, rows, samples
