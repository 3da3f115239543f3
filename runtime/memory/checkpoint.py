"""How many numbers of which type a checkpoint holds, from its headers alone.

Reads safetensors, PyTorch's zip files, and NeMo's ``.nemo`` archives or folders of
these, without torch: nothing in a file is executed, and no tensor is read. Of a ``.nemo``
that is a gzip, as NeMo 1 wrote them, everything before the weights must be unpacked.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import ConfigError
from runtime.memory import safetensors, torch_zip
from runtime.memory.extent import Damaged, Extent

FLOATS: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
"""Bytes of a number of each floating type."""

OTHERS: Mapping[str, int] = {
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes of a number of each type that loading does not convert."""

_WEIGHTS = "model_weights.ckpt"  # what NeMo calls the state dict in a .nemo
_BROKEN = (
    Damaged,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    tarfile.TarError,
    ValueError,  # of tarfile too, at some fields of a header
    IndexError,
)
_ENDLESS = 1 << 62  # bytes: how long the content of a gzip is, is not known before its end


def elements(path: Path, without: str = "") -> dict[str, int]:
    """Count the numbers in a checkpoint by type: ``{"float32": 300_000_000}``.

    What tensors share is counted once. Everything in the file counts: a checkpoint that
    holds an optimizer's state too is not one to serve from.

    Args:
        path: A file, or a folder: an unpacked ``.nemo``, safetensors, or one ``.nemo``.
        without: Tensors whose names end so are not counted; by default all are.

    Raises:
        ConfigError: It is not such a checkpoint, or is damaged or cut off; the message
            says what was found.
    """
    total: Counter[str] = Counter()
    for file in _files(path):
        try:
            with file.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                total.update(_count(Extent(stream, 0, size), without))
        except _BROKEN as error:
            raise ConfigError(f"{file} is no checkpoint that can be read: {error}.") from error
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror or error}.") from error
    return dict(total)


def bytes_as(elements: Mapping[str, int], dtype: str) -> int:
    """Bytes of these numbers once a model is loaded to be run in ``dtype``.

    Floating-point numbers are converted; whole numbers, flags and complex numbers stay.

    Raises:
        ConfigError: Not a floating type, or numbers of a type that is not known.
    """
    if dtype not in FLOATS:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(FLOATS)}.")
    total = 0
    for kind, count in elements.items():
        if kind not in FLOATS and kind not in OTHERS:
            raise ConfigError(f"There is no type of numbers {kind!r}.")
        total += count * (FLOATS[dtype] if kind in FLOATS else OTHERS[kind])
    return total


def _files(path: Path) -> list[Path]:
    """The files that together are one checkpoint.

    A repository's folder may hold one model in several forms; one of them is counted.
    """
    if not path.is_dir():
        return [path]
    for pattern in (_WEIGHTS, "*.safetensors", "*.nemo"):
        found = sorted(path.glob(pattern))
        if pattern == "*.nemo" and len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise ConfigError(f"{path} holds {len(found)} models: name one of {names}.")
        if found:
            return found
    there = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    raise ConfigError(f"{path} holds no {_WEIGHTS}, .safetensors or .nemo; it holds {there}.")


def _count(file: Extent, without: str) -> dict[str, int]:
    head = file.peek(512)
    if head.startswith(b"PK\x03\x04"):
        return torch_zip.count(file, without)
    if head.startswith(b"\x1f\x8b"):
        # Its end cannot be looked at without unpacking all of it.
        content = Extent(gzip.GzipFile(fileobj=file), 0, _ENDLESS)
        return _count_archive(content, torch_zip.count_stream, without)
    if head[257:262] == b"ustar":
        return _count_archive(file, torch_zip.count, without)
    if head[8:9] == b"{":
        return safetensors.count(file, without)
    if not head:
        raise Damaged("it is empty")
    if head[:1] == b"\x80":
        raise Damaged(
            "it is a pickle, as PyTorch wrote before 1.6; load it and save it again to get a zip"
        )
    raise Damaged(f"it is neither zip, tar, gzip nor safetensors, but starts with {head[:8]!r}")


def _count_archive(file: Extent, count: torch_zip.Count, without: str) -> dict[str, int]:
    """The weights in a tar; NeMo puts them at its top, or under ``./``."""
    seen = []
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:  # seeks from header to header
            if member.size < 0:
                raise Damaged("a header of it claims a negative size")
            if member.isfile() and Path(member.name).name == _WEIGHTS:
                return count(Extent(file, member.offset_data, member.size), without)
            seen.append(member.name)
    raise Damaged(f"it is an archive without {_WEIGHTS}; it holds {', '.join(seen[:5]) or 'none'}")
