"""The page of benchmarks: what it makes of a report's rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.bench import page
from runtime.bench.report import distribution, report


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """The page of one report with these rows."""

    def write(rows: list[dict[str, Any]]) -> list[str]:
        (tmp_path / "benchmarks").mkdir()
        path = tmp_path / "benchmarks" / "machine-what.json"
        path.write_text(json.dumps(report("an engine", 0.0, 0.0, rows)))
        page.main(tmp_path)
        return (tmp_path / "benchmarks.md").read_text().splitlines()

    return write


def test_a_latency_below_ten_milliseconds_keeps_two_figures(written: Any) -> None:
    lines = written([{"scenario": "plan", "took_ms": distribution([0.31, 4.26, 28.4])}])
    assert "| plan | 0.31 / 4.3 / 24 / 28 / 28 |" in lines


def test_rows_that_have_nothing_in_common_have_tables_of_their_own(written: Any) -> None:
    rows = [
        {"scenario": "plan", "took_ms": distribution([1.0])},
        {"scenario": "a", "neighbour": "started", "serving": 3},
        {"scenario": "b", "serving": 2, "waited": 1},
        {"scenario": "replica", "claim_gib": 3.5},
    ]
    lines = written(rows)
    assert [line for line in lines if line.startswith("| scenario")] == [
        "| scenario | took_ms |",
        "| scenario | neighbour | serving | waited |",
        "| scenario | claim_gib |",
    ]
    assert "| b |  | 2 | 1 |" in lines
