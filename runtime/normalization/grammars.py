"""Compiled NeMo grammars on disk: one folder for each version and language, whole or absent.

NeMo writes its archives where it is told, one after the other, and reads whatever it
finds there; Hindi's names one of its files as English does, and Japanese as Chinese.
So each language has a folder of its own, which is compiled elsewhere, described by
the hashes of its files, and put in place by one rename. A folder that does not match
its description is compiled again.

Imported by the worker's process only: NeMo is imported here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DESCRIPTION = "sha256.json"

Compile = Callable[[str, Path], Any]
"""Makes a language's normaliser; its archives are read from the folder, or written into it."""


def compile_with_nemo(language: str, folder: Path) -> Any:
    """Make NeMo's normaliser of a language, as ``Compile`` says."""
    from nemo_text_processing.text_normalization.normalize import Normalizer

    # It logs whole texts, at each failure, to standard error.
    logging.getLogger("NeMo-text-processing").disabled = True
    return Normalizer(input_case="cased", lang=language, cache_dir=str(folder))


def load(language: str, version: str, cache_dir: Path, build: Compile = compile_with_nemo) -> Any:
    """Load a language's grammars, compiled first if they are not, by one process at a time.

    Args:
        language: A language that NeMo has grammars for.
        version: What the grammars are of; another version has other folders.
        cache_dir: Where the folders are.
        build: Makes the normaliser.

    Returns:
        NeMo's ``Normalizer``.

    Raises:
        OSError: The cache folder cannot be written.
    """
    parent = cache_dir / "normalization" / version
    folder = parent / language
    parent.mkdir(parents=True, exist_ok=True)
    with _only_one(parent / f"{language}.lock"):
        if _is_whole(folder):
            return build(language, folder)
        for abandoned in parent.glob(f"{language}-*"):  # by a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{language}-", dir=parent))
        try:
            made = build(language, draft)
            (draft / _DESCRIPTION).write_text(json.dumps(_hashes(draft), indent=1))
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return made


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold a lock that ends with its process, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path) -> bool:
    try:
        described = json.loads((folder / _DESCRIPTION).read_text())
    except (OSError, ValueError):
        return False
    return bool(described) and described == _hashes(folder)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != _DESCRIPTION)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
