"""What a daemon costs while nobody speaks."""

from __future__ import annotations

import time
from typing import Any

from runtime.memory.process import cpu_seconds, process_tree


def measure(daemon_pid: int, seconds: float) -> list[dict[str, Any]]:
    """CPU over some seconds, and memory, of the daemon's processes; the first row is their sum."""
    before = {process.pid: cpu_seconds(process.pid) for process in process_tree(daemon_pid)}
    time.sleep(seconds)
    rows: list[dict[str, Any]] = []
    for process in process_tree(daemon_pid):
        now, then = cpu_seconds(process.pid), before.get(process.pid) or 0.0
        rows.append(
            {
                "process": process.name,
                "cpu_cores": round(((now or then) - then) / seconds, 4),
                "resident_gib": round((process.resident_bytes or 0) / 2**30, 3),
            }
        )
    rows.sort(key=lambda row: -row["resident_gib"])
    total = {
        "process": f"all {len(rows)} processes",
        "cpu_cores": round(sum(row["cpu_cores"] for row in rows), 4),
        "resident_gib": round(sum(row["resident_gib"] for row in rows), 3),
    }
    return [total, *rows]
