"""Where models lie on this machine, and which revision of each is wanted there.

``<models_dir>/<model>/<commit>/<file>``: revisions lie beside each other, so that a pull
never changes what a running engine has open.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.errors import CheckpointError
from runtime.models.catalogue import Model, Pin, find
from runtime.models.lock import read_lock
from runtime.settings import Settings

Origin = Literal["locked", "pin", "unresolved"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The revision of a model that this machine should have.

    Attributes:
        origin: ``locked`` by ``models.lock``, the ``pin`` of this release, or
            ``unresolved`` before the first pull of a model without one.
        pin: The revision; None where it is unresolved.
        licence: As the lock has it; empty where it has none.
    """

    origin: Origin
    pin: Pin | None
    licence: str = ""


def wanted(model: Model, settings: Settings) -> Wanted:
    """The revision that is wanted: the lock's before this release's.

    Raises:
        CheckpointError: The lock is damaged, or has the name for another repository.
    """
    locked = read_lock(settings.models_lock).get(model.name)
    if locked is None:
        return Wanted("pin" if model.pin else "unresolved", model.pin)
    if locked.repo != model.repo or not set(model.files) <= set(locked.pin.files):
        raise CheckpointError(
            f"{settings.models_lock} has {', '.join(locked.pin.files)} of {locked.repo} under "
            f"{model.name}; it should be {', '.join(model.files)} of {model.repo}. Delete that "
            f"entry and run `speech models pull {model.name}`."
        )
    return Wanted("locked", locked.pin, locked.licence)


def place(settings: Settings, model: Model, commit: str) -> Path:
    """The folder that a revision of a model lies in, whether it is there or not."""
    return settings.models_dir / model.name / commit


def missized(model: Model, pin: Pin, folder: Path) -> tuple[list[str], list[str]]:
    """Files that are not there, and those of another size; neither is opened."""
    absent, wrong = [], []
    for name in model.files:
        path = folder / name
        if not path.is_file():
            absent.append(name)
        elif path.stat().st_size != pin.files[name].size:
            wrong.append(f"{name} has {path.stat().st_size:,} bytes, not {pin.files[name].size:,}")
    return absent, wrong


def path_of(name: str, settings: Settings | None = None) -> Path:
    """The local ``.nemo`` of a model, for an engine to open; nothing is downloaded.

    The size is compared, the content is not: that is what ``speech models verify`` is for.

    Args:
        name: Of the model, or an alias.
        settings: Where to look; by default the environment's.

    Raises:
        ConfigError: There is no such model.
        CheckpointError: It is not on this machine, or not whole; the message says how to
            get it.
    """
    model = find(name)
    settings = settings or Settings()
    pin = wanted(model, settings).pin
    mend = f"Run `speech models pull {model.name}`."
    if pin is None:
        raise CheckpointError(f"{model.name} has not been pulled to {settings.models_dir}. {mend}")
    folder = place(settings, model, pin.commit)
    absent, wrong = missized(model, pin, folder)
    if absent:
        raise CheckpointError(f"{model.name} is not here: no {folder / absent[0]}. {mend}")
    if wrong:
        raise CheckpointError(f"{model.name} is not whole: {folder}: {'; '.join(wrong)}. {mend}")
    return folder / model.files[0]
