"""Checkpoints of Magpie and of its codec, with random weights and mini dictionaries.

They are what NeMo 3.0 itself saves, laid out as the two public generations are: frame
stacking 1 (2025-12) and 2 (2026). Nothing is downloaded. Some parts of a public checkpoint
are not inside its archive, and NeMo fetches them when it is not told otherwise:

* the codec, unless ``codecmodel_path`` is overridden (``nvidia/...`` is a repository), and
  WavLM for the public codec's discriminator, which is of no use here;
* ByT5's tokeniser (French, Vietnamese, Italian, descriptions of voices), which has no
  vocabulary: a folder whose ``tokenizer_config.json`` names its class is all of it.
  ``AutoTokenizer`` entries cannot be artifacts of an archive, so here as there they name
  `google/byt5-small`, and ``offline_config`` points them at such a folder;
* OpenJTalk's dictionary (Japanese): see `tiny_openjtalk`.

The speakers' names are a JSON file that the archive's ``speaker_map`` names
(``nemo:<hash>_speakers.json``); NeMo packs it and never reads it.
"""

from __future__ import annotations

import importlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tiny_tongues import BYT5, LANGUAGES, NEMO_VERSIONS, TOKENIZERS, tokenizer_configs

SPEAKERS = {
    1: {"John": 0, "Sofia": 1, "Aria": 2, "Jason": 3, "Leo": 4},
    2: {"Aria": 0, "Jason": 1, "John": 2, "Leo": 3, "Sofia": 4},
}
"""Frame stacking -> the public checkpoint's speakers and their rows."""

PEAKED_STD = 0.12
"""Standard deviation of peaked weights: the best code stands out, and codes vary."""


@dataclass(frozen=True)
class Geometry:
    """Widths and depths; ``context`` is the length of a speaker's embedding in steps."""

    d_model: int = 32
    d_ffn: int = 64
    heads: int = 2
    encoder_layers: int = 1
    decoder_layers: int = 6
    xa_d_head: int = 16
    local_layers: int = 1
    local_d_model: int = 32
    local_heads: int = 2
    context: int = 8
    positions: int = 640


TINY = {1: Geometry(local_d_model=16, local_heads=1), 2: Geometry(local_layers=2)}
# With the public vocabulary, of 3 359 ids, stacking 2 has the public checkpoint's 260 tensors
# and 359 698 319 numbers, causal masks included.
_PUBLIC = Geometry(768, 3072, 12, 6, 12, 128, 2, 768, 12, 217, 2048)
FULL = {
    1: replace(_PUBLIC, local_layers=1, local_d_model=256, local_heads=1, context=110),
    2: _PUBLIC,
}

INFERENCE = {
    "max_decoder_steps": 500,  # in codec frames
    "temperature": 0.6,
    "topk": 80,
    "cfg_scale": 2.5,
    "apply_attention_prior": True,
    "attention_prior_epsilon": 0.1,
    "attention_prior_lookahead_window": 6,
    "start_prior_after_n_audio_steps": 0,
    "ignore_finished_sentence_tracking": True,
    "eos_detection_method": "argmax_or_multinomial_any",
}

_CODEC_MODULES = "nemo.collections.tts.modules.audio_codec_modules."


def build_codec(
    path: Path, *, full: bool = False, seed: int = 0, discriminator: bool = False
) -> Path:
    """Save a nano codec (22 050 Hz, 1 024 samples a frame, 8 codebooks of 2 016) to ``path``.

    With ``discriminator`` its configuration has what the public codec's has from its training:
    to restore it, NeMo then makes a WavLM, which it downloads.
    """
    from nemo.collections.tts.models import AudioCodecModel
    from omegaconf import OmegaConf, open_dict

    with quiet(), seeded(seed):
        config = OmegaConf.create(_codec_config(*((24, 864) if full else (4, 64))))
        codec = AudioCodecModel(cfg=config).eval()
        if discriminator:
            with open_dict(codec.cfg):
                codec.cfg.discriminator = {
                    "_target_": _CODEC_MODULES + "Discriminator",
                    "discriminators": [{"_target_": _CODEC_MODULES + "SLMDiscriminator"}],
                }
        codec.save_to(str(path))
    return path


