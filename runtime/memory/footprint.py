"""What an engine needs of memory, by its own estimate, before anything is loaded.

Engines give a formula; this is its result. All sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

GIB = 1 << 30

Source: TypeAlias = Literal["table", "checkpoint", "measured", "configured"]
"""Where a figure is from: a table of models, a checkpoint's own headers, a run, the operator."""

AUTO = "auto"
"""What ``slots`` says in a configuration that leaves their number to the plan."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one engine needs in one replica.

    Attributes:
        on_gpu: Whether its tensors live on a GPU; else everything is host memory.
        weights: Bytes of the weights, in the type they are run in.
        weights_from: Where that figure is from.
        workspace: Bytes that are needed once, however many slots there are: activations
            that do not grow with them, graphs, the allocator's slack, and what is ``outside``.
        outside: Bytes of the workspace that no allocator counts beyond a CUDA context: modules,
            graphs, libraries' own. Engines of one process share them.
        state_per_slot: Bytes that each slot adds: the state it keeps, and its share of the
            activations of a batch.
        host: Bytes of host memory of the process for this engine, libraries included.
            They are of the same pool on unified memory; on a host engine, everything is.
        host_kept: Of them, what stays when the engine has been loaded, beyond what each engine
            counts for itself: the next one in the process is loaded on top of that.
        slots: How many slots are configured; None leaves it to the plan.
        max_slots: The most it can run.
        formula: How ``state_per_slot`` and ``workspace`` come about, for people.
    """

    on_gpu: bool
    weights: int
    weights_from: Source
    workspace: int
    state_per_slot: int
    host: int
    slots: int | None
    max_slots: int
    formula: str = ""
    host_kept: int = 0
    outside: int = 0
