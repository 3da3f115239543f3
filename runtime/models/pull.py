"""Getting models onto this machine: from where they are already, a folder, or the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from runtime.errors import CheckpointError, InvalidRequest
from runtime.models.catalogue import FileHash, Model, Pin
from runtime.models.hub import Hub
from runtime.models.lock import Locked, read_lock, sole_writer, write_lock
from runtime.models.store import place, wanted
from runtime.models.transfer import Report, bring, digest, download, is_whole, writing
from runtime.settings import Settings

Source = Literal["here", "folder", "cache", "hub"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be pulled of a model.

    Attributes:
        model: Which.
        revision: A branch, tag or commit instead of the one that is wanted here.
        folder: Where its files are to come from; None looks into the hub's cache on this
            machine, and then asks the hub.
    """

    model: Model
    revision: str | None = None
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that is here now.

    Attributes:
        model: Which.
        pin: Its revision.
        path: The ``.nemo``.
        source: Where its files came from; ``here`` if they were here already.
    """

    model: Model
    pin: Pin
    path: Path
    source: Source


def pull(
    orders: list[Order],
    settings: Settings,
    hub: Callable[[], Hub],
    report: Report,
    on_wait: Callable[[], None],
) -> Iterator[Pulled]:
    """Pull models one after the other; each is in the lock once it is whole.

    Args:
        orders: Which.
        settings: Where they go.
        hub: Makes a hub to ask; called only where files are neither here nor in a folder.
        report: Told of progress.
        on_wait: Called once if another pull has to be waited for.

    Yields:
        Each model once it is here.

    Raises:
        InvalidRequest: The hub has no such revision, or a folder cannot tell it.
        HubError: The hub cannot be reached, or refuses.
        CheckpointError: A file is not what it should be, or cannot be written.
    """
    with writing(settings.models_dir), sole_writer(settings.models_dir, on_wait):
        for order in orders:
            yield _Pull(order, settings, hub, report).run()


class _Pull:
    """One model's."""

    def __init__(
        self, order: Order, settings: Settings, hub: Callable[[], Hub], report: Report
    ) -> None:
        self._order = order
        self._model = order.model
        self._settings = settings
        self._make_hub = hub
        self._report = report
        self._hub: Hub | None = None
        self._described: Pin | None = None  # once the hub was asked
        self._licence = ""

    def run(self) -> Pulled:
        pin = self._choose()
        folder = place(self._settings, self._model, pin.commit)
        sources = {self._fetch(name, pin, folder / name) for name in self._model.files}
        sources.discard("here")
        self._lock(pin)
        source: Source = sources.pop() if sources else "here"
        return Pulled(self._model, pin, folder / self._model.files[0], source)

    def _choose(self) -> Pin:
        """The revision to pull, by content."""
        known = wanted(self._model, self._settings)
        self._licence = known.licence
        revision = self._order.revision
        if revision is None and known.pin is not None:
            return known.pin
        for pin in (known.pin, self._model.pin):
            if pin is not None and pin.commit == revision:
                return pin
        self._licence = ""
        if self._order.folder is None:
            return self._describe(revision)
        if revision is None or not _COMMIT.fullmatch(revision):
            raise InvalidRequest(
                "A folder does not tell which revision its files are of: give the commit, all "
                "40 digits of it, with --revision."
            )
        return Pin(revision, {name: self._measure(name, revision) for name in self._model.files})

    def _measure(self, name: str, commit: str) -> FileHash:
        path = self._in_folder(name, commit, sha256="")
        return FileHash(digest(path), path.stat().st_size)

    def _fetch(self, name: str, pin: Pin, target: Path) -> Source:
        expected = pin.files[name]
        with writing(target.parent):
            if is_whole(target, expected):
                return "here"
        if self._order.folder is not None:
            source = self._in_folder(name, pin.commit, expected.sha256)
            bring(source, expected, target, self._report, link=False)
            return "folder"
        cached = find_in(self._ask().cache, self._model, name, pin.commit, expected.sha256)
        if cached is not None:
            bring(cached, expected, target, self._report, link=True)
            return "cache"
        self._compare(name, pin)
        download(self._ask(), self._model, pin, name, target, self._report)
        return "hub"

    def _in_folder(self, name: str, commit: str, sha256: str) -> Path:
        folder = self._order.folder
        assert folder is not None
        found = find_in(folder, self._model, name, commit, sha256)
        if found is None:
            raise CheckpointError(
                f"{folder} has no {name} of {self._model.name}: looked for it there, in the "
                f"layout of {self._settings.models_dir}, and in that of Hugging Face's cache."
            )
        return found

    def _compare(self, name: str, pin: Pin) -> None:
        """What the hub says of a file before gigabytes of it are downloaded."""
        says = (self._described or self._describe(pin.commit)).files[name]
        if says != pin.files[name]:
            raise CheckpointError(
                f"{self._ask().endpoint} says that {name} of {self._model.repo} at {pin.commit} "
                f"has {says.size:,} bytes with sha256 {says.sha256}; expected "
                f"{pin.files[name].size:,} with {pin.files[name].sha256}. Nothing was downloaded: "
                "one of the two is not to be trusted."
            )

    def _describe(self, revision: str | None) -> Pin:
        description = self._ask().describe(self._model, revision)
        self._described, self._licence = description.pin, description.licence
        return description.pin

    def _ask(self) -> Hub:
        if self._hub is None:
            self._hub = self._make_hub()
        return self._hub

    def _lock(self, pin: Pin) -> None:
        entries = read_lock(self._settings.models_lock)
        entry = Locked(self._model.repo, replace(pin, files=dict(pin.files)), self._licence)
        if entries.get(self._model.name) != entry:
            with writing(self._settings.models_lock.parent):
                write_lock(self._settings.models_lock, entries | {self._model.name: entry})


def find_in(root: Path, model: Model, name: str, commit: str, sha256: str) -> Path | None:
    """A model's file: ``root`` itself, or in it, in our layout or in Hugging Face's cache's.

    That cache has revisions under ``snapshots``, and content under ``blobs``, by sha256.
    """
    repository = root / f"models--{model.repo.replace('/', '--')}"
    for path in (
        *([root] if root.name == name else []),
        root / name,
        root / model.name / commit / name,
        repository / "snapshots" / commit / name,
        repository / "blobs" / sha256,
    ):
        if path.is_file():
            return path
    return None
