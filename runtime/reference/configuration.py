"""docs/reference/configuration.md, from the models that validate it."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from runtime.config import (
    AsrArgs,
    AsrUserConfig,
    RecognizerArgs,
    SpeechAppArgs,
    TtsArgs,
    TtsUserConfig,
)
from runtime.engines import RECOGNIZERS, SYNTHESIZERS
from runtime.memory.policy import Floors, MemoryPolicy, Neighbour
from runtime.reference.markdown import GENERATED, table
from runtime.settings import Settings

_HEAD = """
A configuration is a Ray Serve config file; what is here is the speech application's part of it. It
is checked before anything starts, and an error names the key and the nearest one there is.

```yaml
applications:
  - name: speech
    import_path: deployments.app:build_app
    args: {}            # `args`, below
    deployments:
      - name: TTS       # or ASR
        user_config: {} # below; it can change while a daemon runs
```
"""
_ARGS: Mapping[str, type[BaseModel]] = {
    "args": SpeechAppArgs,
    "args.tts": TtsArgs,
    "args.asr": AsrArgs,
    "args.asr.live, args.asr.file": RecognizerArgs,
    "args.memory": MemoryPolicy,
    "args.memory.neighbours[]": Neighbour,
    "args.memory.floors": Floors,
    "user_config of TTS": TtsUserConfig,
    "user_config of ASR": AsrUserConfig,
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_HUGE = 1 << 16  # a bound beyond that only keeps arithmetic from overflowing
_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", dict: "mapping"}


def page() -> str:
    """The whole page."""
    parts = ["# Configuration", GENERATED, _HEAD.strip()]
    for place, model in _ARGS.items():
        about = (inspect.getdoc(model) or "").replace("``", "`")
        # Fields of a base class come first in pydantic; what is required comes first here.
        fields = sorted(model.model_fields.items(), key=lambda item: not item[1].is_required())
        rows = [
            (f"`{name}`", _type(field), _default(field), _tells(field)) for name, field in fields
        ]
        parts += [f"## {place}", about, table(("key", "type", "default", "meaning"), rows)]
    parts += [
        "## Engines",
        f"For `tts.engine`: {_names(SYNTHESIZERS)}. For `asr.live.engine` and `asr.file.engine`: "
        f"{_names(RECOGNIZERS)}. Any other is `package.module:Class` that follows "
        "`runtime/speech.py`. Their options are in the pages of the engines.",
        "## Environment",
        (inspect.getdoc(Settings) or "").replace("``", "`"),
        table(("variable", "type", "default", "meaning"), _variables()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _names(engines: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}`" for name in engines)


def _variables() -> Iterator[tuple[str, str, str, str]]:
    shown = {
        "state_dir": "`~/.local/state/speech-runtime`",
        "cache_dir": "`~/.cache/speech-runtime`",
        "models_dir": "`~/.cache/speech-runtime/models`",
        "models_lock": "`models.lock` in `SPEECH_MODELS_DIR`",
    }
    for name, field in Settings.model_fields.items():
        variable = f"`SPEECH_{name.upper()}`"
        yield variable, _type(field), shown.get(name) or _default(field), _tells(field)


def _tells(field: FieldInfo) -> str:
    bounds = [
        f"{words} {bound:g}"
        for metadata in field.metadata
        for key, words in _BOUNDS.items()
        if (bound := getattr(metadata, key, None)) is not None and bound < _HUGE
    ]
    described = (field.description or "").rstrip(".")
    return f"{described}; {', '.join(bounds)}." if bounds else f"{described}."


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else "empty"
    if isinstance(field.default, BaseModel):
        return "see there"
    if field.default is None or field.default == ():
        return ""
    if isinstance(field.default, tuple):
        return f"`[{', '.join(field.default)}]`"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _type(field: FieldInfo) -> str:
    return _described(field.annotation)


def _described(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _described(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_described(a) for a in arguments if a is not types.NoneType)
    if origin in (tuple, list):
        return f"list of {_described(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())
