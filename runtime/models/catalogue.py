"""NVIDIA's checkpoints: where they are published, and the revision that is pinned.

Nobody's memory is trusted for a commit or a hash: each pin is of a public source that gives
commit, sha256 and size, named beside it. What has no such source has no pin; its first pull
asks the hub, and writes what it answers into ``models.lock``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from runtime.errors import ConfigError

HUB = "https://huggingface.co"
"""Where people read a model's page; ``HF_ENDPOINT`` says where programs download from."""

NVIDIA_OPEN = "NVIDIA Open Model License"
CC_BY = "CC-BY-4.0"
NEMO = "3.0.0"
CODEC = "nemo-nano-codec-22khz-1.89kbps-21.5fps"


@dataclass(frozen=True, slots=True)
class FileHash:
    """What a file must be.

    Attributes:
        sha256: Of its content, in lower-case hexadecimal.
        size: Bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Pin:
    """One revision of a model, by content.

    Attributes:
        commit: Of the repository on the hub, all 40 digits.
        files: Each file of the model by its name in the repository.
    """

    commit: str
    files: Mapping[str, FileHash]


@dataclass(frozen=True, slots=True)
class Model:
    """A model on the hub.

    Attributes:
        name: As in ``runtime.engines.models``; the codec's is its repository's.
        purpose: What it is for.
        repo: Its repository on the hub.
        files: What is fetched; the first is the ``.nemo`` that engines open.
        licence: As its public model card says.
        pin: The revision that this release uses; None where no public source gives one.
        aliases: Shorter names for the command line.
        needs: Names of models that it cannot do without; they are pulled with it.
        nemo: The release of NeMo that this project opens it with.
        gated: Whether its licence must be accepted on its page before a download. The hub's
            answer counts, not this.
    """

    name: str
    purpose: str
    repo: str
    files: tuple[str, ...]
    licence: str
    pin: Pin | None = None
    aliases: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    nemo: str = NEMO
    gated: bool = False

    @property
    def page(self) -> str:
        """Its model card, where a licence is read and accepted."""
        return f"{HUB}/{self.repo}"


def _pin(file: str, commit: str, sha256: str, size: int) -> Pin:
    return Pin(commit, MappingProxyType({file: FileHash(sha256, size)}))


_MODELS = (
    Model(
        name="magpie_tts_multilingual_357m",
        purpose="synthesis",
        repo="nvidia/magpie_tts_multilingual_357m",
        files=("magpie_tts_multilingual_357m.nemo",),
        licence=NVIDIA_OPEN,
        # Release v2607. github.com/Escenda/magpie-tts-rt, reference/oracle-lock.json at
        # d57b37a608e96c85044a3025be60089f4500fd99.
        pin=_pin(
            "magpie_tts_multilingual_357m.nemo",
            "5023df68bd3f5b5ce6d666a50979bc501af145cc",
            "ec675fa8c02b9c1d5382c5c2b5a6acec6492c1e8344866c07cf3892185d18953",
            1_470_208_000,
        ),
        aliases=("magpie",),
        needs=(CODEC,),
    ),
    Model(
        name="magpie_tts_multilingual_357m@2025-12",
        purpose="synthesis, the smaller shape",
        repo="nvidia/magpie_tts_multilingual_357m",
        files=("magpie_tts_multilingual_357m.nemo",),
        licence=NVIDIA_OPEN,
        # Release v2602, the latest of that shape: one frame a step, as docs/tts/models.md of
        # github.com/NVIDIA/NeMo-Speech.cpp says of it at
        # 15ee41b1093d32778b64d7dbdfa87558a2d56b85. github.com/RongjieChen/overseaark,
        # model-manifest.lock.json at 042d07381dc3457863e59071e39b9deac59a7caa.
        pin=_pin(
            "magpie_tts_multilingual_357m.nemo",
            "34d7e40da85cabc97f92198889b65cea27bc7fd1",
            "3111c41d88de500dbc0cee70802c0ae7fb54915c46f29a2391a4510081f76a94",
            1_208_883_200,
        ),
        aliases=("magpie-2025-12",),
        needs=(CODEC,),
    ),
    Model(
        name=CODEC,
        purpose="Magpie's audio codec",
        repo=f"nvidia/{CODEC}",
        files=(f"{CODEC}.nemo",),
        licence=NVIDIA_OPEN,
        # github.com/Escenda/magpie-tts-rt, reference/oracle-lock.json at
        # d57b37a608e96c85044a3025be60089f4500fd99.
        pin=_pin(
            f"{CODEC}.nemo",
            "3c482a402a3c4cf33690a2c0f0a7d41afea6bd6a",
            "28c2518de3e3d5a2c7d9bca40a7ebc0644eb76c60b890970365325bdd8e9f099",
            425_021_440,
        ),
        aliases=("codec", "nano-codec"),
    ),
    Model(
        name="parakeet-tdt-0.6b-v2",
        purpose="recordings, English",
        repo="nvidia/parakeet-tdt-0.6b-v2",
        files=("parakeet-tdt-0.6b-v2.nemo",),
        licence=CC_BY,
        # Commit and sha256: github.com/sgl-project/sglang-omni,
        # benchmarks/duplex/fdb_v15/env.sh at f977a98d9482e517fc3d55d7500f08213ba45af1.
        # The size is what the hub's listing of that sha256 was quoted with.
        pin=_pin(
            "parakeet-tdt-0.6b-v2.nemo",
            "ae9ad07059c7c739ffaf932226a8fe64ae2620b0",
            "d99e39955c9d3d0350d8fb7c75e40c64a2b2eaeb003883d7c941fd2e8747b28c",
            2_472_222_720,
        ),
        aliases=("parakeet", "parakeet-v2"),
    ),
    Model(
        name="parakeet-tdt-0.6b-v3",
        purpose="recordings, 25 European languages",
        repo="nvidia/parakeet-tdt-0.6b-v3",
        files=("parakeet-tdt-0.6b-v3.nemo",),
        licence=CC_BY,
        # github.com/maxmelichov/audioforge, audioforge/hub.py at
        # 9eec26fcf99e5923044db80c94d75448d424b0f8.
        pin=_pin(
            "parakeet-tdt-0.6b-v3.nemo",
            "541d1f99c6b0c3cd0b11a95167540bb8edefd82b",
            "3cbdc85877e668ca7b82d0d56770eb1fac76691f55d6b97545e8d61ca588d10d",
            2_509_332_480,
        ),
        aliases=("parakeet-v3",),
    ),
    Model(
        name="nemotron-speech-streaming-en-0.6b",
        purpose="live recognition, English",
        repo="nvidia/nemotron-speech-streaming-en-0.6b",
        files=("nemotron-speech-streaming-en-0.6b.nemo",),
        licence=NVIDIA_OPEN,
        # github.com/maxmelichov/audioforge, audioforge/hub.py at
        # 9eec26fcf99e5923044db80c94d75448d424b0f8.
        pin=_pin(
            "nemotron-speech-streaming-en-0.6b.nemo",
            "ebe59e5a817142986528bbbee5dba8db7b38ed50",
            "283638054c44f6794e74fe9af9048d78a6d9d6c058c12131856c7859a62ac9cd",
            2_473_041_920,
        ),
        aliases=("nemotron", "parakeet-streaming"),
    ),
)

CATALOGUE: Mapping[str, Model] = MappingProxyType({model.name: model for model in _MODELS})
"""All of them by name, in the order they are listed in."""


def find(name: str) -> Model:
    """Look a model up by its name or an alias.

    Raises:
        ConfigError: There is none; the message names the nearest, or all there are.
    """
    for model in CATALOGUE.values():
        if name == model.name or name in model.aliases:
            return model
    known = [one for model in CATALOGUE.values() for one in (model.name, *model.aliases)]
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"There is no model {name!r}.{hint} Models: {', '.join(CATALOGUE)}.")


def with_needs(models: list[Model]) -> list[Model]:
    """These models and those that they need, each once."""
    wanted = {
        needed: CATALOGUE[needed] for model in models for needed in (model.name, *model.needs)
    }
    return list(wanted.values())
