"""Configurations: what is shipped is valid, and what is wrong is named, with what was meant."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.config import (
    AsrUserConfig,
    SpeechAppArgs,
    TtsUserConfig,
    find_config,
    read_config,
    shipped_configs,
    speech_applications,
    validate,
)
from runtime.errors import ConfigError

TTS = {"engine": "hibari"}
ASR = {"live": {"engine": "moonshine"}}


def document(args: Any, **application: Any) -> dict[str, Any]:
    """A configuration of one speech application."""
    speech = {"name": "speech", "import_path": "deployments.app:build_app", "args": args}
    return {"applications": [speech | application]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        path = tmp_path / "own.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return save


@pytest.fixture
def refusal(write: Callable[[Any], Path]) -> Callable[[Any], list[str]]:
    """The lines with which a configuration is refused, each without the path before it."""

    def lines(content: Any) -> list[str]:
        path = write(content)
        with pytest.raises(ConfigError) as caught:
            read_config(path)
        said = str(caught.value).splitlines()
        assert said[0].startswith(str(path))
        return [line.removeprefix(f"{path}").removeprefix(": ") for line in said]

    return lines


Refusal = Callable[[Any], list[str]]


# --- what is shipped ---------------------------------------------------------


def test_embedded_is_shipped() -> None:
    assert "embedded" in shipped_configs()


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_configuration_validates(name: str) -> None:
    read = read_config(shipped_configs()[name])
    assert list(speech_applications(read, name)) == ["speech"]


def test_the_embedded_configuration_listens_and_speaks() -> None:
    args = speech_applications(read_config(find_config("embedded")), "embedded")["speech"]
    assert args.asr is not None
    assert args.asr.live is not None
    assert args.asr.file is not None
    assert args.tts is not None


# In a process of its own: Ray reads its environment once, when it is imported, and tests
# that start a daemon need another.
SERVE_SCHEMA = """
import json, sys
import yaml
from ray.serve.schema import ServeDeploySchema
document = yaml.safe_load(open(sys.argv[1], encoding="utf-8"))
schema = ServeDeploySchema.model_validate(document)
print(json.dumps([[d.name for d in a.deployments] for a in schema.applications]))
"""


@pytest.mark.parametrize("name", shipped_configs())
def test_serve_takes_a_shipped_configuration_as_it_is(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE_SCHEMA, str(shipped_configs()[name])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    applications = json.loads(done.stdout.splitlines()[-1])
    assert sorted(applications[0]) == ["ASR", "TTS"]


# --- keys that do not exist --------------------------------------------------


@pytest.mark.parametrize(
    ("args", "where", "meant"),
    [
        ({"tts": TTS, "arr": ASR}, "args.arr", "asr"),
        ({"asr": ASR | {"live_": {}}}, "args.asr.live_", "live"),
        ({"asr": {"files": {"engine": "whisper"}}}, "args.asr.files", "file"),
        ({"asr": ASR | {"deploymentconfig": {}}}, "args.asr.deploymentconfig", "deployment_config"),
        ({"asr": {"live": ASR["live"] | {"option": {}}}}, "args.asr.live.option", "options"),
        ({"asr": {"live": ASR["live"] | {"Engine": "x"}}}, "args.asr.live.Engine", "engine"),
        ({"tts": TTS | {"optoins": {"slots": 2}}}, "args.tts.optoins", "options"),
    ],
)
def test_an_unknown_argument_is_named_with_the_nearest_there_is(
    refusal: Refusal, args: Any, where: str, meant: str
) -> None:
    (line,) = [line for line in refusal(document(args)) if "no such key" in line]
    assert line.startswith(f"applications.0.{where}: there is no such key.")
    assert f"Did you mean '{meant}'?" in line


@pytest.mark.parametrize(
    ("deployment", "key", "meant"),
    [
        ("TTS", "lead", "lead_s"),
        ("TTS", "stall_timeout", "stall_timeout_s"),
        ("ASR", "idle_timeout", "idle_timeout_s"),
    ],
)
def test_an_unknown_key_of_a_user_config_is_named_with_the_nearest_there_is(
    refusal: Refusal, deployment: str, key: str, meant: str
) -> None:
    deployments = [{"name": deployment, "user_config": {key: 5}}]
    (line,) = refusal(document({"tts": TTS, "asr": ASR}, deployments=deployments))
    assert line.startswith(f"applications.0.deployments.0.user_config.{key}: there is no such key")
    assert f"Did you mean '{meant}'?" in line


def test_a_key_that_is_near_to_none_is_named_with_all_there_are(refusal: Refusal) -> None:
    (line,) = refusal(document({"tts": TTS, "zzz": 1}))
    assert "Did you mean" not in line
    assert line.endswith("(keys here: asr, tts, memory)")


def test_all_mistakes_are_named_at_once(refusal: Refusal) -> None:
    lines = refusal(
        document({"tts": {"engine": "hibri", "opts": {}}, "asr": ASR | {"fils": {}}, "x": 1})
    )
    assert [line.partition(":")[0] for line in lines] == [
        "applications.0.args.asr.fils",
        "applications.0.args.tts.engine",
        "applications.0.args.tts.opts",
        "applications.0.args.x",
    ]


# --- engines -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "where", "meant"),
    [
        ({"tts": {"engine": "hibary"}}, "tts.engine", "hibari"),
        ({"asr": {"live": {"engine": "moonshin"}}}, "asr.live.engine", "moonshine"),
        ({"asr": {"file": {"engine": "wisper"}}}, "asr.file.engine", "whisper"),
    ],
)
def test_an_unknown_engine_is_named_with_the_nearest_there_is(
    refusal: Refusal, args: Any, where: str, meant: str
) -> None:
    (line,) = refusal(document(args))
    assert line.startswith(f"applications.0.args.{where}: There is no engine")
    assert f"Did you mean '{meant}'?" in line
    assert "or package.module:Class" in line


def test_a_synthesizer_is_no_recognizer(refusal: Refusal) -> None:
    (line,) = refusal(document({"asr": {"live": {"engine": "hibari"}}}))
    assert "Engines: moonshine, whisper" in line


def test_an_engine_may_be_named_by_its_import_path_and_is_not_imported(
    write: Callable[[Any], Path],
) -> None:
    tts = {"engine": "nowhere.to_be.found:Engine", "options": {"any": ["thing"]}}
    read = read_config(write(document({"tts": tts})))
    args = speech_applications(read, "own")["speech"].tts
    assert args is not None
    assert args.engine == "nowhere.to_be.found:Engine"
    assert args.options == {"any": ["thing"]}


@pytest.mark.parametrize("engine", ["package.module:", ":Class", "package..module:Class", "a-b:C"])
def test_what_is_no_import_path_is_an_unknown_engine(refusal: Refusal, engine: str) -> None:
    (line,) = refusal(document({"tts": {"engine": engine}}))
    assert f"There is no engine '{engine}'" in line


def test_an_engine_without_a_name_is_refused(refusal: Refusal) -> None:
    assert refusal(document({"tts": {}})) == ["applications.0.args.tts.engine: Field required"]


def test_options_are_a_mapping(refusal: Refusal) -> None:
    (line,) = refusal(document({"tts": TTS | {"options": ["slots"]}}))
    assert line.startswith("applications.0.args.tts.options: ")


# --- deployments -------------------------------------------------------------


@pytest.mark.parametrize("name", ["tts", "STT", None, 5])
def test_an_unknown_deployment_is_refused_with_those_there_are(
    refusal: Refusal, name: object
) -> None:
    (line,) = refusal(document({"tts": TTS}, deployments=[{"name": "TTS"}, {"name": name}]))
    assert line == f"applications.0.deployments.1.name is {name!r}; deployments: ASR, TTS."


@pytest.mark.parametrize("deployments", [5, "TTS", {"TTS": {"num_replicas": 2}}])
def test_deployments_are_a_list(refusal: Refusal, deployments: object) -> None:
    (line,) = refusal(document({"tts": TTS}, deployments=deployments))
    assert line == "applications.0.deployments must be a list."


@pytest.mark.parametrize(
    "user_config", [{"lead_s": 0}, {"lead_s": "long"}, {"stall_timeout_s": -1}]
)
def test_a_user_config_with_a_senseless_value_is_refused(
    refusal: Refusal, user_config: dict[str, object]
) -> None:
    deployments = [{"name": "TTS", "user_config": user_config}]
    (line,) = refusal(document({"tts": TTS}, deployments=deployments))
    assert line.startswith(f"applications.0.deployments.0.user_config.{next(iter(user_config))}: ")


def test_serves_own_options_are_left_to_serve(write: Callable[[Any], Path]) -> None:
    deployments = [{"name": "TTS", "num_replicas": 3, "ray_actor_options": {"num_gpus": 0.5}}]
    read_config(write(document({"tts": TTS}, deployments=deployments)))


def test_the_user_configs_have_defaults() -> None:
    assert validate(TtsUserConfig, {}, "TTS") == TtsUserConfig(lead_s=10, stall_timeout_s=60)
    assert validate(AsrUserConfig, {}, "ASR") == AsrUserConfig(idle_timeout_s=60)


# --- applications ------------------------------------------------------------


@pytest.mark.parametrize("application", [{}, {"args": None}, {"args": {}}])
def test_an_application_without_arguments_is_told_to_name_an_engine(
    refusal: Refusal, application: dict[str, object]
) -> None:
    (line,) = refusal(
        {"applications": [{"import_path": "deployments.app:build_app", **application}]}
    )
    assert line == "applications.0.args: name an engine under asr, under tts, or under both"


def test_recognition_without_an_engine_is_told_to_name_one(refusal: Refusal) -> None:
    (line,) = refusal(document({"asr": {}}))
    assert line == "applications.0.args.asr: name an engine for live, for file, or for both"


@pytest.mark.parametrize("args", [["asr"], "hibari", 7])
def test_arguments_are_a_mapping(refusal: Refusal, args: object) -> None:
    (line,) = refusal(document(args))
    assert line.startswith("applications.0.args: ")


def test_a_mistake_in_the_second_application_is_found_there(refusal: Refusal) -> None:
    both = document({"tts": TTS})["applications"] + document({"tts": {}})["applications"]
    (line,) = refusal({"applications": both})
    assert line.startswith("applications.1.args.tts.engine: ")


def test_speech_applications_are_found_among_others_by_name() -> None:
    other = {"name": "chat", "import_path": "somewhere:else", "args": {"model": "large"}}
    speech = document({"tts": TTS}, name="voices")["applications"]
    nameless = document({"asr": ASR})["applications"]
    del nameless[0]["name"]
    found = speech_applications({"applications": [other, *speech, *nameless]}, "own")
    assert list(found) == ["voices", "default"]
    assert all(isinstance(args, SpeechAppArgs) for args in found.values())


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"applications": []},
        {"applications": {"speech": {}}},
        {"applications": ["speech"]},
        {"applications": [{"name": "chat", "import_path": "somewhere:else"}]},
        {"application": document({"tts": TTS})["applications"]},
    ],
)
def test_a_configuration_without_a_speech_application_is_refused(
    refusal: Refusal, content: dict[str, Any]
) -> None:
    (line,) = refusal(content)
    assert line == " has no application with import_path: deployments.app:build_app."


# --- files -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["applications: [", "a: b: c", "\x00", "date: 2024-02-31", "a: *b"]
)
def test_a_file_that_is_not_yaml_is_refused(refusal: Refusal, text: str) -> None:
    assert refusal(text)[0].startswith(" is not YAML: ")


def test_yaml_is_not_allowed_to_run_anything(refusal: Refusal, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    refusal(f"a: !!python/object/apply:os.mkdir ['{trace}']")
    assert not trace.exists()


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "- applications\n- args\n", "speech", "5"])
def test_a_file_that_holds_no_mapping_is_refused(refusal: Refusal, text: str) -> None:
    assert refusal(text) == [" holds no Serve configuration: it must be a mapping."]


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=re.escape(f"{path} cannot be read")):
        read_config(path)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / name} cannot be read")):
        read_config(tmp_path / name)


# --- finding one -------------------------------------------------------------


@pytest.mark.parametrize("name", ["embedded", "embedded.yaml", "config/embedded.yaml"])
def test_a_shipped_configuration_is_found_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == shipped_configs()["embedded"]


def test_a_file_is_found_by_its_path(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[Any], Path], tmp_path: Path
) -> None:
    path = write(document({"tts": TTS}))
    monkeypatch.chdir(tmp_path)
    assert find_config(str(path)) == path
    assert find_config("own.yaml").samefile(path)


def test_a_file_comes_before_a_shipped_configuration_of_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "embedded.yaml").write_text("own: true\n")
    monkeypatch.chdir(tmp_path)
    assert find_config("embedded.yaml").samefile(tmp_path / "embedded.yaml")
    assert find_config("embedded") == shipped_configs()["embedded"]


@pytest.mark.parametrize("name", ["elsewhere/embedded.yaml", "config/embedded.yml", "config"])
def test_a_path_that_only_looks_like_a_shipped_configuration_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    with pytest.raises(ConfigError, match=re.escape(f"no configuration {name!r}")):
        find_config(name)


def test_an_unknown_configuration_is_refused_with_the_nearest_and_all_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'embeded'\. Did you mean 'embedded'\?") as caught:
        find_config("embeded")
    assert all(name in str(caught.value) for name in shipped_configs())
