"""Looking for another replica: at once, then with pauses that grow, and not for ever.

Time passes only where the event loop waits for it, so that no test waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from virtual_time import VirtualTime, run_virtually

from runtime.client.recovery import Patience
from runtime.client.replicas import Replicas
from runtime.errors import DaemonUnavailable, Overloaded, ReplicaLost

LOST = ReplicaLost("The replica went away.")


class Fixture:
    """A call's patience, with what is known of three replicas."""

    def __init__(self, time: VirtualTime, limit_s: float) -> None:
        self.time = time
        self.replicas = Replicas(time.monotonic)
        self.replicas.update("abc")
        self.daemon_lives = True
        self.patience = Patience(limit_s, self.replicas, self._check_alive)
        self.end: Overloaded | DaemonUnavailable | None = None

    def _check_alive(self) -> None:
        if not self.daemon_lives:
            raise DaemonUnavailable("The daemon is gone.")

    async def wait(
        self, error: Overloaded | ReplicaLost = LOST, *, begun: bool = True, call_s: float = 0.0
    ) -> float:
        """Meet an error in a call that took so long, and return the seconds waited for it."""
        self.time.now += call_s
        began = self.time.now
        await self.patience.wait(error, begun=begun)
        return self.time.now - began

    async def wait_until_the_end(self, error: Overloaded | ReplicaLost) -> float:
        """Meet an error again and again; the seconds until it is over."""
        began = self.time.now
        try:
            while True:
                assert await self.wait(error) <= 0.5 + 1e-6
        except (Overloaded, DaemonUnavailable) as end:
            self.end = end
        return self.time.now - began


def play(script: Callable[[Fixture], Coroutine[Any, Any, None]], limit_s: float = 10.0) -> None:
    async def main(time: VirtualTime) -> None:
        await script(Fixture(time, limit_s))

    run_virtually(main, "runtime.client.recovery")


def full(replica: str = "a") -> Overloaded:
    return Overloaded("All slots are taken.", 1.0, replica=replica)


# --- pauses ------------------------------------------------------------------


def test_the_first_time_another_replica_is_asked_at_once() -> None:
    async def script(f: Fixture) -> None:
        assert await f.wait() == 0.0

    play(script)


def test_pauses_double_up_to_half_a_second() -> None:
    async def script(f: Fixture) -> None:
        pauses = [await f.wait() for _ in range(7)]
        assert pauses == pytest.approx([0, 0.05, 0.1, 0.2, 0.4, 0.5, 0.5])

    play(script)


def test_a_pause_is_over_when_replicas_change() -> None:
    async def script(f: Fixture) -> None:
        for _ in range(6):
            await f.wait()
        asyncio.get_running_loop().call_later(0.125, f.replicas.update, "abd")
        assert await f.wait() == pytest.approx(0.125)
        assert await f.wait() == pytest.approx(0.5), "one change ends one pause"

    play(script)


def test_losses_and_refusals_of_other_calls_do_not_end_a_pause() -> None:
    async def script(f: Fixture) -> None:
        await f.wait()
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, f.replicas.lost, "b")
        loop.call_later(0.02, f.replicas.refused, full("c"))
        loop.call_later(0.03, f.replicas.update, "cba")
        assert await f.wait() == pytest.approx(0.05)

    play(script)


def test_no_listener_is_left_behind() -> None:
    async def script(f: Fixture) -> None:
        await f.wait()
        await f.wait()
        asyncio.get_running_loop().call_later(0.01, f.replicas.update, "ab")
        await f.wait()
        task = asyncio.create_task(f.wait())
        await asyncio.sleep(0)
        assert len(f.replicas._listeners) == 1
        task.cancel()
        await asyncio.wait({task})
        assert not f.replicas._listeners

    play(script)


# --- the end of patience -----------------------------------------------------


def test_after_the_limit_a_lost_replica_is_the_end() -> None:
    async def script(f: Fixture) -> None:
        assert await f.wait_until_the_end(LOST) == pytest.approx(10.0)
        assert type(f.end) is DaemonUnavailable, "nothing to recover from"
        assert str(f.end).startswith("No replica answered for 10 s;")
        assert "The replica went away." in str(f.end)
        assert f.end.__cause__ is LOST

    play(script)


def test_after_the_limit_a_full_daemon_says_that_it_is_full() -> None:
    async def script(f: Fixture) -> None:
        error = full()
        assert await f.wait_until_the_end(error) == pytest.approx(10.0)
        assert f.end is error

    play(script)


def test_the_limit_counts_from_the_first_trouble_on() -> None:
    async def script(f: Fixture) -> None:
        assert f.patience.left_s == 10.0
        await f.wait(call_s=60.0)  # all was well until its end
        assert f.patience.left_s == 10.0
        await f.wait(call_s=4.0)
        assert f.patience.left_s == pytest.approx(5.95)
        with pytest.raises(DaemonUnavailable):
            await f.wait(call_s=6.0)
        assert f.patience.left_s == 0.0

    play(script)


def test_the_limit_can_be_made_to_count_before_an_error_comes() -> None:
    async def script(f: Fixture) -> None:
        f.patience.begin()
        f.time.now += 4.0
        f.patience.begin()  # it runs already
        assert f.patience.left_s == pytest.approx(6.0)
        assert await f.wait() == 0.0
        assert f.patience.left_s == pytest.approx(6.0)
        f.patience.answered()
        assert f.patience.left_s == 10.0

    play(script)


@pytest.mark.parametrize("error", [LOST, full()])
def test_a_daemon_that_is_gone_is_not_waited_for(error: Overloaded | ReplicaLost) -> None:
    async def script(f: Fixture) -> None:
        f.daemon_lives = False
        with pytest.raises(DaemonUnavailable, match="The daemon is gone"):
            await f.wait(error)
        assert f.time.now == 1_000.0

    play(script)


