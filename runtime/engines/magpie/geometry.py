"""The shape of a Magpie checkpoint, read from its own configuration without NeMo or torch.

Two shapes are public: that of December 2025 and that of 2026. The engines run any of the
same kind, which is how tests run tiny ones; what is of another kind is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runtime.engines.archive import NemoArchive
from runtime.engines.magpie.options import MAX_FRAMES
from runtime.errors import CheckpointError
from runtime.text import primary_language

# Which tokenisers speak a language, best first: LANGUAGE_TOKENIZER_MAP of NeMo 3.0.0
# (nemo/collections/tts/parts/utils/tts_dataset_utils.py; a test holds the two together), and
# the names that the checkpoint of 2026 has and that map lacks. With those NeMo 3.0.0 itself
# falls back to the English tokeniser without a word.
TOKENIZERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "en": ("english_phoneme", "english"),
        "de": ("german_phoneme", "german"),
        "es": ("spanish_phoneme", "spanish"),
        "fr": ("french_chartokenizer", "french"),
        "it": ("italian_phoneme", "italian", "italian_chartokenizer"),
        "vi": ("vietnamese_phoneme", "vietnamese", "vietnamese_chartokenizer"),
        "zh": ("mandarin_phoneme", "mandarin", "chinese"),
        "hi": ("hindi_chartokenizer", "hindi", "hindi_phoneme"),
        "ja": ("japanese_phoneme", "japanese"),
    }
)


@dataclass(frozen=True, slots=True)
class CodecGeometry:
    """The codec that a Magpie speaks through.

    Attributes:
        sample_rate: Hz of the audio.
        samples_per_frame: Samples that a frame of codes becomes.
        codebooks: Codes in a frame.
        codebook_size: How many values a code has.
    """

    sample_rate: int
    samples_per_frame: int
    codebooks: int
    codebook_size: int

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.samples_per_frame


@dataclass(frozen=True, slots=True)
class MagpieGeometry:
    """The shape of an acoustic model.

    Attributes:
        stacking: Frames that one step yields.
        d: Width of encoder and decoder.
        encoder_layers: Of the text encoder.
        decoder_layers: Of the decoder.
        heads: Of the decoder's self-attention.
        local_layers: Of the local transformer, which fills a step codebook by codebook.
        local_d: Its width.
        local_heads: Of its self-attention.
        max_frames: The most frames of one chunk of text, whatever the stacking.
        tokenizers: Language to the name of its tokeniser, in the checkpoint's order.
        speakers: Names of the baked voices in the order of their rows; empty where the
            checkpoint names none.
        nemo_version: What it was saved with; empty where it does not say.
    """

    stacking: int
    d: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    local_layers: int
    local_d: int
    local_heads: int
    max_frames: int
    tokenizers: tuple[tuple[str, str], ...]
    speakers: tuple[str, ...]
    nemo_version: str

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that it has a tokeniser for."""
        return tuple(language for language, _ in self.tokenizers)

    @property
    def release(self) -> str | None:
        """Which public shape this is: ``2025-12``, ``2026``, or None for any other."""
        shape = (self.stacking, self.local_layers, self.local_d, self.local_heads)
        if (self.d, self.encoder_layers, self.decoder_layers, self.heads) != (768, 6, 12, 12):
            return None
        return {(1, 1, 256, 1): "2025-12", (2, 2, 768, 12): "2026"}.get(shape)

    def describe(self) -> str:
        """For people: the public shape's name, or the numbers."""
        shape = (
            f"stacking {self.stacking}, encoder {self.encoder_layers} and decoder "
            f"{self.decoder_layers} layers of {self.d}, local transformer {self.local_layers} "
            f"of {self.local_d}"
        )
        return f"{self.release} ({shape})" if self.release else shape


