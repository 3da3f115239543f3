"""What a replica writes down: one line of JSON an utterance, and no user's words unless asked.

The lines are in a file of their own beside Serve's log of the replica, rotated as that one is.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from deployments.metrics import serving_as
from runtime.errors import EngineFailed, SpeechError

_SERVE = "ray.serve"
_FAILED = "Request failed."  # what Serve says before the traceback of each call that raises


class UtteranceLog:
    """The lines of one replica.

    Attributes:
        words: Whether what users say and hear is written down.
    """

    def __init__(self) -> None:
        """In a replica; makes the file."""
        self.words = False
        self._who = serving_as()
        self._logger = logging.Logger("speech.utterances")
        self._logger.addHandler(_beside_serves_log(self._who))
        self._failures = _WithoutWords(self)
        logging.getLogger(_SERVE).addFilter(self._failures)

    def write(self, line: dict[str, Any]) -> None:
        """Write one line, with the time (UTC) and the replica."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._logger.info(json.dumps({"time": time, **self._who, **line}, ensure_ascii=False))


class _WithoutWords(logging.Filter):
    """Keeps what Serve says of failed calls free of messages, which may quote a request.

    Errors that tell a caller what to do are in the utterance's own line, and left out here.
    Those of a model keep their traceback: files, lines and types.
    """

    def __init__(self, log: UtteranceLog) -> None:
        super().__init__()
        self._log = log

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or record.msg != _FAILED or self._log.words:
            return True
        if isinstance(error, SpeechError) and not isinstance(error, EngineFailed):
            return False
        record.exc_info = None
        record.msg = "\n".join([_FAILED, *_frames(error)])
        return True


def _frames(error: BaseException) -> Iterator[str]:
    cause = error.__cause__
    if cause is not None:
        yield from _frames(cause)
    yield f"{type(error).__module__}.{type(error).__qualname__} (its message is left out)"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'


def _beside_serves_log(who: dict[str, str]) -> logging.Handler:
    """A handler for bare lines: a file where Serve has one, else standard error."""
    handler: logging.Handler = logging.StreamHandler()
    for serves in logging.getLogger(_SERVE).handlers:
        target = getattr(serves, "target", serves)  # Serve buffers before its file
        if isinstance(target, RotatingFileHandler):
            name = f"utterances_{who['application']}_{who['deployment']}_{who['replica']}.jsonl"
            handler = RotatingFileHandler(
                Path(target.baseFilename).with_name(name),
                maxBytes=target.maxBytes,
                backupCount=target.backupCount,
                encoding="utf-8",
                delay=True,
            )
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler
