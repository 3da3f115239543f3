"""What engines measured when they ran, kept from one start to the next."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import runtime
from runtime.settings import Settings

# What two runs of the same thing differ by. Tensors are as large each time; what a process
# holds of the host depends on what it shares with others: 20 % were seen, and a start that fails
# for its own record is worse than room that stays free.
_GPU_MARGIN, _GPU_LEAST = 0.03, 32 << 20
_HOST_MARGIN, _HOST_LEAST = 0.50, 64 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """What a replica held after its warm-up, in bytes; ``state`` and so on as it had claimed."""

    bytes: int
    context: int
    state: int
    host: int
    at: float  # Unix time

    @classmethod
    def of(cls, size: int, context: int, state: int, host: int) -> Measured:
        """A figure of this moment; bytes."""
        return cls(size, context, state, host, time.time())

    @property
    def fixed(self) -> int:
        """What it held beyond context, state and host, with a margin: weights and workspace."""
        held = self.bytes - self.context - self.state - self.host
        share, least = (_GPU_MARGIN, _GPU_LEAST) if self.context else (_HOST_MARGIN, _HOST_LEAST)
        return max(0, held) + max(round(share * self.bytes), least)


class History:
    """Measured figures by what ran and on which device, in a file that lives with the daemon."""

    @classmethod
    def kept_in(cls, settings: Settings) -> History:
        """The history of the daemon with these settings."""
        return cls(settings.state_dir / "measured.json")

    def __init__(self, path: Path) -> None:
        """Read the file; one that is missing or damaged is an empty history."""
        self._path = path
        self._entries: dict[str, Measured] = {}
        try:
            for key, entry in json.loads(path.read_text(encoding="utf-8")).items():
                self._entries[key] = _measured(entry)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError):
            self._entries = {}  # estimates stand in for it, and the plan says so

    def get(self, signature: str, device: str) -> Measured | None:
        """What these engines measured on a device of this name, or None."""
        return self._entries.get(_key(signature, device))

    def note(self, signature: str, device: str, measured: Measured) -> None:
        """Keep a figure in place of an earlier one, and write the file in one piece.

        Of host memory the larger one is kept: the less a process shares, the more it holds.
        """
        key = _key(signature, device)
        before = self._entries.get(key)
        if before is not None and not measured.context and before.fixed > measured.fixed:
            return
        self._entries[key] = measured
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(f".{os.getpid()}")
        entries = {key: asdict(entry) for key, entry in self._entries.items()}
        draft.write_text(json.dumps(entries, indent=2), encoding="utf-8")
        draft.replace(self._path)


def signature(engines: Mapping[str, tuple[str, Mapping[str, Any]]]) -> str:
    """A name for engines and all of their options but the slots, by role, in this release.

    Another release may need more: what an earlier one measured is not held against it.
    """
    parts = [f"speech-runtime {runtime.__version__}"]
    for role, (engine, options) in sorted(engines.items()):
        kept = {key: value for key, value in options.items() if key not in ("slots", "max_slots")}
        parts.append(f"{role}={engine}{json.dumps(kept, sort_keys=True, default=str)}")
    return " ".join(parts)


def _measured(entry: dict[str, Any]) -> Measured:
    """What was written down for an entry.

    Raises:
        TypeError: It is something else.
    """
    for name, value in entry.items():
        # A bool is an int, too.
        if type(value) is not int and not (name == "at" and type(value) is float):
            raise TypeError(f"{name} is {value!r}")
    return Measured(**entry)


def _key(signature: str, device: str) -> str:
    return f"{device}: {signature}"
