"""Starting, stopping, finding and guarding a daemon, as processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import grpc
import pytest
import soundfile
from daemons import SUPPORT, place
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from runtime.daemon import is_alive, read_record, running_daemon, sole_daemon
from runtime.memory.process import process_tree
from runtime.settings import Settings

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[1]
TTS_ONLY = """
proxy_location: Disabled
applications:
  - name: speech
    route_prefix: null
    import_path: deployments.app:build_app
    args: {tts: {engine: "scripted_engines:ScriptedSynthesizer"}}
"""


@pytest.fixture
def scripted_yaml(tmp_path: Path, shell: dict[str, str]) -> Path:
    shell["PYTHONPATH"] = SUPPORT
    path = tmp_path / "scripted.yaml"
    path.write_text(TTS_ONLY)
    return path


def gone(pids: list[int], within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def listeners(pid: int) -> set[tuple[str, int]]:
    """Addresses on which a process of this host listens, from /proc."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(descriptor))
        except OSError:
            continue
    found = set()
    for table, family, size in (("tcp", socket.AF_INET, 4), ("tcp6", socket.AF_INET6, 16)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                host, port = fields[1].split(":")
                words = bytes.fromhex(host)
                packed = b"".join(words[i : i + 4][::-1] for i in range(0, size, 4))
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found


def needs(wheel: Distribution, extra: str) -> set[str]:
    """The distributions that pip would install for a wheel with an extra, by their names."""
    found: set[tuple[str, str]] = set()
    waiting = [(wheel, extra)]
    while waiting:
        asking, extra = waiting.pop()
        for requirement in map(Requirement, asking.requires or ()):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            for wanted in {(name, more) for more in ("", *requirement.extras)} - found:
                found.add(wanted)
                waiting.append((distribution(name), wanted[1]))
    return {name for name, _ in found}


def link(dependency: Distribution, site: Path) -> None:
    """Make a distribution of this environment one of another's."""
    for top in {file.parts[0] for file in dependency.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(dependency.locate_file(top))).resolve())


def test_doctor_and_an_exchange_with_nothing_but_a_wheel_made_of_the_source_archive(
    own, tmp_path, shell
) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "-o", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    assert len(list(tmp_path.glob("*.tar.gz"))) == 1
    (wheel,) = tmp_path.glob("*.whl")
    # A bare environment: what the wheel says that it needs, and nothing else of this one.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, wheel], check=True)
    (metadata,) = site.glob("speech_runtime-*.dist-info")
    needed = needs(PathDistribution(metadata), "embedded")
    assert "ray" in needed
    assert not needed & {"pytest", "nemo-toolkit", "torch", "pipecat-ai"}
    for name in needed:
        link(distribution(name), site)
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(*command: str | Path) -> str:
        environment = {key: value for key, value in shell.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            list(map(str, command)),
            env=environment | place(own),
            cwd=empty,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert str(site) in run(python, "-c", "import runtime; print(runtime.__file__)")
    speech = python.with_name("speech")
    assert json.loads(run(speech, "doctor", "--json"))["ok"] is True
    started = time.monotonic()
    said = run(speech, "up", "--once", "--first-words", "hello.wav")
    assert "said" in said
    assert "heard" in said
    assert soundfile.info(empty / "hello.wav").duration > 2
    assert time.monotonic() - started < 90


def test_everything_listens_on_loopback_and_the_exception_wants_the_token(daemon) -> None:
    from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

    record = running_daemon(daemon)
    open_ports = []
    total = 0
    for process in process_tree(record.pid):
        for host, port in listeners(process.pid):
            total += 1
            if host not in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
                assert process.name.startswith("ray::ServeReplica"), (process, host, port)
                open_ports.append(port)
    assert total > 5
    # Ray binds its replicas' gRPC servers to all addresses; they must not answer strangers.
    for port in open_ports:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = ASGIServiceStub(channel).HandleRequest
            with pytest.raises(grpc.RpcError) as refusal:
                call(_empty_request(), timeout=5)
        assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED


def _empty_request() -> object:
    from ray.serve.generated.serve_pb2 import ASGIRequest

    return ASGIRequest()


def test_replicas_do_not_stand_back_behind_other_programs(daemon) -> None:
    replicas = [
        process.pid
        for process in process_tree(running_daemon(daemon).pid)
        if process.name.startswith("ray::ServeReplica")
    ]
    assert len(replicas) == 8
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in replicas} == {0}


