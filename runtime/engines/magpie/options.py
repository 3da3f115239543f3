"""What a Magpie engine is configured with, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from runtime.engines.models import MAGPIE
from runtime.engines.nvidia import NvidiaOptions, read_options
from runtime.engines.options import one_of, positive, seconds
from runtime.errors import ConfigError

MAX_FRAMES = 500
"""NeMo's own limit of a chunk of text (``max_decoder_steps``), whatever the stacking."""

FRAME_RATE = 22050 / 1024
"""The codec's: 1024 samples a frame at 22050 Hz."""

HISTORY = 20
"""Tokens of text before a later chunk, at the most (NeMo's ``history_len_heuristic``)."""

TEXT_STEP = 64
"""Texts are padded to multiples of so many tokens."""

_TOKENS_PER_SECOND = 11
"""Of speech: phonemes, tones, spaces and marks at a slow pace. NeMo's own bounds of a chunk
(45 words of English, 100 characters of Chinese, for about 20 s) come to 10 to 14."""

_FEWEST_TOKENS = 12

CODEC_CONTEXT = 32
"""Frames of codes before a stretch that the codec must see for the stretch to come out as in
one go: its decoder is causal and sees 25 (measured: an error of 0 at 25, of 1e-4 at 10)."""

CODEC_WINDOW = 96
"""Frames that the reference engine puts through the codec together, beyond those before them."""

Device: TypeAlias = Literal["auto", "cpu", "cuda"]

SYNTHESIS = (
    "max_utterance_s",
    "codec",
    "device",
    "temperature",
    "top_k",
    "cfg",
    "cfg_scale",
    "normalizer",
    "carry",
    "pause_s",
    "cuda_graphs",
    "kernels",
    "lead_s",
)
"""Options beyond those that all of NVIDIA's engines have."""


@dataclass(frozen=True, slots=True)
class MagpieOptions:
    """The options of a Magpie engine.

    Attributes:
        common: Those that all of NVIDIA's engines have.
        dtype_given: Whether ``dtype`` was configured, and not left to the engine.
        codec: The codec's ``.nemo``; None for the one that `speech models pull` fetched.
        device: Where it runs; ``auto`` takes a GPU if there is one.
        max_utterance_s: The longest audio of one chunk of text, in seconds; None leaves it to
            the checkpoint.
        temperature: Of sampling; 0 takes the likeliest code. None keeps the checkpoint's.
        top_k: How many codes are drawn from. None keeps the checkpoint's.
        cfg: Classifier-free guidance: better speech for twice the work.
        cfg_scale: How much of it. None keeps the checkpoint's.
        normalizer: What writes numbers and abbreviations out: ``auto``, ``nemo``, ``rules``
            or ``off``.
        carry: How many pieces (sentences) in a row carry text and alignment over from the one
            before; 1 speaks each for itself.
        pause_s: Silence between two pieces that carry nothing over.
        cuda_graphs: Replay captured graphs where there is a GPU; else all work is eager.
        fused: Fused kernels where there is a GPU and the type is not float32; else plain torch.
        lead_s: Seconds of audio that may be made ahead of who reads it.
    """

    common: NvidiaOptions[Any]
    dtype_given: bool
    codec: Path | None
    device: Device
    max_utterance_s: float | None
    temperature: float | None
    top_k: int | None
    cfg: bool
    cfg_scale: float | None
    normalizer: str
    carry: int
    pause_s: float
    cuda_graphs: bool
    fused: bool
    lead_s: float

    def dtype_on(self, device: str) -> str:
        """What it runs in there: on a CPU float32, unless asked otherwise."""
        return self.common.dtype if self.dtype_given or device != "cpu" else "float32"

    def frames(self, most: int, stacking: int) -> int:
        """Frames of the longest chunk: whole steps, and no more than ``most``."""
        if self.max_utterance_s is not None:
            most = min(most, round(self.max_utterance_s * FRAME_RATE))
        return max(stacking, most - most % stacking)


def read_magpie_options(
    engine: str, options: Mapping[str, Any], max_slots: int, dtype: str
) -> MagpieOptions:
    """Check the options of a Magpie engine.

    Args:
        engine: Its name, for errors.
        options: As configured.
        max_slots: The most slots it runs.
        dtype: What it runs in by default.

    Raises:
        ConfigError: An option that there is not, or a value that cannot be.
    """
    common = read_options(engine, {"dtype": dtype, **options}, MAGPIE, max_slots, SYNTHESIS)
    device = options.get("device", "auto")
    one_of("device", device, ("auto", "cpu", "cuda"))
    normalizer = options.get("normalizer", "auto")
    if normalizer is False:  # what YAML reads where `off` stands without quotes
        normalizer = "off"
    one_of("normalizer", normalizer, ("auto", "nemo", "rules", "off"))
    cfg = options.get("cfg", True)
    one_of("cfg", cfg, (True, False))
    cuda_graphs = options.get("cuda_graphs", True)
    one_of("cuda_graphs", cuda_graphs, (True, False))
    kernels = options.get("kernels", "auto")
    one_of("kernels", kernels, ("auto", "plain"))
    codec = options.get("codec")
    if codec is not None and (not isinstance(codec, str | Path) or not str(codec)):
        raise ConfigError(f"codec is {codec!r}; it must be the path of a codec's .nemo.")
    top_k, longest = options.get("top_k"), options.get("max_utterance_s")
    return MagpieOptions(
        common=common,
        dtype_given="dtype" in options,
        codec=None if codec is None else Path(codec).expanduser(),
        device=device,
        max_utterance_s=None
        if longest is None
        else seconds("max_utterance_s", longest, MAX_FRAMES / FRAME_RATE),
        temperature=_number("temperature", options.get("temperature"), 0.0, 5.0),
        top_k=None if top_k is None else positive("top_k", top_k),
        cfg=cfg,
        cfg_scale=_number("cfg_scale", options.get("cfg_scale"), 0.0, 20.0),
        normalizer=normalizer,
        carry=positive("carry", options.get("carry", 4)),
        pause_s=_number("pause_s", options.get("pause_s", 0.3), 0.0, 5.0) or 0.0,
        cuda_graphs=cuda_graphs,
        fused=kernels == "auto",
        lead_s=seconds("lead_s", options.get("lead_s", 2.0), 60.0),
    )


def read_reference_options(options: Mapping[str, Any]) -> MagpieOptions:
    """Check the options of the reference engine, which speaks one utterance at a time.

    Raises:
        ConfigError: As above, or more than one slot.
    """
    read = read_magpie_options("magpie-reference", options, 1, "float32")
    if read.common.batch != 1:
        raise ConfigError(
            f"Engine 'magpie-reference' speaks one utterance at a time; slots is "
            f"{read.common.batch}, and can only be 1. More replicas speak more at once."
        )
    return read


def _number(name: str, value: object, least: float, most: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; it must be a number.")
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}; it must be from {least:g} to {most:g}.")
    return float(value)


def chunk_tokens(seconds: float) -> int:
    """Tokens of the longest chunk of text, where so many seconds are the most of its audio."""
    return max(_FEWEST_TOKENS, int(seconds * _TOKENS_PER_SECOND))


def text_places(tokens: int) -> int:
    """Places of a slot's text: its longest chunk with the history before it, padded."""
    return -(-(tokens + HISTORY) // TEXT_STEP) * TEXT_STEP
