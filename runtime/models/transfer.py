"""Files on their way into the folder of models, each under a name of its own until it is whole.

A download that breaks off leaves its part, and the next pull goes on from there: the part's
name holds the sha256 that it is going to have. Only what has that sha256 gets the final name.
A part is removed when its content turns out wrong, and when the disk is full: a full disk
harms everything on the machine, and gigabytes kept on it would keep it so.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import CheckpointError, HubError
from runtime.memory.footprint import GIB
from runtime.models.catalogue import FileHash, Model, Pin
from runtime.models.hub import Hub, Interrupted

Report = Callable[[str, int, int], None]
"""Called with a file's name, its bytes so far, and its bytes in all."""

TRIES = 5
"""Of a transfer that breaks off without a byte; each that brings some starts anew."""

_PAUSE_S = 1.0
_BLOCK = 1 << 20


def digest(path: Path) -> str:
    """The sha256 of a file's content.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: Path, expected: FileHash) -> bool:
    """Whether a file is there with the content it should have.

    Raises:
        OSError: It cannot be read.
    """
    return (
        path.is_file() and path.stat().st_size == expected.size and digest(path) == expected.sha256
    )


def download(hub: Hub, model: Model, pin: Pin, name: str, target: Path, report: Report) -> None:
    """Download a file, or what is missing of it.

    Raises:
        HubError: The hub refuses, or broke off again and again; the part stays.
        CheckpointError: The disk is full, or what arrived is not what it should be; no part
            stays.
    """
    expected = pin.files[name]
    part = _part(target, expected)
    with writing(target.parent, part):
        _make_room(part, expected)
        tries = TRIES
        while (done := _size(part)) != expected.size:
            try:
                _append(hub, model, pin.commit, name, expected.size, part, report)
            except Interrupted as error:
                tries = TRIES if _size(part) > done else tries - 1
                if not tries:
                    raise HubError(
                        f"{name} broke off after {_size(part):,} of {expected.size:,} bytes: "
                        f"{error} The same command goes on from there."
                    ) from error
                time.sleep(_PAUSE_S)
            else:
                if _size(part) != expected.size:
                    break  # the hub thinks that this is all
        _accept(part, expected, target, f"{hub.endpoint}/{model.repo} at {pin.commit}")


def bring(source: Path, expected: FileHash, target: Path, report: Report, *, link: bool) -> None:
    """Take a file over from elsewhere on this machine.

    Args:
        source: The file.
        expected: What it must be.
        target: Where it goes.
        report: Told of progress.
        link: Whether it may be the same file on disk under a second name, as what lies in
            a cache by its content may; else, and on another disk, it is copied.

    Raises:
        CheckpointError: It is not what it should be, cannot be read, or the disk is full.
    """
    part = _part(target, expected)
    with writing(target.parent, part):
        part.unlink(missing_ok=True)
        if not (link and _linked(source.resolve(), part)):
            _make_room(part, expected)
            with source.open("rb") as content, part.open("wb") as file:
                while block := content.read(_BLOCK):
                    file.write(block)
                    report(target.name, file.tell(), expected.size)
        _accept(part, expected, target, str(source))


def _append(
    hub: Hub, model: Model, commit: str, name: str, total: int, part: Path, report: Report
) -> None:
    """Download from where a part ends, or a little more than there should be."""
    if _size(part) > total:
        part.unlink()
    with (
        hub.stream(model, commit, name, _size(part)) as (start, content),
        part.open("ab") as file,
    ):
        done = file.tell()
        if done != start:
            file.truncate(start)
            done = start
        for piece in content:
            file.write(piece)
            done += len(piece)
            report(name, done, total)
            if done > total:
                return


def _accept(part: Path, expected: FileHash, target: Path, origin: str) -> None:
    """Give a file its final name, if it is what it should be."""
    found = FileHash(digest(part), part.stat().st_size)
    if found != expected:
        part.unlink()
        raise CheckpointError(
            f"{target.name} from {origin} is not what it should be, and was not kept: expected "
            f"{expected.size:,} bytes with sha256 {expected.sha256}, found {found.size:,} with "
            f"{found.sha256}. Pull it again; if that does not help, its source has changed."
        )
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)


def _part(target: Path, expected: FileHash) -> Path:
    return target.with_name(f".{target.name}.{expected.sha256[:16]}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _linked(source: Path, part: Path) -> bool:
    try:
        os.link(source, part)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            return False  # another disk, or one that has no links
        raise
    return True


def _make_room(part: Path, expected: FileHash) -> None:
    """Refuse a file that cannot fit, before anything is written."""
    free = shutil.disk_usage(part.parent).free
    missing = expected.size - _size(part)
    if missing > free:
        raise CheckpointError(
            f"{part.parent} has no room: {missing / GIB:.2f} GiB are needed, {free / GIB:.2f} are "
            "free. Make room, or set SPEECH_MODELS_DIR to a larger disk."
        )


@contextmanager
def writing(folder: Path, part: Path | None = None) -> Iterator[None]:
    """Make a folder, and say what it means if something in it cannot be read or written.

    Args:
        folder: Of the files.
        part: Removed if the disk is full.

    Raises:
        CheckpointError: In place of an ``OSError``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            if part is not None:
                part.unlink(missing_ok=True)
            raise CheckpointError(
                f"The disk of {folder} is full; what had arrived was removed. Make room, or set "
                "SPEECH_MODELS_DIR to a larger disk, and pull again."
            ) from error
        raise CheckpointError(
            f"{error.filename or folder} cannot be read or written: {error.strerror or error}. "
            "Mend its rights, or set SPEECH_MODELS_DIR to a folder of your own."
        ) from error
