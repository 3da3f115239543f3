"""``models.lock``: which revision of each model this machine holds to, by content.

A small JSON file for people to read, keep and copy to other machines: always sorted, and
replaced in one piece.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import CheckpointError
from runtime.models.catalogue import FileHash, Pin

VERSION = 1


@dataclass(frozen=True, slots=True)
class Locked:
    """One model's entry.

    Attributes:
        repo: Its repository on the hub.
        pin: Its commit, and what its files must be.
        licence: As the hub's model card said at that commit; empty where no hub was asked.
    """

    repo: str
    pin: Pin
    licence: str = ""


def read_lock(path: Path) -> dict[str, Locked]:
    """All entries by the model's name; none where there is no file.

    Raises:
        CheckpointError: It cannot be read, or is no such file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            raise ValueError(f"its version is {document['version']!r}, not {VERSION}")
        return {name: _entry(entry) for name, entry in document["models"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no lock of models ({error!r}). Put back the one that was there, or "
            "delete it: the next pull writes it anew."
        ) from error


def write_lock(path: Path, entries: Mapping[str, Locked]) -> None:
    """Replace the file in one piece: readers see the old one or the new one.

    Raises:
        OSError: The disk is full, or the folder cannot be written to.
    """
    document = {
        "version": VERSION,
        "models": {name: _document(entry) for name, entry in entries.items()},
    }
    draft = path.with_name(f"{path.name}.new")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=2, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a folder of models for this process; waits for another that holds it.

    Args:
        folder: Of the models; it is made if need be.
        on_wait: Called once if another process holds it.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".pulling").open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _entry(entry: dict[str, Any]) -> Locked:
    files = {
        name: FileHash(str(file["sha256"]), int(file["size"]))
        for name, file in entry["files"].items()
    }
    return Locked(str(entry["repo"]), Pin(str(entry["commit"]), files), str(entry["licence"]))


def _document(entry: Locked) -> dict[str, Any]:
    files = {
        name: {"sha256": file.sha256, "size": file.size} for name, file in entry.pin.files.items()
    }
    return {
        "repo": entry.repo,
        "commit": entry.pin.commit,
        "licence": entry.licence,
        "files": files,
    }
