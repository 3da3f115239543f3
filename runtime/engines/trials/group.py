"""Trials in a process of their own: whatever becomes of it, each of them gets its line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from runtime.engines.trials.line import Line, skipped

LIMIT_S = 900.0
"""The longest that a group may take. Restoring a public Magpie takes half a minute on two
cores; a second of its audio there, some more."""


@dataclass(frozen=True, slots=True)
class Group:
    """Trials that share a process.

    Attributes:
        subject: What is tried: a checkpoint, or the machine.
        trials: Their names, in the order in which their outcomes come.
        function: ``package.module:function``, which yields them; imported only there.
        options: Of that function; plain JSON values.
        gpu: Whether the process may see a GPU.
        mend: What to do about a checkpoint that cannot be used.
    """

    subject: str
    trials: tuple[str, ...]
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    gpu: bool = False
    mend: str = ""


def run(group: Group, limit_s: float = LIMIT_S) -> Iterator[Line]:
    """Run a group to its end, a line at a time.

    A process that ends before its last trial, by a signal or because it took too long, fails
    the trial that it was at; those after it say that they did not run.
    """
    left = list(group.trials)
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = _start(group, said)
        assert process.stdout is not None
        too_long = threading.Event()

        def stop() -> None:
            too_long.set()
            process.kill()

        timer = threading.Timer(limit_s, stop)
        timer.start()
        failed = ""
        try:
            for answer in process.stdout:
                what, outcome = left.pop(0), json.loads(answer)
                failed = what if outcome["verdict"] == "fail" else ""
                started = time.monotonic()
                yield Line(group.subject, what, **outcome)
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        if left and not failed:
            failed = left.pop(0)
            seconds = round(time.monotonic() - started, 3)
            found, mend = _end(code, said), _mend(code)
            if too_long.is_set():
                found, mend = f"took longer than {limit_s:g} s, and was ended", ""
            yield Line(group.subject, failed, "fail", found, mend, seconds)
        elif code and not failed:
            yield Line(group.subject, "its end", "fail", _end(code, said), _mend(code))
    for what in left:
        yield skipped(group.subject, what, f"{failed} failed")


def _start(group: Group, said: IO[bytes]) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    if not group.gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    process = subprocess.Popen(
        # -P: the folder that somebody happens to be in is not to be imported from.
        [sys.executable, "-P", "-m", "runtime.engines.trials"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        encoding="utf-8",
        env=environment,
    )
    order = {"function": group.function, "options": dict(group.options), "mend": group.mend}
    assert process.stdin is not None
    # One that has ended already is told of at its first trial.
    with suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(json.dumps(order))
    return process


def _end(code: int, said: IO[bytes]) -> str:
    """How a process ended, and its last words."""
    how = f"exited with {code}" if code >= 0 else f"was killed by {_signal(-code)}"
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines()]
    fatal = [index for index, line in enumerate(lines) if line.startswith("Fatal Python error")]
    if fatal:
        after = lines[fatal[-1] :]
        words = [after[0], *[line for line in after if line.startswith("File ")][:1]]
    else:
        words = [line for line in lines if line][-1:]
    return ": ".join([f"its process {how}", *words])


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _mend(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the kernel kills what needs more memory than there is: see `dmesg` and free some"
    return "look at the versions and the driver in `speech doctor`; nothing else was harmed"
