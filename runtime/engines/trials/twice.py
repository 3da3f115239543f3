"""The trials of an engine on a GPU: once, and once more when it is warm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from runtime.engines import cuda
from runtime.engines.trials.line import Outcome
from runtime.memory.footprint import GIB
from runtime.speech import LoadReport


def twice(
    attempt: Callable[[], tuple[Any, float]],
    pace: Callable[[Any, float], str],
    loaded: LoadReport,
    *,
    warm: str,
    same: str,
    other: str,
    mend: str,
) -> Iterator[Outcome]:
    """Two outcomes.

    Args:
        attempt: What the engine gives, and the seconds that it takes.
        pace: Both in words.
        loaded: Of the engine.
        warm: What is to be said of the second attempt.
        same: And of what it gives, if that is what the first one gave.
        other: If it is not, which is a warning.
        mend: What that means.
    """
    first, seconds = attempt()
    peak = cuda.allocator_peak() / GIB
    yield Outcome(
        "pass",
        f"{pace(first, seconds)}; {loaded.details['dtype']}, restored in {loaded.seconds:.1f} s, "
        f"torch held {peak:.2f} GiB at the most",
    )
    again, seconds = attempt()
    found = f"{pace(again, seconds)}{warm}"
    if again == first:
        yield Outcome("pass", f"{found}; {same}")
    else:
        yield Outcome("warn", f"{found}; {other}", mend)