def build_magpie(
    path: Path,
    codec: Path,
    *,
    stacking: int = 2,
    languages: tuple[str, ...] = LANGUAGES,
    full: bool = False,
    speakers: Mapping[str, int] | None = None,
    seed: int = 0,
    peaked: bool = True,
    eos_bias: float = 0.0,
    **overrides: Any,
) -> Path:
    """Save a Magpie to ``path``; its ``codecmodel_path`` is ``codec``.

    Args:
        path: where to, ending in `.nemo`.
        codec: the codec's archive, needed to build it and to restore it.
        stacking: 1 is the generation of 2025-12, 2 that of 2026.
        languages: those of which it has tokenisers.
        full: the public geometry, 300 million parameters.
        speakers: names and rows of the baked embeddings; the generation's by default.
        seed: of the weights, which depend on nothing else.
        peaked: weights so wide that the best code stands out.
        eos_bias: added to the end of speech's score in every head: -100 never ends before
            ``max_decoder_steps``, and at 0 speech of a few frames is usual.
        overrides: fields of ``Geometry``, or of NeMo's inference parameters.
    """
    from nemo.collections.tts.models import MagpieTTSModel
    from omegaconf import OmegaConf, open_dict

    names = {field.name for field in fields(Geometry)}
    geometry = replace(
        (FULL if full else TINY)[stacking], **{k: v for k, v in overrides.items() if k in names}
    )
    inference = {k: v for k, v in overrides.items() if k not in names}
    rows = dict(SPEAKERS[stacking] if speakers is None else speakers)
    with tempfile.TemporaryDirectory() as folder, quiet(), seeded(seed):
        work = Path(folder)
        tokenizers = tokenizer_configs(stacking, languages, work, byt5_folder(work / "byt5"))
        config = _magpie_config(geometry, stacking, codec, tokenizers, inference)
        model = MagpieTTSModel(cfg=OmegaConf.create(config))
        _bake(model, len(rows), geometry)
        if peaked:
            _peak(model)
        for head in (model.final_proj, *model.local_transformer_out_projections):
            scores = head.bias.data.view(-1, model.num_all_tokens_per_codebook)
            scores[:, model.audio_eos_id] += eos_bias
        named = work / "speakers.json"
        named.write_text(json.dumps(rows))
        model.register_artifact("speaker_map", str(named))
        with open_dict(model.cfg):
            if stacking == 2:
                model.cfg.language_to_tokenizer_mapping = {
                    language: [name]
                    for language, name in TOKENIZERS[2].items()
                    if language in languages
                }
            for tokenizer in model.cfg.text_tokenizers.values():
                if tokenizer["_target_"] == "AutoTokenizer":
                    tokenizer.pretrained_model = BYT5
                for field in ("charset_version", "punct_version"):  # which NeMo has added
                    tokenizer.pop(field, None)
        model.eval().save_to(str(path))
    return path


def byt5_folder(folder: Path) -> Path:
    """All that ``AutoTokenizer`` needs to make ByT5's tokeniser: 384 ids, bytes from 3 on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    return folder


def offline_config(path: Path, codec: Path, byt5: Path) -> Any:
    """The archive's configuration, with a codec and a ByT5 folder of this machine."""
    from nemo.collections.tts.models import MagpieTTSModel

    config = MagpieTTSModel.restore_from(str(path), return_config=True)
    config.codecmodel_path = str(codec)
    for tokenizer in config.text_tokenizers.values():
        if tokenizer["_target_"] == "AutoTokenizer":
            tokenizer.pretrained_model = str(byt5)
    return config


