"""What a ``.nemo`` says about itself, read without NeMo: its configuration and small files.

A ``.nemo`` is a tar of ``model_config.yaml``, ``model_weights.ckpt`` and artifacts such as
dictionaries; NeMo 1 wrote it as a gzip. The weights are neither read nor unpacked.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from runtime.errors import CheckpointError

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
ARTIFACT = "nemo:"
"""Prefix of a path in the configuration that names a file within the archive."""

_SMALL = 64 << 20  # bytes: configurations have kilobytes, dictionaries a few megabytes


class NemoArchive:
    """An archive, or the folder that one was unpacked into."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self.path = path

    def config(self) -> Mapping[str, Any]:
        """Its configuration, as NeMo saved it.

        Raises:
            CheckpointError: There is no such file, or it is damaged or no ``.nemo``.
        """
        try:
            document = yaml.load(self.read(CONFIG), Loader=_Loader)
        except (yaml.YAMLError, ValueError) as error:  # a date that there is not, say
            raise CheckpointError(f"{self.path}: its {CONFIG} is not YAML ({error}).") from error
        if not isinstance(document, dict):
            raise CheckpointError(f"{self.path}: its {CONFIG} holds no settings.")
        return document

    def read(self, name: str) -> bytes:
        """The content of a small file within; ``nemo:`` before its name is left out.

        Raises:
            CheckpointError: It is not there, or the archive is damaged or cut off.
        """
        name = name.removeprefix(ARTIFACT)
        try:
            if self.path.is_dir():
                return (self.path / name).read_bytes()
            return self._member(name)
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path}: there is no {name} in it.") from error
        except OSError as error:
            raise self._unreadable(error) from error

    def check_complete(self) -> None:
        """Walk over all headers, to the end of the archive.

        Raises:
            CheckpointError: It is cut off, or holds no weights.
        """
        if self.path.is_dir():
            names = {entry.name for entry in self.path.iterdir()}
        else:
            with self._opened() as archive:
                try:
                    names = {PurePosixPath(member.name).name for member in archive}
                    ended = self._ends(archive)
                except _BROKEN as error:
                    raise self._damaged(error) from error
                except OSError as error:
                    raise self._unreadable(error) from error
            if not ended:
                raise self._damaged("it has no end")
        if WEIGHTS not in names:
            raise CheckpointError(f"{self.path}: there is no {WEIGHTS} in it.")

    def _ends(self, archive: tarfile.TarFile) -> bool:
        """Whether an empty block follows the last file: `tarfile` takes any rubbish for the end."""
        file = archive.fileobj
        assert file is not None
        file.seek(archive.offset)
        ended = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        while self._is_gzip() and file.read(_SMALL):
            pass  # to its checksum
        return ended

    def _member(self, name: str) -> bytes:
        with self._opened() as archive:
            try:
                # The last of that name, as whoever unpacks it gets: the Magpie of 2026 was
                # appended to, and holds several configurations.
                found = None
                for member in archive:
                    if str(PurePosixPath(member.name)) == str(PurePosixPath(name)):
                        found = member
                try:
                    stream = archive.extractfile(found) if found is not None else None
                except KeyError:  # a link to what is not there
                    stream = None
                if found is None or stream is None:
                    raise FileNotFoundError(name)
                if found.size > _SMALL:
                    raise CheckpointError(
                        f"{self.path}: {name} has {found.size:,} bytes, which is more than a file "
                        f"like it ever has."
                    )
                content = stream.read()
                if len(content) < found.size:
                    raise self._damaged("it ends within a file")
                return content
            except _BROKEN as error:
                raise self._damaged(error) from error

    def _opened(self) -> tarfile.TarFile:
        try:
            return tarfile.open(self.path, "r:gz" if self._is_gzip() else "r:")
        except _BROKEN as error:
            raise self._damaged(error) from error
        except OSError as error:
            raise self._unreadable(error) from error

    def _is_gzip(self) -> bool:
        with self.path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"

    def _unreadable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.path} cannot be read: {error.strerror or error}.")

    def _damaged(self, reason: object) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is no complete .nemo ({reason}): fetch it again, with "
            f"`speech models pull` if it is one of NVIDIA's."
        )


_BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, IndexError)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
