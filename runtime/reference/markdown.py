"""What all generated pages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GENERATED = "*Generated from the code by `make reference-pages`: edit that, not this.*"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may hold markup, but no line breaks."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
