"""Whether an engine can go on within its process."""

from __future__ import annotations

from runtime.errors import EngineFailed, ReplicaLost
from runtime.speech import Checked


def is_beyond_help(engine: object) -> bool:
    """Whether it cannot: what it was asked for is for another replica then."""
    try:
        if isinstance(engine, Checked):
            engine.check()
    except EngineFailed:
        return True
    return False


def refuse_if_lost(engine: object, replica: str) -> None:
    """Begin nothing with an engine that cannot go on, until Serve has replaced its ``replica``.

    Raises:
        ReplicaLost: It cannot; another replica can.
    """
    try:
        if isinstance(engine, Checked):
            engine.check()
    except EngineFailed as error:
        lost = ReplicaLost(str(error))
        lost.replica = replica
        raise lost from error
