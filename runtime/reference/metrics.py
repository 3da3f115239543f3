"""docs/reference/metrics.md, from what ``runtime.metrics`` declares."""

from __future__ import annotations

from runtime.metrics import ASR, MEMORY, TTS, Metric, declared
from runtime.reference.markdown import GENERATED, table

_HEAD = """
Prometheus reads them from Ray's own endpoint on each node: `speech status --json` says where, under
`metrics`. The port is a free one, so it is another after each start; write it into a file for
`file_sd_configs`:

```sh
speech status --json | python -c 'import json, sys
print(json.dumps([{"targets": [json.load(sys.stdin)["metrics"].split("/")[2]]}]))' > speech.json
```

In a cluster that was started by `ray start` and joined by `--address`, Ray's dashboard keeps such a
file of all nodes: `prom_metrics_service_discovery.json` in its temporary folder. Ray exports every
few seconds.

Each name has Ray's `ray_` before it. Metrics of replicas have the tags `application`, `deployment`
and `replica` beside their own; those of the memory ledger come from the head's node, and say which
node they are of. A histogram is `_bucket`, `_sum` and `_count`. A metric appears with its first
value: a counter that is not there is 0, so write `rate(...) or vector(0)` where that matters.
"""


def page() -> str:
    """The whole page."""
    parts = ["# Metrics", GENERATED, _HEAD.strip()]
    for title, group in (
        ("Synthesis", (TTS, TTS.engine)),
        ("Recognition", (ASR, ASR.engine)),
        ("Memory", (MEMORY,)),
    ):
        found = [m for m in declared() if any(m in _values(part) for part in group)]
        rows = [(f"`{m.name}`", m.kind, m.unit, _tags(m), m.help) for m in found]
        parts += [f"## {title}", table(("metric", "kind", "unit", "tags", "tells"), rows)]
    histograms = [
        (f"`{m.name}`", ", ".join(f"{bound:g}" for bound in m.boundaries))
        for m in declared()
        if m.boundaries
    ]
    parts += [
        "## Buckets",
        "Upper bounds, in the metric's unit: close where a stage's target lies.",
        table(("histogram", "buckets"), histograms),
    ]
    return "\n\n".join(parts) + "\n"


def _values(group: object) -> list[object]:
    return [getattr(group, name) for name in group.__dataclass_fields__]  # type: ignore[attr-defined]


def _tags(metric: Metric) -> str:
    return ", ".join(f"`{tag}`" for tag in metric.tags)
