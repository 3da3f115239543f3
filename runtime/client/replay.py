"""What a session has said since its last final, kept to be said again elsewhere."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """Something asked for at a place in the audio.

    Attributes:
        at: Samples of audio before it.
        number: Counts requests to finalize from 1; 0 is the end of the session.
    """

    at: int
    number: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Audio up to the next request, if one follows.

    Attributes:
        first_sample: Index of its first sample.
        pcm: PCM16; may be empty.
        request: What is asked for after it.
    """

    first_sample: int
    pcm: bytes
    request: Request | None


class ReplayBuffer:
    """PCM16 from the last settled sample on, and the requests whose answers are due.

    All positions are counted from the start of the session.
    """

    def __init__(self, limit: int) -> None:
        """Keeps ``limit`` samples at the most."""
        self._limit = limit
        self._first = 0
        self._pcm = bytearray()
        self._requests: deque[Request] = deque()
        self.dropped = 0  # samples not settled that had to go

    @property
    def first(self) -> int:
        """Index of the first sample that is kept."""
        return self._first

    @property
    def end(self) -> int:
        """Samples taken in all."""
        return self._first + len(self._pcm) // 2

    def append(self, pcm: bytes) -> None:
        """Take PCM16; beyond the limit the oldest is dropped and counted."""
        self._pcm += pcm
        over = len(self._pcm) // 2 - self._limit
        if over > 0:
            self._cut(over)
            self.dropped += over

    def ask(self, number: int) -> None:
        """Note a request after what has been taken so far."""
        self._requests.append(Request(self.end, number))

    def settle(self, before: int) -> None:
        """Nothing before this sample will be needed again."""
        self.dropped = min(self.dropped, max(0, self._first - before))
        self._cut(max(0, min(before, self.end) - self._first))

    def answered(self, number: int) -> None:
        """A request to finalize has its final, which settles what was before it."""
        while self._requests and 0 < self._requests[0].number <= number:
            self.settle(self._requests.popleft().at)

    @property
    def waits(self) -> bool:
        """Whether an answer is due."""
        return bool(self._requests)

    def following(self, position: int, passed: int, most: int) -> Stretch | None:
        """What comes after ``position`` and the requests up to number ``passed``.

        Args:
            position: A sample; what is no longer kept is left out.
            passed: Number of the last request that was passed on; 0 if none was.
            most: Samples at the most.

        Returns:
            None if there is nothing yet.
        """
        start = max(position, self._first)
        request = next((r for r in self._requests if not r.number or r.number > passed), None)
        until = self.end if request is None else request.at
        end = min(until, start + most)
        reached = request is not None and end >= request.at
        if end <= start and not reached:
            return None
        pcm = bytes(self._pcm[2 * (start - self._first) : 2 * (max(end, start) - self._first)])
        return Stretch(start, pcm, request if reached else None)

    def _cut(self, samples: int) -> None:
        del self._pcm[: 2 * samples]
        self._first += samples
