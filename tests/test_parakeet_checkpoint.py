"""A Parakeet says what it can do before it is loaded; what is none is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

import tiny_models

from runtime.engines.parakeet.checkpoint import inspect, load
from runtime.engines.parakeet.geometry import EUROPEAN
from runtime.errors import CheckpointError

Build = Callable[..., Path]


def config(**changes: Any) -> dict[str, Any]:
    """As much of a public checkpoint's configuration as is read."""
    encoder = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "reduction": None,
        **changes.pop("encoder", {}),
    }
    whole = tiny_models.parakeet(**encoder)
    whole["decoder"]["prednet"].update(pred_hidden=640)
    return {
        **whole,
        "preprocessor": {"sample_rate": 16000, "window_stride": 0.01},
        "joint": {"num_classes": 1024, "jointnet": {"joint_hidden": 640}},
        **changes,
    }


def written(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "some.nemo"
    path.write_bytes(tiny_models.nemo(document))
    return path


def test_a_streaming_checkpoint_lists_its_lookaheads(tiny_parakeet: Build) -> None:
    geometry = inspect(tiny_parakeet(streaming=True)).geometry
    assert geometry.streaming
    assert (geometry.left_context, geometry.right_contexts) == (70, (0, 1, 6, 13))
    assert [geometry.chunk_ms(right) for right in geometry.right_contexts] == [80, 160, 560, 1120]
    assert (geometry.decoder, geometry.durations) == ("rnnt", ())
    assert geometry.languages == ("en",)


def test_an_offline_checkpoint_says_that_it_cannot_stream(tiny_parakeet: Build) -> None:
    geometry = inspect(tiny_parakeet(streaming=False)).geometry
    assert not geometry.streaming
    assert (geometry.decoder, geometry.durations) == ("tdt", (0, 1, 2, 3, 4))
    assert (geometry.sample_rate, geometry.frame_samples) == (16_000, 1280)


def test_what_is_loaded_has_the_geometry_that_was_read(tiny_parakeet: Build) -> None:
    parakeet = load(inspect(tiny_parakeet(streaming=True)))
    geometry, model = parakeet.files.geometry, parakeet.model
    assert model.encoder.d_model == geometry.d
    assert len(model.encoder.layers) == geometry.layers
    assert model.joint.num_classes_with_blank == geometry.vocabulary + 1
    assert not any(parameter.requires_grad for parameter in model.parameters())
    held = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    assert 0 < parakeet.weight_bytes <= held


def test_a_large_vocabulary_is_that_of_25_languages(tmp_path: Path) -> None:
    joint = {"num_classes": 8192, "jointnet": {"joint_hidden": 640}}
    path = written(tmp_path, config(joint=joint))
    assert inspect(path).geometry.languages == EUROPEAN
    assert len(EUROPEAN) == 25


def test_an_aggregate_tokeniser_names_its_languages(tmp_path: Path) -> None:
    path = written(tmp_path, config(tokenizer={"langs": {"en-US": {}, "de": {}, "en-GB": {}}}))
    assert inspect(path).geometry.languages == ("de", "en")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "nemo.collections.tts.models.MagpieTTSModel"}, "no Parakeet: .*MagpieTTSModel"),
        ({"target": "a.EncDecCTCModelBPE"}, "no Parakeet: it is a EncDecCTCModelBPE"),
        ({"encoder": {"_target_": "x.SqueezeformerEncoder"}}, "encoder is 'SqueezeformerEncoder'"),
        ({"encoder": {"subsampling": "vggnet"}}, "subsampling is 'vggnet'"),
        ({"joint": {}}, "lacks what describes a Parakeet"),
        ({"preprocessor": None}, "lacks what describes a Parakeet"),
    ],
)
def test_what_is_no_parakeet_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = written(tmp_path, config(**changes))
    with pytest.raises(CheckpointError, match=said) as refused:
        inspect(path)
    assert str(path) in str(refused.value)


def test_lookahead_that_is_not_bounded_is_no_streaming(tmp_path: Path) -> None:
    contexts = {"att_context_size": [[70, 13], [70, 0]], "att_context_style": "chunked_limited"}
    causal = {**contexts, "conv_context_size": "causal", "causal_downsampling": True}
    path = written(tmp_path, config(encoder=causal))
    assert inspect(path).geometry.right_contexts == (0, 13)
    for change in ({"conv_context_size": None}, {"causal_downsampling": False}):
        assert not inspect(written(tmp_path, config(encoder=causal | change))).geometry.streaming


def test_a_missing_checkpoint_names_the_mend(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="speech models pull"):
        inspect(tmp_path / "none.nemo")
    with pytest.raises(CheckpointError, match=r"must hold one \.nemo; it holds none"):
        inspect(tmp_path)


def test_weights_beyond_float16_are_refused(tiny_parakeet: Build) -> None:
    files = inspect(tiny_parakeet(streaming=True))
    from runtime.engines.parakeet import checkpoint

    parakeet = load(files)
    parakeet.model.encoder.layers[0].feed_forward1.linear1.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match="float16 cannot; use bfloat16"):
        checkpoint._cast(parakeet.model.encoder, "float16", files.weights)
