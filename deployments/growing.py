"""The texts of an utterance that grows, on their way from its caller to the engine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from runtime.tally import SpokenTally


class Growing:
    """Texts in order; ends when the caller says so, or has given nothing to say for too long."""

    def __init__(self, timeout_s: float, tally: SpokenTally) -> None:
        """There is none yet.

        Args:
            timeout_s: How long the next text is waited for once all others have been spoken.
            tally: The utterance's.
        """
        self._timeout_s = timeout_s
        self._tally = tally
        self._waiting: deque[str] = deque()
        self._news = asyncio.Event()
        self._spoken = 0
        self.count = 0
        self.over = False

    def add(self, texts: Sequence[str], removed: int, *, complete: bool) -> None:
        """These follow, as engines take them; ``removed`` characters were taken out of them."""
        self._tally.grew(texts, removed)
        self._waiting.extend(texts)
        self.count += len(texts)
        self.over = self.over or complete
        self._news.set()

    def spoken(self, texts: int) -> None:
        """So many have been spoken to their end, the request's own included."""
        if texts != self._spoken:
            self._spoken = texts
            self._news.set()

    def hurry(self) -> None:
        """Wait for no text any more: what there is ends it, and its caller asks elsewhere."""
        self._timeout_s = 0.0
        self._news.set()

    def __aiter__(self) -> Growing:
        return self

    async def __anext__(self) -> str:
        while not self._waiting:
            if self.over:
                raise StopAsyncIteration
            self._news.clear()
            try:
                async with asyncio.timeout(self._timeout_s if self._spoken > self.count else None):
                    await self._news.wait()
            except TimeoutError:
                if not self._waiting:
                    self._tally.grew((), 0)
                    self.over = True
        return self._waiting.popleft()
