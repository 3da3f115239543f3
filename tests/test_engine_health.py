"""Whether an engine can go on: only one that says it cannot is refused work, or given up."""

from __future__ import annotations

import pickle

import pytest

from deployments.health import is_beyond_help, refuse_if_lost
from runtime.errors import EngineFailed, ReplicaLost


class Lost:
    def check(self) -> None:
        raise EngineFailed("the device is lost")


class Well:
    def check(self) -> None:
        pass


def test_an_engine_that_lost_its_device_begins_nothing_and_another_replica_is_to() -> None:
    assert is_beyond_help(Lost())
    with pytest.raises(ReplicaLost, match="the device is lost") as refused:
        refuse_if_lost(Lost(), "a1")
    assert pickle.loads(pickle.dumps(refused.value)).replica == "a1", "beyond the process, too"


@pytest.mark.parametrize("engine", [Well(), object()])
def test_an_engine_that_is_well_or_does_not_say_is_given_work(engine: object) -> None:
    assert not is_beyond_help(engine)
    refuse_if_lost(engine, "a1")
