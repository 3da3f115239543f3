"""A Parakeet checkpoint, restored by NeMo and cut down to what inference needs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.engines.archive import NemoArchive
from runtime.engines.nemo import check_artifacts, import_nemo, restore
from runtime.engines.parakeet.geometry import ParakeetGeometry, read_geometry
from runtime.errors import CheckpointError
from runtime.memory.process import release_heap

_FLOAT16_MAX = 65_504.0
_TRAINING = ("train_ds", "validation_ds", "test_ds", "optim", "spec_augment", "interctc")
"""Parts of a configuration that only training reads; some name files of NVIDIA's own."""


@dataclass(frozen=True, slots=True)
class ParakeetFiles:
    """What is known of a checkpoint before anything is loaded.

    Attributes:
        weights: A ``.nemo``, or the folder one was unpacked into.
        geometry: Its shape, and what it can do.
    """

    weights: Path
    geometry: ParakeetGeometry


@dataclass(frozen=True, slots=True)
class Parakeet:
    """A restored model on its device.

    Attributes:
        model: NeMo's ``ASRModel``, in eval mode, without gradients.
        files: Where it came from.
        device: ``cpu`` or ``cuda``.
        dtype: Of the encoder's weights; features, prediction and joint are float32.
        seconds: What restoring took, NeMo's import included.
        weight_bytes: Of all parameters and buffers, on the device.
    """

    model: Any
    files: ParakeetFiles
    device: str
    dtype: str
    seconds: float
    weight_bytes: int


def inspect(weights: Path) -> ParakeetFiles:
    """Read what a checkpoint says of itself; nothing is loaded.

    Args:
        weights: A ``.nemo``, a folder that holds one, or the folder one was unpacked into.

    Raises:
        CheckpointError: It is missing, damaged, or not of a kind that runs here.
    """
    path = weights.expanduser()
    if path.is_dir() and not (path / "model_config.yaml").is_file():
        found = sorted(path.glob("*.nemo"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise CheckpointError(f"weights: {path} must hold one .nemo; it holds {names}.")
        path = found[0]
    if not path.exists():
        raise CheckpointError(
            f"weights: there is no {path}. `speech models pull` fetches NVIDIA's checkpoints; "
            f"`speech models list` shows where they are."
        )
    return ParakeetFiles(path, read_geometry(path))


def load(files: ParakeetFiles, device: str = "cpu", dtype: str = "float32") -> Parakeet:
    """Restore a checkpoint, and move it to a device.

    Args:
        files: As ``inspect`` read them.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32``, ``bfloat16`` or ``float16``, for the encoder's weights. Features,
            prediction and joint stay float32: they are small, and choose the tokens.

    Raises:
        CheckpointError: The tokeniser is missing, weights do not fit, or are beyond float16.
        UnknownEngine: NeMo is not installed.
    """
    started = time.perf_counter()
    archive = NemoArchive(files.weights)
    config = {key: value for key, value in archive.config().items() if key not in _TRAINING}
    check_artifacts(archive, config)
    models = import_nemo("nemo.collections.asr.models")
    model = restore(getattr(models, files.geometry.target), archive, config)
    tokens = len(model.joint.vocabulary)
    if tokens != files.geometry.vocabulary:
        raise CheckpointError(
            f"{files.weights}: its tokeniser has {tokens} tokens and its joint network "
            f"{files.geometry.vocabulary}: they are of two checkpoints."
        )
    model.preprocessor.featurizer.dither = 0.0
    _cast(model.encoder, dtype, files.weights)
    model.to(device)
    release_heap()  # 3.5 GiB after a model of 0.6 B
    return Parakeet(
        model=model,
        files=files,
        device=device,
        dtype=dtype,
        seconds=time.perf_counter() - started,
        weight_bytes=_bytes(model),
    )


def _cast(encoder: Any, dtype: str, path: Path) -> None:
    if dtype == "float32":
        return
    import torch

    if dtype == "float16":
        for name, parameter in encoder.named_parameters():
            largest = float(parameter.abs().max()) if parameter.numel() else 0.0
            if not largest <= _FLOAT16_MAX:
                raise CheckpointError(
                    f"{path}: {name} holds {largest:.3g}, which float16 cannot; use bfloat16."
                )
    encoder.to(getattr(torch, dtype))


def _bytes(model: Any) -> int:
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())
