"""A Magpie checkpoint and its codec, restored by NeMo and cut down to what inference needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.engines.archive import NemoArchive
from runtime.engines.magpie.geometry import (
    CodecGeometry,
    MagpieGeometry,
    read_codec,
    read_geometry,
    speakers_file,
)
from runtime.engines.magpie.openjtalk import MEND, find_dictionary, use_dictionary
from runtime.engines.nemo import (
    BYT5,
    byt5_folder,
    check_artifacts,
    explained,
    import_nemo,
    restore,
)
from runtime.errors import CheckpointError
from runtime.memory.process import release_heap

_FLOAT16_MAX = 65_504.0


@dataclass(frozen=True, slots=True)
class MagpieFiles:
    """What is known of a checkpoint before anything is loaded.

    Attributes:
        weights: The acoustic model: a ``.nemo``, or the folder one was unpacked into.
        codec: The codec's, likewise.
        geometry: Of the acoustic model.
        codec_geometry: Of the codec.
        left_out: Languages of the checkpoint that cannot be spoken here, each with the mend.
    """

    weights: Path
    codec: Path
    geometry: MagpieGeometry
    codec_geometry: CodecGeometry
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokenizers(self) -> tuple[tuple[str, str], ...]:
        """Language and name of its tokeniser, for all that can be spoken here."""
        every = self.geometry.tokenizers
        return tuple((tag, name) for tag, name in every if tag not in self.left_out)

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that can be spoken here."""
        return tuple(language for language, _ in self.tokenizers)


def inspect(weights: Path, codec: Path) -> MagpieFiles:
    """Read what the files say of themselves; nothing is loaded.

    Raises:
        CheckpointError: One of them is missing, damaged, or not of a kind that runs here.
    """
    weights, codec = _checkpoint(weights, "weights"), _checkpoint(codec, "codec")
    geometry = read_geometry(weights)
    if not geometry.speakers:
        raise CheckpointError(
            f"{weights} does not name its voices. Write them down in {speakers_file(weights)}, "
            f'each with its row: {{"Aria": 0, "Jason": 1}} and so on.'
        )
    left_out = {}
    if "ja" in geometry.languages and find_dictionary() is None:
        left_out["ja"] = f"OpenJTalk's dictionary is missing: {MEND}"
    return MagpieFiles(weights, codec, geometry, read_codec(codec), left_out)


@dataclass(frozen=True, slots=True)
class Magpie:
    """A restored model on its device.

    Attributes:
        model: NeMo's ``MagpieTTSModel`` with its codec, in eval mode, without gradients.
        files: Where it came from.
        device: ``cpu`` or ``cuda``.
        dtype: Of the acoustic model's weights; the codec's are float32.
        seconds: What restoring took, NeMo's import included.
        weight_bytes: Of all parameters and buffers, on the device.
    """

    model: Any
    files: MagpieFiles
    device: str
    dtype: str
    seconds: float
    weight_bytes: int


def load(files: MagpieFiles, device: str = "cpu", dtype: str = "float32") -> Magpie:
    """Restore a checkpoint and its codec, and move them to a device.

    Only weights that inference reads are kept: neither the context encoder (voices are
    baked) nor the codec's encoder, and one causal mask for all layers.

    Args:
        files: As ``inspect`` read them.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32``, ``bfloat16`` or ``float16``, for the acoustic model. The codec
            stays float32: in bfloat16 its error is audible (38 dB, measured).

    Raises:
        CheckpointError: The codec does not go with it, a dictionary is missing, it has no
            baked voices, or weights are beyond float16.
        UnknownEngine: NeMo is not installed.
    """
    started = time.perf_counter()
    archive = NemoArchive(files.weights)
    config = dict(archive.config())
    check_artifacts(archive, config)
    dictionary = find_dictionary()
    if dictionary is not None:
        use_dictionary(dictionary)
    model_class = import_nemo("nemo.collections.tts.models").MagpieTTSModel
    config["codecmodel_path"] = _codec_archive(files.codec)
    with ExitStack() as stack:
        config["text_tokenizers"] = {
            name: _without_download(name, tokenizer, stack)
            for name, tokenizer in _tokenizers(config).items()
        }
        stack.enter_context(_codec_without_training())
        try:
            model = restore(model_class, archive, config)
        except CheckpointError as error:
            raise _explained(error, files) from error
    if not model.has_baked_context_embedding:
        raise CheckpointError(
            f"{files.weights} has no baked voices: it is a checkpoint to train from, not to serve."
        )
    if model.num_baked_speakers != len(files.geometry.speakers):
        raise CheckpointError(
            f"{files.weights} has {model.num_baked_speakers} baked voices and names "
            f"{len(files.geometry.speakers)} ({', '.join(files.geometry.speakers)}): its speaker "
            f"map is of another checkpoint."
        )
    _drop_training(model)
    _cast(model, dtype, files.weights)
    _move(model, device)
    release_heap()
    return Magpie(
        model=model,
        files=files,
        device=device,
        dtype=dtype,
        seconds=time.perf_counter() - started,
        weight_bytes=_bytes(model),
    )


