"""What a process knows of replicas: who takes sessions, and who was just found lost or full."""

from __future__ import annotations

import pytest

from runtime.client.replicas import Replicas, forget_all, none_serves, replicas_of
from runtime.errors import Overloaded


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replicas(clock: Clock) -> Replicas:
    """Three of them, a, b and c."""
    known = Replicas(clock)
    known.update("abc")
    return known


def full(replica: str, retry_after_s: float = 1.0) -> Overloaded:
    return Overloaded("All slots are taken.", retry_after_s, replica=replica)


# --- who serves, and who leaves ----------------------------------------------


def test_before_serve_has_told_anything_nobody_serves_and_nobody_leaves() -> None:
    replicas = Replicas()
    assert replicas.serving == frozenset()
    assert not replicas.is_leaving("a")


def test_those_that_serve_are_those_of_the_last_update(replicas: Replicas) -> None:
    assert replicas.serving == {"a", "b", "c"}
    replicas.update(["b", "d"])
    assert replicas.serving == {"b", "d"}


def test_a_replica_that_left_the_update_is_leaving(replicas: Replicas) -> None:
    replicas.update(["b"])
    assert [replicas.is_leaving(replica) for replica in "abc"] == [True, False, True]


def test_no_replica_is_left_for_nobody(replicas: Replicas) -> None:
    replicas.update([])
    assert not replicas.is_leaving("a"), "there is none to take over"


def test_none_is_left_only_where_there_were_some(replicas: Replicas) -> None:
    fresh = Replicas()
    assert not fresh.none_left, "nothing has been told yet"
    fresh.update([])
    assert not fresh.none_left
    assert not replicas.none_left
    replicas.update([])
    assert replicas.none_left
    replicas.update("d")
    assert not replicas.none_left
    replicas.lost("d")
    assert not replicas.none_left, "Serve still names it: it may be there"


# --- lost --------------------------------------------------------------------


def test_a_lost_replica_serves_nobody_though_serve_still_names_it(replicas: Replicas) -> None:
    replicas.lost("a")
    replicas.update("abcd")
    assert replicas.serving == {"b", "c", "d"}
    assert (replicas.is_lost("a"), replicas.is_lost("b")) == (True, False)
    assert replicas.is_leaving("a")


def test_a_lost_replica_that_answers_is_back(replicas: Replicas) -> None:
    replicas.lost("a")
    replicas.answered("a")
    assert replicas.serving == {"a", "b", "c"}
    assert not replicas.is_lost("a")


def test_an_answer_of_a_replica_that_was_never_lost_changes_nothing(replicas: Replicas) -> None:
    replicas.answered("a")
    replicas.answered("unheard of")
    assert replicas.serving == {"a", "b", "c"}


def test_a_loss_is_believed_for_half_a_minute(replicas: Replicas, clock: Clock) -> None:
    replicas.lost("a")
    clock.now += 29.0
    assert replicas.is_lost("a")
    clock.now += 1.5
    assert not replicas.is_lost("a")
    assert replicas.serving == {"a", "b", "c"}


def test_a_replica_that_is_lost_again_is_lost_for_longer(replicas: Replicas, clock: Clock) -> None:
    replicas.lost("a")
    clock.now += 20.0
    replicas.lost("a")
    clock.now += 20.0
    assert replicas.is_lost("a")


def test_all_lost_is_nobody_leaving(replicas: Replicas) -> None:
    for replica in "abc":
        replicas.lost(replica)
    assert replicas.serving == frozenset()
    assert not replicas.is_leaving("a")


# --- full --------------------------------------------------------------------


def test_a_full_replica_goes_on_serving_but_others_are_preferred(replicas: Replicas) -> None:
    replicas.refused(full("a"))
    assert replicas.serving == {"a", "b", "c"}
    assert not replicas.is_leaving("a")
    assert replicas.preferred("abc") == {"b", "c"}


@pytest.mark.parametrize(("retry_after_s", "seconds"), [(0.2, 0.2), (1.0, 1.0), (30.0, 1.0)])
def test_a_refusal_counts_for_as_long_as_it_says_and_a_second_at_most(
    replicas: Replicas, clock: Clock, retry_after_s: float, seconds: float
) -> None:
    replicas.refused(full("a", retry_after_s))
    clock.now += 0.9 * seconds
    assert replicas.preferred("ab") == {"b"}
    clock.now += 0.2 * seconds
    assert replicas.preferred("ab") == {"a", "b"}


def test_a_refusal_of_no_replica_in_particular_marks_none(replicas: Replicas) -> None:
    replicas.refused(full(""))
    assert replicas.preferred("abc") == {"a", "b", "c"}


# --- preferred ---------------------------------------------------------------


def test_only_those_that_were_offered_are_preferred(replicas: Replicas) -> None:
    assert replicas.preferred(["a", "unheard of"]) == {"a", "unheard of"}
    assert replicas.preferred([]) == set()


def test_a_full_replica_is_better_than_a_lost_one(replicas: Replicas) -> None:
    replicas.lost("a")
    replicas.refused(full("b"))
    assert replicas.preferred("ab") == {"b"}


def test_if_all_are_lost_any_may_be_tried(replicas: Replicas) -> None:
    replicas.lost("a")
    replicas.lost("b")
    replicas.refused(full("a"))
    assert replicas.preferred("ab") == {"a", "b"}


# --- listeners ---------------------------------------------------------------


def test_listeners_hear_of_replicas_that_come_or_go_and_only_then(replicas: Replicas) -> None:
    heard: list[frozenset[str]] = []
    replicas.subscribe(lambda: heard.append(replicas.serving))
    replicas.update("cba")
    replicas.lost("a")
    replicas.refused(full("b"))
    assert heard == []
    replicas.update("bcd")
    replicas.update("d")
    assert heard == [{"b", "c", "d"}, {"d"}]


def test_who_has_unsubscribed_hears_nothing_more(replicas: Replicas) -> None:
    heard: list[str] = []
    first = replicas.subscribe(lambda: heard.append("first"))
    replicas.subscribe(lambda: heard.append("second"))
    first()
    first()  # harmless
    replicas.update("ab")
    assert heard == ["second"]


def test_a_listener_may_unsubscribe_and_subscribe_while_it_is_called(replicas: Replicas) -> None:
    heard: list[str] = []

    def once() -> None:
        heard.append("once")
        unsubscribe()
        replicas.subscribe(lambda: heard.append("later"))
        replicas.subscribe(lambda: heard.append("later"))

    unsubscribe = replicas.subscribe(once)
    replicas.update("ab")
    assert heard == ["once"]
    replicas.update("a")
    assert heard == ["once", "later", "later"]


# --- one object a deployment -------------------------------------------------


def test_a_deployment_is_known_once_until_the_process_leaves_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Other tests of this process may be connected.
    monkeypatch.setattr("runtime.client.replicas._deployments", {})
    known = replicas_of("speech", "ASR")
    assert replicas_of("speech", "ASR") is known
    assert replicas_of("speech", "TTS") is not known
    assert replicas_of("other", "ASR") is not known
    forget_all()
    assert replicas_of("speech", "ASR") is not known


def test_when_the_cluster_is_gone_no_deployment_has_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.client.replicas._deployments", {})
    deployments = [replicas_of("speech", "ASR"), replicas_of("speech", "TTS")]
    heard: list[int] = []
    for number, known in enumerate(deployments):
        known.update("ab")
        known.subscribe(lambda number=number: heard.append(number))  # type: ignore[misc]
    none_serves()
    assert [known.serving for known in deployments] == [frozenset(), frozenset()]
    assert heard == [0, 1]
