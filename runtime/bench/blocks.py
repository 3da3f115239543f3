"""Memory that somebody takes and looks after: blocks with a pattern in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_PATTERNS = 251  # a prime: what lies one power of two off is another


class Blocks:
    """Blocks of ``block`` bytes of a GPU's memory (``cuda``), or of the host's (``host``)."""

    def __init__(self, device: str, block: int) -> None:
        """Take nothing yet."""
        self._fill: Callable[[int], Any]
        if device == "cuda":
            import torch

            self._empty_cache: Callable[[], None] = torch.cuda.empty_cache
            self._fill = lambda value: torch.full((block,), value, dtype=torch.uint8, device="cuda")
        else:
            self._empty_cache = lambda: None
            self._fill = lambda value: np.full(block, value, dtype=np.uint8)
        self._block = block
        self._held: list[Any] = []

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return len(self._held) * self._block

    def take(self, size: int) -> int:
        """Take as many whole blocks as are in ``size`` bytes; how many bytes those are."""
        count = max(0, size // self._block)
        for _ in range(count):
            self._held.append(self._fill(len(self._held) % _PATTERNS))
        return count * self._block

    def drop(self) -> None:
        """Give everything back."""
        self._held.clear()
        self._empty_cache()

    def intact(self) -> bool:
        """Whether every byte is what was written."""
        blocks = enumerate(self._held)
        return all(bool((block == index % _PATTERNS).all()) for index, block in blocks)