def test_a_daemon_that_goes_ends_the_pause_and_the_call() -> None:
    async def script(f: Fixture) -> None:
        def go() -> None:
            f.daemon_lives = False
            f.replicas.update([])

        for _ in range(6):
            await f.wait()
        began = f.time.now
        asyncio.get_running_loop().call_later(0.125, go)
        with pytest.raises(DaemonUnavailable, match="The daemon is gone"):
            await f.wait()
        assert f.time.now - began == pytest.approx(0.125)

    play(script)


def test_a_pause_does_not_last_beyond_the_limit() -> None:
    async def script(f: Fixture) -> None:
        for _ in range(6):
            await f.wait()
        f.time.now += f.patience.left_s - 0.2
        assert await f.wait_until_the_end(LOST) == pytest.approx(0.2)

    play(script)


def test_an_answer_starts_all_over() -> None:
    async def script(f: Fixture) -> None:
        for _ in range(6):
            await f.wait()
        await f.wait(call_s=7.0)
        f.patience.answered()
        assert f.patience.left_s == 10.0
        assert await f.wait(call_s=20.0) == 0.0
        assert await f.wait() == pytest.approx(0.05)
        assert await f.wait_until_the_end(LOST) == pytest.approx(9.95)

    play(script)


def test_without_patience_the_first_loss_is_the_end() -> None:
    async def script(f: Fixture) -> None:
        with pytest.raises(DaemonUnavailable, match="for 0 s"):
            await f.wait()

    play(script, limit_s=0.0)


# --- refusals ----------------------------------------------------------------


def test_a_call_that_has_not_begun_tries_every_replica_and_is_refused() -> None:
    async def script(f: Fixture) -> None:
        assert await f.wait(full("a"), begun=False) == 0.0, "at once on another"
        assert await f.wait(full("b"), begun=False) == pytest.approx(0.05)
        last = full("c")
        with pytest.raises(Overloaded) as caught:
            await f.wait(last, begun=False)
        assert caught.value is last
        assert f.time.now == pytest.approx(1_000.05)

    play(script)


def test_a_refusal_by_the_same_replica_again_does_not_count_for_the_others() -> None:
    async def script(f: Fixture) -> None:
        pauses = [await f.wait(full("a"), begun=False) for _ in range(4)]
        assert pauses == pytest.approx([0, 0.05, 0.1, 0.2])

    play(script)


def test_what_replicas_refused_to_other_calls_does_not_count_for_this_one() -> None:
    async def script(f: Fixture) -> None:
        for replica in "bc":
            f.replicas.refused(full(replica))
        assert await f.wait(full("a"), begun=False) == 0.0
        await f.wait(full("b"), begun=False)
        with pytest.raises(Overloaded):
            await f.wait(full("c"), begun=False)

    play(script)


def test_replicas_that_do_not_serve_are_not_asked_before_a_refusal() -> None:
    async def script(f: Fixture) -> None:
        await f.wait(full("a"), begun=False)
        f.replicas.update("ab")
        f.replicas.lost("b")
        with pytest.raises(Overloaded):
            await f.wait(full("a"), begun=False)

    play(script)


def test_a_replica_that_came_meanwhile_is_asked_too() -> None:
    async def script(f: Fixture) -> None:
        await f.wait(full("a"), begun=False)
        await f.wait(full("b"), begun=False)
        f.replicas.update("abcd")
        await f.wait(full("c"), begun=False)
        with pytest.raises(Overloaded):
            await f.wait(full("d"), begun=False)

    play(script)


def test_refusals_before_an_answer_do_not_count_after_it() -> None:
    async def script(f: Fixture) -> None:
        await f.wait(full("a"), begun=False)
        await f.wait(full("b"), begun=False)
        f.patience.answered()
        assert await f.wait(full("c"), begun=False) == 0.0

    play(script)


@pytest.mark.parametrize(
    "error",
    [full(""), Overloaded("None became free.", 1.0, replica="a", waited_s=0.01)],
    ids=["refused by Serve", "queued in vain"],
)
def test_a_call_that_has_not_begun_is_refused_at_once_where_others_could_do_no_better(
    error: Overloaded,
) -> None:
    async def script(f: Fixture) -> None:
        with pytest.raises(Overloaded) as caught:
            await f.wait(error, begun=False)
        assert caught.value is error
        assert f.time.now == 1_000.0

    play(script)


def test_a_call_that_has_begun_and_queued_in_vain_goes_on_elsewhere() -> None:
    async def script(f: Fixture) -> None:
        queued = Overloaded("None became free.", 1.0, replica="a", waited_s=5.0)
        assert await f.wait(queued) == 0.0
        assert f.replicas.preferred("abc") == {"b", "c"}

    play(script)


def test_a_call_that_has_begun_waits_though_all_are_full() -> None:
    async def script(f: Fixture) -> None:
        assert [await f.wait(full(name)) for name in ("a", "b", "c", "")] == pytest.approx(
            [0, 0.05, 0.1, 0.2]
        )

    play(script)


def test_a_refusal_is_told_to_all_calls_of_the_process() -> None:
    async def script(f: Fixture) -> None:
        await f.wait(full("a"))
        assert f.replicas.preferred("abc") == {"b", "c"}

    play(script)


def test_a_call_that_has_not_begun_looks_for_another_replica_where_one_is_lost() -> None:
    async def script(f: Fixture) -> None:
        for replica in "abc":
            f.replicas.lost(replica)
        pauses = [await f.wait(begun=False) for _ in range(3)]
        assert pauses == pytest.approx([0, 0.05, 0.1])

    play(script)
