"""How memory is to be shared, as the operator says it: the ``memory`` key of a configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runtime.memory.device import Kind
from runtime.memory.footprint import GIB

_Size = Annotated[float, Field(ge=0, allow_inf_nan=False, lt=1 << 20)]  # GiB


# Within the reserve, so that a plan that leaves nothing over does not live below a floor. GiB.
_SOFT: dict[Kind, float] = {"unified": 4.0, "discrete": 0.25, "host": 0.5}


class _Args(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Neighbour(_Args):
    """Somebody else on the device, such as vLLM; sized by utilisation or exactly."""

    name: str = Field(min_length=1, description="What to call it in tables.")
    utilisation: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Fraction of the device's total, as vLLM's --gpu-memory-utilization.",
    )
    gib: _Size | None = Field(default=None, description="Exactly so much instead, in GiB.")
    overhead_gib: _Size | None = Field(
        default=None,
        description="What it takes beyond that. By default 4 GiB on unified memory beside a "
        "utilisation, where its host side comes out of the same pool, else 0.",
    )
    devices: tuple[int, ...] | None = Field(
        default=None,
        min_length=1,
        description="GPUs it runs on, as Ray numbers them; by default all.",
    )

    @model_validator(mode="after")
    def _has_one_size(self) -> Neighbour:
        if (self.utilisation is None) == (self.gib is None):
            raise ValueError(f"give neighbour {self.name!r} either a utilisation or gib")
        return self

    def size(self, total: int) -> int:
        """Bytes it takes of a device with ``total`` bytes, without its overhead."""
        if self.utilisation is not None:
            return int(self.utilisation * total)  # so that 0.60 is 0.60 in units of 10^-4 too
        return round((self.gib or 0) * GIB)

    def overhead(self, kind: Kind) -> int:
        """Bytes it takes beyond its size."""
        if self.overhead_gib is not None:
            return round(self.overhead_gib * GIB)
        return 4 * GIB if kind == "unified" and self.utilisation is not None else 0


class Floors(_Args):
    """How little memory may be available before something is done about it."""

    soft_gib: _Size | None = Field(
        default=None,
        description="Below this new sessions are refused and caches given back. By default 4 "
        "on unified memory, 0.5 on a host, 0.25 of a GPU, but not below hard_gib.",
    )
    hard_gib: _Size | None = Field(
        default=None,
        description="Below this engines park, the least important first. By default 2 on "
        "unified memory, 0.25 on a host, 0.125 of a GPU, but not above soft_gib.",
    )
    clear_s: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for which a floor must have been clear before it counts as left.",
    )

    @model_validator(mode="after")
    def _are_in_order(self) -> Floors:
        soft, hard = self.soft_gib, self.hard_gib
        if soft is not None and hard is not None and hard > soft:
            raise ValueError(f"hard_gib ({hard:g}) must not be above soft_gib ({soft:g})")
        return self

    def soft(self, kind: Kind) -> int:
        """Bytes that must be available for new sessions."""
        default = max(_SOFT[kind], self.hard_gib or 0)
        return round((default if self.soft_gib is None else self.soft_gib) * GIB)

    def hard(self, kind: Kind) -> int:
        """Bytes that must be available for engines to stay loaded."""
        default = min(_SOFT[kind] / 2, self.soft(kind) / GIB)
        return round((default if self.hard_gib is None else self.hard_gib) * GIB)


class MemoryPolicy(_Args):
    """Who else lives on the device, and what stays free."""

    neighbours: tuple[Neighbour, ...] = Field(
        default=(), description="Who else allocates on the device, such as vLLM."
    )
    host_reserve_gib: _Size | None = Field(
        default=None,
        description="For the system and Ray itself. By default 8 on unified memory, 0.5 of "
        "each discrete GPU, 1.5 on a machine without one.",
    )
    headroom_gib: _Size | None = Field(
        default=None,
        description="What `slots: auto` leaves free. By default 4 on unified memory, else 0.",
    )
    floors: Floors = Field(
        default=Floors(), description="How little may be available before sessions are refused."
    )
    priority: tuple[str, ...] = Field(
        default=("TTS", "ASR"),
        description="Deployments, the most important first; the last one parks first.",
    )

    @model_validator(mode="after")
    def _neighbours_leave_something(self) -> MemoryPolicy:
        devices = {index for n in self.neighbours for index in n.devices or ()}
        for device in sorted(devices) or [0]:
            there = [n for n in self.neighbours if n.devices is None or device in n.devices]
            utilisation = sum(n.utilisation or 0 for n in there)
            if utilisation > 1 + 1e-9:  # 0.05 + 0.55 + 0.3 + 0.1 is more than 1 in floats
                names = ", ".join(f"{n.name} {n.utilisation:g}" for n in there if n.utilisation)
                raise ValueError(
                    f"the neighbours' utilisations on device {device} sum to {utilisation:g} "
                    f"({names}); together they cannot have more than 1"
                )
        if len({n.name for n in self.neighbours}) < len(self.neighbours):
            raise ValueError("two neighbours have the same name")
        if len(set(self.priority)) < len(self.priority):
            raise ValueError("a deployment is named twice in priority")
        return self

    def host_reserve(self, kind: Kind, *, beside_gpus: bool = False) -> int:
        """Bytes kept for the system; ``beside_gpus`` for the host of discrete GPUs."""
        default = {"unified": 8.0, "discrete": 0.5, "host": 1.5}[kind]
        configured = None if beside_gpus else self.host_reserve_gib
        return round((default if configured is None else configured) * GIB)

    def headroom(self, kind: Kind) -> int:
        """Bytes that ``slots: auto`` leaves free."""
        default = 4.0 if kind == "unified" else 0.0
        return round((default if self.headroom_gib is None else self.headroom_gib) * GIB)
