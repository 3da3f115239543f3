"""A neighbour that starts as vLLM does, and fails where vLLM would.

    python -m runtime.bench.neighbour --utilisation 0.60 --seconds 30 --weights 0.5

It wants ``utilisation x total`` free, loads its weights in stages, looks how much free
memory of the device that took (whoever took it), fails if memory grew free meanwhile, and
makes its cache as large as what is left of its part. Then it answers on a port of 127.0.0.1:
``/health``, and ``/check``, which compares all it holds with what it wrote there.
"""

from __future__ import annotations

import argparse
import http.server
import json
import sys
import time
from typing import Any

from runtime.bench.blocks import Blocks

GIB = 1 << 30
_STAGES = 30
_BLOCK = 256 << 20
_SMALL = 16 << 20  # below this a change of free memory is the driver's own bookkeeping


class StartFailed(Exception):
    """The neighbour cannot start; the message is vLLM's complaint in short."""


class Neighbour:
    """Holds tensors with a pattern in them."""

    def __init__(self, utilisation: float, weights: float, least_cache: float) -> None:
        """``weights`` and ``least_cache`` are parts of what the utilisation gives it."""
        import torch

        self._torch = torch
        self._blocks = Blocks("cuda", _BLOCK)
        free, total = torch.cuda.mem_get_info()
        self.wanted = int(utilisation * total)
        self.cache = 0
        self._weights = int(weights * self.wanted)
        self._least_cache = int(least_cache * self.wanted)
        if free < self.wanted:
            raise StartFailed(
                f"{free / GIB:.2f} GiB are free, and it wants {self.wanted / GIB:.2f}"
            )
        self._free_at_start = free

    def start(self, seconds: float) -> None:
        """Load for so many seconds, profile, and make the cache.

        Raises:
            StartFailed: Memory grew free meanwhile, or the cache would be too small.
        """
        for stage in range(_STAGES):
            began = time.monotonic()
            upto = self._weights * (stage + 1) // _STAGES
            before = self._free()
            taken = self._blocks.take(upto - self._blocks.size)
            after = self._free()
            if after > before - taken + _SMALL:
                raise StartFailed(self._grew(before, after, taken))
            time.sleep(max(0.0, seconds / _STAGES - (time.monotonic() - began)))
            if (now := self._free()) > after + _SMALL:
                raise StartFailed(self._grew(after, now, 0))
        # What was taken of the device since the start counts as its own, whoever took it.
        used = self._free_at_start - self._free()
        self.cache = self.wanted - used
        if self.cache < self._least_cache:
            raise StartFailed(
                f"{self.cache / GIB:.2f} GiB are left for its cache, and it needs "
                f"{self._least_cache / GIB:.2f}: {used / GIB:.2f} were taken while it started"
            )
        self._blocks.take(self.cache)

    def intact(self) -> bool:
        """Whether every byte is what was written."""
        return self._blocks.intact()

    def _free(self) -> int:
        return int(self._torch.cuda.mem_get_info()[0])

    def _grew(self, before: int, after: int, taken: int) -> str:
        return (
            f"free memory grew while it profiled: {(after + taken - before) / GIB:.2f} GiB were "
            "given back by somebody else"
        )


def serve(neighbour: Neighbour, port: int) -> None:
    """Answer on 127.0.0.1 until the process is ended; prints the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer: dict[str, Any] = {"cache_gib": round(neighbour.cache / GIB, 2)}
            if self.path == "/check":
                answer["intact"] = neighbour.intact()
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", port), Handler)
    server.serve_forever()


def main() -> None:
    """Start; exit code 1 and a line on standard error if that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utilisation", type=float, default=0.60)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--weights", type=float, default=0.5)
    parser.add_argument("--least-cache", type=float, default=0.47)
    parser.add_argument("--port", type=int, required=True)
    chosen = parser.parse_args()
    try:
        neighbour = Neighbour(chosen.utilisation, chosen.weights, chosen.least_cache)
        neighbour.start(chosen.seconds)
    except StartFailed as error:
        sys.exit(f"neighbour: {error}")
    serve(neighbour, chosen.port)


if __name__ == "__main__":
    main()
