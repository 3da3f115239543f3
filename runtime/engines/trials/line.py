"""What a trial found, and a line of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial found; ``mend`` says what to do unless all is well."""

    verdict: Verdict
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the matrix.

    Attributes:
        subject: A checkpoint, or the machine.
        what: What was tried of it.
        verdict: A trial that did not run is never a ``pass``.
        found: In words.
        mend: What to do unless all is well.
        seconds: What it took; None where it did not run to its end.
        ran: Whether it was tried at all.
    """

    subject: str
    what: str
    verdict: Verdict
    found: str
    mend: str = ""
    seconds: float | None = None
    ran: bool = True


def skipped(subject: str, what: str, why: str) -> Line:
    """A trial that was not run, and why."""
    return Line(subject, what, "warn", f"did not run: {why}", ran=False)
