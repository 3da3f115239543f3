"""The matrix of trials: every checkpoint that is here, and then the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.engines.archive import NemoArchive
from runtime.engines.magpie.geometry import read_codec, read_geometry
from runtime.engines.models import MAGPIE
from runtime.engines.parakeet.geometry import read_geometry as parakeet_geometry
from runtime.engines.trials.group import LIMIT_S, Group, run
from runtime.engines.trials.line import Line, skipped
from runtime.errors import CheckpointError
from runtime.memory.device import read
from runtime.memory.readings import Readings
from runtime.models.catalogue import CATALOGUE, CODEC, Model
from runtime.models.store import missized, place, wanted
from runtime.settings import Settings

MACHINE = "this machine"
ARCHIVE = "archive"
ON_CPU = ("basic load", "CPU inference")
ON_GPU = ("GPU inference", "eager mode")
ON_GPU_AGAIN = ("GPU inference", "once more, warm")
GRAPHS, NVRTC, TRITON = "CUDA-graph mode (torch)", "NVRTC", "Triton"

_SYNTHESIS = "runtime.engines.trials.synthesis"
_RECOGNITION = "runtime.engines.trials.recognition"
_PULL = "speech models pull NAME, or give --weights and --codec; see speech models list"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A ``.nemo`` that is here.

    Attributes:
        name: Of the model, or the file's.
        path: Of the file, or of the folder that one was unpacked into.
        mend: What to do if it cannot be used.
        model: In the catalogue; None for one that was given by its path.
    """

    name: str
    path: Path
    mend: str
    model: Model | None = None

    @property
    def is_magpie(self) -> bool:
        """Whether it speaks; the others listen."""
        return self.model is None or self.model.name in MAGPIE


def matrix(
    settings: Settings,
    weights: Path | None = None,
    codec: Path | None = None,
    limit_s: float = LIMIT_S,
) -> Iterator[Line]:
    """Try everything, a line at a time.

    Args:
        settings: Where checkpoints have been pulled to.
        weights: Try this Magpie instead of what has been pulled.
        codec: Its codec; by default the one that has been pulled.
        limit_s: The longest that the trials of one process may take.
    """
    no_gpu = without_gpu(read())
    checkpoints: list[Checkpoint] = []
    for found in _pulled(settings):
        if isinstance(found, Line):
            if weights is None or found.subject == CODEC:
                yield found
        elif found.name == CODEC:
            codec = codec or found.path
        elif weights is None:
            checkpoints.append(found)
    if weights is not None:
        again = "fetch it again, or save it again with NeMo"
        checkpoints = [Checkpoint(weights.name, weights, again)]
    if not checkpoints:
        yield Line("checkpoints", "pulled", "warn", "none", _PULL)
    codec_line = _codec_line(codec) if any(one.is_magpie for one in checkpoints) else None
    if codec_line is not None:
        yield codec_line
    for checkpoint in checkpoints:
        if not checkpoint.is_magpie:
            yield from _parakeet(checkpoint, no_gpu, limit_s)
        else:
            sound = codec if codec_line is not None and codec_line.verdict == "pass" else None
            yield from _magpie(checkpoint, sound, no_gpu, limit_s)
    yield from _machine(no_gpu, limit_s)


def without_gpu(readings: Readings) -> str:
    """Why there is no GPU; empty if there is one."""
    driver = readings.driver
    if isinstance(driver, str):
        return f"no GPU ({driver})"
    if not driver.devices:
        return "no GPU (the driver lists none)"
    return ""


def _pulled(settings: Settings) -> Iterator[Checkpoint | Line]:
    """What is here of the catalogue; what is here in part is a line."""
    for model in CATALOGUE.values():
        mend = f"speech models pull {model.name}"
        try:
            pin = wanted(model, settings).pin
        except CheckpointError as error:
            yield Line(model.name, ARCHIVE, "fail", str(error), mend)
            continue
        if pin is None:
            continue
        folder = place(settings, model, pin.commit)
        absent, wrong = missized(model, pin, folder)
        if wrong:
            yield Line(model.name, ARCHIVE, "fail", "; ".join(wrong), mend)
        elif not absent:
            yield Checkpoint(model.name, folder / model.files[0], mend, model)


