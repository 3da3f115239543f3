"""Names of voices, and blends of them: ``aria:0.7+leo:0.3``.

A blend is a weighted sum of baked voices' context embeddings. Blends that have a name of
their own are kept in a file beside the checkpoint, ``<checkpoint>.voices.json``:
``{"warm": "aria:0.7+leo:0.3"}``; a checkpoint itself cannot be written to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from runtime.errors import CheckpointError, InvalidRequest, UnknownVoice

_TOLERANCE = 1e-3  # of the sum of weights, for thirds written as 0.333
_ROUNDING = 1e-9  # of a sum of weights that need no scaling


@dataclass(frozen=True, slots=True)
class Blend:
    """A weighted sum of voices.

    Attributes:
        parts: Name of a baked voice and its weight, heaviest first; weights are above 0 and
            sum to 1.
    """

    parts: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        if len(self.parts) == 1:
            return self.parts[0][0]
        # All digits: what is written is read again, by the engine, as the same blend.
        return "+".join(f"{name}:{weight!r}" for name, weight in self.parts)


def is_blend(voice: str) -> bool:
    """Tell whether a voice is written as a blend, and not as one name."""
    return "+" in voice or ":" in voice


def find_voice(name: str, names: Sequence[str]) -> str:
    """Return the voice of that name as it is written among ``names``; case does not count.

    Raises:
        UnknownVoice: There is none; the message lists all, and the nearest first.
    """
    by_name = {known.casefold(): known for known in names}
    found = by_name.get(name.strip().casefold())
    if found is None:
        near = get_close_matches(name.strip().casefold(), by_name, n=1)
        hint = f" (did you mean {by_name[near[0]]!r}?)" if near else ""
        raise UnknownVoice(f"There is no voice {name!r}{hint}; voices: {', '.join(names)}.")
    return found


def parse_blend(text: str, names: Sequence[str]) -> Blend:
    """Read a blend such as ``aria:0.7+leo:0.3``.

    Raises:
        UnknownVoice: It names a voice that there is not.
        InvalidRequest: A weight is missing or not above 0, a voice comes twice, or the
            weights do not sum to 1.
    """
    weights: dict[str, float] = {}
    for part in text.split("+"):
        name, colon, written = part.partition(":")
        try:
            weight = float(written)
        except ValueError:
            weight = math.nan
        if not colon or not 0 < weight < math.inf:
            raise InvalidRequest(
                f"{part.strip()!r} in voice {text!r} is no part of a blend; write each as "
                f"name:weight with a weight above 0, as in {_example(names)}."
            )
        voice = find_voice(name, names)
        if voice in weights:
            raise InvalidRequest(f"Voice {voice!r} comes twice in {text!r}; add its weights up.")
        weights[voice] = weight
    total = sum(sorted(weights.values()))  # so that its last bit does not depend on their order
    if abs(total - 1) > _TOLERANCE:
        raise InvalidRequest(
            f"The weights in voice {text!r} sum to {total:g}; they must sum to 1, as in "
            f"{_example(names)}."
        )
    heaviest_first = sorted(weights.items(), key=lambda part: (-part[1], names.index(part[0])))
    scale = 1.0 if abs(total - 1) <= _ROUNDING else total
    return Blend(tuple((voice, weight / scale) for voice, weight in heaviest_first))


def voices_file(checkpoint: Path) -> Path:
    """Where named blends of a checkpoint's voices lie: ``<checkpoint>.voices.json``."""
    return checkpoint.with_name(f"{checkpoint.name}.voices.json")


def read_blends(checkpoint: Path, names: Sequence[str]) -> Mapping[str, Blend]:
    """Named blends beside a checkpoint, in the order of their file; none without a file.

    Raises:
        CheckpointError: The file is no map from names to blends, or one of them is wrong; the
            message names it.
    """
    file = voices_file(checkpoint)
    if not file.is_file():
        return {}
    try:
        document = json.loads(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error}).") from error
    if not isinstance(document, dict) or not all(isinstance(b, str) for b in document.values()):
        raise CheckpointError(f'{file} must map names to blends: {{"warm": {_example(names)!r}}}.')
    blends: dict[str, Blend] = {}
    taken = {name.casefold() for name in names}
    for name, written in document.items():
        if is_blend(name) or not name or name != name.strip() or name.casefold() in taken:
            raise CheckpointError(
                f"{file}: {name!r} cannot name a blend; it must be new, without + and :, and "
                f"without white space around it."
            )
        taken.add(name.casefold())
        try:
            blends[name] = parse_blend(written, names)
        except InvalidRequest as error:
            raise CheckpointError(f"{file}: {name!r}: {error}") from error
    return blends


def _example(names: Sequence[str]) -> str:
    first, second = (*names, "aria", "leo")[:2]
    return f"{first.casefold()}:0.7+{second.casefold()}:0.3"