def read_geometry(path: Path) -> MagpieGeometry:
    """Read the shape of a checkpoint: a ``.nemo``, or the folder one was unpacked into.

    Raises:
        CheckpointError: It is damaged, no Magpie, or of a kind that cannot be run here; the
            message says what it is and what it should be.
    """
    archive = NemoArchive(path)
    archive.check_complete()
    config = archive.config()
    target = str(config.get("target", ""))
    if not target.endswith(".MagpieTTSModel"):
        raise CheckpointError(f"{path} is no Magpie: it is a {target or 'model without a name'}.")
    for what, found, wanted in _kind(config):
        if found != wanted:
            raise CheckpointError(
                f"{path} is a Magpie of a kind that cannot be run here: {what} is {found!r}; "
                f"this release runs {wanted!r}."
            )
    inference = config.get("inference_parameters") or {}
    try:
        stacking = int(config.get("frame_stacking_factor", 1))
        geometry = MagpieGeometry(
            stacking=stacking,
            d=int(config["embedding_dim"]),
            encoder_layers=int(config["encoder"]["n_layers"]),
            decoder_layers=int(config["decoder"]["n_layers"]),
            heads=int(config["decoder"]["sa_n_heads"]),
            local_layers=int(config.get("local_transformer_n_layers", 2)),
            local_d=int(config.get("local_transformer_hidden_dim", 256)),
            local_heads=int(config.get("local_transformer_n_heads", 1)),
            max_frames=int(inference.get("max_decoder_steps", MAX_FRAMES)),
            tokenizers=_tokenizers(config),
            speakers=read_speakers(archive, config),
            nemo_version=str(config.get("nemo_version", "")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its configuration lacks what describes a Magpie ({error!r})."
        ) from error
    if stacking not in (1, 2):
        raise CheckpointError(
            f"{path}: a step yields {stacking} frames (frame_stacking_factor); 1 and 2 are known."
        )
    if not geometry.tokenizers:
        raise CheckpointError(f"{path}: none of its tokenisers is of a language that is known.")
    return geometry


def read_codec(path: Path) -> CodecGeometry:
    """Read the shape of a codec's ``.nemo``, or of the folder one was unpacked into.

    Raises:
        CheckpointError: It is damaged, or no codec.
    """
    archive = NemoArchive(path)
    archive.check_complete()
    config = archive.config()
    target = str(config.get("target", ""))
    if not target.endswith(".AudioCodecModel"):
        raise CheckpointError(f"{path} is no codec: it is a {target or 'model without a name'}.")
    try:
        quantizer = config["vector_quantizer"]
        size = 1
        for levels in quantizer["num_levels_per_group"]:
            size *= int(levels)
        return CodecGeometry(
            sample_rate=int(config.get("output_sample_rate") or config["sample_rate"]),
            samples_per_frame=int(config["samples_per_frame"]),
            codebooks=int(quantizer["num_groups"]),
            codebook_size=size,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its configuration lacks what describes a codec ({error!r})."
        ) from error


def speakers_file(path: Path) -> Path:
    """Where names of voices may lie beside a checkpoint: ``<checkpoint>.speakers.json``."""
    return path.with_name(f"{path.name}.speakers.json")


def read_speakers(archive: NemoArchive, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the baked voices in the order of their rows.

    They are in a map from name to row: a file beside the checkpoint, or within it under
    ``speaker_map``. Public checkpoints differ in their order.

    Raises:
        CheckpointError: A map that is none, or whose rows are not 0, 1, 2 and so on.
    """
    beside = speakers_file(archive.path)
    source = config.get("speaker_map")
    if beside.is_file():
        where, source = str(beside), beside.read_bytes()
    else:
        where = f"{archive.path}: its speaker_map"
        if isinstance(source, str) and source:
            source = archive.read(source)
    if not source:
        return ()
    try:
        rows = json.loads(source) if isinstance(source, bytes) else source
        by_row = {int(row): str(name) for name, row in dict(rows).items()}
    except (OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where} maps no names to rows ({error}).") from error
    if sorted(by_row) != list(range(len(by_row))) or len(by_row) != len(rows):
        raise CheckpointError(
            f"{where} names the rows {sorted(by_row)}; each of them once, from 0."
        )
    return tuple(by_row[row] for row in range(len(by_row)))


def _kind(config: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """What must be so for the engines here: name, as found, as wanted."""
    return [
        ("model_type", config.get("model_type"), "decoder_ce"),
        ("local_transformer_type", config.get("local_transformer_type"), "autoregressive"),
        ("use_bpe_char_tokenizer", bool(config.get("use_bpe_char_tokenizer", False)), False),
        ("legacy_text_conditioning", bool(config.get("legacy_text_conditioning", False)), False),
        ("use_moe", bool(config.get("use_moe", False)), False),
    ]


def _tokenizers(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Language and tokeniser, as the checkpoint maps them, or by the names above."""
    there = config.get("text_tokenizers") or {}
    if not there and "text_tokenizer" in config:  # English only, as it was named before
        there = {"english_phoneme": config["text_tokenizer"]}
    own: dict[str, Any] = {}
    for tag, names in (config.get("language_to_tokenizer_mapping") or {}).items():
        own.setdefault(primary_language(str(tag)), names)  # of pt-BR and pt-PT the first
    found = []
    for language in dict.fromkeys((*own, *TOKENIZERS)):
        names = own.get(language, TOKENIZERS.get(language, ()))
        names = (names,) if isinstance(names, str) else names
        name = next((name for name in names if name in there), None)
        if name is not None:
            found.append((str(language), str(name)))
    order = list(there)
    return tuple(sorted(found, key=lambda pair: order.index(pair[1])))
