"""What tests of pulling share: one small model, a hub that has it, and nobody else's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from huggingface_hub import close_session, constants
from tiny_models import COMMIT

from runtime.models import catalogue, transfer
from runtime.models.catalogue import Model
from runtime.models.hub import TOKENS, Hub, Token
from runtime.models.pull import Order, Pulled, pull
from runtime.settings import Settings

NAME = "parakeet-tdt-0.6b-v2"
FILE = f"{NAME}.nemo"
REPO = f"nvidia/{NAME}"
CONTENT = os.urandom(300_000)


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Neither the caches nor the tokens of whoever runs the tests; returns the cache's folder."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(transfer, "_PAUSE_S", 0.0)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for variable in TOKENS:
        monkeypatch.delenv(variable, raising=False)
    return folder / "hf"


@contextmanager
def parakeets_hub() -> Iterator[FakeHub]:
    """A hub that has the one model."""
    with FakeHub().running() as running:
        running.publish(REPO, COMMIT, {FILE: CONTENT, "README.md": b"a card"}, "v2")
        yield running
        close_session()


def catalogued(monkeypatch: pytest.MonkeyPatch, model: Model) -> Model:
    """Make a model all that is in the catalogue."""
    monkeypatch.setattr(catalogue, "CATALOGUE", {model.name: model})
    return model


def run(
    model: Model, settings: Settings, hub: FakeHub | None, token: str = "", **order: Any
) -> Pulled:
    """Pull a model; without a hub there is none to be reached."""

    def make() -> Hub:
        url = hub.url if hub else "http://127.0.0.1:1"
        return Hub(Token("HF_TOKEN", token) if token else Token(), endpoint=url)

    orders = [Order(model, **order)]
    (pulled,) = pull(orders, settings, make, lambda *_: None, lambda: None)
    return pulled
