"""``speech models`` as people and programs call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from huggingface_hub import close_session, constants
from tiny_models import COMMIT, OTHER, codec, magpie, nemo, parakeet, pinned

from runtime.cli import doctor, main
from runtime.cli import models as command
from runtime.models import catalogue
from runtime.models.catalogue import CODEC
from runtime.models.hub import TOKENS
from runtime.models.lock import read_lock

NAMES = ("magpie_tts_multilingual_357m", CODEC, "parakeet-tdt-0.6b-v2")
CONTENT = dict(
    zip(NAMES, (nemo(magpie()), nemo(codec()), nemo(parakeet(), weights=b"v2")), strict=True)
)


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub().running() as running:
        for name, content in CONTENT.items():
            repository = running.publish(f"nvidia/{name}", COMMIT, {f"{name}.nemo": content})
            if "parakeet" not in name:
                repository.licence = {
                    "license": "other",
                    "license_name": "nvidia-open-model-license",
                }
        yield running
        close_session()


Speech = Callable[..., Said]


@pytest.fixture
def speech(hub, tmp_path, monkeypatch, capsys) -> Speech:
    """Run ``speech models`` in this process, on a catalogue of three small models."""
    small = {name: pinned(name, content) for name, content in CONTENT.items()}
    for module in (catalogue, command, doctor):
        monkeypatch.setattr(module, "CATALOGUE", small)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("SPEECH_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for variable in TOKENS:
        monkeypatch.delenv(variable, raising=False)

    def call(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["speech", "models", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        out, err = capsys.readouterr()
        return Said(int(exit_.value.code or 0), out, err)

    return call


def test_pull_says_what_came_from_where(speech, hub, tmp_path) -> None:
    pulled = speech("pull", "magpie", "--json")
    assert pulled.code == 0
    assert pulled.err == ""
    first, second = pulled.json["models"]
    assert first == {
        "name": "magpie_tts_multilingual_357m",
        "repo": "nvidia/magpie_tts_multilingual_357m",
        "commit": COMMIT,
        "path": str(tmp_path / "models" / NAMES[0] / COMMIT / f"{NAMES[0]}.nemo"),
        "size": len(CONTENT[NAMES[0]]),
        "source": "hub",
    }
    assert second["name"] == CODEC
    assert Path(second["path"]).read_bytes() == CONTENT[CODEC]
    again = speech("pull", "magpie")
    assert again.err.count("was here") == 2


def test_all_is_all(speech) -> None:
    assert [row["name"] for row in speech("pull", "--all", "--json").json["models"]] == [*NAMES]


def test_list_tells_what_is_here_and_by_which_revision(speech, tmp_path) -> None:
    speech("pull", "codec")
    listed = speech("list", "--json").json
    assert listed["lock"] == str(tmp_path / "models" / "models.lock")
    rows = {row["name"]: row for row in listed["models"]}
    assert [(row["origin"], row["pulled"]) for row in rows.values()] == [
        ("pin", False),
        ("locked", True),
        ("pin", False),
    ]
    assert rows[CODEC]["commit"] == COMMIT
    assert rows[CODEC]["licence"] == "NVIDIA Open Model License"
    text = speech("list").out
    for name in NAMES:
        assert f"nvidia/{name}" in text
    assert f"{COMMIT[:12]} (locked)" in text


def test_verify_passes_what_was_pulled_and_tells_what_was_not(speech) -> None:
    speech("pull", "magpie")
    assert speech("verify", "--json").json["ok"] is True
    said = speech("verify")
    assert said.code == 0
    assert "parakeet-tdt-0.6b-v2: not pulled" in said.out
    named = speech("verify", "parakeet")
    assert named.code == 1
    assert "not pulled" in named.out


def test_verify_tells_each_difference_and_exits_with_1(speech) -> None:
    path = Path(speech("pull", "parakeet", "--json").json["models"][0]["path"])
    path.write_bytes(nemo(parakeet(n_layers=4), weights=b"v2"))
    said = speech("verify", "--json")
    assert said.code == 1
    assert said.json["ok"] is False
    whats = [wrong["what"] for wrong in said.json["models"][2]["mismatches"]]
    assert whats == [f"sha256 of {path.name}", f"encoder.n_layers in {path.name}"]
    assert f"encoder.n_layers in {path.name}: expected 24, found 4" in speech("verify").out


def test_check_asks_for_access_and_downloads_nothing(speech, hub, monkeypatch) -> None:
    hub.repositories[f"nvidia/{CODEC}"].gated = True
    said = speech("pull", "--all", "--check", "--json")
    assert said.code == 1
    assert [row["accessible"] for row in said.json["models"]] == [True, False, True]
    assert f"https://huggingface.co/nvidia/{CODEC}" in said.json["models"][1]["error"]
    assert "No token was used" in speech("pull", "magpie", "--check").out
    monkeypatch.setenv("HUGGINGFACE_TOKEN", "good-token")
    said = speech("pull", "--all", "--check", "--json")
    assert said.code == 0
    assert said.json["token"] == "HUGGINGFACE_TOKEN"
    assert "good-token" not in said.out + said.err
    assert hub.downloads == []


def test_a_refused_pull_is_one_object_too(speech, hub) -> None:
    hub.repositories[f"nvidia/{CODEC}"].gated = True
    said = speech("pull", "codec", "--json")
    assert said.code == 1
    assert said.json["type"] == "HubError"
    assert "is gated" in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pull"], "Name models, or give --all"),
        (["pull", "magpie", "--all"], "Name models, or give --all"),
        (["pull", "magpi"], "Did you mean 'magpie'"),
        (["pull", "magpie", "codec", "--revision", "main"], "of one model"),
        (["pull", "--all", "--revision", "main"], "of one model"),
        (["pull", "codec", "--check", "--from", "."], "give one of them"),
        (["pull", "codec", "--from", "no/such/folder"], "no such file or folder"),
        (["pull", "codec", "--revision", "v99"], "no revision 'v99'"),
        (["pull", "codec", "--check", "--revision", "v99"], "no revision 'v99'"),
        (["verify", "magpi"], "Did you mean 'magpie'"),
    ],
)
def test_bad_input_exits_with_2(speech, arguments, says) -> None:
    said = speech(*arguments)
    assert said.code == 2
    assert says in said.err


def test_a_revision_of_magpie_leaves_its_codec_as_pinned(speech, hub, tmp_path) -> None:
    hub.publish(f"nvidia/{NAMES[0]}", OTHER, {f"{NAMES[0]}.nemo": b"newer"}, "next")
    speech("pull", "magpie", "--revision", "next")
    locked = read_lock(tmp_path / "models" / "models.lock")
    assert {name: entry.pin.commit for name, entry in locked.items()} == {
        NAMES[0]: OTHER,
        CODEC: COMMIT,
    }
    assert locked[NAMES[0]].licence == "nvidia-open-model-license"


def test_the_doctor_has_a_line_for_each_that_is_here(speech, settings, tmp_path) -> None:
    here = type(settings)(models_dir=tmp_path / "models", state_dir=settings.state_dir)
    (finding,) = doctor._checkpoints(here)
    assert (finding.verdict, finding.found) == ("warn", "no NVIDIA checkpoints pulled")
    path = Path(speech("pull", "magpie", "--json").json["models"][0]["path"])
    assert [finding.verdict for finding in doctor._checkpoints(here)] == ["pass", "pass"]
    path.write_bytes(b"short")
    broken, _ = doctor._checkpoints(here)
    assert (broken.verdict, broken.mend) == ("fail", f"speech models pull {NAMES[0]}")
    here.models_lock.write_text("{}")
    assert [finding.verdict for finding in doctor._checkpoints(here)] == ["fail"]


def test_the_environment_of_a_fresh_process_decides(hub, tmp_path) -> None:
    """HF_ENDPOINT, a token, HF_HUB_OFFLINE and SPEECH_MODELS_DIR, without anything patched."""
    hub.repositories[f"nvidia/{CODEC}"].gated = True
    foreign = ("HF_", "HUGGING", "TRANSFORMERS_")  # the last is set wherever NeMo is imported
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HUGGINGFACE_ACCESS_TOKEN": "good-token",
    }

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        # The real pin is of real weights, so the revision is chosen.
        arguments = ["models", "pull", "codec", "--revision", "main", "--json"]
        return subprocess.run(
            [sys.executable, "-m", "runtime.cli.main", *arguments],
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=60,
        )

    offline = run(HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert "HF_HUB_OFFLINE is set" in json.loads(offline.stdout)["error"]
    done = run()
    assert done.returncode == 0, done.stderr
    path = tmp_path / "cache" / "speech-runtime" / "models" / CODEC / COMMIT / f"{CODEC}.nemo"
    assert path.read_bytes() == CONTENT[CODEC]
    assert "good-token" not in done.stdout + done.stderr
    assert {request.token for request in hub.requests} == {"good-token"}