def test_a_second_daemon_in_the_same_place_is_refused_and_in_another_is_not(
    speech, daemon, own, scripted_yaml
) -> None:
    refused = speech("up", scripted_yaml, "--detach", settings=daemon)
    assert refused.code == 2
    assert "already runs" in refused.err
    assert speech("up", scripted_yaml, "--detach", settings=own).code == 0
    assert speech("voices", settings=own).code == 0
    assert speech("down", settings=own).code == 0


def test_down_leaves_no_process_and_no_record(speech, own, scripted_yaml) -> None:
    assert speech("up", scripted_yaml, "--detach", settings=own).code == 0
    pids = [process.pid for process in process_tree(running_daemon(own).pid)]
    assert len(pids) > 5
    assert speech("down", settings=own).code == 0
    assert gone(pids)
    assert read_record(own) is None
    assert speech("down", settings=own).code == 4


def test_a_daemon_that_is_killed_takes_its_processes_along(speech, own, scripted_yaml) -> None:
    assert speech("up", scripted_yaml, "--detach", settings=own).code == 0
    record = running_daemon(own)
    processes = process_tree(record.pid)
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # they try for a minute to report it
    os.kill(record.pid, signal.SIGKILL)
    assert gone([process.pid for process in processes if process.name not in agents])
    result = speech("say", "Hello.", settings=own)
    assert result.code == 4
    assert "speech up" in result.err
    assert speech("up", scripted_yaml, "--detach", settings=own).code == 0  # nothing in the way
    assert speech("down", settings=own).code == 0


def test_ctrl_c_stops_a_daemon_in_the_foreground(own, scripted_yaml, shell) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "runtime.cli.main", "up", scripted_yaml],
        env=shell | place(own),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C stops" in line:
                break
        pids = [p.pid for p in process_tree(process.pid)]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the whole group
        said.append(process.stderr.read())
    assert process.returncode == 0, said
    assert gone(pids)
    assert "Traceback" not in "".join(said)


def test_a_port_that_is_taken_is_named(speech, own, scripted_yaml) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = speech("up", scripted_yaml, "--port", port, settings=own)
    assert result.code == 2
    assert f"Port {port}" in result.err


@pytest.mark.parametrize(
    ("engine", "code", "names"),
    [
        ('"nowhere:Nothing"', 2, "nowhere"),
        ("hibari, options: {slotz: 4}", 2, "slotz"),
        ("hibari, options: {slots: -3}", 2, "-3"),
        ('"scripted_engines:BrokenSynthesizer"', 1, "no weights here"),
    ],
)
def test_an_engine_that_cannot_be_made_or_loaded_fails_the_start_and_says_why(
    speech, own, scripted_yaml, engine, code, names
) -> None:
    scripted_yaml.write_text(TTS_ONLY.replace('"scripted_engines:ScriptedSynthesizer"', engine))
    result = speech("up", scripted_yaml, "--detach", settings=own)
    assert result.code == code
    assert names in result.err
    said = [line for line in result.err.splitlines() if not line.startswith("log:")]
    assert names in said[-1], "after any traceback"
    assert "\x1b" not in result.err
    assert read_record(own) is None


