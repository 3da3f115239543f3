"""A checkpoint is restored offline, as small as inference needs it, or refused with the reason."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from tiny_magpie import SPEAKERS, _codec_config, build_codec, build_magpie, quiet, seeded
from tiny_tongues import LANGUAGES

from runtime.engines.archive import CONFIG, WEIGHTS
from runtime.engines.magpie.checkpoint import Magpie, inspect, load
from runtime.engines.magpie.geometry import speakers_file
from runtime.engines.nemo import shared_bytes_intact
from runtime.errors import CheckpointError

BUILT = {"max_decoder_steps": 40, "eos_bias": -100.0}

Change = Callable[[bytes], bytes | None]


@pytest.fixture
def checkpoint(tiny_magpie: Callable[..., Path]) -> Path:
    return tiny_magpie(stacking=2, **BUILT)


@pytest.fixture(autouse=True)
def offline(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here reaches for a network, whatever it restores."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is being downloaded")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def tidy(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Nothing is left in the folder for temporary files, however a test ends."""
    folder = tmp_path_factory.mktemp("TMPDIR")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    assert tempfile.gettempdir() == str(folder)
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def restored(tiny_magpie: Callable[..., Path], tiny_codec: Path) -> Magpie:
    """For looking at only."""
    return load(inspect(tiny_magpie(stacking=2, **BUILT), tiny_codec))


def repacked(archive: Path, to: Path, **changes: Change) -> Path:
    """A copy whose files that end as ``changes`` say are changed; None leaves one out."""
    endings = {
        "config": CONFIG,
        "weights": WEIGHTS,
        "dictionary": "_en-US_mini.dict",
        "speakers": "_speakers.json",
    }
    done = set()
    with tarfile.open(archive) as old, tarfile.open(to, "w") as new:
        for member in old:
            stream = old.extractfile(member)
            content: bytes | None = stream.read() if stream else b""
            for which, change in changes.items():
                if member.name.endswith(endings[which]):
                    assert content is not None
                    content = change(content)
                    done.add(which)
            if content is not None:
                member.size = len(content)
                new.addfile(member, io.BytesIO(content) if member.isfile() else None)
    assert done == changes.keys()
    return to


def config_with(change: Callable[[Any], object]) -> Change:
    def changed(content: bytes) -> bytes:
        config = yaml.safe_load(content)
        change(config)
        return yaml.safe_dump(config, sort_keys=False).encode()

    return changed


def weights_with(change: Callable[[dict[str, Any]], object]) -> Change:
    import torch

    def changed(content: bytes) -> bytes:
        weights = torch.load(io.BytesIO(content), map_location="cpu")
        change(weights)
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        return buffer.getvalue()

    return changed


# --- what is restored ---


def test_restoring_takes_seconds(checkpoint: Path, tiny_codec: Path) -> None:
    began = time.monotonic()
    magpie = load(inspect(checkpoint, tiny_codec))
    took = time.monotonic() - began
    assert took < 20  # 0.7 s on two quiet cores, NeMo imported before
    assert 0 < magpie.seconds <= took


def test_it_says_what_it_restored(restored: Magpie, checkpoint: Path, tiny_codec: Path) -> None:
    assert (restored.device, restored.dtype) == ("cpu", "float32")
    assert (restored.files.weights, restored.files.codec) == (checkpoint, tiny_codec)
    assert restored.files.geometry.speakers == tuple(SPEAKERS[2])
    assert set(restored.files.languages) == set(LANGUAGES)
    tensors = [*restored.model.parameters(), *restored.model.buffers()]
    assert restored.weight_bytes == sum(
        t.nbytes for t in {t.data_ptr(): t for t in tensors}.values()
    )
    assert not any(parameter.requires_grad for parameter in restored.model.parameters())
    assert not any(module.training for module in restored.model.modules())
    assert shared_bytes_intact()


def test_what_only_training_reads_is_gone(restored: Magpie) -> None:
    model = restored.model
    names = {name for name, _ in model.named_modules()}
    assert {"encoder", "decoder", "_codec_model.audio_decoder"} <= names
    for gone in ("context_encoder", "_codec_model.audio_encoder", "_codec_model.discriminator"):
        assert not [name for name in names if name == gone or name.startswith(f"{gone}.")]


def test_layers_share_one_causal_mask_of_a_size(restored: Magpie) -> None:
    import torch

    masks = [
        module.causal_mask
        for module in restored.model.modules()
        if isinstance(getattr(module, "causal_mask", None), torch.Tensor)
    ]
    assert len(masks) == 1 + 6 + 2  # encoder, decoder, local transformer
    storages = {(tuple(mask.shape), mask.untyped_storage().data_ptr()) for mask in masks}
    assert len(storages) == len({shape for shape, _ in storages}) < len(masks)
    for mask in masks:
        assert torch.equal(mask[0, 0], torch.tril(torch.ones_like(mask[0, 0])))


