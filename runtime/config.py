"""Serve configuration files: which engines a daemon runs, validated before anything starts.

A configuration is a plain Ray Serve config file (``serve deploy`` takes it as it
is); the speech application's ``args`` are ``SpeechAppArgs``. Errors name the key
and the nearest one there is.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

import runtime
from runtime.engines import RECOGNIZERS, SYNTHESIZERS, check_name
from runtime.errors import ConfigError
from runtime.memory.policy import MemoryPolicy

APPLICATION = "speech"
BUILDER = "deployments.app:build_app"
ASR_DEPLOYMENT = "ASR"
TTS_DEPLOYMENT = "TTS"


class _Args(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _EngineArgs(_Args):
    options: dict[str, Any] = Field(default_factory=dict, description="Keywords for the engine.")
    memory_gib: float | None = Field(
        default=None,
        gt=0,
        lt=1 << 20,
        description="GiB of host memory that the engine needs in a replica, for one that has no "
        "estimate of its own.",
    )
    share: float = Field(
        default=1.0,
        ge=0.001,
        le=1000,
        description="Its part of what is left where several engines have `slots: auto`, beside "
        "theirs.",
    )
    limit_gib: float | None = Field(
        default=None,
        gt=0,
        lt=1 << 20,
        description="The most that weights, workspace and slots of an engine with `slots: auto` "
        "may take in a replica, in GiB.",
    )


class SynthesizerArgs(_EngineArgs):
    """Which synthesizer to run."""

    engine: Annotated[str, AfterValidator(lambda name: check_name(name, SYNTHESIZERS))] = Field(
        description="A short name, or package.module:Class."
    )


class RecognizerArgs(_EngineArgs):
    """Which recognizer to run."""

    engine: Annotated[str, AfterValidator(lambda name: check_name(name, RECOGNIZERS))] = Field(
        description="A short name, or package.module:Class."
    )


class TtsArgs(SynthesizerArgs):
    """The TTS deployment."""

    deployment_config: dict[str, Any] = Field(
        default_factory=dict, description="Serve's own options, passed through."
    )


class AsrArgs(_Args):
    """The ASR deployment: one engine for live streams, one for files, or the same for both."""

    live: RecognizerArgs | None = Field(
        default=None, description="The engine for sessions; partial transcripts early."
    )
    file: RecognizerArgs | None = Field(default=None, description="The engine for recordings.")
    deployment_config: dict[str, Any] = Field(
        default_factory=dict, description="Serve's own options, passed through."
    )

    @model_validator(mode="after")
    def _hears_something(self) -> AsrArgs:
        if self.live is None and self.file is None:
            raise ValueError("name an engine for live, for file, or for both")
        return self


class SpeechAppArgs(_Args):
    """Arguments of ``deployments.app:build_app``."""

    asr: AsrArgs | None = Field(default=None, description="Recognition; left out, there is none.")
    tts: TtsArgs | None = Field(default=None, description="Synthesis; left out, there is none.")
    memory: MemoryPolicy = Field(
        default=MemoryPolicy(), description="Who else is on the device, and what stays free."
    )

    @model_validator(mode="after")
    def _does_something(self) -> SpeechAppArgs:
        if self.asr is None and self.tts is None:
            raise ValueError("name an engine under asr, under tts, or under both")
        return self


class _UserConfig(_Args):
    max_waiting: int = Field(
        default=16, ge=0, description="Calls that may wait for a slot; more are refused at once."
    )
    max_wait_s: float = Field(
        default=5.0, gt=0, description="Seconds a call may wait for a slot before it is refused."
    )
    log_words: bool = Field(
        default=False,
        description="Write what users say and hear into the log, and what errors quote of it.",
    )


class TtsUserConfig(_UserConfig):
    """What ``user_config`` may change in a running TTS deployment."""

    lead_s: float = Field(
        default=10.0, gt=0, description="Seconds of audio an utterance may run ahead of its reader."
    )
    stall_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds a reader may stand still before it loses its slot."
    )
    text_timeout_s: float = Field(
        default=5.0,
        gt=0,
        description="Seconds an utterance that grows keeps its slot with nothing to say.",
    )


class AsrUserConfig(_UserConfig):
    """What ``user_config`` may change in a running ASR deployment."""

    idle_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds without audio after which a session is closed."
    )


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    package = Path(runtime.__file__).parent
    folders = (package / "shipped_config", package.parent / "config")  # a wheel, a checkout
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(name_or_path: str) -> Path:
    """Resolve a path or the name of a shipped configuration.

    Raises:
        ConfigError: Neither; the message lists the shipped ones.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_configs()
    stem = path.stem if path.parent in (Path("."), Path("config")) else name_or_path
    if stem in shipped and path.suffix in ("", ".yaml"):
        return shipped[stem]
    near = get_close_matches(name_or_path, shipped, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"There is no configuration {name_or_path!r}.{hint} Give a file, or one of: "
        f"{', '.join(shipped)}."
    )


