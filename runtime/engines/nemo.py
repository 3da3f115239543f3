"""NeMo as the engines use it: quiet, offline, and kept from writing into shared bytes.

Nothing here is imported before an engine loads; importing NeMo takes 8 to 27 s.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from runtime.engines.archive import ARTIFACT, NemoArchive
from runtime.engines.cuda import is_out_of_memory
from runtime.errors import CheckpointError, SpeechError, UnknownEngine

BYT5 = "google/byt5-small"
"""What public Magpie checkpoints name as the tokeniser of some languages. It has no
vocabulary: its tokens are the 256 bytes, so that it is made here and never downloaded."""

_NVRTC_USER = "nemo.core.utils.cuda_python_utils"


def import_nemo(module: str) -> Any:
    """Import a module of NeMo, offline, without its chatter, and guarded.

    Raises:
        UnknownEngine: NeMo is not installed.
    """
    # Whatever is missing must be said, not fetched: weights come by `speech models pull`.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    # Of its telemetry, which is off, NeMo warns at every import.
    logging.getLogger("nv_one_logger").setLevel(logging.ERROR)
    try:
        with quietly():
            imported = importlib.import_module(module)
            importlib.import_module("nemo.utils")
    except ImportError as error:
        raise UnknownEngine(
            f"NVIDIA's engines need NeMo, which cannot be imported ({error}): "
            f"pip install 'speech-runtime[nemo]'."
        ) from error
    # Not NeMo's own setLevel(): that is for the handlers of this logger too, whoever they are of.
    logging.getLogger("nemo_logger").setLevel(logging.ERROR)
    guard_shared_bytes()
    return imported


def guard_shared_bytes() -> None:
    r"""Keep NeMo's run-time compiler from overwriting the one ``b" "`` of this process.

    NeMo 3.0.0 hands ``b" " * size`` to NVRTC as a buffer for its log. For an empty log size
    is 1, and Python keeps one shared object for each single byte: NVRTC's closing NUL turns
    every ``b" "`` of the process into ``b"\0"``, which breaks HTTP servers among others.
    """
    with contextlib.suppress(ImportError):  # without cuda-python nothing is compiled
        importlib.import_module("cuda.bindings.nvrtc")
        importlib.import_module(_NVRTC_USER)
    user = sys.modules.get(_NVRTC_USER)
    nvrtc = getattr(user, "nvrtc", None)
    if nvrtc is not None and not isinstance(nvrtc, _GuardedNvrtc):
        user.nvrtc = _GuardedNvrtc(nvrtc)  # type: ignore[union-attr]


def shared_bytes_intact() -> bool:
    """Whether every single byte still is what it was (see ``guard_shared_bytes``)."""
    return all(bytes([value])[0] == value for value in range(256)) and ord(b" ") == 0x20


class _GuardedNvrtc:
    """The module ``nvrtc`` with buffers for its logs that nobody shares."""

    def __init__(self, nvrtc: Any) -> None:
        self._nvrtc = nvrtc

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nvrtc, name)

    def nvrtcGetProgramLog(self, program: Any, buffer: bytes) -> Any:  # NVRTC's name
        """NeMo throws the log away: write it where nobody looks."""
        return self._nvrtc.nvrtcGetProgramLog(program, b" " * max(len(buffer), 64))


def restore(
    model_class: Any, archive: NemoArchive, config: Mapping[str, Any], **options: Any
) -> Any:
    """Restore a model on the CPU, in eval mode, with a changed configuration.

    Args:
        model_class: NeMo's class.
        archive: The ``.nemo``, or the folder one was unpacked into.
        config: What it is restored with instead of its own configuration.
        options: More arguments of NeMo's ``restore_from``.

    Raises:
        CheckpointError: The weights do not fit the configuration, or a file is missing.
    """
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
    from omegaconf import OmegaConf

    connector = SaveRestoreConnector()
    if archive.path.is_dir():
        connector.model_extracted_dir = str(archive.path)
    with quietly(), explained(archive.path):
        model = model_class.restore_from(
            str(archive.path),
            override_config_path=OmegaConf.create(dict(config)),
            map_location="cpu",
            save_restore_connector=connector,
            **options,
        )
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def check_artifacts(archive: NemoArchive, config: Mapping[str, Any]) -> None:
    """Check that every file that a configuration names is within the archive.

    Raises:
        CheckpointError: One is missing: a tokeniser's dictionary, say.
    """
    missing = [
        f"{key}: {value}"
        for key, value in _leaves(config)
        if isinstance(value, str) and value.startswith(ARTIFACT) and not _holds(archive, value)
    ]
    missing += [
        f"{key}: {value}"
        for key, value in _leaves(config)
        if key.endswith(("g2p.phoneme_dict", "g2p.heteronyms"))
        and isinstance(value, str)
        and not value.startswith(ARTIFACT)
        and not Path(value).is_file()
    ]
    if missing:
        raise CheckpointError(
            f"{archive.path} names files that are not there ({'; '.join(missing)}): a dictionary "
            f"of a tokeniser must be within the .nemo. Fetch it again, or save it again with NeMo."
        )


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say of whatever NeMo, torch, hydra or `tarfile` raises which checkpoint it is about.

    Raises:
        CheckpointError: Anything was raised within, but for memory that ran out and packages
            that are missing.
    """
    try:
        yield
    except (SpeechError, MemoryError, ImportError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(
                f"{path} is unpacked into {tempfile.gettempdir()} while it is restored, and that "
                f"is full: make room for as much as it has itself, or set TMPDIR."
            ) from error
        raise CheckpointError(
            f"{path} cannot be restored: {_first_line(error)}. Its weights and its "
            f"configuration do not go together, or it is damaged: fetch it again."
        ) from error


@contextlib.contextmanager
def byt5_folder() -> Iterator[Path]:
    """A folder from which transformers makes ByT5's tokeniser; it needs no vocabulary."""
    with tempfile.TemporaryDirectory(prefix="speech-byt5-") as folder:
        settings = {
            "tokenizer_class": "ByT5Tokenizer",
            "extra_ids": 125,
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        }
        Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))
        yield Path(folder)


class _WithoutWarnings:
    """Python's warnings are held back as long as any thread is in here.

    They are the whole process's. If each thread undid it for itself, the first to leave would
    undo it for all, and the last would put back what it found: no warnings.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()


_without_warnings = _WithoutWarnings()


def quietly() -> AbstractContextManager[None]:
    """Hold back what NeMo, Lightning and transformers warn of while they load and run."""
    return _without_warnings


def _holds(archive: NemoArchive, name: str) -> bool:
    try:
        archive.read(name)
    except CheckpointError:
        return False
    return True


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, node


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:400].rstrip(".") or type(error).__name__


def pick_device(wanted: str) -> str:
    """``cpu`` or ``cuda``, for a device as configured.

    Raises:
        UnknownEngine: A GPU is wanted, and torch finds none.
    """
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UnknownEngine(
            "device is 'cuda', and torch finds no GPU: see `speech doctor`, or leave it at 'auto'."
        )
    return "cuda" if there and wanted != "cpu" else "cpu"
