"""A group of trials in this process: ``python -m runtime.engines.trials``, for ``group.run``.

On standard input one JSON object: ``function`` (``package.module:function``, which yields an
``Outcome`` for each trial), ``options`` for it, and the ``mend`` of a damaged checkpoint. Each
trial is a line of JSON on standard output; whatever else is printed goes to standard error.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from runtime.engines.cuda import is_out_of_memory
from runtime.engines.trials.line import Outcome
from runtime.errors import CheckpointError, SpeechError


def main() -> None:
    """Run the trials one after another; the first that ends with an error is the last."""
    order = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    started = time.perf_counter()
    for outcome in _outcomes(order):
        seconds = round(time.perf_counter() - started, 3)
        answers.write(json.dumps({**asdict(outcome), "seconds": seconds}) + "\n")
        answers.flush()
        started = time.perf_counter()


def _outcomes(order: dict[str, Any]) -> Iterator[Outcome]:
    module, _, name = order["function"].partition(":")
    try:
        yield from getattr(importlib.import_module(module), name)(order["options"])
    except Exception as error:
        yield _failed(error, order["mend"])


def _failed(error: Exception, mend: str) -> Outcome:
    if isinstance(error, CheckpointError):
        return Outcome("fail", str(error), mend)
    if is_out_of_memory(error):
        return Outcome("fail", str(error), "free memory on the device: see `speech memory show`")
    if isinstance(error, SpeechError):  # they say what to do
        return Outcome("fail", str(error))
    return Outcome("fail", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
