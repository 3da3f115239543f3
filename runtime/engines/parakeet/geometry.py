"""The shape of a Parakeet checkpoint, read from its own configuration without NeMo or torch.

The engines run any FastConformer transducer of the kind, tiny ones in tests included; what is
of another kind is refused by name. What a model can do (stream or not, with which lookaheads,
in which languages) is here too: it is the checkpoint that says so, not its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runtime.engines.archive import NemoArchive
from runtime.errors import CheckpointError

_V3 = "en bg hr cs da nl et fi fr de el hu it lv lt mt pl pt ro sk sl es sv ru uk"
EUROPEAN = tuple(_V3.split())
"""The 25 languages of parakeet-tdt-0.6b-v3, by its model card; its configuration lists none."""

_TRANSDUCERS = ("EncDecRNNTBPEModel", "EncDecHybridRNNTCTCBPEModel")
_EUROPEAN_VOCABULARY = 8192  # that of parakeet-tdt-0.6b-v3; English ones have 1,024


@dataclass(frozen=True, slots=True)
class ParakeetGeometry:
    """The shape of a FastConformer with a transducer.

    Attributes:
        target: NeMo's class, without its module.
        decoder: ``tdt`` predicts how many frames a token lasts, ``rnnt`` does not.
        durations: That a TDT decoder chooses from, in frames; empty for RNNT.
        sample_rate: Hz of the samples it takes.
        hop: Samples from one frame of features to the next.
        mels: Features of such a frame.
        subsampling: Frames of features that become one of the encoder.
        subsampling_channels: Of the convolutions that do so.
        layers: Of the encoder.
        d: Its width.
        heads: Of its self-attention.
        kernel: Frames that its depthwise convolutions see.
        left_context: Frames before a chunk that its attention sees; 0 where it sees all.
        right_contexts: Frames of lookahead that it was trained for, ascending; empty where it
            cannot stream.
        prediction_layers: LSTM layers of the prediction network.
        prediction_d: Their width.
        joint_d: Width of the joint network.
        vocabulary: Tokens, without the blank.
        languages: Primary language subtags; the first is the default.
        nemo_version: What it was saved with; empty where it does not say.
    """

    target: str
    decoder: Literal["tdt", "rnnt"]
    durations: tuple[int, ...]
    sample_rate: int
    hop: int
    mels: int
    subsampling: int
    subsampling_channels: int
    layers: int
    d: int
    heads: int
    kernel: int
    left_context: int
    right_contexts: tuple[int, ...]
    prediction_layers: int
    prediction_d: int
    joint_d: int
    vocabulary: int
    languages: tuple[str, ...]
    nemo_version: str

    @property
    def streaming(self) -> bool:
        """Whether it can recognise a stream chunk by chunk, each frame once."""
        return bool(self.right_contexts)

    @property
    def frame_samples(self) -> int:
        """Samples of a frame of the encoder: 1,280, which are 80 ms."""
        return self.hop * self.subsampling

    @property
    def frame_s(self) -> float:
        """Seconds of a frame of the encoder."""
        return self.frame_samples / self.sample_rate

    def chunk_ms(self, right_context: int) -> int:
        """Audio of a streaming step with that lookahead, in ms: the frame and its lookahead."""
        return round((right_context + 1) * self.frame_s * 1000)

    def describe(self) -> str:
        """For people."""
        what = f"FastConformer {self.layers} x {self.d}, {self.decoder.upper()}, vocabulary "
        what += f"{self.vocabulary:,}"
        if not self.streaming:
            return what
        chunks = ", ".join(str(self.chunk_ms(right)) for right in self.right_contexts)
        return f"{what}, streaming in chunks of {chunks} ms"


def read_geometry(path: Path) -> ParakeetGeometry:
    """Read the shape of a checkpoint: a ``.nemo``, or the folder one was unpacked into.

    Raises:
        CheckpointError: It is damaged, no speech recogniser, or of a kind that cannot be run
            here; the message says what it is and what it should be.
    """
    archive = NemoArchive(path)
    archive.check_complete()
    config = archive.config()
    target = str(config.get("target", "")).rpartition(".")[2]
    if target not in _TRANSDUCERS:
        raise CheckpointError(
            f"{path} is no Parakeet: it is a {target or 'model without a name'}; this release "
            f"runs transducers with a BPE tokeniser ({', '.join(_TRANSDUCERS)})."
        )
    for what, found, wanted in _kind(config):
        if found != wanted:
            raise CheckpointError(
                f"{path} is a recogniser of a kind that cannot be run here: {what} is {found!r}; "
                f"this release runs {wanted!r}."
            )
    try:
        return _geometry(config, target)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its configuration lacks what describes a Parakeet ({error!r})."
        ) from error


def _geometry(config: Mapping[str, Any], target: str) -> ParakeetGeometry:
    features, encoder = config["preprocessor"], config["encoder"]
    prediction, joint = config["decoder"]["prednet"], config["joint"]
    sample_rate = int(features["sample_rate"])
    vocabulary = int(joint.get("num_classes") or len(joint.get("vocabulary") or ()))
    durations = tuple(int(d) for d in (config.get("decoding") or {}).get("durations") or ())
    if not durations:
        durations = tuple(
            int(d) for d in (config.get("model_defaults") or {}).get("tdt_durations") or ()
        )
    tdt = bool(int(joint.get("num_extra_outputs") or 0))
    left, rights = _contexts(encoder)
    return ParakeetGeometry(
        target=target,
        decoder="tdt" if tdt else "rnnt",
        durations=durations if tdt else (),
        sample_rate=sample_rate,
        hop=round(float(features["window_stride"]) * sample_rate),
        mels=int(encoder["feat_in"]),
        subsampling=int(encoder["subsampling_factor"]),
        subsampling_channels=int(encoder["subsampling_conv_channels"]),
        layers=int(encoder["n_layers"]),
        d=int(encoder["d_model"]),
        heads=int(encoder["n_heads"]),
        kernel=int(encoder["conv_kernel_size"]),
        left_context=left,
        right_contexts=rights,
        prediction_layers=int(prediction["pred_rnn_layers"]),
        prediction_d=int(prediction["pred_hidden"]),
        joint_d=int(joint["jointnet"]["joint_hidden"]),
        vocabulary=vocabulary,
        languages=_languages(config, vocabulary),
        nemo_version=str(config.get("nemo_version", "")),
    )


def _kind(config: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """What must be so for the engines here: name, as found, as wanted."""
    encoder = config.get("encoder") or {}
    return [
        ("encoder", str(encoder.get("_target_", "")).rpartition(".")[2], "ConformerEncoder"),
        ("subsampling", encoder.get("subsampling"), "dw_striding"),
        ("reduction", encoder.get("reduction"), None),
    ]


def _contexts(encoder: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
    """Frames of left context, and the lookaheads; none where a frame's future is not bounded.

    A step needs no frame twice only where attention is cut into chunks and all convolutions
    are causal; positions are relative.
    """
    sizes = encoder.get("att_context_size") or [-1, -1]
    sizes = sizes if isinstance(sizes[0], list) else [sizes]
    lefts = {int(left) for left, _ in sizes}
    streams = (
        encoder.get("att_context_style") == "chunked_limited"
        and encoder.get("self_attention_model", "rel_pos") == "rel_pos"
        and encoder.get("conv_context_size") == "causal"
        and bool(encoder.get("causal_downsampling"))
        and len(lefts) == 1
        and min(lefts) > 0
    )
    if not streams:
        return 0, ()
    return lefts.pop(), tuple(sorted({int(right) for _, right in sizes}))


def _languages(config: Mapping[str, Any], vocabulary: int) -> tuple[str, ...]:
    """Those of an aggregate tokeniser; else those of the public model with that vocabulary."""
    tokenizer = config.get("tokenizer") or {}
    named = tokenizer.get("langs")
    if isinstance(named, Mapping) and named:
        tags = (str(tag).split("-")[0].lower() for tag in named)
        return tuple(dict.fromkeys(tags))
    return EUROPEAN if vocabulary >= _EUROPEAN_VOCABULARY else ("en",)
