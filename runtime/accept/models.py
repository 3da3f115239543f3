"""The checkpoints that a configuration needs: may they be downloaded, and are they here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime.accept.section import Section
from runtime.config import AsrArgs, RecognizerArgs, SynthesizerArgs, TtsArgs, speech_applications
from runtime.engines.models import MAGPIE, PARAKEET, PARAKEET_STREAMING
from runtime.engines.trials.line import Line
from runtime.errors import SpeechError
from runtime.memory.footprint import GIB
from runtime.models.catalogue import CODEC, Model, find, with_needs
from runtime.models.hub import Hub
from runtime.models.pull import Order, pull
from runtime.models.store import missized, place, wanted
from runtime.models.transfer import Report
from runtime.settings import Settings

_DEFAULTS = {
    "magpie": next(iter(MAGPIE)),
    "magpie-reference": next(iter(MAGPIE)),
    "parakeet": next(iter(PARAKEET)),
    "parakeet-streaming": next(iter(PARAKEET_STREAMING)),
}
"""The checkpoint of an engine that is not told which."""


def needed(document: dict[str, Any], origin: str) -> list[Model]:
    """The models that the engines of a configuration open, but for those given by a path."""
    names = []
    for args in speech_applications(document, origin).values():
        for engine in _engines(args.tts, args.asr):
            if engine.engine not in _DEFAULTS:
                continue
            if "weights" not in engine.options:
                names.append(engine.options.get("model", _DEFAULTS[engine.engine]))
            if engine.engine.startswith("magpie") and "codec" not in engine.options:
                names.append(CODEC)
    # What a model needs is listed above already, unless a path was given for it.
    return [model for model in with_needs([find(name) for name in names]) if model.name in names]


def _engines(
    tts: TtsArgs | None, asr: AsrArgs | None
) -> Iterator[SynthesizerArgs | RecognizerArgs]:
    for engine in (tts, asr.live if asr else None, asr.file if asr else None):
        if engine is not None:
            yield engine


def access_and_pull(
    models: list[Model],
    settings: Settings,
    hub: Callable[[], Hub],
    report: Report,
    folder: Path | None = None,
) -> Section:
    """Ask the hub for what is not here, and pull it; what is here asks nobody.

    Args:
        models: Those that are needed.
        settings: Where they are to lie.
        hub: Makes the hub to ask.
        report: Told how far a download is.
        folder: Where the files are to come from instead of the hub.
    """
    section = Section("Checkpoints", about="what the configuration's engines open")
    if not models:
        found = "the configuration's engines need none, or are given theirs by path"
        section.lines.append(Line("checkpoints", "needed", "pass", found))
    for model in models:
        if folder is None and not _is_here(model, settings):
            section.lines.append(_access(model, settings, hub))
        section.lines.append(_pull(model, settings, hub, report, folder))
    return section


def _is_here(model: Model, settings: Settings) -> bool:
    pin = wanted(model, settings).pin
    return pin is not None and missized(model, pin, place(settings, model, pin.commit)) == ([], [])


def _access(model: Model, settings: Settings, hub: Callable[[], Hub]) -> Line:
    try:
        asked = hub()
        pin = wanted(model, settings).pin
        asked.check(model, pin.commit if pin else None)
    except SpeechError as error:
        mend = f"read and accept the licence at {model.page}, and set HF_TOKEN"
        return Line(model.name, "access", "fail", str(error), mend)
    return Line(model.name, "access", "pass", f"the hub lets it be downloaded; {asked.token}")


def _pull(
    model: Model,
    settings: Settings,
    hub: Callable[[], Hub],
    report: Report,
    folder: Path | None,
) -> Line:
    try:
        (done,) = pull([Order(model, folder=folder)], settings, hub, report, lambda: None)
    except (SpeechError, OSError) as error:
        return Line(model.name, "pull", "fail", str(error), f"speech models pull {model.name}")
    size = sum(file.size for file in done.pin.files.values()) / GIB
    where = "was here" if done.source == "here" else f"from the {done.source}"
    found = f"{done.pin.commit[:12]}, {size:.2f} GiB, {where}"
    return Line(model.name, "pull", "pass", found)
