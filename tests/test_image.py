"""What the image, compose.yaml and the systemd unit promise each other, and the code."""

from __future__ import annotations

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.config import find_config
from runtime.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile.speech-cuda13").read_text()
UNIT = ROOT / "systemd" / "speech-runtime.service"
START = ROOT / "image" / "start.sh"
PINNED = re.compile(r"^([A-Za-z0-9_.\-]+)==([^\s;\\]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return document


def pins(path: str) -> dict[str, str]:
    found = PINNED.findall((ROOT / path).read_text())
    return {name.lower().replace("_", "-").replace(".", "-"): version for name, version in found}


def environment(text: str) -> dict[str, str]:
    return dict(re.findall(r"\b([A-Z][A-Z_]+)=([^\s\\]+)", text))


def mounts(service: dict[str, Any]) -> dict[str, str]:
    return dict(volume.split(":")[:2] for volume in service.get("volumes", ()))


@pytest.mark.parametrize("lock", ["image/speech.lock", "image/bot.lock"])
def test_a_lock_has_the_versions_that_were_tested_and_names_each_file_by_content(lock) -> None:
    locked, tested = pins(lock), pins("constraints.txt")
    assert {name for name in locked if locked[name] != tested.get(name, locked[name])} == set()
    # What torch alone decides is in no constraint.
    unknown = re.compile(r"cuda-|nvidia-|triton|setuptools")
    assert {name for name in locked.keys() - tested.keys() if not unknown.match(name)} == set()
    entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text().partition("\n\n")[2].strip())
    assert len(entries) == len(locked)
    assert all(1 <= entry.count("--hash=sha256:") <= 2 for entry in entries)


def test_both_images_have_one_ray_and_only_the_daemons_has_torch() -> None:
    speech, bot = pins("image/speech.lock"), pins("image/bot.lock")
    assert speech["ray"] == bot["ray"]
    assert {"torch", "nemo-toolkit", "hibari-tts"} <= speech.keys()
    assert "pipecat-ai" in bot
    assert not {"torch", "nemo-toolkit"} & bot.keys()
    assert not any("cu12" in name for name in speech)
    assert pins("image/uv.txt")["uv"] == pins("constraints.txt")["uv"]


def test_what_the_dockerfile_copies_is_there_and_goes_to_the_builder() -> None:
    shown = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in shown
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert len(copied) > 8
    for source in copied:
        assert (ROOT / source).exists() or source == "examples", source
        assert any(fnmatch(source.split("/")[0], line[1:]) for line in shown if line[:1] == "!")


def test_the_images_run_as_somebody_without_rights() -> None:
    for stage in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE):
        if "ENTRYPOINT" in stage:
            assert re.search(r"^USER (\d+):\d+$", stage, re.MULTILINE).group(1) != "0"
            assert stage.index("USER ") > stage.rindex("RUN ")


def test_rays_sockets_have_short_enough_names_wherever_it_is_deployed() -> None:
    image = environment(DOCKERFILE)["SPEECH_TEMP_DIR"]
    unit = environment(UNIT.read_text())["SPEECH_TEMP_DIR"].replace("%C", "/var/cache")
    assert len(image) <= 40
    assert len(unit) <= 40


def test_every_setting_that_is_given_is_known(compose) -> None:
    known = {f"SPEECH_{name.upper()}" for name in Settings.model_fields}
    known |= set(re.findall(r"SPEECH_[A-Z_]+", START.read_text()))
    known |= {"SPEECH_CONFIG", "SPEECH_IMAGE"}  # compose's own, and the unit's
    given = re.findall(r"SPEECH_[A-Z_]+", DOCKERFILE + UNIT.read_text())
    given += re.findall(r"SPEECH_[A-Z_]+", (ROOT / "compose.yaml").read_text())
    assert set(given) <= known


