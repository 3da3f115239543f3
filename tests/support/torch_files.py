"""Checkpoints as PyTorch writes them, without PyTorch: its names, pickles and zips."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from typing import Any

STORAGES = ("FloatStorage", "BFloat16Storage", "LongStorage")


class Storage:
    """Pickled as PyTorch does: by a persistent id."""

    def __init__(self, kind: str, key: str, numbers: int) -> None:
        self.kind, self.key, self.numbers = kind, key, numbers


def rebuild(*arguments: object) -> None: ...


class Tensor:
    """A view of a storage."""

    def __init__(self, storage: Storage, *shape: int) -> None:
        self.storage, self.shape = storage, shape

    def __reduce__(self) -> Any:
        strides = tuple(1 for _ in self.shape)
        arguments = (self.storage, 0, self.shape, strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


def modules() -> dict[str, types.ModuleType]:
    """The few names of PyTorch's that a checkpoint refers to, as modules to be imported."""
    package, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in (*STORAGES, "OddStorage"):
        setattr(package, name, type(name, (), {"__module__": "torch"}))
    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
    return {"torch": package, "torch._utils": utils}


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Storage):
            kind = getattr(sys.modules["torch"], obj.kind)
            return ("storage", kind, obj.key, "cpu", obj.numbers)
        return None


def pickled(content: object) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(content)
    return stream.getvalue()


def torch_zip(
    data: bytes, storages: dict[str, int], method: int = zipfile.ZIP_STORED, top: str = "archive/"
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(f"{top}data.pkl", data)
        archive.writestr(f"{top}version", "3\n")
        for key, size in storages.items():
            archive.writestr(f"{top}data/{key}", bytes(size))
    return stream.getvalue()
