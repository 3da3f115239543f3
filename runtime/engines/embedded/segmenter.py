"""Finds speech in a stream of samples and cuts it into segments a model can decode.

Works on frames counted from the start of the stream (or of the utterance), so
what is cut does not depend on how the samples were split into pushes. Knows
nothing of models; the probability of speech in a frame is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.audio import Framer
from runtime.speech import Samples

SAMPLE_RATE = 16_000
FRAME = 512  # samples; the window Silero VAD was trained for: 32 ms

# Thresholds as in Silero's own VADIterator: speech starts at 0.5 and goes on
# while the probability stays above 0.35.
_START = 0.5
_CONTINUE = 0.35
_START_FRAMES = 2  # 64 ms of speech in a row: a click is shorter, a word is not
_LEAD_FRAMES = 10  # 320 ms kept before the start: soft consonants come before the VAD
PAUSE = 4 * FRAME
"""Samples without speech (128 ms) that are a pause, and that a segment keeps at its end."""
_CUT_SEARCH_FRAMES = 160  # a forced cut takes the least speech-like frame of the last 5 s
_NONE: Samples = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class SegmentRules:
    """When speech is cut.

    Attributes:
        silence_ms: Silence that ends a segment once it is ``min_s`` long.
        max_s: Longest segment; speech that goes on is cut at its quietest frame.
        min_s: Below this length silence does not end a segment unless it lasts ``max_s / 4``.
        closes: True if such a silence also ends the utterance.
    """

    silence_ms: int
    max_s: float
    min_s: float = 0.0
    closes: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A stretch of speech to decode.

    Attributes:
        samples: float32 at 16 kHz, with some silence before and after; none where nothing
            was said since the last cut, and only the end of the utterance is news.
        start: Index in the stream of its first sample.
        closes: True if the utterance ends with it.
        silence: Samples at its end without speech.
    """

    samples: Samples
    start: int
    closes: bool
    silence: int = 0

    @property
    def end(self) -> int:
        """Index in the stream of the sample after the last."""
        return self.start + len(self.samples)

    @property
    def paused(self) -> bool:
        """Whether its speech has paused: it grows no more, unless speech goes on."""
        return self.silence >= PAUSE


class SpeechProbability(Protocol):
    """How likely a frame of ``FRAME`` samples holds speech; may remember those before."""

    def __call__(self, frame: Samples) -> float:
        """Probability in [0, 1]."""
        ...

    def reset(self) -> None:
        """Forget what came before."""
        ...


class Segmenter:
    """One stream's samples in, segments of speech out."""

    def __init__(self, probability: SpeechProbability, rules: SegmentRules) -> None:
        """Starts at sample 0, in silence."""
        self._probability = probability
        self._rules = rules
        self._framer = Framer(FRAME)
        self._frames: list[Samples] = []  # kept: the open segment, or its possible lead
        self._scores: list[float] = []
        self._kept_from = 0  # index of the first sample of _frames
        self._started = False
        self._speech_run = 0
        self._speech_end = 0

    @property
    def position(self) -> int:
        """Samples taken so far."""
        return self._framed_to + len(self._framer.rest)

    def push(self, samples: Samples) -> list[Segment]:
        """Take samples; return the segments that ended among them."""
        ended = (self._advance(frame) for frame in self._framer.push(samples))
        return [segment for segment in ended if segment is not None]

    def open_segment(self) -> Segment | None:
        """The segment that has begun and not ended, as far as it can be decoded now."""
        if not self._started or not self._holds_speech:
            return None
        return self._segment(self._speech_end + PAUSE, closes=False, rest=self._framer.rest)

    def flush(self) -> Segment | None:
        """End the utterance here and return what is open of it."""
        heard = (self._started or self._speech_run > 0) and self._holds_speech
        end, rest = self._speech_end + PAUSE, self._framer.rest
        segment = self._segment(end, closes=True, rest=rest) if heard else None
        self._restart(self.position)
        return segment

    @property
    def _framed_to(self) -> int:
        return self._kept_from + FRAME * len(self._frames)

    @property
    def _holds_speech(self) -> bool:
        """Whether there was speech since the last cut; a forced cut can fall into silence."""
        return self._speech_end > self._kept_from

    def _advance(self, frame: Samples) -> Segment | None:
        score = self._probability(frame)
        self._frames.append(frame)
        self._scores.append(score)
        now = self._framed_to
        if not self._started:
            self._speech_run = self._speech_run + 1 if score >= _START else 0
            if self._speech_run:
                self._speech_end = now
            self._started = self._speech_run >= _START_FRAMES
            if not self._started:
                self._drop_frames(len(self._frames) - _LEAD_FRAMES - self._speech_run)
            return None
        if score >= _CONTINUE:
            self._speech_end = now
        return self._cut(now)

    def _cut(self, now: int) -> Segment | None:
        rules = self._rules
        length_s = (now - self._kept_from) / SAMPLE_RATE
        silence_s = (now - self._speech_end) / SAMPLE_RATE
        long_enough = length_s >= rules.min_s or silence_s >= rules.max_s / 4
        if silence_s * 1000 >= rules.silence_ms and long_enough:
            holds_speech = self._holds_speech
            end = self._speech_end + PAUSE if holds_speech else self._kept_from
            segment = self._segment(end, closes=rules.closes)
            self._started = False
            self._speech_run = 0
            # The next segment's lead must not say the end of this one again.
            said = (self._speech_end - self._kept_from) // FRAME
            self._drop_frames(max(len(self._frames) - _LEAD_FRAMES, said))
            return segment if holds_speech or rules.closes else None
        if length_s >= rules.max_s:
            holds_speech = self._holds_speech
            # Not in the first half: the lead is there, and a cut in it would cut nothing off.
            recent = self._scores[len(self._scores) // 2 :][-_CUT_SEARCH_FRAMES:]
            quietest = len(self._scores) - len(recent) + int(np.argmin(recent)) + 1
            segment = self._segment(self._kept_from + FRAME * quietest, closes=False)
            self._drop_frames(quietest)
            return segment if holds_speech else None
        return None

    def _segment(self, end: int, *, closes: bool, rest: Samples = _NONE) -> Segment:
        # Between the frames of a push the framer's rest is not what follows the last one.
        samples = np.concatenate([*self._frames, rest])[: end - self._kept_from]
        silence = max(0, self._kept_from + len(samples) - self._speech_end)
        return Segment(samples, self._kept_from, closes, silence)

    def _drop_frames(self, count: int) -> None:
        if count > 0:
            del self._frames[:count], self._scores[:count]
            self._kept_from += FRAME * count

    def _restart(self, position: int) -> None:
        self._probability.reset()
        self._framer = Framer(FRAME)
        self._frames.clear()
        self._scores.clear()
        self._kept_from = position
        self._started = False
        self._speech_run = 0
