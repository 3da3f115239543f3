"""One offline Parakeet for all tests of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from offline_parakeet import ROWS, WINDOW_S, Run, Watched

from runtime.engines import make_recognizer
from runtime.engines.parakeet.offline import ParakeetRecognizer


@pytest.fixture(scope="session")
def weights(tiny_parakeet: Callable[..., Path]) -> Path:
    return tiny_parakeet(streaming=False)


@pytest.fixture(scope="session")
def nemo(weights: Path) -> Any:
    from tiny_parakeet import restore

    return restore(weights)


@pytest.fixture(scope="session")
def engine(weights: Path, run: Run) -> Iterator[ParakeetRecognizer]:
    options = {"weights": str(weights), "device": "cpu", "slots": ROWS, "window_s": WINDOW_S}
    made = make_recognizer("parakeet", options)
    assert isinstance(made, ParakeetRecognizer)
    run(made.load())
    run(made.exercise())
    yield made
    run(made.close())


@pytest.fixture
def watched(engine: ParakeetRecognizer, monkeypatch: pytest.MonkeyPatch) -> Watched:
    model = engine._model
    assert model is not None
    watched = Watched(model.recognize)
    monkeypatch.setattr(model, "recognize", watched)
    return watched
