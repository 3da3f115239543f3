"""A ledger over two nodes: each has its own budget, and takes its leases along when it is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

# The health checks are those that docs/memory.md gives for a cluster of several nodes.
SCRIPT = """
import json, os, sys, time
os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0",
                  RAY_AUTH_MODE="disabled", SPEECH_STATE_DIR=sys.argv[1] + "/state")
import ray
from ray.cluster_utils import Cluster
from deployments.ledger import ensure_ledger
from runtime.memory.claims import Claim
from runtime.memory.ledger import Lease, Terms
from runtime.memory.policy import MemoryPolicy

cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 1, "resources": {"first": 1}, "include_dashboard": False,
    "node_ip_address": "127.0.0.1",
    "object_store_memory": 80 << 20, "_system_config": {
        "health_check_initial_delay_ms": 0, "health_check_period_ms": 1000,
        "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}})
second = cluster.add_node(num_cpus=1, resources={"second": 1}, object_store_memory=80 << 20,
                          node_ip_address="127.0.0.1")
ray.init(address=cluster.address, namespace="speech", log_to_driver=False)
ledger = ensure_ledger(MemoryPolicy())

@ray.remote(num_cpus=0)
class Replica:
    def reserve(self, ledger, name):
        here = ray.get_runtime_context()
        self.lease = Lease(name, "TTS", (here.get_node_id(), "host"), Claim(weights=1 << 20),
                           os.getpid(), here.get_actor_id())
        return ray.get(ledger.reserve.remote((self.lease,)))

def until(look, within_s):
    began = time.monotonic()
    while not look():
        assert time.monotonic() - began < within_s, ray.get(ledger.snapshot.remote())
        time.sleep(0.1)
    return time.monotonic() - began

def granted(replica, name):
    return isinstance(ray.get(replica.reserve.remote(ledger, name)), Terms)

far = Replica.options(resources={"second": 1}).remote()
near = Replica.options(resources={"first": 1}).remote()
until(lambda: granted(near, "TTS#near"), 30)
until(lambda: granted(far, "TTS#far"), 30)
before = ray.get(ledger.snapshot.remote())
cluster.remove_node(second, allow_graceful=False)
lost_s = until(lambda: len(ray.get(ledger.snapshot.remote()).leases) == 1, 30)
forgotten_s = until(lambda: len(ray.get(ledger.snapshot.remote()).devices) == 1, 30)
after = ray.get(ledger.snapshot.remote())
print(json.dumps({
    "nodes": len({state.device[0] for state in before.devices}),
    "leases": sorted(lease.replica for lease in before.leases),
    "lost_s": lost_s,
    "left": [lease.replica for lease in after.leases],
}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def found() -> Any:
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, timeout=150
        )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
    return json.loads(line)


def test_each_node_has_a_budget_of_its_own(found: Any) -> None:
    assert found["nodes"] == 2
    assert found["leases"] == ["TTS#far", "TTS#near"]


def test_the_leases_of_a_lost_node_end_within_five_seconds_and_no_others(found: Any) -> None:
    assert found["lost_s"] < 5
    assert found["left"] == ["TTS#near"]