def config_label(path: Path) -> str:
    """What to call a configuration: its name if it is a shipped one, else its path."""
    names = {shipped.resolve(): name for name, shipped in shipped_configs().items()}
    return names.get(path.resolve(), str(path))


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration and validate the speech application's arguments in it.

    Serve's own keys are validated by Serve's schema where it is at hand
    (``runtime.cli.up``).

    Raises:
        ConfigError: Not YAML, no speech application, or arguments that do not validate.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: the 31st of February, say
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no Serve configuration: it must be a mapping.")
    speech_applications(document, str(path))
    return document


def speech_applications(document: dict[str, Any], origin: str) -> dict[str, SpeechAppArgs]:
    """The validated arguments of the speech applications in a Serve configuration, by name.

    Raises:
        ConfigError: No application is built by ``deployments.app:build_app``, or the
            arguments or deployments of one do not validate.
    """
    applications = document.get("applications")
    found: dict[str, SpeechAppArgs] = {}
    for index, application in enumerate(applications if isinstance(applications, list) else []):
        if isinstance(application, dict) and application.get("import_path") == BUILDER:
            place = ("applications", index)
            args = application.get("args") or {}
            name = str(application.get("name", "default"))
            found[name] = validate(SpeechAppArgs, args, origin, (*place, "args"))
            _check_deployments(application, origin, place)
    if not found:
        raise ConfigError(f"{origin} has no application with import_path: {BUILDER}.")
    return found


def _check_deployments(
    application: dict[str, Any], origin: str, place: tuple[str | int, ...]
) -> None:
    user_configs: dict[str, type[BaseModel]] = {
        ASR_DEPLOYMENT: AsrUserConfig,
        TTS_DEPLOYMENT: TtsUserConfig,
    }
    deployments = application.get("deployments") or []
    if not isinstance(deployments, list):
        raise ConfigError(f"{origin}: {'.'.join(map(str, place))}.deployments must be a list.")
    for index, deployment in enumerate(deployments):
        name = deployment.get("name") if isinstance(deployment, dict) else None
        if not isinstance(name, str) or name not in user_configs:
            raise ConfigError(
                f"{origin}: {'.'.join(map(str, place))}.deployments.{index}.name is {name!r}; "
                f"deployments: {', '.join(user_configs)}."
            )
        validate(
            user_configs[name],
            deployment.get("user_config") or {},
            origin,
            (*place, "deployments", index, "user_config"),
        )


ModelT = typing.TypeVar("ModelT", bound=BaseModel)


def validate(
    model: type[ModelT], value: Any, origin: str, place: Sequence[str | int] = ()
) -> ModelT:
    """Validate a value against a pydantic model, with errors an operator can act on.

    Raises:
        ConfigError: Each wrong key on a line of its own, with the nearest one there is.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in (*place, *problem["loc"])) or "the configuration"
            if problem["type"] == "extra_forbidden":
                lines.append(f"{key}: there is no such key.{_nearest(model, problem['loc'])}")
            else:
                lines.append(f"{key}: {problem['msg'].removeprefix('Value error, ')}")
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from error


def check_keys(
    model: type[BaseModel], value: Any, origin: str, place: tuple[str | int, ...] = ()
) -> None:
    """Refuse keys that a model does not have, at any depth; Serve's own models ignore them.

    Raises:
        ConfigError: The first such key, with the nearest one there is.
    """
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key not in model.model_fields:
            path = ".".join(map(str, (*place, key)))
            hint = _nearest_of(str(key), list(model.model_fields))
            raise ConfigError(f"{origin}: {path}: there is no such key.{hint}")
        inner_model = _model_within(model.model_fields[key].annotation)
        if inner_model is not None and isinstance(inner, list):
            for index, item in enumerate(inner):
                check_keys(inner_model, item, origin, (*place, key, index))
        elif inner_model is not None:
            check_keys(inner_model, inner, origin, (*place, key))


def _nearest(model: type[BaseModel], location: Sequence[str | int]) -> str:
    fields: list[str] = _fields_at(model, location[:-1])
    return _nearest_of(str(location[-1]), fields) if fields else ""


def _nearest_of(key: str, fields: list[str]) -> str:
    near = get_close_matches(key, fields, n=1, cutoff=0.5)
    known = f"keys here: {', '.join(fields)}"
    return f" Did you mean {near[0]!r}? ({known})" if near else f" ({known})"


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _model_within(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """The model inside ``X | None`` or ``list[X]``, or X itself."""
    if typing.get_origin(annotation) is None:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return annotation if is_model else None
    inner = (_model_within(argument) for argument in typing.get_args(annotation))
    return next((found for found in inner if found is not None), None)
