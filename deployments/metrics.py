"""Ray's instruments for the metrics that ``runtime.metrics`` declares."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ray import serve
from ray.serve import metrics as of_replicas
from ray.util import metrics as of_processes

from runtime.admission import Admission
from runtime.metrics import EngineMetrics, Metric
from runtime.speech import FALLBACK, Counting, LoadReport, Stepping

logger = logging.getLogger("ray.serve")

_ROUND_S = 1.0  # between looks at the engines; Ray exports every few seconds
_AT_ONCE = 200  # steps observed before the event loop has its turn: about 1 ms


def instrument(metric: Metric) -> Any:
    """Ray's counter, gauge or histogram for a metric; for a replica's, Serve's, with its tags."""
    library = of_replicas if metric.of_replica else of_processes
    made = {"counter": library.Counter, "gauge": library.Gauge, "histogram": library.Histogram}
    arguments: dict[str, Any] = {"description": metric.help, "tag_keys": metric.tags}
    if metric.kind == "histogram":
        arguments["boundaries"] = list(metric.boundaries)
    return made[metric.kind](metric.name, **arguments)


class Instruments:
    """The instruments of a group of metrics, under the names that they have in the group."""

    def __init__(self, group: Any) -> None:
        """``group`` is one of those in ``runtime.metrics``."""
        for field in fields(group):
            metric = getattr(group, field.name)
            if isinstance(metric, Metric):
                setattr(self, field.name, instrument(metric))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no metric {name!r} is declared for this group")


class EngineExporter:
    """Exports what an engine counts and measures by itself, once a second and when asked."""

    def __init__(self, group: EngineMetrics, name: str, tags: Mapping[str, str]) -> None:
        """``name`` is the engine's, ``tags`` those of all its metrics."""
        self._instruments = Instruments(group)
        self._name = name
        self._tags = dict(tags)
        self._counted: dict[str, int] = {}

    def forget(self) -> None:
        """The engine was made anew, and counts from 0."""
        self._counted = {}

    async def export(
        self, engine: object, load: LoadReport, admission: Admission, *, parked: bool
    ) -> None:
        """Export what is new. Gauges are set again each time: Ray forgets old ones."""
        instruments, tags = self._instruments, self._tags
        instruments.slots.set(0 if parked else admission.slots, tags=tags)
        instruments.active.set(admission.taken, tags=tags)
        instruments.waiting.set(admission.waiting, tags=tags)
        normalizer = load.details.get("normalizer", "its own")
        instruments.info.set(1, tags={**tags, "engine": self._name, "normalizer": normalizer})
        if isinstance(engine, Counting):
            self._export_counts(engine.counts)
        if isinstance(engine, Stepping):
            for number, step in enumerate(engine.take_steps(), 1):
                instruments.step.observe(step.ms, tags={**tags, "stage": step.stage})
                instruments.batch.observe(step.batch, tags={**tags, "stage": step.stage})
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _export_counts(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            news = count - self._counted.get(name, 0)
            if news <= 0:
                continue
            self._counted[name] = count
            if name.startswith(FALLBACK):
                tags = {**self._tags, "fallback": name.removeprefix(FALLBACK)}
                self._instruments.fallbacks.inc(news, tags=tags)
            else:
                self._instruments.events.inc(news, tags={**self._tags, "event": name})


async def once_a_second(export: Callable[[], Any]) -> None:
    """Await ``export()`` again and again; a failure is logged once."""
    told = False
    while True:
        try:
            await export()
        except Exception:
            if not told:
                logger.exception("metrics could not be exported; it is tried again")
            told = True
        await asyncio.sleep(_ROUND_S)


def serving_as() -> dict[str, str]:
    """Who this replica is: its application, deployment and id."""
    context = serve.get_replica_context()
    return {
        "application": context.app_name,
        "deployment": context.deployment,
        "replica": str(context.replica_id.unique_id),
    }
