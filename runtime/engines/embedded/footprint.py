"""What the embedded engines need of the host's memory, as measured.

Each ran in a process of its own with every slot busy: hibari speaking pieces of 300
characters of words at half speed, moonshine and whisper with more speech pushed at every
stream than it may hold undecoded. Figures are the peak of resident memory over what the
process held before ``load``, libraries and onnxruntime's arenas included, plus 15 %.

Hibari's need grows by 7 MB with each second of audio that is made at once; the engine cuts
what it pronounces at 400 phonemes, as digits become nine times as many of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.engines.embedded.weights import WEIGHT_FILES
from runtime.engines.options import only, positive
from runtime.memory.footprint import Footprint

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class _Measured:
    """Peaks, in bytes: with no slot, and what each slot adds."""

    once: int
    slot: int


# Measured on x86-64 with 2 cores, 2026-11-22; the peaks themselves are in the comments.
_HIBARI = _Measured(once=540 * _MB, slot=5 * _MB)  # 472 MB with one slot busy, 526 MB with 16
_MOONSHINE = _Measured(once=295 * _MB, slot=13 * _MB)  # 266 MB with one, 434 MB with 16
_WHISPER = _Measured(once=345 * _MB, slot=18 * _MB)  # 308 MB with one, 361 MB with 4


def hibari(options: Mapping[str, Any]) -> Footprint:
    """Estimate what a replica of ``HibariSynthesizer`` with these options needs.

    Raises:
        ConfigError: An option that it does not have, or a value it does not take.
    """
    return _footprint("hibari", options, {"threads": 2, "slots": 16}, _HIBARI)


def moonshine(options: Mapping[str, Any]) -> Footprint:
    """Estimate what a replica of ``MoonshineRecognizer`` with these options needs.

    Raises:
        ConfigError: An option that it does not have, or a value it does not take.
    """
    return _footprint("moonshine", options, {"slots": 16}, _MOONSHINE, "silero")


def whisper(options: Mapping[str, Any]) -> Footprint:
    """Estimate what a replica of ``WhisperRecognizer`` with these options needs.

    Neither 8 threads nor a beam of 20 took more than the defaults.

    Raises:
        ConfigError: An option that it does not have, or a value it does not take.
    """
    defaults = {"threads": 2, "beam_size": 5, "slots": 4}
    return _footprint("whisper", options, defaults, _WHISPER, "silero")


def _footprint(
    engine: str,
    options: Mapping[str, Any],
    defaults: Mapping[str, int],
    measured: _Measured,
    *helpers: str,
) -> Footprint:
    only(engine, options, defaults)
    values = {name: positive(name, value) for name, value in {**defaults, **options}.items()}
    files = sum(file.size_bytes for file in WEIGHT_FILES if file.engine in (engine, *helpers))
    return Footprint(
        on_gpu=False,
        weights=files,
        weights_from="table",
        workspace=measured.once - files,
        state_per_slot=measured.slot,
        host=0,  # what a bare replica holds is the plan's to add
        slots=values["slots"],
        max_slots=values["slots"],
        formula=(
            f"measured: {measured.once / _MB:,.0f} MB with its libraries, and "
            f"{measured.slot / _MB:,.0f} MB a slot"
        ),
    )
