"""Ray's environment: a client has that of its daemon, or says what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from runtime.daemon import (
    SHARED_ENVIRONMENT,
    adopt_environment,
    is_loopback,
    joined_cluster_environment,
    own_cluster_environment,
    token_path,
)
from runtime.settings import Settings

ADOPT = """
import os, sys
if sys.argv[1] == "first":
    import ray
from runtime.daemon import adopt_environment
from runtime.errors import DaemonUnavailable
try:
    adopt_environment({"RAY_SERVE_ROUTER": "yes", "RAY_AUTH_TOKEN_PATH": "/somewhere/token"})
except DaemonUnavailable as error:
    print(f"refused: {error}")
else:
    print("adopted:", os.environ["RAY_SERVE_ROUTER"], os.environ["RAY_AUTH_TOKEN_PATH"])
"""


def adopt(when_ray: str, **environment: str) -> str:
    """What happens in a process that imports Ray first or later, in this environment."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ADOPT, when_ray],
        env=own | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


def test_an_environment_is_adopted_before_ray_is_imported() -> None:
    assert adopt("later") == "adopted: yes /somewhere/token"


def test_after_ray_was_imported_an_environment_is_refused_with_what_to_set() -> None:
    said = adopt("first", RAY_SERVE_ROUTER="no")
    assert said.startswith("refused: Ray was imported before")
    assert said.endswith("RAY_SERVE_ROUTER=yes RAY_AUTH_TOKEN_PATH=/somewhere/token")


def test_only_what_differs_is_to_be_set() -> None:
    said = adopt("first", RAY_SERVE_ROUTER="yes")
    assert said.endswith("start this program with: RAY_AUTH_TOKEN_PATH=/somewhere/token")


def test_after_ray_was_imported_under_the_same_environment_it_is_adopted() -> None:
    said = adopt("first", RAY_SERVE_ROUTER="yes", RAY_AUTH_TOKEN_PATH="/somewhere/token")
    assert said == "adopted: yes /somewhere/token"


def test_nothing_to_adopt_is_always_accepted() -> None:
    adopt_environment({})


def test_a_cluster_of_ones_own_has_a_token_and_keeps_to_this_host(settings: Settings) -> None:
    environment = own_cluster_environment(settings)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(token_path(settings))
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert is_loopback(environment)


def test_in_a_cluster_of_others_the_token_is_theirs_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/theirs")
    monkeypatch.setenv("RAY_SOMETHING_ELSE", "1")
    environment = joined_cluster_environment()
    assert environment["RAY_AUTH_TOKEN_PATH"] == "/theirs"
    assert "RAY_SOMETHING_ELSE" not in environment
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"} & joined_cluster_environment().keys()


def test_a_cluster_of_others_may_span_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    assert not is_loopback(joined_cluster_environment())
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    assert is_loopback(joined_cluster_environment())


def test_handles_behave_the_same_in_every_cluster(settings: Settings) -> None:
    assert SHARED_ENVIRONMENT.items() <= own_cluster_environment(settings).items()
    assert SHARED_ENVIRONMENT.items() <= joined_cluster_environment().items()
