"""Devices, engines and deployments for plans, with round figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from runtime.config import find_config
from runtime.memory.claims import Demand, EngineDemand
from runtime.memory.demands import demands_of, policy_of
from runtime.memory.device import devices, recorded
from runtime.memory.footprint import GIB, Footprint
from runtime.memory.history import History
from runtime.memory.plan import Plan, Pool, plan, pools_of

HOST = Pool("host", "host", "host", 256 * GIB)
UNIFIED = Pool("cuda:0", "NVIDIA GB10", "unified", 128 * GIB, 0, 0)


def gpu(index: int = 0, gib: float = 80) -> Pool:
    return Pool(f"cuda:{index}", "NVIDIA H100", "discrete", round(gib * GIB), 0, index)


def engine(
    slots: int | None = 1,
    *,
    role: str = "tts",
    name: str = "voice",
    on_gpu: bool = True,
    weights: float = 1.0,
    workspace: float = 0.0,
    state: float = 0.1,
    host: float = 0.0,
    host_kept: float = 0.0,
    outside: float = 0.0,
    max_slots: int = 100_000,
    share: float = 1.0,
    limit: float | None = None,
) -> EngineDemand:
    """An engine; sizes in GiB, ``slots`` None for auto."""
    footprint = Footprint(
        on_gpu,
        round(weights * GIB),
        "table",
        round(workspace * GIB),
        round(state * GIB),
        round(host * GIB),
        slots,
        max_slots,
        host_kept=round(host_kept * GIB),
        outside=round(outside * GIB),
    )
    return EngineDemand(role, name, footprint, share, None if limit is None else round(limit * GIB))


def demand(*engines: EngineDemand, name: str = "TTS", replicas: int = 1, **more: Any) -> Demand:
    return Demand(name, engines or (engine(),), replicas, **more)


def shipped(config: str, **memory: Any) -> dict[str, Any]:
    """A shipped configuration; ``memory`` changes its policy."""
    document: dict[str, Any] = yaml.safe_load(find_config(config).read_text())
    document["applications"][0]["args"].setdefault("memory", {}).update(memory)
    return document


def vllm(utilisation: float) -> list[dict[str, Any]]:
    """The neighbour of config/dgx-spark.yaml, at another utilisation."""
    return [{"name": "vllm", "utilisation": utilisation, "overhead_gib": 4}]


NO_HISTORY = History(Path("/nonexistent/measured.json"))


def plan_of(document: dict[str, Any], device: str) -> Plan:
    """The plan of a configuration on a recorded machine, where nothing has run before."""
    pools = pools_of(devices(recorded(device)))
    demands = demands_of(document, "test.yaml", pools, NO_HISTORY)
    return plan(pools, policy_of(document, "test.yaml"), demands)
