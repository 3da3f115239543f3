"""What the commands print: people read the console, programs read one JSON object."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console

console = Console(highlight=False)
"""For results, on standard output."""

notes = Console(stderr=True, highlight=False, soft_wrap=True)
"""For progress and errors, on standard error."""

VERDICTS = {"pass": "green", "warn": "yellow", "fail": "red"}
"""The colour of each."""


def print_json(value: dict[str, Any], to: TextIO | None = None) -> None:
    """Print the one object of a ``--json`` run, to standard output unless told otherwise."""
    to = to or sys.stdout
    to.write(json.dumps(value, ensure_ascii=False) + "\n")
    to.flush()


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """A spinner on standard error while something takes its time."""
    if quiet or not notes.is_terminal:
        yield
        return
    with notes.status(what):
        yield


def quieten_ray() -> None:
    """Keep Ray's notices of its own progress off the terminal; warnings still show."""
    # A filter, because Ray sets the levels of its loggers itself when it is imported.
    for name in ("ray", "ray.serve", "ray._private.worker"):
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.WARNING)
