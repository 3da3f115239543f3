"""Recordings longer than one window: where they are cut, and where the words of two windows meet.

Windows overlap: each sees ``context`` samples beyond both of its cuts, so that no word lies at
the edge of every window that hears it. Pure arithmetic over samples and words; nothing here
knows a model, and what is cut does not depend on how the samples were split into pushes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.speech import Samples, Word

SAMPLE_RATE = 16_000
_FRAME = 160  # samples: loudness is taken of 10 ms
_QUIET_FRAMES = 30  # a cut lies in the middle of the quietest 300 ms: a pause between two words
_SAME_WORD_S = 0.4  # how far apart two windows may hear the middle of the same word


@dataclass(frozen=True, slots=True)
class Layout:
    """How a recording is cut; all in samples at 16 kHz.

    Attributes:
        window: The longest window.
        context: What a window sees beyond each of its cuts.
        search: How far back from the latest possible cut a quieter place is looked for.
    """

    window: int
    context: int
    search: int

    def __post_init__(self) -> None:
        assert 0 < self.search < self.core

    @property
    def core(self) -> int:
        """The most that lies between two cuts."""
        return self.window - 2 * self.context


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stretch to be recognised, of which the words between its cuts count.

    Attributes:
        samples: float32 at 16 kHz.
        start: Index in the recording of its first sample.
        cut: Index in the recording where the next window takes over; its end if it is the last.
        last: Whether the recording ends with it.
    """

    samples: Samples
    start: int
    cut: int
    last: bool


class Windower:
    """A recording's samples in, overlapping windows out."""

    def __init__(self, layout: Layout) -> None:
        """Starts at sample 0."""
        self._layout = layout
        self._blocks: list[Samples] = []
        self._kept_from = 0  # index of the first sample that is kept
        self._position = 0
        self._cut = 0  # where the next window's words begin to count

    @property
    def position(self) -> int:
        """Samples taken so far."""
        return self._position

    def push(self, samples: Samples) -> list[Window]:
        """Take samples; return the windows that are complete with them."""
        if len(samples):
            self._blocks.append(samples)
            self._position += len(samples)
        windows = []
        # What is left must not fit into one window: the last one needs no cut at its end.
        while self._position - self._cut > self._layout.core + self._layout.context:
            windows.append(self._next())
        return windows

    def flush(self) -> Window:
        """What is left, as the last window; samples that follow belong to nothing before them."""
        window = Window(self._kept(), self._kept_from, self._position, last=True)
        self._blocks.clear()
        self._kept_from = self._cut = self._position
        return window

    def _next(self) -> Window:
        kept, layout = self._kept(), self._layout
        latest = self._cut - self._kept_from + layout.core
        cut = latest - layout.search + quietest(kept[latest - layout.search : latest])
        window = Window(
            kept[: cut + layout.context], self._kept_from, self._kept_from + cut, last=False
        )
        drop = cut - layout.context
        self._cut = window.cut
        self._kept_from += drop
        self._blocks[:] = [kept[drop:]]
        return window

    def _kept(self) -> Samples:
        if len(self._blocks) != 1:
            empty: Samples = np.zeros(0, dtype=np.float32)
            self._blocks[:] = [np.concatenate([empty, *self._blocks])]
        return self._blocks[0]


def quietest(samples: Samples) -> int:
    """Index of the middle of the quietest 300 ms, the last such place if there are several."""
    frames = len(samples) // _FRAME
    energy = np.square(samples[: frames * _FRAME].reshape(frames, _FRAME)).sum(axis=1)
    width = min(_QUIET_FRAMES, frames)
    if not width:
        return len(samples)
    loudness = np.convolve(energy.astype(np.float64), np.ones(width), mode="valid")
    last = len(loudness) - 1 - int(np.argmin(loudness[::-1]))
    return (2 * last + width) * _FRAME // 2


def seam(
    left: Sequence[Word], right: Sequence[Word], cut_s: float, context_s: float
) -> tuple[int, int]:
    """Where the words of one window end and those of the next begin.

    The word nearest to the cut that both heard ends the left window's words, so that none is
    lost or said twice where the two disagree about its time. If they heard none in common near
    the cut, words belong to the side on which their middle lies.

    Args:
        left: Words of the window before the cut, in order; times in the recording.
        right: Words of the window after it.
        cut_s: Time of the cut.
        context_s: How far beyond the cut both windows reach.

    Returns:
        How many words of ``left`` are kept, and the index in ``right`` of the first that is.
    """
    # At the edge of a window its words cannot be trusted.
    reach = context_s / 2
    ours = [i for i, word in enumerate(left) if abs(_middle(word) - cut_s) <= reach]
    theirs = [j for j, word in enumerate(right) if abs(_middle(word) - cut_s) <= reach]
    matches = []
    for i in ours:
        j = _nearest(left[i], right, theirs)
        if j is not None and _nearest(right[j], left, ours) == i:
            matches.append((abs(_middle(left[i]) - cut_s), i, j))
    if matches:
        _, i, j = min(matches)
        return i + 1, j + 1
    kept = sum(_middle(word) < cut_s for word in left)
    return kept, sum(_middle(word) < cut_s for word in right)


def _nearest(word: Word, others: Sequence[Word], among: Sequence[int]) -> int | None:
    """Which of the other window's words is the same one, as far as text and time tell."""
    same = [
        (abs(_middle(others[index]) - _middle(word)), index)
        for index in among
        if _folded(others[index].text) == _folded(word.text)
    ]
    distance, index = min(same, default=(_SAME_WORD_S + 1, -1))
    return index if distance <= _SAME_WORD_S else None


def _middle(word: Word) -> float:
    return (word.start_s + word.end_s) / 2


def _folded(text: str) -> str:
    """A word without what a window decides by its context: case and punctuation."""
    return "".join(c for c in text.casefold() if c.isalnum()) or text
