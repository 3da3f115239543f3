"""Counts what a PyTorch checkpoint (a zip, since PyTorch 1.6) holds.

Its ``data.pkl`` is a pickle in which tensors refer to storages, and storages are
persistent ids: ``("storage", torch.FloatStorage, key, place, numbers)``. It is unpickled
here with every name standing for a class that does nothing.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from runtime.memory.extent import MAX_READ, Damaged, Extent

Count: TypeAlias = Callable[[Extent, str], dict[str, int]]

# torch.storage: the classes by which typed storages are pickled.
_STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
}
# Opcodes that allocate by a length they only claim, or that get at objects without
# asking find_class. PyTorch writes none of them.
_REFUSED = {"BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"}
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


def count(file: Extent, without: str = "") -> dict[str, int]:
    """Count the numbers in a checkpoint by type, and check that the zip holds them.

    Tensors of a state dict whose names end with ``without`` are not counted.

    Raises:
        Damaged: It is cut off, is no checkpoint, or its parts do not agree.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            index = next((n for n in entries if n.rpartition("/")[2] == "data.pkl"), None)
            if index is None:
                held = ", ".join(list(entries)[:5])
                raise Damaged(f"it is a zip without data.pkl, not PyTorch's; it holds {held}")
            with archive.open(index) as stream:
                storages = _storages(stream.read(MAX_READ + 1))
    # zipfile's words for an entry that says it is encrypted are RuntimeError, and for one that
    # says it is compressed in an unknown way NotImplementedError: no checkpoint is either.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Damaged(f"it is a zip that is damaged or cut off ({error})") from error
    folder = index.removesuffix("data.pkl")
    for key, storage in storages.items():
        entry = entries.get(f"{folder}data/{key}")
        if entry is None or entry.file_size != storage.numbers * storage.size:
            there = "lacks it" if entry is None else f"has {entry.file_size} bytes of it"
            raise Damaged(
                f"storage {key[:80]!r} is {storage.numbers} numbers of {storage.kind}; the zip "
                f"{there}"
            )
    return _total(storages, without)


def count_stream(file: Extent, without: str = "") -> dict[str, int]:
    """As ``count``, but from the start on, for where going to the end and back is dear.

    PyTorch writes ``data.pkl`` first. Whether its storages are there is not looked at.

    Raises:
        Damaged: It is cut off before, or is no checkpoint.
    """
    header = file.exactly(30)  # of the zip's first entry: APPNOTE.TXT 4.3.7
    name_length, extra_length = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
    method = int.from_bytes(header[8:10], "little")
    name = file.exactly(name_length).decode("utf-8", "replace")
    file.exactly(extra_length)
    if header[:4] != b"PK\x03\x04" or name.rpartition("/")[2] != "data.pkl" or method:
        raise Damaged(f"its weights are not as PyTorch writes them; they start with {name[:80]!r}")
    # How long it is may be written after it only; a pickle knows its own end.
    return _total(_storages(file.read(min(MAX_READ, file.size))), without)


@dataclass(slots=True)
class _Storage:
    """Type, bytes a number, how many numbers, and the tensors that a state dict has in it."""

    kind: str
    size: int
    numbers: int
    names: set[str] = field(default_factory=set, compare=False)

    def counts(self, without: str) -> bool:
        return not (without and self.names and all(n.endswith(without) for n in self.names))


def _total(storages: dict[str, _Storage], without: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for storage in storages.values():
        if storage.counts(without):
            total[storage.kind] += storage.numbers
    return dict(total)


def _storages(data: bytes) -> dict[str, _Storage]:
    """By key."""
    if len(data) > MAX_READ:
        raise Damaged("its data.pkl is far larger than a list of tensors")
    try:
        places = 0
        for opcode, argument, _ in pickletools.genops(data):
            # A place in the memo is allocated as told, and so are all before it.
            places += opcode.name in (*_PUTS, "MEMOIZE")
            too_far = opcode.name in _PUTS and not 0 <= int(argument or 0) <= places
            if opcode.name in _REFUSED or too_far:
                raise Damaged(f"its data.pkl is not of PyTorch's making: {opcode.name}")
        reader = _Reader(io.BytesIO(data))
        reader.load()
    except Damaged:
        raise
    # A pickle is a program: it can go wrong in any way.
    except Exception as error:
        raise Damaged(f"its data.pkl is damaged ({type(error).__name__}: {error})") from error
    return reader.storages


class _Inert:
    """What every name in a pickle stands for: takes anything, does nothing.

    Of what is made from a storage, as tensors are, it knows which.
    """

    __slots__ = ("storage",)
    storage: _Storage | None

    def __new__(cls, *arguments: object, **options: object) -> _Inert:
        made = super().__new__(cls)
        first = arguments[0] if arguments else None
        made.storage = first.storage if isinstance(first, _Inert) else None
        return made

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(value, _Inert) and value.storage is not None:
            value.storage.names.add(str(key))

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass

    def add(self, item: object) -> None:
        pass


class _Reader(pickle.Unpickler):
    """Notes the storages that a pickle names; imports and calls nothing of what it names."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> type[_Inert]:
        return type(str(name), (_Inert,), {"__slots__": ()})

    def persistent_load(self, pid: Any) -> _Inert:
        match pid:
            case ("storage", type(__name__=name), str(key), _, int(numbers), *_) if numbers >= 0:
                if name not in _STORAGES:
                    raise Damaged(f"it holds numbers in a {name}, which is not known")
                kind, size = _STORAGES[name]
                said = _Storage(kind, size, numbers)
                storage = self.storages.setdefault(key, said)
                if storage != said:
                    raise Damaged(f"it says two things of storage {key[:80]!r}")
                tensor = _Inert()
                tensor.storage = storage
                return tensor
        raise Damaged(f"its data.pkl refers to {str(pid)[:120]}, which is no storage")
