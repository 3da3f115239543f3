"""Which pages there are, and what writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime.reference import metrics

PAGES: Mapping[str, Callable[[], str]] = {"metrics.md": metrics.page}
