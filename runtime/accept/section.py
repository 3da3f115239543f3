"""A part of the acceptance: lines with a verdict, and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.engines.trials.line import Line, Verdict

_WORST: tuple[Verdict, ...] = ("fail", "warn", "pass")


@dataclass(slots=True)
class Section:
    """One part.

    Attributes:
        name: Its title.
        lines: What was found, each with a verdict and what to do about it.
        tables: Figures: rows of one kind, by the table's title.
        about: What the figures are of.
    """

    name: str
    lines: list[Line] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    about: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst of its lines; a part without lines is not tried, and no ``pass``."""
        return worst(self.lines)

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "about": self.about,
            "findings": [asdict(line) for line in self.lines],
            "tables": self.tables,
        }


def worst(lines: Sequence[Line]) -> Verdict:
    """The worst verdict; ``warn`` if there is none."""
    found = {line.verdict for line in lines}
    return next((verdict for verdict in _WORST if verdict in found), "warn")
