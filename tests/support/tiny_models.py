"""Models of a few hundred bytes in place of NVIDIA's, for pulling and for looking into."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from typing import Any

import yaml
from fake_hub import sha256

from runtime.models.catalogue import CATALOGUE, FileHash, Model, Pin

COMMIT = "a" * 40
OTHER = "b" * 40


def pinned(name: str, content: bytes, commit: str = COMMIT) -> Model:
    """A model of the catalogue whose one file has this content."""
    model = CATALOGUE[name]
    file = FileHash(sha256(content), len(content))
    return replace(model, pin=Pin(commit, {model.files[0]: file}))


def nemo(*configs: dict[str, Any], weights: bytes = b"w" * 100) -> bytes:
    """A ``.nemo``: its first configuration before the weights, the others after them."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        members = [("./model_config.yaml", yaml.safe_dump(config)) for config in configs]
        for name, text in [*members[:1], ("./model_weights.ckpt", weights), *members[1:]]:
            data = text if isinstance(text, bytes) else text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def parakeet(**encoder: Any) -> dict[str, Any]:
    """The configuration of a Parakeet of 0.6 B as far as it is looked at."""
    return {
        "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
        "encoder": {
            "n_layers": 24,
            "d_model": 1024,
            "n_heads": 8,
            "conv_kernel_size": 9,
            "feat_in": 128,
            "subsampling_conv_channels": 256,
            "att_context_size": [-1, -1],
            **encoder,
        },
        "decoder": {"prednet": {"pred_rnn_layers": 2, "pred_hidden": 640}},
    }


def magpie(stacking: int = 2, local_layers: int = 2, local_d: int = 768) -> dict[str, Any]:
    """The configuration of a Magpie as far as it is looked at."""
    return {
        "target": "nemo.collections.tts.models.magpietts.MagpieTTSModel",
        "model_type": "decoder_ce",
        "local_transformer_type": "autoregressive",
        "frame_stacking_factor": stacking,
        "embedding_dim": 768,
        "encoder": {"n_layers": 6},
        "decoder": {"n_layers": 12, "sa_n_heads": 12},
        "local_transformer_n_layers": local_layers,
        "local_transformer_hidden_dim": local_d,
        "local_transformer_n_heads": 12,
        "text_tokenizers": {"english_phoneme": {}},
    }


def codec(groups: int = 8) -> dict[str, Any]:
    """The configuration of Magpie's codec as far as it is looked at."""
    return {
        "target": "nemo.collections.tts.models.audio_codec.AudioCodecModel",
        "sample_rate": 22050,
        "samples_per_frame": 1024,
        "vector_quantizer": {"num_groups": groups, "num_levels_per_group": [8, 7, 6, 6]},
    }
