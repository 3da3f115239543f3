"""Cutting speech into segments: where, and that no sample is lost, doubled or misplaced.

The loudness of a frame is its probability, so that a test says where speech is by
drawing it; the samples are noise, so that none is like another.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engines.embedded.segmenter import (
    FRAME,
    PAUSE,
    SAMPLE_RATE,
    Segment,
    Segmenter,
    SegmentRules,
)
from runtime.speech import Samples

LEAD = 10  # frames kept before speech
TAIL = PAUSE // FRAME  # frames kept after it


class Loudness:
    """How likely a frame is speech: as likely as it is loud."""

    def __init__(self) -> None:
        self.resets = 0

    def __call__(self, frame: Samples) -> float:
        assert frame.shape == (FRAME,)
        return float(np.abs(frame).mean())

    def reset(self) -> None:
        self.resets += 1


def sound(samples: int, loudness: float, seed: int = 0) -> Samples:
    """Noise of this mean amplitude, in which no sample is like another."""
    values = np.random.default_rng(seed).uniform(0.9 * loudness, 1.1 * loudness, samples)
    return values.astype(np.float32)


def speech(frames: float, seed: int = 0) -> Samples:
    return sound(round(frames * FRAME), 0.9, seed)


def silence(frames: float, seed: int = 0) -> Samples:
    return sound(round(frames * FRAME), 0.01, seed + 1_000)


def seconds(count: float) -> int:
    """Whole frames in so many seconds, rounded up."""
    return -(-round(count * SAMPLE_RATE) // FRAME)


@dataclass
class Heard:
    """What became of a signal."""

    signal: Samples
    segments: list[Segment] = field(default_factory=list)
    flushed: Segment | None = None

    @property
    def spans(self) -> list[tuple[float, float, bool]]:
        """From which frame to which each segment goes, and whether it closes."""
        return [(s.start / FRAME, s.end / FRAME, s.closes) for s in self.segments]


def hear(rules: SegmentRules, *parts: Samples, flush: bool = False) -> Heard:
    """Push parts of a signal one by one; check that each segment is what it says it is."""
    segmenter = Segmenter(Loudness(), rules)
    heard = Heard(np.concatenate(parts))
    for part in parts:
        heard.segments += segmenter.push(part)
    assert segmenter.position == len(heard.signal)
    if flush:
        heard.flushed = segmenter.flush()
        heard.segments += [heard.flushed] if heard.flushed else []
    for segment in heard.segments:
        assert np.array_equal(segment.samples, heard.signal[segment.start : segment.end])
    return heard


LIVE = SegmentRules(silence_ms=500, max_s=10.0)
LIVE_SILENCE = seconds(0.5)


# --- speech between silences -------------------------------------------------


def test_silence_gives_nothing() -> None:
    assert hear(LIVE, silence(300), flush=True).segments == []


def test_no_samples_give_nothing() -> None:
    assert hear(LIVE, speech(0), flush=True).segments == []


def test_speech_between_silences_is_one_segment_with_some_silence_around_it() -> None:
    heard = hear(LIVE, silence(40), speech(30), silence(40))
    assert heard.spans == [(40 - LEAD, 70 + TAIL, True)]


def test_speech_at_the_very_start_has_no_lead() -> None:
    assert hear(LIVE, speech(30), silence(40)).spans == [(0, 30 + TAIL, True)]


def test_a_click_of_a_single_frame_is_not_speech() -> None:
    assert hear(LIVE, silence(20), speech(1), silence(40), flush=True).segments == []


def test_speech_that_grows_quieter_goes_on() -> None:
    quieter = sound(20 * FRAME, 0.42)  # too quiet to begin with, loud enough to go on
    assert hear(LIVE, silence(20), quieter, silence(40)).segments == []
    heard = hear(LIVE, silence(20), speech(10), quieter, silence(40))
    assert heard.spans == [(20 - LEAD, 50 + TAIL, True)]


def test_each_of_two_utterances_is_a_segment() -> None:
    heard = hear(LIVE, silence(20), speech(30), silence(40), speech(20), silence(40))
    assert heard.spans == [(10, 50 + TAIL, True), (90 - LEAD, 110 + TAIL, True)]


# --- the silence that ends an utterance --------------------------------------


def test_a_shorter_silence_does_not_end_an_utterance() -> None:
    pause = LIVE_SILENCE - 1
    heard = hear(LIVE, speech(30), silence(pause), speech(30), silence(40))
    assert heard.spans == [(0, 60 + pause + TAIL, True)]


@pytest.mark.parametrize(("silence_ms", "frames"), [(480, 15), (481, 16), (500, 16), (512, 16)])
def test_an_utterance_ends_with_the_frame_that_completes_the_silence(
    silence_ms: int, frames: int
) -> None:
    segmenter = Segmenter(Loudness(), SegmentRules(silence_ms=silence_ms, max_s=10.0))
    assert segmenter.push(speech(30)) == []
    assert segmenter.push(silence(frames - 1)) == []
    assert len(segmenter.push(silence(1))) == 1


def test_a_click_right_after_an_utterance_is_not_speech_either() -> None:
    heard = hear(LIVE, speech(30), silence(LIVE_SILENCE), speech(1), silence(40), flush=True)
    assert heard.spans == [(0, 30 + TAIL, True)]


def test_silence_cuts_but_does_not_close_where_the_end_of_a_turn_is_the_callers() -> None:
    rules = SegmentRules(silence_ms=500, max_s=10.0, closes=False)
    heard = hear(rules, speech(30), silence(40), speech(30), silence(10), flush=True)
    assert [closes for _, _, closes in heard.spans] == [False, True]


@pytest.mark.parametrize("silence_ms", [100, 200, 300])
def test_after_a_short_endpoint_what_was_said_is_not_said_again(silence_ms: int) -> None:
    pause = seconds(silence_ms / 1000)
    rules = SegmentRules(silence_ms=silence_ms, max_s=10.0)
    heard = hear(rules, speech(30), silence(pause), speech(30), silence(40))
    (_, end, _), (start, _, _) = heard.spans
    assert (end, start) == (30 + min(pause, TAIL), 30)


# --- segments of a certain length --------------------------------------------

PACKED = SegmentRules(silence_ms=500, max_s=20.0, min_s=8.0)


def test_short_utterances_are_packed_into_one_segment() -> None:
    heard = hear(PACKED, speech(60), silence(30), speech(60), silence(30), speech(170), silence(30))
    assert heard.spans == [(0, 350 + TAIL, True)]


def test_a_segment_long_enough_ends_at_the_next_silence() -> None:
    heard = hear(PACKED, speech(seconds(8)), silence(30), speech(60), silence(10), flush=True)
    assert len(heard.segments) == 2
    assert heard.spans[0][1] == seconds(8) + TAIL


def test_a_long_silence_ends_a_segment_however_short() -> None:
    assert hear(PACKED, speech(30), silence(seconds(5) - 1)).segments == []
    assert hear(PACKED, speech(30), silence(seconds(5))).spans == [(0, 30 + TAIL, True)]


# --- forced cuts -------------------------------------------------------------


def test_speech_without_end_is_cut_at_its_quietest_frame() -> None:
    breath = sound(FRAME, 0.6)
    heard = hear(LIVE, speech(250), breath, speech(200, seed=1), silence(40))
    assert heard.spans == [(0, 251, False), (251, 451 + TAIL, True)]


def test_a_forced_cut_comes_within_the_longest_segment() -> None:
    heard = hear(LIVE, speech(2_000), flush=True)
    assert max(len(s.samples) for s in heard.segments) <= seconds(10) * FRAME


def test_a_forced_cut_leaves_no_splinters() -> None:
    for max_s in (2.0, 4.0, 10.0):
        rules = SegmentRules(silence_ms=500, max_s=max_s)
        heard = hear(rules, silence(50), speech(1_000), flush=True)
        lengths = [len(segment.samples) for segment in heard.segments[:-1]]
        assert min(lengths) >= max_s * SAMPLE_RATE / 2


@given(
    st.lists(st.tuples(st.integers(1, 100), st.sampled_from([0.4, 0.5, 0.7, 0.9])), max_size=12),
    st.floats(1.0, 6.0),
)
def test_no_sample_is_lost_or_doubled_between_forced_cuts(
    shape: list[tuple[int, float]], max_s: float
) -> None:
    parts = [sound(frames * FRAME, loud, i) for i, (frames, loud) in enumerate(shape)]
    rules = SegmentRules(silence_ms=500, max_s=max_s)
    heard = hear(rules, silence(20), speech(3), *parts, flush=True)
    assert heard.segments[0].start == (20 - LEAD) * FRAME
    for before, after in zip(heard.segments, heard.segments[1:], strict=False):
        assert after.start == before.end
    assert heard.segments[-1].end == len(heard.signal)


def fading(frames: int) -> list[Samples]:
    """Silence that grows quieter, so that its quietest frame is always its last."""
    return [sound(FRAME, 0.1 - 0.001 * i, i) for i in range(frames)]


@pytest.mark.parametrize("silent", [1, 5, TAIL + 1, LIVE_SILENCE - 1])
@pytest.mark.parametrize("closes", [True, False])
def test_after_a_forced_cut_in_silence_no_silence_is_taken_for_speech(
    silent: int, closes: bool
) -> None:
    rules = SegmentRules(silence_ms=500, max_s=10.0, closes=closes)
    heard = hear(rules, speech(seconds(10) - silent), *fading(80), flush=True)
    spoken = [segment for segment in heard.segments if len(segment.samples)]
    assert len(spoken) == 1
    assert sum(segment.closes for segment in heard.segments) == closes, "it still ends once"


def test_an_endpoint_longer_than_a_segment_cuts_no_segments_of_silence() -> None:
    rules = SegmentRules(silence_ms=30_000, max_s=5.0)
    heard = hear(rules, speech(30), silence(seconds(30)), silence(300))
    assert [bool(len(segment.samples)) for segment in heard.segments] == [True, False]
    assert [segment.closes for segment in heard.segments] == [False, True]


def test_speech_after_a_forced_cut_in_silence_goes_on() -> None:
    rules = SegmentRules(silence_ms=500, max_s=10.0)
    heard = hear(rules, speech(seconds(10) - 12), *fading(13), speech(30), silence(40))
    assert [segment.closes for segment in heard.segments] == [False, True]
    assert heard.segments[1].start == heard.segments[0].end
    assert heard.spans[1][1] == seconds(10) + 1 + 30 + TAIL


# --- what is open ------------------------------------------------------------


def test_nothing_is_open_in_silence() -> None:
    segmenter = Segmenter(Loudness(), LIVE)
    segmenter.push(silence(40))
    assert segmenter.open_segment() is None


def test_what_is_open_grows_and_stops_growing_in_silence() -> None:
    segmenter = Segmenter(Loudness(), LIVE)
    ends = []
    for part in (silence(20), speech(5), speech(5), silence(3), silence(3), silence(3)):
        segmenter.push(part)
        ends.append(segment.end / FRAME if (segment := segmenter.open_segment()) else None)
    assert ends == [None, 25, 30, 33, 34, 34]


def test_speech_has_paused_after_so_much_silence_and_no_sooner() -> None:
    segmenter = Segmenter(Loudness(), LIVE)
    segmenter.push(np.concatenate([silence(20), speech(10)]))
    seen = []
    for _ in range(TAIL + 2):
        segment = segmenter.open_segment()
        assert segment is not None
        seen.append((segment.silence // FRAME, segment.paused))
        segmenter.push(silence(1))
    assert seen == [*((n, False) for n in range(TAIL)), (TAIL, True), (TAIL, True)]
    segmenter.push(speech(1))
    resumed = segmenter.open_segment()
    assert resumed is not None
    assert not resumed.paused


@pytest.mark.parametrize("pause", [0, 0.5, 3.25, 9])
def test_what_is_open_is_what_the_end_of_the_turn_returns(pause: float) -> None:
    segmenter = Segmenter(Loudness(), LIVE)
    segmenter.push(np.concatenate([silence(20), speech(30), silence(pause)]))
    opened, flushed = segmenter.open_segment(), segmenter.flush()
    assert opened is not None
    assert flushed is not None
    assert np.array_equal(opened.samples, flushed.samples)
    assert opened.start == flushed.start
    assert (opened.closes, flushed.closes) == (False, True)


# --- the end of a turn -------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 1.5, 2, 20, 20.25, 20.999])
def test_the_end_of_a_turn_in_a_word_returns_it_to_the_last_sample(frames: float) -> None:
    heard = hear(LIVE, silence(20), speech(frames), flush=True)
    assert heard.flushed is not None
    assert heard.flushed.closes
    assert heard.spans == [(20 - LEAD, 20 + round(frames * FRAME) / FRAME, True)]


def test_the_end_of_a_turn_in_silence_returns_nothing() -> None:
    heard = hear(LIVE, speech(30), silence(40), silence(7.5), flush=True)
    assert heard.flushed is None
    assert len(heard.segments) == 1


def test_the_end_of_a_turn_in_a_pause_returns_the_speech_with_its_tail() -> None:
    heard = hear(LIVE, speech(30), silence(12), flush=True)
    assert heard.spans == [(0, 30 + TAIL, True)]


def test_after_the_end_of_a_turn_counting_goes_on_and_nothing_before_it_comes_back() -> None:
    signal = [speech(20.3), speech(20, seed=1), silence(40)]
    probability = Loudness()
    segmenter = Segmenter(probability, LIVE)
    segmenter.push(signal[0])
    first = segmenter.flush()
    assert first is not None
    assert (segmenter.position, probability.resets) == (len(signal[0]), 1)
    assert segmenter.flush() is None, "a second end of the turn has nothing to return"
    (second,) = segmenter.push(np.concatenate(signal[1:]))
    assert second.start == first.end == len(signal[0])
    assert np.array_equal(second.samples, np.concatenate(signal)[second.start : second.end])


# --- how the samples arrive --------------------------------------------------

shapes = st.lists(
    st.tuples(st.integers(1, 40 * FRAME), st.sampled_from([0.01, 0.01, 0.42, 0.9])), max_size=8
)
rule_sets = st.builds(
    SegmentRules,
    silence_ms=st.integers(100, 800),
    max_s=st.floats(1.0, 3.0),
    min_s=st.sampled_from([0.0, 0.5]),
    closes=st.booleans(),
)


@given(shapes, rule_sets, st.lists(st.integers(0, 10**6), max_size=20))
def test_what_is_cut_does_not_depend_on_how_the_samples_arrive(
    shape: list[tuple[int, float]], rules: SegmentRules, cuts: list[int]
) -> None:
    signal = np.concatenate([silence(0), *(sound(n, loud, i) for i, (n, loud) in enumerate(shape))])
    whole = hear(rules, signal, flush=True)
    split = hear(
        rules, *np.split(signal, sorted(cut % (len(signal) + 1) for cut in cuts)), flush=True
    )
    assert split.spans == whole.spans
    assert (split.flushed is None) == (whole.flushed is None)


@given(shapes, rule_sets)
def test_what_is_loud_for_long_enough_is_in_a_segment(
    shape: list[tuple[int, float]], rules: SegmentRules
) -> None:
    signal = np.concatenate([silence(0), *(sound(n, loud, i) for i, (n, loud) in enumerate(shape))])
    heard = hear(rules, signal, flush=True)
    covered = np.zeros(len(signal), dtype=bool)
    for segment in heard.segments:
        covered[segment.start : segment.end] = True
    frames = np.abs(signal[: len(signal) // FRAME * FRAME]).reshape(-1, FRAME).mean(axis=1) >= 0.5
    for index in np.flatnonzero(frames[1:] & frames[:-1]):
        assert covered[index * FRAME : (index + 2) * FRAME].all()


# --- memory ------------------------------------------------------------------


@pytest.mark.parametrize(("what", "probability"), [("silence", 0.0), ("speech", 1.0)])
def test_an_hour_is_not_kept(what: str, probability: float) -> None:
    # In a process of its own: other threads of this one allocate too.
    script = f"""
import sys, tracemalloc
import numpy as np
from runtime.engines.embedded.segmenter import SAMPLE_RATE, Segmenter, SegmentRules

class Always:
    def __call__(self, frame):
        return {probability}
    def reset(self):
        pass

segmenter = Segmenter(Always(), SegmentRules({LIVE.silence_ms}, {LIVE.max_s}))
tracemalloc.start()
for _ in range(3_600 // 2):
    segmenter.push(np.zeros(2 * SAMPLE_RATE, dtype=np.float32))
print(segmenter.position, *tracemalloc.get_traced_memory())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    position, kept, peak = map(int, done.stdout.split())
    assert position == 3_600 * SAMPLE_RATE
    second = 4 * SAMPLE_RATE
    bound = {"silence": 4 * second, "speech": (LIVE.max_s + 4) * second}[what]
    assert kept < bound, f"{what}: {kept:,} bytes"
    assert peak < 3 * bound
