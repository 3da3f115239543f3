"""Pages that the code writes are those in docs/reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.metrics import declared
from runtime.reference.pages import PAGES

FOLDER = Path(__file__).parents[1] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_code_says(name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), "run: make reference-pages"


def test_there_are_no_other_pages() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_every_metric_is_declared_once_and_as_ray_wants_it() -> None:
    metrics = declared()
    assert len({metric.name for metric in metrics}) == len(metrics)
    for metric in metrics:
        assert bool(metric.boundaries) == (metric.kind == "histogram"), metric
        assert list(metric.boundaries) == sorted(set(metric.boundaries)), metric
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric
        # Serve keeps these for itself, and refuses them.
        reserved = {"application", "deployment", "replica", "route"}
        assert not (metric.of_replica and reserved & set(metric.tags)), metric
