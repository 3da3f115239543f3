"""A daemon with room for one of two replicas: what waits, what is released, what is said."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import weighty_engines
import yaml
from daemons import SUPPORT, place

from runtime.daemon import running_daemon
from runtime.memory.device import devices, read
from runtime.memory.process import process_tree
from runtime.settings import Settings

pytestmark = [pytest.mark.cluster, pytest.mark.apart]

SPEECH = [sys.executable, "-m", "runtime.cli.main"]
CLAIM_GIB = 0.25 + 0.5  # the process, and what the engine says


def document(budget_gib: float, *, replicas: int = 2, **options: Any) -> dict[str, Any]:
    """A configuration whose neighbour leaves so much of this machine."""
    total = next(d for d in devices(read()) if d.key == "host").total.value
    assert isinstance(total, int)
    neighbour = {"name": "llm", "gib": round(total / 2**30 - budget_gib, 3)}
    engine = {
        "engine": "weighty_engines:WeightySynthesizer",
        "options": {"claims_mib": 512, "holds_mib": 64, **options},
    }
    memory = {"neighbours": [neighbour], "host_reserve_gib": 0}
    deployments = [{"name": "TTS", "num_replicas": replicas}]
    return weighty_engines.document(memory, {"tts": engine}, deployments)


@dataclass
class Daemon:
    """A daemon with room for one of its two replicas, and the commands that see it."""

    settings: Settings
    environment: dict[str, str]
    said: str  # while it started

    def speech(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*SPEECH, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def json(self, *arguments: str) -> Any:
        done = self.speech(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def leases(self) -> list[dict[str, Any]]:
        leases: list[dict[str, Any]] = self.json("memory", "show")["leases"]
        return leases

    def serving(self) -> int:
        """The process of the replica that serves, once there is one."""
        return int(
            self.until(lambda: [x for x in self.leases() if x["state"] == "serving"])[0]["pid"]
        )

    def until(self, look: Callable[[], Any], within_s: float = 60.0) -> Any:
        deadline = time.monotonic() + within_s
        while not (found := look()):
            assert time.monotonic() < deadline, self.speech("status").stdout
            time.sleep(0.2)
        return found

    def in_cluster(self, code: str) -> str:
        """Run code as a driver of the daemon's cluster, with ``ledger`` at hand."""
        prologue = (
            "import asyncio\n"
            "from runtime.client.connection import attach\n"
            "from runtime.memory.ledger import ACTOR, NAMESPACE\n"
            "from runtime.settings import Settings\n"
            "asyncio.run(attach(Settings(), None))\n"
            "import ray\n"
            "ledger = ray.get_actor(ACTOR, NAMESPACE)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", prologue + code],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def start(
    folder: Path, environment: dict[str, str], config: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return subprocess.run(
        [*SPEECH, "up", str(path), "--detach"], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def half_full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("leases")
    settings = Settings(state_dir=folder / "state", temp_dir=Path(f"/tmp/sl-{os.getpid()}"))
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = clean | place(settings) | {"PYTHONPATH": SUPPORT, "COLUMNS": "200"}
    started = start(folder, environment, document(1.6 * CLAIM_GIB))
    assert started.returncode == 0, started.stderr
    try:
        log = (settings.state_dir / "daemon.log").read_text()
        yield Daemon(settings, environment, log)
    finally:
        subprocess.run([*SPEECH, "down"], env=environment, capture_output=True, check=True)


def test_a_daemon_with_room_for_one_of_two_replicas_serves_and_says_why(half_full: Daemon) -> None:
    assert "not all replicas fit" in half_full.said
    assert half_full.json("say", "Hello.", "-o", f"{half_full.settings.state_dir}/h.wav")
    (tts,) = half_full.json("status")["deployments"]
    assert tts["replicas"]["RUNNING"] == 1
    assert "1 replica of TTS without room" in tts["memory"][0]
    assert f"claims {CLAIM_GIB:.2f} GiB" in tts["memory"][0]
    assert tts["memory"][0] in half_full.speech("status").stdout


def test_the_leases_are_among_the_metrics(half_full: Daemon) -> None:
    half_full.serving()
    url = half_full.json("status")["metrics"]

    def exported() -> dict[str, float]:
        lines = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
        ours = [line for line in lines if line.startswith("ray_speech_memory_")]
        return {line.partition("{")[0]: float(line.split()[-1]) for line in ours}

    names = {"claimed_bytes", "measured_bytes", "peak_bytes", "available_bytes", "budget_bytes"}
    wanted = {f"ray_speech_memory_{name}" for name in names | {"pressure"}}
    found = half_full.until(lambda: (seen := exported()).keys() >= wanted and seen)
    assert found["ray_speech_memory_claimed_bytes"] == pytest.approx(CLAIM_GIB * 2**30, rel=0.01)
    assert found["ray_speech_memory_pressure"] == 0


def test_what_does_not_fit_waits_without_a_process(half_full: Daemon) -> None:
    daemon = running_daemon(half_full.settings).pid

    def workers() -> list[int]:
        return sorted(p.pid for p in process_tree(daemon) if p.name.startswith("ray::"))

    half_full.serving()
    before = half_full.until(lambda: workers() if workers() == workers() else None)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert workers() == before
        time.sleep(2)


def test_a_request_that_wants_too_much_memory_fails_alone(half_full: Daemon) -> None:
    refused = half_full.speech("say", "I am greedy.", "-o", os.devnull, "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["type"] == "OutOfMemory"
    pid = half_full.serving()
    assert half_full.json("say", "I am modest.", "-o", f"{half_full.settings.state_dir}/m.wav")
    assert half_full.serving() == pid


@pytest.mark.timed
def test_the_lease_of_a_killed_replica_is_free_within_five_seconds(half_full: Daemon) -> None:
    pid = half_full.serving()
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    half_full.until(lambda: all(lease["pid"] != pid for lease in half_full.leases()), 30)
    assert time.monotonic() - killed < 5 + 2  # a command takes a second, and may just have looked
    assert half_full.serving() != pid
    assert sum(lease["claim_gib"] for lease in half_full.leases()) <= 1.6 * CLAIM_GIB


def test_a_ledger_that_is_restarted_knows_its_leases(half_full: Daemon) -> None:
    pid = half_full.serving()
    number = half_full.in_cluster(
        "before = ray.get(ledger.snapshot.remote())\n"
        "ray.kill(ledger, no_restart=False)\n"
        "import time\n"
        "while True:\n"
        "    try:\n"
        "        after = ray.get(ledger.snapshot.remote()); break\n"
        "    except ray.exceptions.RayActorError:\n"
        "        time.sleep(0.1)\n"
        "assert [x.replica for x in after.leases] == [x.replica for x in before.leases]\n"
        "assert after.devices[0].budget == before.devices[0].budget\n"
        "print(len(after.leases))\n"
    )
    assert number.strip() == "1"
    assert half_full.serving() == pid


class _Neighbour(http.server.BaseHTTPRequestHandler):
    """Answers 503 until its server is ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.server.ready else 503)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def neighbour() -> Iterator[http.server.HTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Neighbour)
    server.ready = False  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_nothing_loads_while_a_neighbour_starts(
    half_full: Daemon, neighbour: http.server.HTTPServer
) -> None:
    pid = half_full.serving()
    url = f"http://127.0.0.1:{neighbour.server_port}/health"
    command = [*SPEECH, "memory", "hold", "--until", url, "--timeout", "120"]
    with subprocess.Popen(
        command, env=half_full.environment, stderr=subprocess.PIPE, text=True
    ) as holding:
        assert holding.stderr is not None
        assert "holding" in holding.stderr.readline()
        os.kill(pid, signal.SIGKILL)

        def held() -> Any:
            waiting = half_full.json("memory", "show")["waiting"]
            return [one for one in waiting if one["reason"] == "held"]

        (waits,) = half_full.until(held)
        assert url.partition("://")[2] in waits["message"]
        half_full.in_cluster("ray.kill(ledger, no_restart=False)")  # a hold outlives that
        (waits,) = half_full.until(held)
        assert not [lease for lease in half_full.leases() if lease["state"] == "serving"]
        neighbour.ready = True  # type: ignore[attr-defined]
        assert holding.wait(30) == 0
    assert half_full.serving() != pid


def test_a_lease_is_timed_held_and_new_and_none_of_it_stays(half_full: Daemon) -> None:
    half_full.serving()
    told = half_full.in_cluster(
        "import json\n"
        "from runtime.bench.leases import serving, timed\n"
        "async def rows():\n"
        "    (lease,) = await serving(1, 'host')\n"
        "    return await timed(lease, asked=50)\n"
        "print(json.dumps(asyncio.run(rows())))\n"
    )
    rows = json.loads(told)
    assert [row["lease_ms"]["n"] for row in rows] == [50, 50, 50]
    assert all(0 < row["lease_ms"]["p50"] < 100 for row in rows)
    half_full.until(lambda: len(half_full.leases()) == 1, 10)


def test_a_hold_ends_with_its_holder(half_full: Daemon, neighbour: http.server.HTTPServer) -> None:
    url = f"http://127.0.0.1:{neighbour.server_port}/health"
    with subprocess.Popen(
        [*SPEECH, "memory", "hold", "--until", url],
        env=half_full.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as holding:
        assert holding.stderr is not None
        assert "holding" in holding.stderr.readline()
        assert half_full.json("memory", "show")["holds"]
        holding.kill()
    half_full.until(lambda: not half_full.json("memory", "show")["holds"], 15)


def test_without_a_ledger_nothing_loads_and_status_says_so(half_full: Daemon) -> None:
    pid = half_full.serving()
    half_full.in_cluster("ray.kill(ledger, no_restart=True)")
    assert half_full.json("say", "Still here.", "-o", f"{half_full.settings.state_dir}/s.wav")
    os.kill(pid, signal.SIGKILL)

    def refused() -> bool:
        done = half_full.speech("status", "--json")
        if done.returncode:
            return False  # it waits for an answer of the replica that was killed
        (tts,) = json.loads(done.stdout)["deployments"]
        return "memory ledger" in tts["message"] and not tts["replicas"].get("RUNNING")

    half_full.until(refused)
    assert half_full.speech("memory", "show").returncode == 4


def test_an_engine_that_takes_more_than_it_claims_is_named_with_both_figures(
    tmp_path: Path, own: Settings, shell: dict[str, str]
) -> None:
    environment = shell | place(own) | {"PYTHONPATH": SUPPORT}
    config = document(4.0, replicas=1, claims_mib=64, holds_mib=600)
    started = start(tmp_path, environment, config)
    assert started.returncode == 3
    assert "had claimed 0.31" in started.stderr or "claims 0.31" in started.stderr
    assert "measured 0." in started.stderr


def test_an_engine_that_cannot_load_within_its_claim_is_not_loaded_again_and_again(
    tmp_path: Path, own: Settings, shell: dict[str, str]
) -> None:
    environment = shell | place(own) | {"PYTHONPATH": SUPPORT}
    config = document(4.0, replicas=1, claims_mib=64, holds_mib=-1)
    started = start(tmp_path, environment, config)
    assert started.returncode == 3
    assert "claims 0.31 GiB" in started.stderr


def test_a_configuration_without_room_for_one_replica_does_not_start(
    tmp_path: Path, own: Settings, shell: dict[str, str]
) -> None:
    environment = shell | place(own) | {"PYTHONPATH": SUPPORT}
    started = start(tmp_path, environment, document(0.5 * CLAIM_GIB))
    assert started.returncode == 3
    assert "lower gib of neighbour llm" in started.stderr