def _checkpoint(path: Path, what: str) -> Path:
    """The ``.nemo`` that a path means: itself, or the one in a folder."""
    path = path.expanduser()
    if path.is_dir() and not (path / "model_config.yaml").is_file():
        found = sorted(path.glob("*.nemo"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise CheckpointError(f"{what}: {path} must hold one .nemo; it holds {names}.")
        return found[0]
    if not path.exists():
        raise CheckpointError(
            f"{what}: there is no {path}. `speech models pull` fetches NVIDIA's checkpoints; "
            f"`speech models list` shows where they are."
        )
    return path


def _codec_archive(path: Path) -> str:
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder: NeMo restores a codec from its .nemo only; give that file."
        )
    return str(path)


@contextmanager
def _codec_without_training() -> Iterator[None]:
    """Let Magpie restore its codec on the CPU, without what judges it in training.

    The discriminator of the public codec is made of WavLM, which NeMo would download; and
    wherever there is a GPU NeMo restores the codec there first.
    """
    from nemo.collections.tts.models import magpietts
    from omegaconf import open_dict

    whole = magpietts.AudioCodecModel

    class Codec(whole):  # type: ignore[misc, valid-type]
        def __init__(self, cfg: Any, trainer: Any = None) -> None:
            with open_dict(cfg):
                cfg.discriminator = None
                cfg.use_scl_loss = False
            super().__init__(cfg=cfg, trainer=trainer)

        @classmethod
        def restore_from(cls, restore_path: str, **options: Any) -> Any:
            with explained(Path(restore_path)):
                return super().restore_from(restore_path, **{"map_location": "cpu", **options})

    magpietts.AudioCodecModel = Codec
    try:
        yield
    finally:
        magpietts.AudioCodecModel = whole


def _tokenizers(config: Mapping[str, Any]) -> Mapping[str, Any]:
    there = config.get("text_tokenizers")
    if there:
        return dict(there)
    return {"english_phoneme": config["text_tokenizer"]}


def _without_download(name: str, tokenizer: Any, stack: ExitStack) -> Any:
    """A tokeniser's configuration with what NeMo would fetch from a hub made here instead."""
    if tokenizer.get("_target_") not in ("AutoTokenizer", "T5Tokenizer"):
        return tokenizer
    wanted = str(tokenizer.get("pretrained_model", ""))
    if wanted == BYT5:
        return {**tokenizer, "pretrained_model": str(stack.enter_context(byt5_folder()))}
    if Path(wanted).is_dir():
        return tokenizer
    raise CheckpointError(
        f"Tokeniser {name!r} of the checkpoint is {wanted!r} on a hub, which is not fetched while "
        f"an engine loads; {BYT5} is the only one that is made here."
    )


def _explained(error: CheckpointError, files: MagpieFiles) -> CheckpointError:
    """Weights of audio tokens are sized by the codec: it is the first to suspect.

    NeMo restores part by part, and says only a part's type: these tables are its ``ModuleList``s.
    """
    if "state_dict for ModuleList" not in str(error):
        return error
    codec = files.codec_geometry
    return CheckpointError(
        f"{files.codec} is not the codec of {files.weights}: it has {codec.codebooks} codebooks of "
        f"{codec.codebook_size}, and the tables of the acoustic model have other sizes. Give the "
        f"codec that the checkpoint was trained with ({error})"
    )


def _drop_training(model: Any) -> None:
    import torch

    # Voices are baked, so that nothing is encoded: neither a context nor audio.
    for owner, name in ((model, "context_encoder"), (model._codec_model, "audio_encoder")):
        if isinstance(getattr(owner, name, None), torch.nn.Module):
            delattr(owner, name)


def _move(model: Any, device: str) -> None:
    """Move to a device, with one causal mask for all layers that have one of its size.

    All are lower triangles of float32: 16.8 MB a layer at the public geometries.
    """
    import torch

    holders = [
        m for m in model.modules() if isinstance(getattr(m, "causal_mask", None), torch.Tensor)
    ]
    masks = {tuple(m.causal_mask.shape): m.causal_mask for m in holders}
    sizes = [tuple(holder.causal_mask.shape) for holder in holders]
    for holder in holders:
        holder.causal_mask = None
    model.to(device)
    moved = {size: mask.to(device) for size, mask in masks.items()}
    for holder, size in zip(holders, sizes, strict=True):
        holder.causal_mask = moved[size]


def _cast(model: Any, dtype: str, path: Path) -> None:
    """Convert the acoustic model's weights; NeMo's ``half()`` fails on the codec with them."""
    if dtype == "float32":
        return
    import torch

    if dtype == "float16":
        for name, parameter in _acoustic(model):
            largest = float(parameter.abs().max()) if parameter.numel() else 0.0
            if not largest <= _FLOAT16_MAX:
                raise CheckpointError(
                    f"{path}: {name} holds {largest:.3g}, which float16 cannot; use bfloat16."
                )
    for _, parameter in _acoustic(model):
        parameter.data = parameter.data.to(getattr(torch, dtype))


def _acoustic(model: Any) -> Iterable[tuple[str, Any]]:
    """Parameters that may be of lower precision: all but the norms' and the codec's."""
    return (
        (name, parameter)
        for name, parameter in model.named_parameters()
        if not name.startswith("_codec_model.") and parameter.dim() > 1
    )


def _bytes(model: Any) -> int:
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())
