"""Engine names and how to make an engine from one.

An engine is named by a short name from the tables below or by
``package.module:Class``; its module is imported only when it is made, so that
choosing one never costs the import of another.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from runtime.errors import ConfigError, SpeechError, UnknownEngine
from runtime.speech import Recognizer, Synthesizer

SYNTHESIZERS: Mapping[str, str] = {
    "hibari": "runtime.engines.embedded.hibari:HibariSynthesizer",
}
RECOGNIZERS: Mapping[str, str] = {
    "moonshine": "runtime.engines.embedded.moonshine:MoonshineRecognizer",
    "whisper": "runtime.engines.embedded.whisper:WhisperRecognizer",
}


def make_synthesizer(name: str, options: Mapping[str, Any] | None = None) -> Synthesizer:
    """Make a synthesizer; it has loaded nothing yet.

    Raises:
        UnknownEngine: No such name, or its package is not installed.
        ConfigError: The engine does not take these options.
    """
    engine = _make(name, SYNTHESIZERS, options or {})
    if not isinstance(engine, Synthesizer):
        raise UnknownEngine(f"{name!r} is not a synthesizer: it lacks a method of that contract.")
    return engine


def make_recognizer(name: str, options: Mapping[str, Any] | None = None) -> Recognizer:
    """Make a recognizer; it has loaded nothing yet.

    Raises:
        UnknownEngine: No such name, or its package is not installed.
        ConfigError: The engine does not take these options.
    """
    engine = _make(name, RECOGNIZERS, options or {})
    if not isinstance(engine, Recognizer):
        raise UnknownEngine(f"{name!r} is not a recognizer: it lacks a method of that contract.")
    return engine


def check_name(name: str, known: Mapping[str, str]) -> str:
    """Return the name if it can name an engine, without importing anything.

    Raises:
        UnknownEngine: Neither in the table nor of the form ``package.module:Class``.
    """
    if name in known or _is_import_path(name):
        return name
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownEngine(
        f"There is no engine {name!r}.{hint} Engines: {', '.join(known)}, or package.module:Class."
    )


def _is_import_path(name: str) -> bool:
    module, _, attribute = name.partition(":")
    return attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _make(name: str, known: Mapping[str, str], options: Mapping[str, Any]) -> object:
    module_name, _, class_name = known.get(check_name(name, known), name).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        mend = "pip install 'speech-runtime[embedded]'" if name in known else "install its package"
        raise UnknownEngine(f"Engine {name!r} cannot be imported ({error}): {mend}.") from error
    if not hasattr(module, class_name):
        raise UnknownEngine(f"Module {module_name} has no {class_name}.")
    try:
        engine: object = getattr(module, class_name)(**options)
    except SpeechError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Engine {name!r} does not take these options: {error}.") from error
    return engine
