"""One configuration over several nodes: a lost one's replica is back elsewhere, no word is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from daemons import SUPPORT

pytestmark = [pytest.mark.cluster, pytest.mark.apart]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = os.pathsep.join(filter(None, (SUPPORT, os.environ.get("PYTHONPATH"))))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        done = subprocess.run(
            [sys.executable, str(Path(SUPPORT) / "nodes.py"), folder],
            env=environment | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
    return json.loads(line)


def test_each_node_has_a_budget_and_each_replica_a_node_of_its_own(found: Any) -> None:
    assert found["nodes"] == 3
    assert min(found["budgets"]) > 0
    assert found["placed"] == 2


@pytest.mark.timed
def test_the_lease_on_a_lost_node_ends_within_five_seconds_and_no_other(found: Any) -> None:
    assert found["lost_s"] < 5
    assert found["near"] == [True, True]


def test_an_utterance_on_the_lost_node_is_said_to_its_end(found: Any) -> None:
    assert found["spoken"] == {"missing": 0, "contiguous": True, "takeovers": 1}


def test_the_lost_replica_is_back_on_another_node(found: Any) -> None:
    assert found["back"] == 2
