"""Whether the models on this machine are what they should be: content, licence and shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from runtime.engines.archive import NemoArchive
from runtime.engines.magpie.geometry import CodecGeometry, read_codec, read_geometry
from runtime.engines.models import MAGPIE, PARAKEET, PARAKEET_STREAMING, MagpieModel, ParakeetModel
from runtime.errors import CheckpointError
from runtime.models.catalogue import CODEC, Model
from runtime.models.store import place, wanted
from runtime.models.transfer import Report, digest
from runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something that is not as it should be.

    Attributes:
        what: A file's name and what of it, or ``licence``.
        expected: As it should be.
        found: As it is.
    """

    what: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a model.

    Attributes:
        model: Which.
        commit: The revision that is wanted; empty where it is unresolved.
        pulled: Whether any of its files is here.
        mismatches: What is wrong with those that are.
    """

    model: Model
    commit: str
    pulled: bool
    mismatches: tuple[Mismatch, ...] = ()


def verify(model: Model, settings: Settings, report: Report) -> Verdict:
    """Read a model's files, compare them with the lock or pin, and look at its shape.

    Args:
        model: Which.
        settings: Where it is.
        report: Told of each file that is being read.

    Raises:
        CheckpointError: The lock is damaged, or a file cannot be read.
    """
    want = wanted(model, settings)
    if want.pin is None:
        return Verdict(model, "", pulled=False)
    folder = place(settings, model, want.pin.commit)
    if not any((folder / name).exists() for name in model.files):
        return Verdict(model, want.pin.commit, pulled=False)
    wrong: list[Mismatch] = []
    for name in model.files:
        expected = want.pin.files[name]
        report(name, 0, expected.size)
        path = folder / name
        if not path.is_file():
            wrong.append(Mismatch(name, "a file", "nothing"))
            continue
        try:
            size, sha256 = path.stat().st_size, digest(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
        if size != expected.size:
            wrong.append(Mismatch(f"size of {name}", f"{expected.size:,}", f"{size:,}"))
        if sha256 != expected.sha256:
            wrong.append(Mismatch(f"sha256 of {name}", expected.sha256, sha256))
        report(name, expected.size, expected.size)
    if want.licence and _plain(want.licence) != _plain(model.licence):
        wrong.append(Mismatch("licence", model.licence, want.licence))
    if (folder / model.files[0]).is_file():
        wrong += _shape(model, folder / model.files[0])
    return Verdict(model, want.pin.commit, pulled=True, mismatches=tuple(wrong))


def _plain(licence: str) -> str:
    """A licence's name, however it is spelt: ``NVIDIA Open Model License``, or with hyphens."""
    words = licence.lower().replace("-", " ").replace("_", " ").split()
    return " ".join(word for word in words if word != "agreement")


def _shape(model: Model, path: Path) -> list[Mismatch]:
    """What its configuration says, against what the engines and their estimates build on."""
    try:
        if model.name in MAGPIE:
            rows = _magpie(path, MAGPIE[model.name])
        elif model.name == CODEC:
            rows = _codec(path)
        else:
            table = PARAKEET if model.name in PARAKEET else PARAKEET_STREAMING
            rows = _parakeet(NemoArchive(path), table[model.name])
    except CheckpointError as error:
        return [Mismatch(f"configuration in {path.name}", model.name, str(error))]
    return [
        Mismatch(f"{what} in {path.name}", str(expected), str(found))
        for what, expected, found in rows
        if expected != found
    ]


_Row = tuple[str, object, object]  # what, expected, found


def _magpie(path: Path, expected: MagpieModel) -> list[_Row]:
    found = read_geometry(path)
    return [
        ("stacking", expected.stacking, found.stacking),
        ("width", expected.d, found.d),
        ("decoder layers", expected.layers, found.decoder_layers),
        ("local transformer layers", expected.local_layers, found.local_layers),
        ("local transformer width", expected.local_d, found.local_d),
    ]


def _codec(path: Path) -> list[_Row]:
    # Its public geometry: 8 codebooks of 8 x 7 x 6 x 6 values, 21.5 frames a second.
    expected = CodecGeometry(
        sample_rate=22_050, samples_per_frame=1024, codebooks=8, codebook_size=2016
    )
    found = read_codec(path)
    names = [field.name for field in fields(CodecGeometry)]
    return [(name, getattr(expected, name), getattr(found, name)) for name in names]


def _parakeet(archive: NemoArchive, expected: ParakeetModel) -> list[_Row]:
    archive.check_complete()
    config = archive.config()
    keys: list[tuple[str, object, Callable[[Any], Any]]] = [
        ("target", "EncDecRNNTBPEModel", _class_name),
        ("encoder.n_layers", expected.layers, _as_is),
        ("encoder.d_model", expected.d, _as_is),
        ("encoder.n_heads", expected.heads, _as_is),
        ("encoder.conv_kernel_size", expected.kernel, _as_is),
        ("encoder.feat_in", expected.mels, _as_is),
        ("encoder.subsampling_conv_channels", expected.subsampling_channels, _as_is),
        ("decoder.prednet.pred_rnn_layers", expected.prediction_layers, _as_is),
        ("decoder.prednet.pred_hidden", expected.prediction_d, _as_is),
    ]
    if expected.cached_frames:
        keys.append(("encoder.att_context_size", expected.cached_frames, _left_context))
    return [(key, wanted, read(_at(config, key))) for key, wanted, read in keys]


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _as_is(value: Any) -> Any:
    return value


def _class_name(target: Any) -> str:
    """Modules of NeMo move; its classes keep their names."""
    return str(target).rpartition(".")[2]


def _left_context(sizes: Any) -> Any:
    """Frames to the left, which all of a streaming model's contexts share: ``[70, 13]``."""
    try:
        lefts = {size[0] for size in (sizes if isinstance(sizes[0], list) else [sizes])}
    except (TypeError, IndexError, KeyError):
        return sizes
    return lefts.pop() if len(lefts) == 1 else sizes
