"""Counts what a safetensors file holds: eight bytes of length, then JSON, then tensors."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from runtime.memory.extent import Damaged, Extent

_TYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


def count(file: Extent, without: str = "") -> dict[str, int]:
    """Count the numbers in a file by type.

    Tensors whose names end with ``without`` are not counted.

    Raises:
        Damaged: The header is not one, or does not agree with the file's length.
    """
    length = int.from_bytes(file.exactly(8), "little")
    if length > file.size - 8:
        raise Damaged(f"it is cut off: its header is {length} bytes, the file {file.size}")
    try:
        header = json.loads(file.exactly(length))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise Damaged("its header lists no tensors")
    header.pop("__metadata__", None)
    total: Counter[str] = Counter()
    end = 0
    for name, tensor in header.items():
        kind, numbers, tensor_end = _tensor(name, tensor)
        if not (without and name.endswith(without)):
            total[kind] += numbers
        end = max(end, tensor_end)
    if 8 + length + end != file.size:
        raise Damaged(f"it is {file.size} bytes long; by its header it would be {8 + length + end}")
    return dict(total)


def _tensor(name: str, tensor: Any) -> tuple[str, int, int]:
    """Type, how many numbers, and where the tensor ends."""
    try:
        kind, size = _TYPES[tensor["dtype"]]
        shape, (start, end) = tensor["shape"], tensor["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"its header says of tensor {name[:80]!r}: {str(tensor)[:120]}") from error
    numbers = math.prod(shape) if whole else -1
    if numbers * size != end - start:
        raise Damaged(f"its header says of tensor {name[:80]!r}: {str(tensor)[:120]}")
    return kind, numbers, end
