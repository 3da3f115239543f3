"""The texts of an utterance that grows, on their way from its caller to the engine."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from runtime.replica import Growth
from runtime.requests import resolve_text
from runtime.tally import SpokenTally


class Growing:
    """Texts in order; ends when the caller says so, or sends none for too long."""

    def __init__(self, timeout_s: float, removed: Any, tally: SpokenTally) -> None:
        """There is none yet.

        Args:
            timeout_s: How long the engine waits for the next one.
            removed: The counter of characters that cannot be spoken.
            tally: The utterance's.
        """
        self._timeout_s = timeout_s
        self._removed = removed
        self._tally = tally
        self._waiting: deque[str] = deque()
        self._news = asyncio.Event()
        self.count = 0
        self.over = False

    def add(self, growth: Growth) -> None:
        """These follow; all of them, or with an error none.

        Raises:
            NothingToSpeak: A text holds nothing to speak.
        """
        resolved = [resolve_text(text) for text in growth.texts]
        if resolved:
            removed = sum(characters for _, characters in resolved)
            self._tally.grew([text for text, _ in resolved], removed)
            if removed:
                self._removed.inc(removed)
        self._waiting.extend(text for text, _ in resolved)
        self.count += len(resolved)
        self.over = self.over or growth.complete
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
                async with asyncio.timeout(self._timeout_s):
                    await self._news.wait()
            except TimeoutError:
                self.over = not self._waiting
        return self._waiting.popleft()