def test_another_ray_or_python_and_a_missing_token_are_each_named_at_once(
    speech, daemon, tmp_path
) -> None:
    record = json.loads((daemon.state_dir / "daemon.json").read_text())
    wrong_token = record["environment"] | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    for change, names in (
        ({"python": "3.9"}, "Python 3.9"),
        ({"ray": "1.0.0"}, "Ray 1.0.0"),
        ({"environment": wrong_token}, "token"),
        ({"address": "127.0.0.1:1"}, "127.0.0.1:1"),
        ({"ready_s": None}, "still starting"),
    ):
        state = tmp_path / f"state-{names.replace(' ', '-').replace(':', '-')}"
        with sole_daemon(Settings(state_dir=state)):
            (state / "daemon.json").write_text(json.dumps(record | change))
            started = time.monotonic()
            result = speech("voices", settings=Settings(state_dir=state))
        assert result.code == 4, result.err
        assert names in result.err
        assert time.monotonic() - started < 8  # 5 s, and the interpreter's own start


def test_a_wrong_token_is_refused_within_seconds(speech, daemon, tmp_path) -> None:
    record = json.loads((daemon.state_dir / "daemon.json").read_text())
    token = tmp_path / "token"
    token.write_text("0" * 64)
    record["environment"]["RAY_AUTH_TOKEN_PATH"] = str(token)
    with sole_daemon(Settings(state_dir=tmp_path)):
        (tmp_path / "daemon.json").write_text(json.dumps(record))
        started = time.monotonic()
        result = speech("voices", settings=Settings(state_dir=tmp_path))
    assert result.code == 4, result.err
    assert "Traceback" not in result.err
    assert time.monotonic() - started < 10


def test_rays_own_serve_deploy_takes_the_shipped_configuration_unchanged(own, shell) -> None:
    script = """
import subprocess, sys, time, ray
from ray import serve
context = ray.init(include_dashboard=True, dashboard_port=0, _node_ip_address="127.0.0.1",
                   _temp_dir=sys.argv[1], log_to_driver=False, num_cpus=2)
url = "http://" + context.address_info["webui_url"]
subprocess.run([sys.argv[2], "deploy", "-a", url, sys.argv[3]], check=True)
deadline = time.monotonic() + 120
while True:
    application = serve.status().applications.get("speech")
    if application is not None and application.status == "RUNNING":
        break
    assert application is None or application.status != "DEPLOY_FAILED", application
    assert time.monotonic() < deadline, application
    time.sleep(0.2)
print(sorted(application.deployments))
serve.shutdown()
"""
    serve = Path(sys.executable).parent / "serve"
    environment = shell | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        **place(own),  # what it measures is kept there
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(own.temp_dir), serve, ROOT / "config/embedded.yaml"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "['ASR', 'TTS']" in done.stdout


def test_a_running_cluster_can_be_joined_and_is_left_running(
    speech, own, scripted_yaml, shell
) -> None:
    script = """
import sys, ray
context = ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1],
                   log_to_driver=False, num_cpus=2)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.readline()
from ray.util import list_named_actors, placement_group_table
table = placement_group_table().values()
groups = [group["name"] for group in table if group["state"] != "REMOVED"]
print([actor["name"] for actor in list_named_actors(all_namespaces=True)], groups, flush=True)
sys.stdin.read()
"""
    shell |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
    cluster = subprocess.Popen(
        [sys.executable, "-c", script, str(own.temp_dir)],
        env=shell,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        up = speech("up", scripted_yaml, "--detach", "--address", address, settings=own)
        assert up.code == 0, up.err
        assert "ada" in speech("voices", settings=own).out
        assert speech("down", settings=own).code == 0
        assert cluster.poll() is None
        assert speech("voices", settings=own).code == 4
        assert cluster.stdin is not None
        cluster.stdin.write("what is left?\n")
        cluster.stdin.flush()
        left = cluster.stdout.readline()
        assert "SERVE" in left  # Serve itself stays
        assert "ledger" not in left
        assert "withheld" not in left
    finally:
        cluster.communicate()  # closing its input ends it
