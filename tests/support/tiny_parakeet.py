"""Parakeet checkpoints with random weights: offline with TDT, streaming with RNNT.

They are what NeMo 3.0 itself saves, laid out as NVIDIA's public ones are. Nothing is
downloaded: the SentencePiece tokeniser is trained on made-up words in a tenth of a second.
Random weights never, or always, emit a blank, and the same token whatever they hear: the
joint network is calibrated on ``babble``, so that 3 to 4 varied tokens a second come out.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tiny_magpie import quiet, seeded

from runtime.bench.babble import babble

TOKENS_PER_SECOND = 3.5
_CALIBRATION_S = 10
_INHIBITION = 3.0  # of what was said last, beside a spread of 1 of what is heard
_ONSETS = "b c d f g h j k l m n p r s t v w z th sh ch st tr pl"
_VOWELS = "a e i o u ai ou ee"
_DURATIONS = [0, 1, 2, 3, 4]
_MODULES = "nemo.collections.asr.modules."


@dataclass(frozen=True)
class Geometry:
    """Widths and depths of encoder, prediction and joint."""

    d: int = 32
    layers: int = 2
    heads: int = 2
    mels: int = 80
    subsampling_channels: int = 8
    prediction: int = 32
    joint: int = 32
    prediction_layers: int = 1
    vocabulary: int = 64


TINY = Geometry()
FULL = Geometry(
    d=1024,
    layers=24,
    heads=8,
    mels=128,
    subsampling_channels=256,
    prediction=640,
    joint=640,
    prediction_layers=2,
    vocabulary=1024,
)
"""That of the public checkpoints of 0.6 B."""

STREAMING_CONTEXTS = [[70, 13], [70, 6], [70, 1], [70, 0]]
"""Left context and lookahead in frames, as nemotron-speech-streaming-en-0.6b lists them."""


def build_offline(path: Path, *, full: bool = False, seed: int = 0, **overrides: Any) -> Path:
    """Save a FastConformer-TDT, as parakeet-tdt-0.6b is one, to ``path``.

    Args:
        path: where to, ending in ``.nemo``.
        full: the public geometry, 0.6 billion parameters.
        seed: of the weights, which depend on nothing else.
        overrides: fields of ``Geometry``.
    """
    return _build(path, streaming=False, full=full, seed=seed, **overrides)


def build_streaming(path: Path, *, full: bool = False, seed: int = 0, **overrides: Any) -> Path:
    """Save a cache-aware FastConformer-RNNT, as nemotron-speech-streaming is one, to ``path``.

    Arguments are those of ``build_offline``.
    """
    return _build(path, streaming=True, full=full, seed=seed, **overrides)


def restore(path: Path) -> Any:
    """NeMo's own ``ASRModel`` from ``path`` on the CPU."""
    from nemo.collections.asr.models import ASRModel

    with quiet():
        return ASRModel.restore_from(str(path), map_location="cpu").eval()


