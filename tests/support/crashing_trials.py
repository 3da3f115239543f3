"""Trials that end badly, each in its own way, after one that goes well."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from runtime.engines.trials.line import Outcome
from runtime.errors import CheckpointError

WELL = Outcome("pass", "went well")


def segfault(_: Mapping[str, Any]) -> Iterator[Outcome]:
    print("something for people, and not for programs")
    yield WELL
    os.kill(os.getpid(), signal.SIGSEGV)
    yield WELL


def kill(_: Mapping[str, Any]) -> Iterator[Outcome]:
    yield WELL
    os.kill(os.getpid(), signal.SIGKILL)
    yield WELL


def leave(_: Mapping[str, Any]) -> Iterator[Outcome]:
    yield WELL
    sys.stderr.write("the last words\n")
    sys.exit(7)
    yield WELL


def hang(_: Mapping[str, Any]) -> Iterator[Outcome]:
    yield WELL
    time.sleep(600)
    yield WELL


def complain(_: Mapping[str, Any]) -> Iterator[Outcome]:
    yield WELL
    raise CheckpointError("It is cut off.")
    yield WELL


def surprise(_: Mapping[str, Any]) -> Iterator[Outcome]:
    yield WELL
    raise ZeroDivisionError("by 0")
    yield WELL


def crash_at_the_end(_: Mapping[str, Any]) -> Iterator[Outcome]:
    yield WELL
    yield WELL
    yield WELL
    os.abort()


def look_around(options: Mapping[str, Any]) -> Iterator[Outcome]:
    yield Outcome("pass", str(os.environ.get("CUDA_VISIBLE_DEVICES")))
    yield Outcome("pass", str(options))
    yield Outcome("fail", "no good", "mend it")
