"""Ray's own arithmetic agrees with the plan: what is not ours is taken out of its count."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.apart]

# Two GPUs by Ray's count, which takes our word for it: placement is what is tested.
SCRIPT = """
import json, os, sys, time
os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0")
import ray
from deployments.placeholder import withhold
from runtime.memory.plan import Pool, share_out
from runtime.memory.policy import MemoryPolicy

GIB = 1 << 30
ray.init(num_gpus=2, num_cpus=2, _memory=16 * GIB, object_store_memory=80 << 20,
         include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1",
         _temp_dir=sys.argv[1], namespace="speech")
node = ray.nodes()[0]["NodeID"]
pools = [Pool(f"cuda:{i}", "a GPU", "discrete", 80 * GIB, index=i) for i in (0, 1)]
pools.append(Pool("host", "host", "host", 16 * GIB))

@ray.remote(num_cpus=0)
class Replica:
    def gpus(self):
        return [int(index) for index in ray.get_gpu_ids()]

def plan(**policy):
    policy = MemoryPolicy.model_validate({"host_reserve_gib": 0, **policy})
    return share_out(pools, policy, ()).devices

def left(gpus):
    # Ray tells of what was freed a moment later.
    deadline = time.monotonic() + 20
    while True:
        there = ray.available_resources()
        found = {"GPU": round(there.get("GPU", 0), 4), "memory": there["memory"] / GIB}
        if found["GPU"] == gpus or time.monotonic() > deadline:
            return found
        time.sleep(0.1)

found = {}
withhold(node, plan(neighbours=[{"name": "vllm", "utilisation": 0.34}]))
found["left"] = left(1.32)
replicas = [Replica.options(num_gpus=0.66).remote() for _ in range(2)]
found["gpus"] = sorted(ray.get([replica.gpus.remote() for replica in replicas], timeout=30))
third = Replica.options(num_gpus=0.01).remote()
ready, _ = ray.wait([third.gpus.remote()], timeout=2)
found["third"] = len(ready)
for replica in (*replicas, third):
    ray.kill(replica)
# The same again changes nothing; another policy takes its place.
withhold(node, plan(neighbours=[{"name": "vllm", "utilisation": 0.34}]))
found["again"] = left(1.32)
withhold(node, plan(neighbours=[{"name": "vllm", "utilisation": 0.5}]))
found["changed"] = left(1.0)
print(json.dumps(found))
ray.shutdown()
"""


@pytest.fixture(scope="module")
def found() -> Any:
    with tempfile.TemporaryDirectory(prefix="sp-") as folder:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_gpu_has_a_placeholder_of_its_own(found: Any) -> None:
    assert found["left"]["GPU"] == pytest.approx(2 * 0.66)
    assert found["gpus"] == [[0], [1]]


def test_what_does_not_fit_beside_it_stays_pending(found: Any) -> None:
    assert found["third"] == 0


def test_the_hosts_reserve_is_taken_out_of_its_memory(found: Any) -> None:
    assert found["left"]["memory"] == pytest.approx(16 - 1.5)  # beside GPUs: the default


def test_withholding_again_changes_nothing_and_another_policy_replaces_it(found: Any) -> None:
    assert found["again"] == found["left"]
    assert found["changed"]["GPU"] == pytest.approx(2 * 0.5)