def make_tokenizer(folder: Path, vocabulary: int = 64, seed: int = 0) -> Path:
    """A SentencePiece BPE model trained on made-up words; the folder that NeMo wants."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    chosen = random.Random(seed)
    syllables = [onset + vowel for onset in _ONSETS.split() for vowel in _VOWELS.split()]
    lines = ["hello world this is a test of the speech system"] * 20
    for _ in range(max(300, vocabulary * 4)):
        words = ("".join(chosen.choices(syllables, k=chosen.randint(1, 4))) for _ in range(12))
        lines.append(" ".join(words))
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=vocabulary,
        model_type="bpe",
        character_coverage=1.0,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    corpus.unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    names = [pieces.id_to_piece(index) for index in range(pieces.get_piece_size())]
    (folder / "vocab.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def _build(path: Path, *, streaming: bool, full: bool, seed: int, **overrides: Any) -> Path:
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from omegaconf import OmegaConf

    unknown = overrides.keys() - asdict(TINY).keys()
    if unknown:
        raise TypeError(f"not of the geometry: {sorted(unknown)}")
    geometry = replace(FULL if full else TINY, **overrides)
    with tempfile.TemporaryDirectory() as folder, quiet(), seeded(seed):
        tokenizer = make_tokenizer(Path(folder), geometry.vocabulary)
        config = OmegaConf.create(_config(geometry, tokenizer, streaming))
        model = EncDecRNNTBPEModel(cfg=config).eval()
        _calibrate(model)
        model.save_to(str(path))
    return path


def _calibrate(model: Any) -> None:
    """Let tokens vary with the sound, and about ``TOKENS_PER_SECOND`` of them be emitted.

    What enters the encoder's layers and the joint is scaled to change from frame to frame, and
    from token to token; then the blank's bias is searched for. TDT durations are mostly 1 to 4.
    """
    import torch

    joint = model.joint
    last = [layer for layer in joint.joint_net if isinstance(layer, torch.nn.Linear)][-1]
    extra = joint.num_extra_outputs
    labels = joint.num_classes_with_blank - extra
    with torch.inference_mode(False), torch.no_grad():
        torch.nn.init.normal_(last.weight, std=3.0 * last.weight.shape[1] ** -0.5)
        last.bias.zero_()
        if extra:
            last.weight[labels:].mul_(0.1)
            last.bias[labels:] = torch.tensor([-3.0, 0.0, 0.7, 0.7, 0.7]).to(last.bias)
        device = last.weight.device
        sound = torch.from_numpy(babble(_CALIBRATION_S))[None].to(device)
        features, lengths = model.preprocessor(
            input_signal=sound, length=torch.tensor([sound.shape[1]], device=device)
        )
        if model.encoder.att_context_style == "chunked_limited":  # as a stream is heard
            model.encoder.set_default_att_context_size([70, 1])
        # Unnormalised features would make all frames alike before the first layer.
        seen: list[Any] = []
        out = model.encoder.pre_encode.out
        hook = out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model.encoder(audio_signal=features, length=lengths)
        hook.remove()
        _spread(out, seen[0][0], 1.0)
        encoded, lengths = model.encoder(audio_signal=features, length=lengths)
        _spread(joint.enc, encoded[0].T, 1.0)
        # A token that has been said makes itself less likely, or a frame would repeat it.
        model.decoder.prediction["embed"].weight.mul_(4.0)
        tokens = torch.arange(labels - 1, device=device)[:, None]
        said, _ = model.decoder.predict(tokens, state=None, add_sos=False, batch_size=labels - 1)
        against = -_INHIBITION * torch.nn.functional.normalize(last.weight[: labels - 1], dim=1)
        joint.pred.weight.copy_(torch.linalg.lstsq(said[:, 0], against).solution.T)
        joint.pred.bias.zero_()
        wanted, low, high = TOKENS_PER_SECOND * _CALIBRATION_S, -20.0, 20.0
        tried = []
        for _ in range(14):
            bias = (low + high) / 2
            last.bias[labels - 1] = bias
            (heard,) = model.decoding.rnnt_decoder_predictions_tensor(encoded, lengths)
            tried.append((abs(len(heard.y_sequence) - wanted), bias))
            low, high = (bias, high) if len(heard.y_sequence) > wanted else (low, bias)
        last.bias[labels - 1] = min(tried)[1]  # more bias is not always fewer tokens


def _spread(linear: Any, inputs: Any, scale: float) -> None:
    """Make outputs for these inputs ``(n, features)`` have mean 0 and deviation ``scale``."""
    outputs = linear(inputs)
    linear.weight.mul_(scale / outputs.std(0).clamp(min=1e-6)[:, None])
    linear.bias.zero_()
    linear.bias.sub_(linear(inputs).mean(0))


def _config(geometry: Geometry, tokenizer: Path, streaming: bool) -> dict[str, Any]:
    durations = {} if streaming else {"durations": _DURATIONS}
    rnnt = {"warprnnt_numba_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0}}
    tdt = {
        "tdt_kwargs": {
            "fastemit_lambda": 0.0,
            "clamp": -1.0,
            "durations": _DURATIONS,
            "sigma": 0.02,
            "omega": 0.1,
        }
    }
    return {
        "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
        "sample_rate": 16000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "rnnt_reduction": "mean_volume",
        "skip_nan_grad": False,
        "model_defaults": {
            "enc_hidden": geometry.d,
            "pred_hidden": geometry.prediction,
            "joint_hidden": geometry.joint,
            **({} if streaming else {"tdt_durations": _DURATIONS, "num_tdt_durations": 5}),
        },
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        "preprocessor": {
            "_target_": _MODULES + "AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "NA" if streaming else "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": geometry.mels,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
            "pad_value": 0.0,
        },
        "encoder": {
            "_target_": _MODULES + "ConformerEncoder",
            "feat_in": geometry.mels,
            "feat_out": -1,
            "n_layers": geometry.layers,
            "d_model": geometry.d,
            "use_bias": False,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": geometry.subsampling_channels,
            "causal_downsampling": streaming,
            "reduction": None,
            "reduction_position": None,
            "reduction_factor": 1,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": geometry.heads,
            "att_context_size": STREAMING_CONTEXTS if streaming else [-1, -1],
            "att_context_style": "chunked_limited" if streaming else "regular",
            "xscaling": False,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm" if streaming else "batch_norm",
            "conv_context_size": "causal" if streaming else None,
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
        },
        "decoder": {
            "_target_": _MODULES + "RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": geometry.prediction,
                "pred_rnn_layers": geometry.prediction_layers,
                "t_max": None,
                "dropout": 0.2 if geometry.prediction_layers > 1 else 0.0,
            },
        },
        "joint": {
            "_target_": _MODULES + "RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "fused_batch_size": 4,
            "jointnet": {
                "joint_hidden": geometry.joint,
                "activation": "relu",
                "dropout": 0.2,
                "encoder_hidden": geometry.d,
                "pred_hidden": geometry.prediction,
            },
            **({} if streaming else {"num_extra_outputs": len(_DURATIONS)}),
        },
        "decoding": {
            "strategy": "greedy_batch",
            **({} if streaming else {"model_type": "tdt", **durations}),
            "greedy": {"max_symbols": 10, "loop_labels": True, "use_cuda_graph_decoder": True},
            "beam": {"beam_size": 2, "return_best_hypothesis": False},
        },
        "loss": {"loss_name": "default", **rnnt} if streaming else {"loss_name": "tdt", **tdt},
    }
