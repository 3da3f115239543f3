"""Two replicas over three of Ray's nodes on this host: one of them is lost, with its node.

A program of its own (``python nodes.py FOLDER``), which prints what it saw as JSON: a process
can be in only one cluster. The health checks are those that docs/nodes.md gives.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

# Ray reads its environment when it is imported.
os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "SPEECH_STATE_DIR": f"{sys.argv[1]}/state",
    "SPEECH_TEMP_DIR": sys.argv[1],
}

from runtime.daemon import joined_cluster_environment

os.environ |= joined_cluster_environment()

from ray.cluster_utils import Cluster

from runtime.cli.head import running
from runtime.client import SpeechClient
from runtime.client.ledger import LedgerClient
from runtime.memory.ledger import Snapshot
from runtime.settings import Settings
from runtime.text import plan_chunks

NODE = {"num_cpus": 2, "object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1"}
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
CONFIG: dict[str, Any] = {
    "proxy_location": "Disabled",
    "applications": [
        {
            "name": "speech",
            "route_prefix": None,
            "import_path": "deployments.app:build_app",
            "args": {
                "tts": {
                    "engine": "scripted_engines:ScriptedSynthesizer",
                    "deployment_config": {"num_replicas": 2, "max_replicas_per_node": 1},
                }
            },
        }
    ],
}
SENTENCES = 80  # each takes 50 ms, so that the node is lost in the middle
TEXT = " ".join(f"Sentence {number} is said slowly." for number in range(SENTENCES))


async def until(
    look: Callable[[Snapshot], bool], ledger: LedgerClient, within_s: float
) -> Snapshot:
    """The first snapshot that ``look`` likes."""
    began = time.monotonic()
    while not look(snapshot := await ledger.snapshot()):
        assert time.monotonic() - began < within_s, snapshot
        await asyncio.sleep(0.1)
    return snapshot


def serving(snapshot: Snapshot) -> dict[str, str]:
    """The node of each replica that serves."""
    leases = [lease for lease in snapshot.leases if lease.state == "serving"]
    return {lease.replica.partition("#")[2]: lease.device[0] for lease in leases}


async def speak_on(
    client: SpeechClient, replica: str, lose: Callable[[], Awaitable[None]]
) -> dict[str, Any]:
    """An utterance that begins on a replica, and what of it is heard when that is lost."""
    while True:
        async with client.synthesize(TEXT, seed=1) as stream:
            chunk = await anext(stream)
            if stream.started is None or stream.started.replica != replica:
                continue  # the other one; once more
            heard = chunk.samples
            await lose()
            contiguous = True
            async for following in stream:
                contiguous = contiguous and following.first_sample == heard
                heard += following.samples
            whole = sum(80 * len(piece.text) for piece in plan_chunks(TEXT, "en"))
            return {
                "missing": whole - heard,
                "contiguous": contiguous,
                "takeovers": stream.takeovers,
            }


async def scenario(cluster: Cluster, others: dict[str, Any]) -> dict[str, Any]:
    """The node of one of the two replicas is lost; the third node has room for it."""
    async with await SpeechClient.connect() as client:
        ledger = LedgerClient()
        before = await until(
            lambda seen: len(serving(seen)) == 2 and len(seen.devices) == 3, ledger, 120
        )
        placed = serving(before)
        far = next(replica for replica, node in placed.items() if node in others)
        near = next(replica for replica in placed if replica != far)
        lost_at = 0.0

        async def lose() -> None:
            nonlocal lost_at
            await asyncio.to_thread(cluster.remove_node, others[placed[far]], False)
            lost_at = time.monotonic()

        speaking = asyncio.create_task(speak_on(client, far, lose))
        lost = await until(lambda seen: far not in serving(seen), ledger, 90)
        lost_s = time.monotonic() - lost_at
        spoken = await speaking
        after = await until(
            lambda seen: len(serving(seen)) == 2 and len(seen.devices) == 2, ledger, 120
        )
    return {
        "nodes": len({state.device[0] for state in before.devices}),
        "budgets": [state.budget for state in before.devices],
        "placed": len(set(placed.values())),
        "lost_s": lost_s,
        "near": [serving(seen).get(near) == placed[near] for seen in (lost, after)],
        "spoken": spoken,
        "back": len(set(serving(after).values()) - {placed[far]}),
    }


def main() -> None:
    """Run it all, and stop all of it."""
    head = {**NODE, "include_dashboard": False, "_system_config": HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        added = [cluster.add_node(**NODE) for _ in range(2)]
        with running(CONFIG, "nodes", Settings(), address=cluster.address):
            found = asyncio.run(scenario(cluster, {node.node_id: node for node in added}))
        print(json.dumps(found))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(exist_ok=True)
    main()