def test_a_codec_is_restored_without_what_judged_it(checkpoint: Path, tmp_path: Path) -> None:
    codec = build_codec(tmp_path / "codec.nemo", discriminator=True)
    magpie = load(inspect(checkpoint, codec))
    assert getattr(magpie.model._codec_model, "discriminator", None) is None


def test_nemos_codec_is_its_own_again_after_a_failure(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    from nemo.collections.tts.models import AudioCodecModel, magpietts

    files = inspect(checkpoint, tiny_codec)
    bad = repacked(checkpoint, tmp_path / "m.nemo", weights=lambda _: b"no weights")
    with pytest.raises(CheckpointError):
        load(replace(files, weights=bad))
    assert magpietts.AudioCodecModel is AudioCodecModel


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_only_the_acoustic_model_is_cast(
    checkpoint: Path, tiny_codec: Path, restored: Magpie, dtype: str
) -> None:
    import torch

    magpie = load(inspect(checkpoint, tiny_codec), dtype=dtype)
    assert magpie.dtype == dtype
    whole = dict(restored.model.named_parameters())
    for name, parameter in magpie.model.named_parameters():
        # A CPU's norms take no weights of lower precision; vectors save nothing anyway.
        kept = name.startswith("_codec_model.") or parameter.dim() < 2
        assert parameter.dtype == (torch.float32 if kept else getattr(torch, dtype)), name
        assert torch.equal(parameter, whole[name].to(parameter.dtype))
    assert magpie.weight_bytes < restored.weight_bytes


@pytest.mark.parametrize("value", [65_536.0, -1e6, float("inf"), float("nan")])
def test_weights_beyond_float16_are_refused_in_it(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path, value: float
) -> None:
    def enlarge(weights: dict[str, Any]) -> None:
        weights["decoder.layers.0.self_attention.o_net.weight"][0, 0] = value

    path = repacked(checkpoint, tmp_path / "m.nemo", weights=weights_with(enlarge))
    files = inspect(path, tiny_codec)
    with pytest.raises(CheckpointError, match="use bfloat16") as refused:
        load(files, dtype="float16")
    assert f"{path}: decoder.layers.0.self_attention.o_net.weight holds" in str(refused.value)
    assert load(files, dtype="bfloat16").dtype == "bfloat16"


# --- where it lies ---


def test_a_folder_stands_for_the_one_checkpoint_in_it(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "w" / "m.nemo").symlink_to(checkpoint)
    (tmp_path / "c" / "c.nemo").symlink_to(tiny_codec)
    files = inspect(tmp_path / "w", tmp_path / "c")
    assert (files.weights.name, files.codec.name) == ("m.nemo", "c.nemo")
    (tmp_path / "w" / "another.nemo").symlink_to(checkpoint)
    with pytest.raises(CheckpointError, match=r"weights: .* it holds another\.nemo, m\.nemo\."):
        inspect(tmp_path / "w", tmp_path / "c")
    (tmp_path / "c" / "c.nemo").unlink()
    with pytest.raises(CheckpointError, match=r"codec: .* must hold one \.nemo; it holds none\."):
        inspect(checkpoint, tmp_path / "c")


def test_an_unpacked_checkpoint_is_restored(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    import torch

    folder = tmp_path / "unpacked"
    with tarfile.open(checkpoint) as archive:
        archive.extractall(folder, filter="data")
    before = sorted(file.name for file in folder.iterdir())
    magpie = load(inspect(folder, tiny_codec))
    table = magpie.model.baked_context_embedding.weight
    assert torch.equal(table, torch.load(folder / WEIGHTS)["baked_context_embedding.weight"])
    assert sorted(file.name for file in folder.iterdir()) == before


def test_an_unpacked_codec_is_refused(checkpoint: Path, tiny_codec: Path, tmp_path: Path) -> None:
    with tarfile.open(tiny_codec) as archive:
        archive.extractall(tmp_path / "codec", filter="data")
    files = inspect(checkpoint, tmp_path / "codec")
    with pytest.raises(CheckpointError, match=r"NeMo restores a codec from its \.nemo only"):
        load(files)


@pytest.mark.parametrize("which", ["weights", "codec"])
def test_a_missing_file_is_said_with_how_to_get_it(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path, which: str
) -> None:
    paths = {"weights": checkpoint, "codec": tiny_codec} | {which: tmp_path / "gone.nemo"}
    with pytest.raises(CheckpointError, match=rf"{which}: there is no .*gone\.nemo.*models pull"):
        inspect(**paths)


# --- what is refused ---


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("which", ["weights", "codec"])
def test_a_file_that_is_cut_off_is_refused_before_and_while_it_is_loaded(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path, which: str, kept: float
) -> None:
    whole = {"weights": checkpoint, "codec": tiny_codec}[which]
    cut = tmp_path / "cut.nemo"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * kept)])
    files = replace(inspect(checkpoint, tiny_codec), **{which: cut})
    with pytest.raises(CheckpointError, match=r"cut\.nemo is no complete \.nemo"):
        inspect(files.weights, files.codec)
    with pytest.raises(CheckpointError, match=r"cut\.nemo.*fetch it again"):  # cut off in between
        load(files)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 no weights"])
