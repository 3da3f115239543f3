"""How often sessions push: at a tick that follows how long calls take, or at once.

Time passes only where the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio

import pytest
from fake_push import Fixture, play


def test_after_a_pause_a_block_goes_at_once() -> None:
    async def script(f: Fixture) -> None:
        (source,) = f.sources(1)
        await f.pushed(source)
        await asyncio.sleep(1.0)
        await f.pushed(source)
        assert f.calls.intervals == [pytest.approx(1.001)]

    play(script)


def test_calls_follow_each_other_no_faster_than_the_tick() -> None:
    async def script(f: Fixture) -> None:
        sources = f.sources(3)
        for source in sources:
            source.add(*[640] * 20)
        await f.idle()
        assert f.calls.intervals == pytest.approx([0.020] * 19)
        assert all(call.sessions == ["0", "1", "2"] for call in f.calls.made)

    play(script)


def test_what_is_urgent_does_not_wait_for_the_tick() -> None:
    async def script(f: Fixture) -> None:
        source, other = f.sources(2)
        await f.pushed(source)
        await f.pushed(source, urgent=True)
        other.add(2)  # waits for the tick, with a call that goes earlier
        asyncio.get_running_loop().call_later(0.005, lambda: source.add(2, urgent=True))
        await f.idle()
        assert f.calls.intervals == pytest.approx([0.001, 0.006])
        assert f.calls.made[-1].sessions == ["1", "0"]
        await f.pushed(source)
        assert f.calls.intervals[-1] == pytest.approx(0.020), "it was urgent once"

    play(script)


def test_an_urgent_source_that_leaves_takes_its_urgency_along() -> None:
    async def script(f: Fixture) -> None:
        source, other = f.sources(2)
        await f.pushed(source)
        other.add(2, urgent=True)
        f.pusher.forget(other)
        await f.idle()
        await f.pushed(source)
        assert f.calls.intervals == pytest.approx([0.020])

    play(script)


def test_what_is_urgent_waits_for_the_call_under_way() -> None:
    async def script(f: Fixture) -> None:
        source, other = f.sources(2)
        f.calls.takes_s = 0.008
        other.add(2)
        asyncio.get_running_loop().call_later(0.002, lambda: source.add(2, urgent=True))
        await f.idle()
        assert f.calls.intervals == pytest.approx([0.008])

    play(script)


@pytest.mark.parametrize(
    ("takes_s", "tick_s"), [(0.0, 0.020), (0.004, 0.020), (0.0075, 0.030), (0.2, 0.040)]
)
def test_the_tick_is_four_calls_long_within_its_bounds(takes_s: float, tick_s: float) -> None:
    async def script(f: Fixture) -> None:
        (source,) = f.sources(1)
        f.calls.takes_s = takes_s
        ticks = []
        for _ in range(40):
            ticks.append(f.pusher.tick_s)
            await f.pushed(source)
        assert ticks == sorted(ticks), "it grows as calls turn out to be slow"
        assert ticks[0] == 0.020
        assert f.pusher.tick_s == pytest.approx(tick_s, rel=0.01)
        assert f.calls.intervals[-1] == pytest.approx(max(tick_s, takes_s), rel=0.01)

    play(script)
