"""Whether an engine can go on within its process."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from runtime.errors import EngineFailed, ReplicaLost
from runtime.speech import Checked


def check(engine: object) -> None:
    """Ask it, if it can be asked.

    Raises:
        EngineFailed: It cannot go on.
    """
    kind: type[Any] = type(engine)
    if _can_be_asked(kind):  # type: ignore[arg-type]  # a type is hashable
        cast(Checked, engine).check()


@cache
def _can_be_asked(kind: type[Any]) -> bool:
    return issubclass(kind, Checked)  # takes 50 us: a protocol's members are looked up one by one


def is_beyond_help(engine: object) -> bool:
    """Whether it cannot: what it was asked for is for another replica then."""
    try:
        check(engine)
    except EngineFailed:
        return True
    return False


def refuse_if_lost(engine: object, replica: str) -> None:
    """Begin nothing with an engine that cannot go on, until Serve has replaced its ``replica``.

    Raises:
        ReplicaLost: It cannot; another replica can.
    """
    try:
        check(engine)
    except EngineFailed as error:
        lost = ReplicaLost(str(error))
        lost.replica = replica
        raise lost from error
