"""What a session keeps, to be said again: every byte and request once, in its place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.client.replay import ReplayBuffer, Request, Stretch

ALL = 1_000_000  # samples, more than there are


def pcm(first: int, samples: int) -> bytes:
    """PCM16 in which each sample is its own index."""
    return b"".join((first + index).to_bytes(2, "little") for index in range(samples))


def filled(samples: int, limit: int = 1_000) -> ReplayBuffer:
    buffer = ReplayBuffer(limit)
    buffer.append(pcm(0, samples))
    return buffer


def read_on(
    buffer: ReplayBuffer, position: int, passed: int, sizes: list[int]
) -> tuple[bytes, list[tuple[int, int]], int, int]:
    """Read all there is in pieces of these sizes, in turn.

    Returns:
        The audio, the requests as (number, position), and where reading goes on.
    """
    audio, requests = b"", []
    for count in range(ALL):
        most = sizes[count % len(sizes)]
        stretch = buffer.following(position, passed, most)
        if stretch is None:
            break
        assert stretch.first_sample == max(position, buffer.first)
        assert len(stretch.pcm) <= 2 * most
        audio += stretch.pcm
        position = stretch.first_sample + len(stretch.pcm) // 2
        if stretch.request is not None:
            requests.append((stretch.request.number, position))
            if stretch.request.number == 0:
                break
            passed = stretch.request.number
    return audio, requests, position, passed


# --- what is kept ------------------------------------------------------------


def test_a_new_buffer_has_nothing() -> None:
    buffer = ReplayBuffer(10)
    assert (buffer.first, buffer.end, buffer.dropped, buffer.waits) == (0, 0, 0, False)
    assert buffer.following(0, 0, ALL) is None


def test_positions_count_from_the_start_of_the_session() -> None:
    buffer = filled(10)
    buffer.settle(4)
    buffer.append(pcm(10, 5))
    assert (buffer.first, buffer.end, buffer.dropped) == (4, 15, 0)
    assert buffer.following(0, 0, ALL) == Stretch(4, pcm(4, 11), None)
    assert buffer.following(7, 0, 5) == Stretch(7, pcm(7, 5), None)
    assert buffer.following(15, 0, ALL) is None


@pytest.mark.parametrize(("before", "first"), [(-5, 4), (0, 4), (3, 4), (4, 4), (6, 6), (99, 10)])
def test_settling_goes_forward_only_and_to_the_end_at_most(before: int, first: int) -> None:
    buffer = filled(10)
    buffer.settle(4)
    buffer.settle(before)
    assert (buffer.first, buffer.end) == (first, 10)


def test_beyond_the_limit_the_oldest_is_dropped_and_counted() -> None:
    buffer = filled(8, limit=10)
    buffer.append(pcm(8, 5))
    buffer.append(pcm(13, 1))
    assert (buffer.first, buffer.end, buffer.dropped) == (4, 14, 4)
    assert buffer.following(0, 0, ALL) == Stretch(4, pcm(4, 10), None)


def test_what_was_settled_is_not_dropped() -> None:
    buffer = filled(10, limit=10)
    buffer.settle(6)
    buffer.append(pcm(10, 6))
    assert (buffer.first, buffer.dropped) == (6, 0)


def test_a_block_larger_than_the_limit_leaves_its_end() -> None:
    buffer = filled(25, limit=10)
    assert buffer.following(0, 0, ALL) == Stretch(15, pcm(15, 10), None)
    assert buffer.dropped == 15


# --- requests ----------------------------------------------------------------


def test_a_stretch_ends_at_the_request_that_follows() -> None:
    buffer = filled(10)
    buffer.ask(1)
    buffer.append(pcm(10, 5))
    assert buffer.following(2, 0, 5) == Stretch(2, pcm(2, 5), None), "the request is not reached"
    assert buffer.following(2, 0, 8) == Stretch(2, pcm(2, 8), Request(10, 1))
    assert buffer.following(2, 0, ALL) == Stretch(2, pcm(2, 8), Request(10, 1))
    assert buffer.following(10, 1, ALL) == Stretch(10, pcm(10, 5), None)


def test_requests_at_one_place_come_one_by_one() -> None:
    buffer = filled(3)
    for number in (1, 2, 0):
        buffer.ask(number)
    assert buffer.following(0, 0, ALL) == Stretch(0, pcm(0, 3), Request(3, 1))
    assert buffer.following(3, 1, ALL) == Stretch(3, b"", Request(3, 2))
    assert buffer.following(3, 2, ALL) == Stretch(3, b"", Request(3, 0))


def test_a_request_whose_audio_was_dropped_comes_before_what_is_left() -> None:
    buffer = filled(5, limit=10)
    buffer.ask(1)
    buffer.append(pcm(5, 15))
    assert buffer.following(0, 0, ALL) == Stretch(10, b"", Request(5, 1))
    assert buffer.following(10, 1, ALL) == Stretch(10, pcm(10, 10), None)


def test_an_answer_settles_its_request_and_those_before() -> None:
    buffer = ReplayBuffer(100)
    for number in (1, 2, 3):
        buffer.append(pcm(10 * number - 10, 10))
        buffer.ask(number)
    buffer.answered(2)
    assert (buffer.first, buffer.waits) == (20, True)
    assert buffer.following(0, 0, ALL) == Stretch(20, pcm(20, 10), Request(30, 3))
    buffer.answered(3)
    assert (buffer.first, buffer.waits) == (30, False)


def test_an_answer_that_comes_twice_changes_nothing() -> None:
    buffer = filled(10)
    buffer.ask(1)
    buffer.append(pcm(10, 5))
    buffer.answered(1)
    buffer.answered(1)
    assert buffer.following(0, 1, ALL) == Stretch(10, pcm(10, 5), None)


def test_the_end_of_the_session_is_never_answered_by_a_final() -> None:
    buffer = filled(10)
    buffer.ask(1)
    buffer.ask(0)
    buffer.answered(1)
    buffer.answered(99)
    assert buffer.waits
    assert buffer.following(0, 1, ALL) == Stretch(10, b"", Request(10, 0))


# --- whatever happens --------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 40)),
        st.tuples(st.just("settle"), st.integers(0, 300)),
        st.tuples(st.just("ask"), st.just(0)),
        st.tuples(st.just("answered"), st.integers(0, 8)),
        st.tuples(st.just("read"), st.integers(1, 30)),
    ),
    max_size=40,
)
piece_sizes = st.lists(st.integers(1, 50), min_size=1, max_size=5)


class Session:
    """Takes the steps on a buffer, and keeps in lists what the buffer should hold."""

    def __init__(self, limit: int) -> None:
        self.buffer = ReplayBuffer(limit)
        self.samples = 0  # taken in all
        self.first = 0  # the first that has to be kept
        self.asked: list[tuple[int, int]] = []  # number and place
        self.done = 0  # number of the last request that was answered
        self._limit = limit

    def take(self, step: str, value: int) -> None:
        if step == "append":
            self.buffer.append(pcm(self.samples, value))
            self.samples += value
            self.first = max(self.first, self.samples - self._limit)
        elif step == "settle":
            self.buffer.settle(value)
            self.first = max(self.first, min(value, self.samples))
        elif step == "ask":
            self.asked.append((len(self.asked) + 1, self.samples))
            self.buffer.ask(len(self.asked))
        elif step == "answered":
            self.done = max(self.done, min(value, len(self.asked)))
            self.buffer.answered(value)
            self.first = max([self.first, *(at for number, at in self.asked[: self.done])])
        assert (self.buffer.first, self.buffer.end) == (self.first, self.samples)
        assert self.buffer.waits == (self.done < len(self.asked))


@settings(deadline=None)
@given(steps, piece_sizes, st.integers(1, 100), st.booleans())
def test_all_that_is_kept_is_said_again_once_and_in_order(
    play: list[tuple[str, int]], sizes: list[int], limit: int, finished: bool
) -> None:
    session = Session(limit)
    for step, value in play:
        session.take(step, value)
    expected = [(number, max(at, session.first)) for number, at in session.asked[session.done :]]
    if finished:
        session.buffer.ask(0)
        expected.append((0, session.samples))
    audio, requests, position, _ = read_on(session.buffer, session.first, 0, sizes)
    assert audio == pcm(session.first, session.samples - session.first)
    assert requests == expected
    assert position == session.samples


@settings(deadline=None)
@given(steps, piece_sizes)
def test_who_reads_along_hears_everything_once_and_in_order(
    play: list[tuple[str, int]], sizes: list[int]
) -> None:
    """As a session does on one replica: nothing is settled or answered that was not read."""
    session = Session(limit=10_000)
    audio, requests, position, passed = b"", list[tuple[int, int]](), 0, 0
    for step, value in [*play, ("read", 1)]:
        bound = {"settle": position, "answered": passed}.get(step, value)
        session.take(step, min(value, bound))
        if step == "read":
            more, asked, position, passed = read_on(session.buffer, position, passed, sizes)
            audio += more
            requests += asked
    assert audio == pcm(0, session.samples)
    assert requests == session.asked
    assert session.buffer.dropped == 0