def test_services_that_call_the_daemon_share_its_processes_and_its_folders(compose) -> None:
    services = compose["services"]
    image = environment(DOCKERFILE)
    for name in ("speech", "bot", "hold"):
        service = services[name]
        for namespace in ("network_mode", "pid", "ipc"):
            assert service[namespace] == "service:pod", (name, namespace)
        folders = {target: volume for volume, target in mounts(service).items()}
        assert folders[image["SPEECH_STATE_DIR"]] == "state"
        assert folders[str(Path(image["SPEECH_TEMP_DIR"]).parent)] == "run"
        assert "ports" not in service, "they belong to the pod, whose network it is"
    assert services["pod"]["ipc"] == "shareable"
    used = {v for s in services.values() for v in mounts(s) if not v.startswith((".", "/"))}
    assert used == compose["volumes"].keys()


def test_compose_opens_nothing_to_the_network_and_keeps_no_log_for_ever(compose) -> None:
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["restart"] == ("no" if name == "hold" else "unless-stopped")
        if name != "vllm":  # its image is not ours
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name


def test_compose_starts_the_llm_first_with_the_part_that_the_plan_leaves_it(compose) -> None:
    services = compose["services"]
    config = yaml.safe_load(find_config("dgx-spark").read_text())
    (neighbour,) = config["applications"][0]["args"]["memory"]["neighbours"]
    (given,) = [a for a in services["vllm"]["command"] if a.startswith("--gpu-memory-utilization")]
    assert float(re.search(r":-([\d.]+)\}", given).group(1)) == neighbour["utilisation"]
    speech = services["speech"]
    assert "vllm" in speech["depends_on"]
    assert speech["environment"]["SPEECH_WAIT_FOR"].endswith("http://vllm:8000/health}")
    assert services["bot"]["depends_on"]["speech"]["condition"] == "service_healthy"
    mounted = mounts(speech)["./config"]
    assert (ROOT / "config" / Path(speech["command"][0].rstrip("}")).name).exists()
    assert speech["command"][0].rstrip("}").rpartition(":-")[2].startswith(mounted)


@pytest.fixture
def started(tmp_path: Path) -> Any:
    """Run start.sh with a `speech` that writes down its calls; the n-th of ``fail`` fails."""
    calls = tmp_path / "calls"
    fake = tmp_path / "speech"

    def start(*arguments: str, fail: int = 0, **variables: str) -> tuple[int, list[str]]:
        fake.write_text(
            f'#!/bin/sh\necho "$*" >>{calls}\n[ "$(wc -l <{calls})" != {fail} ] || exit 4\n'
        )
        fake.chmod(0o755)
        path = f"{tmp_path}:/usr/bin:/bin"
        done = subprocess.run(["sh", START, *arguments], env={"PATH": path, **variables})
        return done.returncode, calls.read_text().splitlines()

    return start


def test_a_container_pulls_then_waits_for_its_neighbour_then_becomes_the_daemon(started) -> None:
    url = "http://vllm:8000/health"
    code, calls = started(
        "dgx-spark", "--port", "6400", SPEECH_PULL="magpie parakeet", SPEECH_WAIT_FOR=url
    )
    assert code == 0
    assert calls == [
        "models pull magpie parakeet",
        f"memory hold --until {url} --timeout 1800",
        "up dgx-spark --port 6400",
    ]


def test_a_container_that_needs_no_weights_and_has_no_neighbour_starts_at_once(started) -> None:
    assert started("embedded", SPEECH_PULL="", SPEECH_WAIT_FOR="") == (0, ["up embedded"])


@pytest.mark.parametrize("fail", [1, 2])
def test_a_container_without_its_weights_or_its_neighbour_starts_no_daemon(started, fail) -> None:
    code, calls = started(
        "dgx-spark", fail=fail, SPEECH_PULL="magpie", SPEECH_WAIT_FOR="http://vllm:8000/health"
    )
    assert code == 4
    assert len(calls) == fail


def test_systemd_understands_the_unit(tmp_path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/speech/bin/speech", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    # Ray's processes must not be told to stop before the daemon has let utterances finish.
    assert "KillMode=mixed" in unit.read_text()
