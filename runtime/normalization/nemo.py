"""The normaliser of NeMo's grammars, which run in a process beside this one."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError, EngineFailed
from runtime.normalization.rules import say
from runtime.text import plan_chunks, primary_language

LONGEST_PIECE = 120
"""Characters that the grammars get at once: their time grows faster than the text."""
START_TIMEOUT_S = 0.8
"""After this, turns of other callers included, what is left of a text is done by the rules."""
PIECE_TIMEOUT_S = 1.2
"""Longer on one piece, and the process hangs: twice the worst piece on a busy 2-core machine."""
LOAD_TIMEOUT_S = 900.0
"""The most that compiling one language may take; the slowest took 160 s on a slow machine."""

_log = logging.getLogger(__name__)


class _WorkerLost(Exception):
    pass


class _Worker:
    """A process with grammars, and the connection to it; one call at a time."""

    def __init__(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._connection = ours
        command = [sys.executable, "-m", "runtime.normalization.grammar_worker"]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, *question: Any, within_s: float) -> tuple[str, ...]:
        """Send a question and wait for its answer.

        Raises:
            TimeoutError: There is none in time; the process must be ended then.
            _WorkerLost: The process has ended.
        """
        try:
            self._connection.send(question)
            if not self._connection.poll(within_s):
                raise TimeoutError
            answer: tuple[str, ...] = self._connection.recv()
        except TimeoutError:
            raise
        except (EOFError, OSError) as error:
            raise _WorkerLost from error
        return answer

    def end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


class NemoNormalizer:
    """NeMo's grammars in a process of their own, and the rules for what they cannot do.

    A text that the grammars refuse, leave digits in, or do not get to in
    time is said by the rules (English in full, of other languages the
    numbers) and counted in ``failures``. A process that hangs or dies is replaced in
    the background; until then every text is the rules'.
    """

    def __init__(self, name: str, languages: tuple[str, ...], cache_dir: Path) -> None:
        self.name = name
        self.languages = languages
        self._cache_dir = cache_dir
        self._failures: Counter[str] = Counter()
        self._turn = threading.Lock()
        self._worker: _Worker | None = None
        self._closed = False
        self._starting: _Worker | None = None

    @property
    def failures(self) -> Mapping[str, int]:
        """Texts done by the rules, by reason: see docs/normalisation.md."""
        return dict(self._failures)

    @property
    def worker_pid(self) -> int | None:
        """The process with the grammars; its memory is not this one's."""
        worker = self._worker
        return worker.pid if worker else None

    def prewarm(self) -> None:
        """Start the process and load all languages; compiles those that never were.

        Raises:
            ConfigError: The cache folder cannot be written.
            EngineFailed: A grammar cannot be compiled or loaded.
        """
        with self._turn:
            if self._worker is None and not self._closed:
                self._worker = self._start()

    def _start(self) -> _Worker:
        worker = self._starting = _Worker()
        try:
            for language in self.languages:
                self._load(worker, language)
        except BaseException:
            worker.end()
            raise
        finally:
            self._starting = None
        return worker

    def _load(self, worker: _Worker, language: str) -> None:
        version = self.name.replace(" ", "-")
        began = time.monotonic()
        if not (self._cache_dir / "normalization" / version / language).is_dir():
            _log.warning(
                "compiling NeMo's grammars of %s, once on this machine: up to minutes "
                "(normalizer: rules starts at once)",
                language,
            )
        try:
            question = ("load", language, version, str(self._cache_dir))
            kind, *facts = worker.ask(*question, within_s=LOAD_TIMEOUT_S)
        except (TimeoutError, _WorkerLost) as error:
            raise EngineFailed(
                f"The grammars of {language!r} were not loaded: their process "
                f"{'took too long' if isinstance(error, TimeoutError) else 'ended'}. "
                "normalizer: rules does without."
            ) from error
        if kind == "failed" and facts[0] == "cache":
            raise ConfigError(
                f"The cache of grammars under {self._cache_dir} cannot be used ({facts[1]}): set "
                "SPEECH_CACHE_DIR to a folder that can be written."
            )
        if kind == "failed":
            raise EngineFailed(f"NeMo cannot load its grammars of {language!r}: {facts[1]}.")
        _log.info("grammars of %s loaded in %.1f s", language, time.monotonic() - began)

    def normalize(self, text: str, language: str) -> str:
        """Write a text as it is said; see ``Normalizer.normalize``.

        Takes at most ``START_TIMEOUT_S`` and ``PIECE_TIMEOUT_S``, and what the rules need.
        """
        language = primary_language(language)
        if language not in self.languages or not text.strip():
            return text
        deadline = time.monotonic() + START_TIMEOUT_S
        said, position = [], 0
        for piece in plan_chunks(text, language, LONGEST_PIECE):
            said += [text[position : piece.start], self._piece(piece.text, language, deadline)]
            position = piece.end
        return "".join([*said, text[position:]])

    def _piece(self, text: str, language: str, deadline: float) -> str:
        spoken, reason = self._ask(text, language, deadline)
        if not reason and not any(map(str.isdigit, spoken)):
            return spoken
        self._failures[reason or "digits left"] += 1
        return say(text, language)

    def _ask(self, text: str, language: str, deadline: float) -> tuple[str, str]:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not self._turn.acquire(timeout=left_s):
            return "", "late"
        try:
            if self._worker is None:
                return "", "no worker"
            kind, *facts = self._worker.ask("say", text, language, within_s=PIECE_TIMEOUT_S)
        except (TimeoutError, _WorkerLost) as error:
            self._replace()
            return "", "hung" if isinstance(error, TimeoutError) else "no worker"
        finally:
            self._turn.release()
        return (facts[0], "") if kind == "done" else ("", "error")

    def _replace(self) -> None:
        """End the process, which hangs or is dead, and start another in the background."""
        assert self._worker is not None
        self._worker.end()
        self._worker = None
        threading.Thread(target=self._restart, name="grammars", daemon=True).start()

    def _restart(self) -> None:
        try:
            worker = self._start()  # outside the turn: texts go to the rules meanwhile
        except (ConfigError, EngineFailed) as error:
            _log.error("the grammars are gone, the rules speak from here on: %s", error)
            return
        with self._turn:
            if self._closed or self._worker is not None:
                worker.end()
            else:
                self._worker = worker

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._closed = True
        starting = self._starting
        if starting is not None:
            starting.end()  # it may compile for minutes, and holds the turn meanwhile
        with self._turn:
            if self._worker is not None:
                self._worker.end()
                self._worker = None