def _codec_line(codec: Path | None) -> Line:
    mend = f"speech models pull {CODEC}, or give --codec"
    if codec is None:
        return Line(CODEC, ARCHIVE, "fail", "it is not here", mend)
    try:
        found = read_codec(codec.expanduser())
    except (CheckpointError, OSError) as error:
        return Line(CODEC, ARCHIVE, "fail", str(error), mend)
    return Line(
        CODEC,
        ARCHIVE,
        "pass",
        f"{found.codebooks} codebooks of {found.codebook_size}, {found.frame_rate:.1f} frames a "
        f"second, {found.sample_rate} Hz",
    )


def _parakeet(checkpoint: Checkpoint, no_gpu: str, limit_s: float) -> Iterator[Line]:
    name, mend = checkpoint.name, checkpoint.mend
    path = checkpoint.path.expanduser()
    try:
        NemoArchive(path).check_complete()
        geometry = parakeet_geometry(path)
    except (CheckpointError, OSError) as error:
        yield Line(name, ARCHIVE, "fail", str(error), mend)
        for trial in (*ON_CPU, *ON_GPU_AGAIN):
            yield skipped(name, trial, "its archive failed")
        return
    yield Line(name, ARCHIVE, "pass", geometry.describe())
    options = {"weights": str(path), "streaming": geometry.streaming}
    yield from run(Group(name, ON_CPU, f"{_RECOGNITION}:on_cpu", options, mend=mend), limit_s)
    on_gpu = Group(name, ON_GPU_AGAIN, f"{_RECOGNITION}:on_gpu", options, gpu=True, mend=mend)
    yield from _with_gpu(on_gpu, no_gpu, limit_s)


def _magpie(
    checkpoint: Checkpoint, codec: Path | None, no_gpu: str, limit_s: float
) -> Iterator[Line]:
    name, mend = checkpoint.name, checkpoint.mend
    path = checkpoint.path.expanduser()
    why = "" if codec is not None else "there is no codec for it"
    try:
        found = read_geometry(path).describe()
    except (CheckpointError, OSError) as error:
        why = "its archive failed"
        yield Line(name, ARCHIVE, "fail", str(error), mend)
    else:
        yield Line(name, ARCHIVE, "pass", found)
    if why:
        for trial in (*ON_CPU, *ON_GPU):
            yield skipped(name, trial, why)
        return
    options = {"weights": str(path), "codec": str(codec)}
    yield from run(Group(name, ON_CPU, f"{_SYNTHESIS}:on_cpu", options, mend=mend), limit_s)
    on_gpu = Group(name, ON_GPU, f"{_SYNTHESIS}:on_gpu", options, gpu=True, mend=mend)
    yield from _with_gpu(on_gpu, no_gpu, limit_s)


def _machine(no_gpu: str, limit_s: float) -> Iterator[Line]:
    """What all checkpoints share; compilers say what of them is here without a GPU, too."""
    trials = "runtime.engines.trials"
    there = {"gpu": not no_gpu}
    graphs = Group(MACHINE, (GRAPHS,), f"{trials}.graphs:replay", gpu=True)
    yield from _with_gpu(graphs, no_gpu, limit_s)
    for what, function in (
        (NVRTC, f"{trials}.nvrtc:compile_kernel"),
        (TRITON, f"{trials}.triton:run_kernel"),
    ):
        yield from run(Group(MACHINE, (what,), function, there, gpu=not no_gpu), limit_s)


def _with_gpu(group: Group, no_gpu: str, limit_s: float) -> Iterator[Line]:
    if no_gpu:
        for what in group.trials:
            yield skipped(group.subject, what, no_gpu)
    else:
        yield from run(group, limit_s)
