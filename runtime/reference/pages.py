"""Which pages there are, and what writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime.reference import commands, configuration, metrics

PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration.page,
    "commands.md": commands.page,
    "metrics.md": metrics.page,
}
