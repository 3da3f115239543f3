"""What deployments demand of memory, and what a replica of one claims. Sizes are bytes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.memory.device import Kind
from runtime.memory.footprint import GIB, Footprint
from runtime.speech import LoadReport

logger = logging.getLogger("ray.serve")

CONTEXT = round(0.6 * GIB)
"""Bytes of a CUDA context, which no allocator counts: 610 MiB were measured on an H100."""

REPLICA_HOST = round(0.25 * GIB)
"""Bytes of a replica's process without an engine: Python, Ray, Serve; 0.2 GiB were measured."""


@dataclass(frozen=True, slots=True)
class EngineDemand:
    """An engine of a deployment; autos share what is left by ``share``, up to ``limit`` bytes."""

    role: str
    engine: str
    footprint: Footprint
    share: float = 1.0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """A deployment: what each of its replicas runs, and how many replicas there may be.

    ``measured`` are the bytes that its weights and workspace were found to need on the
    device it is about, where it has run before; ``signature`` names what ran.
    """

    deployment: str
    engines: tuple[EngineDemand, ...]
    replicas: int = 1
    signature: str = ""
    measured: int | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether it is about a GPU: one of its engines runs on it."""
        return any(engine.footprint.on_gpu for engine in self.engines)

    @property
    def weights_from(self) -> str:
        """Where the figure for the weights is from."""
        if self.measured is not None:
            return "measured"
        return ", ".join(dict.fromkeys(e.footprint.weights_from for e in self.engines))


@dataclass(frozen=True, slots=True)
class Claim:
    """What one replica claims of one pool, in bytes; ``outside`` is of its workspace."""

    context: int = 0
    weights: int = 0
    workspace: int = 0
    state: int = 0
    host: int = 0
    outside: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.context + self.weights + self.workspace + self.state + self.host

    @property
    def allocator(self) -> int:
        """What a GPU's allocator may hold of it while engines are loaded; then it is measured.

        An estimated workspace has room for what is outside of the allocator, and so has what a
        replica measured before: with a margin, which is the allocator's.
        """
        return self.total - self.context - self.host - self.outside


def claim_of(demand: Demand, slots: Sequence[int], kind: Kind) -> Claim | None:
    """What a replica claims of a pool of this kind; None if nothing."""
    parts = [
        (engine.footprint, count)
        for engine, count in zip(demand.engines, slots, strict=True)
        if kind == "unified" or engine.footprint.on_gpu == (kind == "discrete")
    ]
    if kind == "discrete" and not demand.on_gpu:
        return None
    process = REPLICA_HOST + _host([engine.footprint for engine in demand.engines])
    weights = sum(footprint.weights for footprint, _ in parts)
    workspace = sum(footprint.workspace for footprint, _ in parts)
    outside = max((footprint.outside for footprint, _ in parts), default=0)
    workspace -= sum(footprint.outside for footprint, _ in parts) - outside
    if demand.measured is not None and (kind == "unified" or demand.on_gpu == (kind != "host")):
        weights, workspace, outside = demand.measured, 0, 0
    return Claim(
        context=CONTEXT if demand.on_gpu and kind != "host" else 0,
        weights=weights,
        workspace=workspace,
        state=sum(count * footprint.state_per_slot for footprint, count in parts),
        host=0 if kind == "discrete" else process,
        outside=outside,
    )


def _host(engines: Sequence[Footprint]) -> int:
    """Of a process that loads these, one after the other: they share their libraries."""
    most = kept = 0
    for engine in engines:
        most = max(most, kept + engine.host)
        kept = max(kept, engine.host_kept)
    return most


@dataclass(frozen=True, slots=True)
class Allotment:
    """What the plan gives each replica of a deployment.

    Attributes:
        claims: What it may hold, of ``gpu`` and of ``host``.
        signature: What runs, to keep what it measures for the next plan.
        auto: Whether the plan chose the slots, and the engine may find that it sustains fewer.
    """

    claims: dict[str, Claim]
    signature: str
    auto: bool

    def slots(self, planned: int, load: LoadReport) -> int:
        """How many slots an engine is given, of those that were planned for it."""
        if self.auto and load.sustains is not None and load.sustains < planned:
            logger.warning("%d of %d slots keep real time", load.sustains, planned)
            return max(1, load.sustains)
        return planned
