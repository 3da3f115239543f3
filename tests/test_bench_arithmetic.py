"""The arithmetic of the benchmarks, whose figures are quoted."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bench.load import closed_loop, peak_memory, poisson_arrivals
from runtime.bench.loop import LoopWatch
from runtime.bench.report import commit, device, distribution, report, versions
from runtime.bench.tts import arriving
from runtime.bench.wer import plain_words, word_error_rate, word_errors
from runtime.playback import Playback
from runtime.speech import SynthesisRequest

Job = Callable[[], Awaitable[None]]

# --- distributions -----------------------------------------------------------


def test_a_distribution_of_nothing_is_empty() -> None:
    assert distribution([]) == {"n": 0}


def test_a_distribution_of_one_value_is_that_value() -> None:
    assert distribution([12.345]) == {
        **dict.fromkeys(("min", "mean", "p50", "p90", "p95", "p99", "max"), 12.35),
        "n": 1,
    }


def test_percentiles_interpolate() -> None:
    assert distribution([float(value) for value in range(101)]) == {
        "min": 0.0,
        "mean": 50.0,
        "p50": 50.0,
        "p90": 90.0,
        "p95": 95.0,
        "p99": 99.0,
        "max": 100.0,
        "n": 101,
    }
    assert distribution([10.0, 20.0])["p90"] == 19.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.randoms())
def test_a_distribution_is_ordered_and_does_not_depend_on_order(values: list[float], r) -> None:  # type: ignore[no-untyped-def]
    figures = distribution(values)
    ordered = [figures[name] for name in ("min", "p50", "p90", "p95", "p99", "max")]
    assert ordered == sorted(ordered)
    assert figures["min"] <= figures["mean"] <= figures["max"]
    assert figures["n"] == len(values)
    shuffled = r.sample(values, len(values))
    again = distribution(shuffled)
    assert again.pop("mean") == pytest.approx(figures.pop("mean"), abs=0.011)
    assert again == figures


# --- the listener ------------------------------------------------------------


def test_audio_that_comes_in_time_never_runs_dry() -> None:
    playback = Playback()
    for at in (5.0, 5.5, 6.0, 7.99):
        playback.arrived(at, 1.0)
    assert (playback.underruns, playback.underrun_s) == (0, 0.0)


def test_waiting_for_the_first_audio_is_no_underrun() -> None:
    playback = Playback()
    playback.arrived(100.0, 1.0)
    assert playback.underruns == 0


def test_audio_that_comes_at_the_last_moment_is_in_time() -> None:
    playback = Playback()
    playback.arrived(0.0, 1.0)
    playback.arrived(1.0, 1.0)
    assert playback.underruns == 0


def test_each_gap_is_an_underrun_of_its_length() -> None:
    playback = Playback()
    playback.arrived(0.0, 1.0)
    playback.arrived(1.5, 1.0)  # dry from 1.0 to 1.5, plays until 2.5
    playback.arrived(2.0, 0.25)  # in time, until 2.75
    playback.arrived(3.0, 1.0)  # dry from 2.75 to 3.0
    assert playback.underruns == 2
    assert playback.underrun_s == pytest.approx(0.75)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=30))
def test_silence_is_what_a_listener_hears_who_counts_every_eighth_of_a_second(
    chunks: list[tuple[int, int]],
) -> None:
    playback = Playback()
    arriving: Counter[int] = Counter()
    now = 0
    for gap, audio in chunks:
        now += gap
        playback.arrived(now / 8, audio / 8)  # in eighths, which floats add exactly
        arriving[now] += audio
    buffered = silent = 0
    for eighth in range(chunks[0][0], now):
        buffered += arriving[eighth]
        silent += buffered == 0
        buffered -= buffered > 0
    assert playback.underrun_s == silent / 8
    assert (playback.underruns > 0) == (silent > 0)


# --- word error rate ---------------------------------------------------------


def test_case_punctuation_and_spelt_numbers_do_not_count() -> None:
    assert plain_words("Well, TWENTY-one dogs!") == plain_words("well 21 dogs")
    assert word_errors("Mr. Smith's colour.", "mister smith's color") == (0, 3 + 1)


@pytest.mark.parametrize(
    ("heard", "errors"),
    [
        ("the cat sat on the mat", 0),
        ("the cat sat on a mat", 1),
        ("the cat sat on mat", 1),
        ("the big cat sat on the mat", 1),
        ("a cat on the old mat", 3),
        ("", 6),
    ],
)
def test_substitutions_deletions_and_insertions_count_one_each(heard: str, errors: int) -> None:
    assert word_errors("The cat sat on the mat.", heard) == (errors, 6)


def test_the_rate_is_over_all_words_not_over_all_clips() -> None:
    pairs = [("dog", "cat"), ("one dog two dogs three dogs", "one dog two dogs three dogs")]
    assert word_error_rate(pairs) == pytest.approx(1 / 7)


def test_the_rate_can_be_more_than_one() -> None:
    assert word_error_rate([("dog", "the cat and the mouse")]) == 5.0


@pytest.mark.parametrize(("pairs", "rate"), [([], 0.0), ([("", "")], 0.0), ([("", "noise")], 1.0)])
def test_without_reference_words_the_rate_is_the_number_of_errors(
    pairs: list[tuple[str, str]], rate: float
) -> None:
    assert word_error_rate(pairs) == rate


# --- many streams at once ----------------------------------------------------


class Crowd:
    """Jobs that know how often each ran, and how many at a time."""

    def __init__(self, count: int) -> None:
        self.runs = [0] * count
        self.order: list[int] = []
        self._active = 0
        self.most = 0

    @property
    def jobs(self) -> list[Job]:
        def job(number: int) -> Job:
            async def run() -> None:
                self._active += 1
                self.most = max(self.most, self._active)
                self.order.append(number)
                for _ in range(1 + number % 3):
                    await asyncio.sleep(0)
                self.runs[number] += 1
                self._active -= 1

            return run

        return [job(number) for number in range(len(self.runs))]


@given(st.integers(1, 8), st.integers(0, 30))
def test_a_closed_loop_runs_every_job_once_and_at_most_so_many_at_a_time(
    streams: int, count: int
) -> None:
    crowd = Crowd(count)
    seconds = asyncio.run(closed_loop(streams, crowd.jobs))
    assert crowd.runs == [1] * count
    assert crowd.order == sorted(crowd.order)
    assert crowd.most == min(streams, count)
    assert seconds >= 0


def test_a_closed_loop_fails_with_its_job() -> None:
    async def fail() -> None:
        raise ZeroDivisionError("job 1")

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(closed_loop(2, [*Crowd(1).jobs, fail]))
    assert caught.group_contains(ZeroDivisionError, match="job 1")


def test_poisson_arrivals_run_every_job_once_whether_or_not_others_have_ended() -> None:
    count = 40
    crowd, all_here, here = Crowd(count), asyncio.Event(), 0

    async def together() -> None:
        nonlocal here
        here += 1
        if here == count:
            all_here.set()
        await all_here.wait()  # each job ends only once all have begun

    async def job(inner: Job) -> None:
        await inner()
        await together()

    jobs = [lambda inner=inner: job(inner) for inner in crowd.jobs]
    asyncio.run(poisson_arrivals(10_000, jobs))
    assert crowd.runs == [1] * count


def test_poisson_arrivals_come_at_the_rate_asked_for() -> None:
    starts: list[float] = []

    async def main() -> float:
        loop = asyncio.get_running_loop()

        async def job() -> None:
            starts.append(loop.time())

        return await poisson_arrivals(400, [job] * 101, seed=7)

    seconds = asyncio.run(main())
    # 100 intervals of 2.5 ms, and chance; how much later they come is the machine's affair.
    assert 0.15 < starts[-1] - starts[0] <= seconds


def test_peak_memory_is_the_most_that_processes_held_together() -> None:
    async def main() -> list[int]:
        async with peak_memory([os.getpid()], interval_s=0.01) as peak:
            pass
        return peak

    (peak,) = asyncio.run(main())
    assert peak > 1 << 20


def test_peak_memory_of_a_process_that_cannot_be_read_is_missing() -> None:
    async def main() -> list[int]:
        async with peak_memory([2**22 + 1], interval_s=0.01) as peak:
            pass
        return peak

    assert asyncio.run(main()) == []


# --- the event loop ----------------------------------------------------------


def burn(seconds: float) -> None:
    ran, elapsed = time.thread_time() + seconds, time.monotonic() + seconds
    while time.thread_time() < ran or time.monotonic() < elapsed:
        pass


def test_who_holds_the_loop_is_named_with_what_garbage_took_of_it() -> None:
    watch = LoopWatch()

    async def deeper() -> None:
        burn(0.05)
        await asyncio.sleep(0)

    async def busy() -> None:
        await asyncio.sleep(0)
        await deeper()

    async def untidy() -> None:
        await asyncio.sleep(0)
        burn(0.02)
        gc.collect()
        await asyncio.sleep(0)

    async def main() -> None:
        with watch.watching():
            for coroutine in (busy(), untidy()):
                await asyncio.create_task(coroutine, name=coroutine.__name__)
            asyncio.get_running_loop().call_soon(burn, 0.02)
            await asyncio.sleep(0.04)
        burn(0.01)

    asyncio.run(main())
    named = {held.what.partition(":")[0]: held for held in watch.over(9)}
    assert set(named) >= {"busy", "untidy"}
    assert named["busy"].ms >= 50
    assert named["busy"].what == "busy: busy > deeper > sleep"
    assert "garbage" in named["untidy"].what
    assert any("burn" in held.what for held in watch.over(9))
    assert watch.worst_ms == watch.longest[0].ms
    assert watch.over(watch.worst_ms) == []


# --- the report --------------------------------------------------------------


def test_a_report_says_where_its_figures_come_from() -> None:
    whole = report("hibari", 1.2345, 67.89, [{"streams": 1}])
    assert whole["rows"] == [{"streams": 1}]
    assert (whole["engine"], whole["load_s"], whole["warmup_ms"]) == ("hibari", 1.23, 67.9)
    assert whole["device"] == device()
    assert whole["versions"] == versions()
    assert whole["command"].startswith("speech")
    assert whole["commit"] == commit() != ""


def test_versions_name_what_is_installed_and_nothing_else() -> None:
    found = versions()
    assert {"python", "ray", "numpy", "speech-runtime"} <= found.keys()
    assert all(found.values())


def test_the_device_names_its_cores() -> None:
    assert f"{os.cpu_count()} cores" in device()


def test_requests_arrive_as_often_as_the_time_wants() -> None:
    requests = [SynthesisRequest(text) for text in "abc"]
    assert arriving(requests, 0.5, None) == requests
    assert [request.text for request in arriving(requests, 0.5, 10.0)] == list("abcab")
    assert len(arriving(requests, 0.5, 0.1)) == 1
