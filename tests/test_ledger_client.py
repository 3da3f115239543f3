"""How a process finds the ledger's actor: once, and again when another has its name."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.client.ledger import LedgerActor, LedgerClient
from runtime.errors import DaemonUnavailable
from runtime.memory.ledger import ACTOR, NAMESPACE


class RayError(Exception):
    """Ray's errors stand for themselves: importing Ray settles its environment for good."""


class RayActorError(RayError):
    """The actor is not there."""


class ActorUnavailableError(RayActorError):
    """It may be again."""


GONE, RESTARTING = RayActorError("it died"), ActorUnavailableError("it restarts")


class Actor:
    """An actor whose one method tells the actor's name, or fails as it was told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fails: BaseException | None = None
        self.snapshot = self

    async def remote(self) -> str:
        if self.fails is not None:
            raise self.fails
        return self.name


class Names:
    """Ray's names: who has the ledger's, and how often it was asked for."""

    def __init__(self) -> None:
        self.actor: Actor | None = Actor("first")
        self.asked = 0

    def get_actor(self, name: str, namespace: str) -> Actor:
        assert (name, namespace) == (ACTOR, NAMESPACE)
        self.asked += 1
        if self.actor is None:
            raise ValueError("Failed to look up actor")
        return self.actor


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    errors = SimpleNamespace(
        RayError=RayError,
        RayActorError=RayActorError,
        ActorUnavailableError=ActorUnavailableError,
    )
    ray = SimpleNamespace(get_actor=names.get_actor, exceptions=errors)
    monkeypatch.setitem(sys.modules, "ray", ray)
    return names


def calls(actor: LedgerActor | LedgerClient, count: int = 1) -> list[Any]:
    """Ask for so many snapshots; an answer, or the error's class, for each."""

    async def all_of_them() -> list[Any]:
        answers: list[Any] = []
        for _ in range(count):
            try:
                call = actor.call if isinstance(actor, LedgerActor) else actor._call
                answers.append(await call("snapshot"))
            except (RayActorError, ValueError, DaemonUnavailable) as error:
                answers.append(type(error))
        return answers

    return asyncio.run(all_of_them())


def test_the_ledger_is_looked_up_once(names: Names) -> None:
    assert calls(LedgerActor(), 5) == ["first"] * 5
    assert names.asked == 1


def test_a_ledger_that_is_restarted_keeps_its_handle(names: Names) -> None:
    ledger = LedgerActor()
    first = names.actor
    assert first is not None
    assert calls(ledger) == ["first"]
    first.fails = RESTARTING
    assert calls(ledger) == [type(RESTARTING)], "whoever asks decides whether to ask again"
    first.fails = None
    assert calls(ledger) == ["first"]
    assert names.asked == 1


def test_a_ledger_that_took_anothers_place_is_found_within_the_call(names: Names) -> None:
    ledger = LedgerActor()
    first = names.actor
    assert first is not None
    assert calls(ledger) == ["first"]
    first.fails = GONE
    names.actor = Actor("second")
    assert calls(ledger, 3) == ["second"] * 3
    assert names.asked == 2


def test_a_ledger_that_is_gone_is_an_error_until_there_is_another(names: Names) -> None:
    ledger = LedgerClient()
    first = names.actor
    assert first is not None
    assert calls(ledger) == ["first"]
    first.fails = GONE
    assert calls(ledger) == [DaemonUnavailable], "its name is not free yet"
    names.actor = None
    assert calls(ledger, 2) == [DaemonUnavailable] * 2
    names.actor = Actor("second")
    assert calls(ledger, 2) == ["second"] * 2
