"""How processes that a test starts find a daemon, and how a daemon finds the scripted engines."""

from __future__ import annotations

from pathlib import Path

from runtime.bench.private import place

SUPPORT = str(Path(__file__).parent)  # to be on PYTHONPATH where scripted engines are to run

__all__ = ["SUPPORT", "place"]