def test_weights_that_are_none_are_refused(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path, content: bytes
) -> None:
    path = repacked(checkpoint, tmp_path / "m.nemo", weights=lambda _: content)
    with pytest.raises(CheckpointError, match="cannot be restored: ") as refused:
        load(inspect(path, tiny_codec))
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize(
    ("codebooks", "levels", "size"), [(4, [8, 7, 6, 6], 2016), (8, [8, 7, 6, 5], 1680)]
)
def test_a_codec_of_other_codebooks_is_refused_with_both_names(
    checkpoint: Path, tmp_path: Path, codebooks: int, levels: list[int], size: int
) -> None:
    from nemo.collections.tts.models import AudioCodecModel
    from omegaconf import OmegaConf

    codec, config = tmp_path / "other.nemo", _codec_config(4, 64)
    config["audio_encoder"]["encoded_dim"] = config["audio_decoder"]["input_dim"] = 4 * codebooks
    config["vector_quantizer"] |= {"num_groups": codebooks, "num_levels_per_group": levels}
    with quiet(), seeded(0):
        AudioCodecModel(cfg=OmegaConf.create(config)).eval().save_to(str(codec))
    with pytest.raises(CheckpointError) as refused:
        load(inspect(checkpoint, codec))
    assert str(refused.value).startswith(
        f"{codec} is not the codec of {checkpoint}: it has {codebooks} codebooks of {size}, "
    )


def test_a_dictionary_that_is_missing_is_named(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    path = repacked(checkpoint, tmp_path / "m.nemo", dictionary=lambda _: None)
    with pytest.raises(CheckpointError, match="names files that are not there") as refused:
        load(inspect(path, tiny_codec))
    assert "(text_tokenizers.english_phoneme.g2p.phoneme_dict: nemo:" in str(refused.value)
    assert "; " not in str(refused.value)  # and no other


def test_a_dictionary_of_the_machine_it_was_trained_on_is_missing_too(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    def outside(config: Any) -> None:
        config["text_tokenizers"]["english_phoneme"]["g2p"]["phoneme_dict"] = "/gone/words.dict"

    path = repacked(checkpoint, tmp_path / "m.nemo", config=config_with(outside))
    with pytest.raises(CheckpointError, match=r"english_phoneme\.g2p\.phoneme_dict: /gone/words"):
        load(inspect(path, tiny_codec))


def test_a_checkpoint_that_names_no_voices_says_where_to_write_them(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    path = repacked(checkpoint, tmp_path / "m.nemo", speakers=lambda _: b"{}")
    with pytest.raises(CheckpointError, match="does not name its voices") as refused:
        inspect(path, tiny_codec)
    assert str(speakers_file(path)) in str(refused.value)


@pytest.mark.parametrize("named", [3, 6])
def test_as_many_voices_are_named_as_are_baked(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path, named: int
) -> None:
    path = tmp_path / "m.nemo"
    path.symlink_to(checkpoint)
    speakers_file(path).write_text(json.dumps({f"v{row}": row for row in range(named)}))
    with pytest.raises(CheckpointError, match=rf"has 5 baked voices and names {named} \(v0, v1, "):
        load(inspect(path, tiny_codec))


def test_a_checkpoint_without_baked_voices_is_refused(
    tiny_codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiny_magpie._bake", lambda *_: None)
    path = build_magpie(tmp_path / "m.nemo", tiny_codec, languages=("en",))
    with pytest.raises(CheckpointError, match="has no baked voices"):
        load(inspect(path, tiny_codec))


def test_a_tokeniser_on_a_hub_is_refused_by_its_name(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    def elsewhere(config: Any) -> None:
        config["text_tokenizers"]["french_chartokenizer"]["pretrained_model"] = "google/mt5-small"

    path = repacked(checkpoint, tmp_path / "m.nemo", config=config_with(elsewhere))
    with pytest.raises(CheckpointError, match=r"'french_chartokenizer'.*'google/mt5-small' on a"):
        load(inspect(path, tiny_codec))


def test_a_tokeniser_that_nemo_does_not_have_is_refused(
    checkpoint: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    def unknown(config: Any) -> None:
        tokenizer = config["text_tokenizers"]["english_phoneme"]
        tokenizer["_target_"] = tokenizer["_target_"].replace("IPA", "Klingon")

    path = repacked(checkpoint, tmp_path / "m.nemo", config=config_with(unknown))
    with pytest.raises(CheckpointError, match=r"cannot be restored: .*Klingon"):
        load(inspect(path, tiny_codec))