def restore(path: Path, codec: Path) -> Any:
    """NeMo's own ``MagpieTTSModel`` from ``path`` on the CPU, with no network."""
    from nemo.collections.tts.models import MagpieTTSModel

    with tempfile.TemporaryDirectory() as folder, quiet():
        config = offline_config(path, codec, byt5_folder(Path(folder)))
        model = MagpieTTSModel.restore_from(
            str(path), override_config_path=config, map_location="cpu"
        )
    return model.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Let NeMo log errors only."""
    importlib.import_module("nemo.utils")
    logger = logging.getLogger("nemo_logger")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed``, and leave the process's generator where it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _peak(model: Any) -> None:
    from torch import nn

    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not name.startswith("_codec_model."):
            nn.init.normal_(parameter, std=PEAKED_STD)


def _bake(model: Any, speakers: int, geometry: Geometry) -> None:
    """Give each speaker an embedding, as NeMo holds and saves them."""
    import torch

    steps, width = geometry.context, geometry.d_model
    rows = torch.nn.Embedding(speakers, steps * width)
    rows.weight.requires_grad_(False)
    model.baked_context_embedding = rows
    model._baked_embedding_T = torch.tensor(steps)
    model._baked_embedding_D = torch.tensor(width)
    model.baked_context_embedding_len = torch.full((speakers,), steps, dtype=torch.long)


def _codec_config(encoder_channels: int, decoder_channels: int) -> dict[str, Any]:
    losses = "nemo.collections.tts.losses.audio_codec_loss."
    return {
        "target": "nemo.collections.tts.models.audio_codec.AudioCodecModel",
        "sample_rate": 22050,
        "samples_per_frame": 1024,
        "loss_resolutions": [[512, 128, 512]],
        "mel_loss_dims": [20],
        "commit_loss_scale": 0.0,
        "feature_loss_type": "absolute",
        "audio_encoder": {
            "_target_": _CODEC_MODULES + "HiFiGANEncoder",
            "down_sample_rates": [2, 2, 4, 8, 8],
            "encoded_dim": 32,
            "base_channels": encoder_channels,
            "activation": "lrelu",
            "pad_mode": "replicate",
        },
        "audio_decoder": {
            "_target_": _CODEC_MODULES + "CausalHiFiGANDecoder",
            "up_sample_rates": [8, 8, 4, 2, 2],
            "input_dim": 32,
            "base_channels": decoder_channels,
            "activation": "half_snake",
            "output_activation": "clamp",
            "pad_mode": "zeros",
            "n_groups_equal_to_out_channels": True,
        },
        "vector_quantizer": {
            "_target_": _CODEC_MODULES + "GroupFiniteScalarQuantizer",
            "num_groups": 8,
            "num_levels_per_group": [8, 7, 6, 6],
        },
        # NeMo makes these two always; the discriminator may be absent.
        "generator_loss": {"_target_": losses + "GeneratorSquaredLoss"},
        "discriminator_loss": {"_target_": losses + "DiscriminatorSquaredLoss"},
    }


def _transformer(geometry: Geometry, layers: int, kernel: int, **options: Any) -> dict[str, Any]:
    return {
        "n_layers": layers,
        "d_model": geometry.d_model,
        "d_ffn": geometry.d_ffn,
        "sa_n_heads": geometry.heads,
        "kernel_size": kernel,
        "p_dropout": 0.1,
        "p_dropout_out": 0.0,
        "has_xattn": False,
        "is_causal": True,
        "apply_norm_out": True,
        "max_length_causal_mask": geometry.positions,
        "use_learnable_pos_emb": True,
        **options,
    }


def _magpie_config(
    geometry: Geometry,
    stacking: int,
    codec: Path,
    tokenizers: dict[str, dict[str, Any]],
    inference: dict[str, Any],
) -> dict[str, Any]:
    from nemo.collections.tts.models.magpietts import ModelInferenceParameters

    layers = geometry.decoder_layers
    parameters = {
        **INFERENCE,
        # Of the public 12: 4, 5, 8, 9, and 2 to 10. Of 6: 2, 4, and 1 to 5.
        "estimate_alignment_from_layers": sorted({layer * layers // 12 for layer in (4, 5, 8, 9)}),
        "apply_prior_to_layers": sorted({layer * layers // 12 for layer in range(2, 11)}),
        **inference,
    }
    if unknown := parameters.keys() - asdict(ModelInferenceParameters()).keys():
        raise TypeError(f"neither geometry nor inference parameters: {sorted(unknown)}")
    return {
        "target": "nemo.collections.tts.models.magpietts.MagpieTTSModel",
        "nemo_version": NEMO_VERSIONS[stacking],
        "model_type": "decoder_ce",
        "use_text_conditioning_encoder": True,
        "text_conditioning_tokenizer_name": "text_ce_tokenizer",
        "context_duration_min": 10.0,
        "context_duration_max": 10.0,
        "load_cached_codes_if_available": True,
        "prior_scaling_factor": None,
        "prior_end_step": 0,
        "prior_scaledown_start_step": 0,
        "alignment_loss_scale": 0.0,
        "embedding_dim": geometry.d_model,
        "codecmodel_path": str(codec),
        "cfg_unconditional_prob": 0.1,
        "use_alignment_encoder": False,
        "frame_stacking_factor": stacking,
        "local_transformer_type": "autoregressive",
        "local_transformer_n_layers": geometry.local_layers,
        "local_transformer_n_heads": geometry.local_heads,
        "local_transformer_hidden_dim": geometry.local_d_model,
        "text_tokenizers": tokenizers,
        "encoder": _transformer(geometry, geometry.encoder_layers, 3),
        "context_encoder": _transformer(geometry, 1, 3, is_causal=False),
        "decoder": _transformer(
            geometry,
            layers,
            1,
            has_xattn=True,
            xa_d_head=geometry.xa_d_head,
            xa_d_memory=geometry.d_model,
            xa_n_heads=1,
            apply_norm_to_cond=True,
            make_prior_window_strict=False,
        ),
        "inference_parameters": parameters,
    }
