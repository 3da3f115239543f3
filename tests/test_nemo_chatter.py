"""What is held back while NeMo loads comes again, however many engines load at once."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from runtime.engines.nemo import _without_chatter, quietly


def overlapping(
    make: Callable[[], AbstractContextManager[None]], looks: Callable[[], bool]
) -> None:
    """One thread enters, another does, the first leaves, then the other: seen at each turn."""
    turns = [threading.Event() for _ in range(3)]
    seen: list[bool] = []

    def first() -> None:
        with make():
            seen.append(looks())
            turns[0].set()
            turns[1].wait(30)
        seen.append(looks())
        turns[2].set()

    def second() -> None:
        turns[0].wait(30)
        with make():
            turns[1].set()
            turns[2].wait(30)
            seen.append(looks())

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [True, True, True]
    assert not looks()


def test_logs_are_back_when_the_last_of_two_imports_is_over() -> None:
    overlapping(lambda: _without_chatter, lambda: logging.root.manager.disable == logging.WARNING)


def test_warnings_are_back_when_the_last_of_two_models_is_restored() -> None:
    overlapping(quietly, lambda: warnings.filters[0][0] == "ignore" and not warnings.filters[0][1])
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("seen again", UserWarning, stacklevel=1)
