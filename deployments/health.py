"""Whether an engine can go on within its process."""

from __future__ import annotations

from runtime.errors import EngineFailed
from runtime.speech import Checked


def is_beyond_help(engine: object) -> bool:
    """Whether it cannot: what it was asked for is for another replica then."""
    try:
        if isinstance(engine, Checked):
            engine.check()
    except EngineFailed:
        return True
    return False
