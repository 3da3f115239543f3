"""What the estimates of NVIDIA's engines share: common options, and the size of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from runtime.engines.models import ModelT, find_model
from runtime.engines.options import one_of, only, positive
from runtime.errors import ConfigError
from runtime.memory.footprint import AUTO, GIB, Source

HOST = 3 * GIB // 2
"""Host memory of a process with NeMo: importing it takes 0.7 to 1.2 GB, measured with
nemo_toolkit 3.0.0; the rest is the interpreter's and CUDA's."""

CUDA_HOST = 3 * GIB
"""Host memory that stays of CUDA's libraries, modules and graphs, once an engine is loaded: a
process with the streaming Parakeet held 4.65 GiB on an H100, and 9.04 at the most while it loaded
the second engine."""

RESERVE = GIB
"""What no formula counts: CUDA graphs and their private pools, workspaces of cuBLAS and
cuDNN, blocks that torch's allocator cannot use. Chosen: with it the estimates are above
every peak measured on an H100 of the engines that use it for all of this (those are named in
tests/test_footprints.py), by 5 % at the least."""

OUTSIDE = round(0.45 * GIB)
"""What of it no allocator counts beyond a CUDA context: with graphs, cuBLAS and cuDNN 680 to
980 MiB were measured, context included."""

DTYPES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Types that an engine can be run in, and bytes of a number."""

COMMON = ("model", "weights", "dtype", "slots", "max_slots")
"""Options that all of them have."""


@dataclass(frozen=True, slots=True)
class NvidiaOptions(Generic[ModelT]):
    """The options that all of them have, checked.

    Attributes:
        model: The model's sizes.
        model_name: Its name in the table.
        weights: A checkpoint to count instead of the table's parameters.
        dtype: What it is run in.
        slots: How many; None leaves it to the plan.
        max_slots: The most.
    """

    model: ModelT
    model_name: str
    weights: Path | None
    dtype: str
    slots: int | None
    max_slots: int

    @property
    def number(self) -> int:
        """Bytes of a number in ``dtype``."""
        return DTYPES[self.dtype]

    @property
    def batch(self) -> int:
        """The most slots that can be in one batch."""
        return self.max_slots if self.slots is None else self.slots

    def weight_bytes(self, parameters: int, without: str = "") -> tuple[int, Source]:
        """Bytes of the weights in ``dtype``, and where the figure is from.

        The checkpoint's own count is taken where the file is on this machine; a plan can
        be made before it is downloaded, with the table's. Tensors of it whose names end with
        ``without`` do not count.

        Raises:
            ConfigError: What is there is no checkpoint.
        """
        if self.weights is None or not self.weights.exists():
            return parameters * self.number, "table"
        from runtime.memory.checkpoint import bytes_as, elements

        return bytes_as(elements(self.weights, without), self.dtype), "checkpoint"


def read_options(
    engine: str,
    options: Mapping[str, Any],
    table: Mapping[str, ModelT],
    max_slots: int,
    own: tuple[str, ...],
) -> NvidiaOptions[ModelT]:
    """Check the options that all engines have; the table's first model is the default.

    Args:
        engine: Its name, for errors.
        options: As configured.
        table: Its models.
        max_slots: Its default; more slots than that may be asked for outright.
        own: Names of the options that it has besides.

    Raises:
        ConfigError: An option that there is not, or a value that cannot be.
    """
    only(engine, options, (*COMMON, *own))
    name = options.get("model", next(iter(table)))
    model = find_model(name, table)
    dtype = options.get("dtype", "bfloat16")
    one_of("dtype", dtype, DTYPES)
    weights = options.get("weights")
    if weights is not None and (not isinstance(weights, str | Path) or not str(weights)):
        raise ConfigError(f"weights is {weights!r}; it must be the path of a checkpoint.")
    slots = options.get("slots", AUTO)
    slots = None if slots == AUTO else positive("slots", slots)
    most = positive("max_slots", options.get("max_slots", max(max_slots, slots or 1)))
    if slots is not None and slots > most:
        raise ConfigError(f"slots is {slots}; max_slots is {most}, and cannot be less.")
    path = None if weights is None else Path(weights).expanduser()
    return NvidiaOptions(model, name, path, dtype, slots, most)


def megabytes(size: int) -> str:
    """Bytes for people: ``37.7 MB``."""
    return f"{size / 1e6:,.1f} MB"
