"""Which recordings are recognised together: pure choice, by urgency and length.

Nobody waits for a batch to fill: whatever is there when the model is free goes, and the next
batch gathers while it runs. Rows of a batch are padded to its longest, so that a short
recording joins a long one only where its padding costs less than a batch of its own would.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from runtime.engines.parakeet.boosting import Tree
from runtime.speech import Samples, Word

PATIENCE_S = 5.0
"""A recording without a deadline is as urgent as one that is due so long after it came."""

_arrivals = count()


class Heard(NamedTuple):
    """What was said, and its words with their times from the first sample."""

    text: str
    words: list[Word]


@dataclass(slots=True, eq=False)
class Job:
    """A stretch of sound that waits to be recognised.

    Attributes:
        samples: float32 at 16 kHz, no longer than the engine takes at once.
        boost: Phrases to listen for.
        urgency: A time of the event loop's clock: the earlier, the sooner it is its turn.
        done: Gets what was heard; cancelled where nobody wants them any more.
    """

    samples: Samples
    boost: Tree | None
    urgency: float
    done: asyncio.Future[Heard]
    arrival: int = field(default_factory=_arrivals.__next__)


def urgency(now: float, deadline_s: float | None) -> float:
    """When a recording that came ``now`` should have its turn."""
    return now + min(PATIENCE_S, math.inf if deadline_s is None else deadline_s)


class Waiting:
    """The jobs that wait."""

    def __init__(self, rows: int, window: int, padded: int, lengths: Sequence[int] = ()) -> None:
        """What a batch can have.

        Args:
            rows: At most so many recordings.
            window: Of at most so many samples; what is longer goes alone.
            padded: And of so many together, padding included: what there is memory for.
            lengths: Samples that rows are made of, ascending: with more than one, each counts
                as long as the next of these.

        Attributes:
            free: Samples of padding that cost no more than another batch does.
        """
        self._rows = rows
        self._window = window
        self._padded = padded
        self._lengths = lengths
        self._jobs: list[Job] = []
        self.free = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> None:
        """Add a job."""
        self._jobs.append(job)

    def take(self) -> list[Job]:
        """The next batch, the most urgent job first; empty if none waits.

        Jobs whose callers have left are dropped.
        """
        self._jobs = [job for job in self._jobs if not job.done.done()]
        if not self._jobs:
            return []
        self._jobs.sort(key=lambda job: (job.urgency, job.arrival))
        batch = [self._jobs[0]]
        longest = heard = len(batch[0].samples)
        if longest <= self._window:
            for job in self._jobs[1:]:
                if len(batch) == self._rows:
                    break
                length = len(job.samples)
                rows, widest = len(batch) + 1, max(longest, length)
                if length > self._window or rows * self._made(widest) > self._padded:
                    continue
                padded = rows * widest
                if padded - heard - length > self.free:
                    continue
                batch.append(job)
                longest, heard = max(longest, length), heard + length
        chosen = set(map(id, batch))
        self._jobs = [job for job in self._jobs if id(job) not in chosen]
        return batch

    def _made(self, length: int) -> int:
        at = bisect_left(self._lengths, length)
        return self._lengths[at] if at < len(self._lengths) else length

    def drain(self) -> list[Job]:
        """Take all jobs out."""
        jobs, self._jobs = self._jobs, []
        return jobs
