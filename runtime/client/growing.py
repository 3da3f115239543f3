"""The texts of an utterance that grows, as its caller has them."""

from __future__ import annotations

import asyncio

from runtime.errors import SessionClosed
from runtime.replica import Growth
from runtime.requests import check_text_length, resolve_text

_LONG = 10_000  # characters; of more, cleaning takes longer than a loop may be held


class GrowingTexts:
    """Which texts there are, which of them the replica has, and which it has spoken.

    Attributes:
        spoken: How many, the request's own included.
    """

    def __init__(self, first: str) -> None:
        """``first`` is the request's own text."""
        self._size = len(first.encode("utf-8", errors="surrogatepass"))
        self._texts: list[str] = []
        self._finished = False
        self._news = asyncio.Event()
        self._given = 0  # to the replica that speaks
        self._told = False  # that there will be no others
        self._cut_off = True  # it takes none
        self.spoken = 0

    def add(self, text: str) -> None:
        """This follows.

        Raises:
            NothingToSpeak: It holds no letter and no number.
            TextTooLong: All texts together are more than one request carries.
            SessionClosed: After ``finish``.
        """
        if self._finished:
            raise SessionClosed("The utterance was finished; begin another one.")
        if len(text) <= _LONG:  # else the replica does, off its event loop
            resolve_text(text)
        check_text_length(text, self._size)
        self._size += len(text.encode("utf-8", errors="surrogatepass"))
        self._texts.append(text)
        self._news.set()

    def finish(self) -> None:
        """Nothing follows."""
        self._finished = True
        self._news.set()

    @property
    def complete(self) -> bool:
        """Whether all has been spoken, and nothing follows."""
        return self._finished and self.spoken > len(self._texts)

    async def waited(self) -> bool:
        """If there is nothing to speak, wait until something has changed; whether that was so."""
        if self.spoken <= len(self._texts):
            return False
        self._news.clear()
        await self._news.wait()
        return True

    def noted(self, texts: int) -> int:
        """So many are spoken by what a replica says; returns how many are."""
        self.spoken = max(self.spoken, texts)
        return self.spoken

    # --- what the replica has ------------------------------------------------

    def begin(self) -> Growth:
        """All of them, for a replica that begins with the utterance."""
        self._given, self._told, self._cut_off = len(self._texts), self._finished, False
        return Growth(tuple(self._texts), self._finished)

    def unsent(self) -> tuple[int, Growth] | None:
        """What the replica has not got, and where that begins."""
        if self._cut_off or (self._given == len(self._texts) and self._told == self._finished):
            return None
        return self._given, Growth(tuple(self._texts[self._given :]), self._finished)

    def sent(self, known: int, growth: Growth) -> None:
        """The replica has so many now, ``growth`` with them; -1 if it takes none any more."""
        self._cut_off = known < 0
        if known >= 0:
            self._given, self._told = known, growth.complete
