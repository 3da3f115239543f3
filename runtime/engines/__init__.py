"""Engine names, how to make an engine from one, and what memory it will need.

An engine is named by a short name from the tables below or by
``package.module:Class``; its module is imported only when it is made, so that
choosing one never costs the import of another. Estimates lie in modules of their own,
which import no model's library.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from runtime.errors import ConfigError, SpeechError, UnknownEngine
from runtime.memory.footprint import Footprint
from runtime.speech import Recognizer, Synthesizer

SYNTHESIZERS: Mapping[str, str] = {
    "hibari": "runtime.engines.embedded.hibari:HibariSynthesizer",
    "magpie": "runtime.engines.magpie.engine:MagpieSynthesizer",
    "magpie-reference": "runtime.engines.magpie.reference:MagpieReference",
}
RECOGNIZERS: Mapping[str, str] = {
    "moonshine": "runtime.engines.embedded.moonshine:MoonshineRecognizer",
    "whisper": "runtime.engines.embedded.whisper:WhisperRecognizer",
    "parakeet": "runtime.engines.parakeet.offline:ParakeetRecognizer",
    "parakeet-streaming": "runtime.engines.parakeet.streaming:StreamingParakeetRecognizer",
}

FOOTPRINTS: Mapping[str, str] = {
    "hibari": "runtime.engines.embedded.footprint:hibari",
    "moonshine": "runtime.engines.embedded.footprint:moonshine",
    "whisper": "runtime.engines.embedded.footprint:whisper",
    "magpie": "runtime.engines.magpie.footprint:footprint",
    "magpie-reference": "runtime.engines.magpie.footprint:reference_footprint",
    "parakeet": "runtime.engines.parakeet.footprint:footprint",
    "parakeet-streaming": "runtime.engines.parakeet.footprint:streaming_footprint",
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


def footprint_of(name: str, options: Mapping[str, Any] | None = None) -> Footprint:
    """What an engine with these options will need, by its own estimate.

    An engine named by ``package.module:Class`` gives it by a static or class method
    ``footprint(options) -> Footprint``; its module is imported for that.

    Raises:
        UnknownEngine: No such name, or its package is not installed.
        ConfigError: The engine has no estimate, or does not take these options.
    """
    if name in FOOTPRINTS:
        module_name, _, function = FOOTPRINTS[name].partition(":")
        estimate = getattr(importlib.import_module(module_name), function)
    else:
        engine = _find(name, FOOTPRINTS)
        declared = inspect.getattr_static(engine, "footprint", None)
        if not isinstance(declared, staticmethod | classmethod):
            raise ConfigError(
                f"Engine {name!r} has no estimate of its memory: give memory_gib beside it, "
                f"or a footprint(options) static method."
            )
        estimate = engine.footprint
    footprint = _call(name, estimate, options or {})
    if not isinstance(footprint, Footprint):
        raise ConfigError(f"Engine {name!r} gives {footprint!r} for its memory, not a Footprint.")
    return footprint


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
    engine = _find(name, known)
    return _call(name, lambda options: engine(**options), options)


def _find(name: str, known: Mapping[str, str]) -> Any:
    module_name, _, class_name = known.get(check_name(name, known), name).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        mend = "pip install 'speech-runtime[embedded]'" if name in known else "install its package"
        raise UnknownEngine(f"Engine {name!r} cannot be imported ({error}): {mend}.") from error
    if not hasattr(module, class_name):
        raise UnknownEngine(f"Module {module_name} has no {class_name}.")
    return getattr(module, class_name)


def _call(name: str, function: Callable[..., object], options: Mapping[str, Any]) -> object:
    try:
        return function(options)
    except SpeechError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Engine {name!r} does not take these options: {error}.") from error
