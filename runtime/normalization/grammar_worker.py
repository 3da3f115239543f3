"""The process that runs NeMo's grammars: ``python -m runtime.normalization.grammar_worker FD``.

A process of its own, as pynini holds the interpreter's lock for tens to hundreds of
ms at a time, in which no token would be decoded and no audio sent beside it. It ends
when the other side of its connection does.
"""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from runtime.normalization.grammars import load


def serve(connection: Any) -> None:
    """Answer ("load", language, version, cache_dir) and ("say", text, language) until the end.

    Answers are ("done", text) or ("failed", kind, message): kind is "cache" where the
    cache cannot be written, and "error" else.
    """
    normalizers: dict[str, Any] = {}
    while True:
        try:
            verb, *arguments = connection.recv()
        except EOFError:
            return
        try:
            if verb == "load":
                language, version, cache_dir = arguments
                normalizers[language] = load(language, version, Path(cache_dir))
                connection.send(("done", ""))
            else:
                text, language = arguments
                connection.send(("done", _say(normalizers[language], text)))
        except OSError as error:
            connection.send(("failed", "cache", str(error)))
        except Exception as error:  # whatever NeMo, pynini and OpenFst raise
            connection.send(("failed", "error", f"{type(error).__name__}: {error}"))


def _say(normalizer: Any, text: str) -> str:
    from pynini import escape

    said: str = normalizer.normalize(text)
    # Where NeMo gives up it returns its input, with brackets and backslashes escaped.
    return text if said == escape(text.strip()) else said


def main() -> None:
    """Serve the connection whose file descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
