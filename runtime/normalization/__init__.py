"""Written text to spoken words, before a voice takes it: "$5" is "five dollars".

Two normalisers do it: NeMo's grammars (``nemo``, x86-64) and this package's own rules
(``rules``, anywhere). ``make_normalizer`` makes the one that was asked for, and
nothing changes from one to the other in silence: ``name`` says which it is, and
``failures`` counts the texts that it could not do as it should.

Not done here: what cannot be spoken is removed before (``runtime.speakable``).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

from runtime.engines.options import one_of
from runtime.errors import ConfigError
from runtime.text import primary_language

Choice = Literal["auto", "nemo", "rules", "off"]
CHOICES: tuple[Choice, ...] = ("auto", "nemo", "rules", "off")

LANGUAGES = ("en", "es", "de", "fr", "vi", "it", "zh", "hi", "ja")
"""What both normalisers have: ``nemo`` grammars for each, ``rules`` English and others' numbers."""


class Normalizer(Protocol):
    """Writes texts as they are said. Every method may be called from any thread.

    Attributes:
        name: Which normaliser this is, with its version: for logs and metrics.
        languages: Primary language tags that it handles; a text in any other comes
            back unchanged.
    """

    name: str
    languages: tuple[str, ...]

    @property
    def failures(self) -> Mapping[str, int]:
        """How many texts were not done as they should be, by reason, since the start."""
        ...

    def prewarm(self) -> None:
        """Load all that is loaded once. Call it before the first request, off the event loop.

        Raises:
            ConfigError: The cache folder cannot be written.
            EngineFailed: The grammars cannot be compiled or loaded.
        """
        ...

    def normalize(self, text: str, language: str) -> str:
        """Write a sentence or a paragraph as it is said.

        Blocks for milliseconds; it never raises for what is in the text.

        Args:
            text: What is written, already ``speakable``.
            language: Its language tag; only the primary subtag counts.

        Returns:
            The words; the text itself in a language that is not handled.
        """
        ...

    def close(self) -> None:
        """Let go of processes and memory; the normaliser is not used again."""
        ...


class Unchanged:
    """Normalises nothing: the engine's front end gets the text as it is written."""

    name = "off"
    languages: tuple[str, ...] = ()
    failures: Mapping[str, int] = {}

    def prewarm(self) -> None:
        """Do nothing."""

    def normalize(self, text: str, language: str) -> str:
        """Return the text."""
        return text

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which normaliser a choice leads to on this machine.

    Attributes:
        backend: "nemo", "rules" or "off".
        name: As ``Normalizer.name``.
        why: One clause for people.
        mend: How to get NeMo's grammars where they are missing; empty where nothing is.
    """

    backend: Literal["nemo", "rules", "off"]
    name: str
    why: str
    mend: str = ""


def select(choice: str = "auto") -> Selection:
    """Tell which normaliser a choice leads to, without importing any of them.

    Raises:
        ConfigError: There is no such choice, or "nemo" was asked for and is not installed;
            the message names the mend.
    """
    one_of("normalizer", choice, CHOICES)
    if choice == "off":
        return Selection("off", "off", "asked for")
    rules = f"rules (CLDR numbers by unicode-rbnf {version('unicode-rbnf')})"
    if choice == "rules":
        return Selection("rules", rules, "asked for")
    missing = [module for module in ("pynini", "nemo_text_processing") if find_spec(module) is None]
    if not missing:
        why = "asked for" if choice == "nemo" else "installed"
        return Selection("nemo", f"nemo-text-processing {_version()}", why)
    why = f"{' and '.join(missing)} not installed"
    mend = "pip install 'speech-runtime[nemo]'"
    if platform.machine() != "x86_64":
        why = f"{why}; pynini has no wheels for {platform.machine()}"
        mend = "on this machine the rules are what there is"
    if choice == "nemo":
        raise ConfigError(f"normalizer is 'nemo', but: {why}. Mend: {mend}; or normalizer: rules.")
    return Selection("rules", rules, why, mend)


def _version() -> str:
    try:
        return version("nemo_text_processing")
    except PackageNotFoundError:  # a source tree on the path
        return "of unknown version"


def make_normalizer(
    choice: str, languages: Sequence[str] = ("en",), cache_dir: Path | None = None
) -> Normalizer:
    """Make a normaliser; it has loaded nothing until ``prewarm``.

    Args:
        choice: "auto" takes NeMo's grammars where they are installed, else the rules.
        languages: Tags of what will be spoken; those that the normaliser lacks are
            left out of its ``languages``.
        cache_dir: Where compiled grammars are kept; by default the settings' ``cache_dir``.

    Raises:
        ConfigError: There is no such choice, or "nemo" was asked for and is not installed.
    """
    selection = select(choice)
    handled = tuple(dict.fromkeys(filter(LANGUAGES.__contains__, map(primary_language, languages))))
    if selection.backend == "off":
        return Unchanged()
    if selection.backend == "rules":
        from runtime.normalization.rules import RulesNormalizer

        return RulesNormalizer(selection.name, handled)
    from runtime.normalization.nemo import NemoNormalizer
    from runtime.settings import Settings

    return NemoNormalizer(selection.name, handled, cache_dir or Settings().cache_dir)
