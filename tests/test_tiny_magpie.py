"""The tiny checkpoints are what NeMo takes for Magpie, and nothing of them is fetched."""

from __future__ import annotations

import json
import shutil
import tarfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from random_models import configuration
from tiny_magpie import SPEAKERS, build_codec, build_magpie, quiet, restore
from tiny_tongues import LANGUAGES, SENTENCES, TOKENIZERS

from runtime.config import find_config

pytestmark = pytest.mark.skipif(find_spec("nemo") is None, reason="needs the extra `nemo`")

STACKINGS = (1, 2)


def test_random_models_come_with_the_shipped_configuration_for_them(tmp_path: Path) -> None:
    document, shipped = configuration(tmp_path), yaml.safe_load(find_config("h100").read_text())
    args, (wanted,) = document["applications"][0]["args"], shipped["applications"]
    names = {
        Path(engine["options"].pop(what)).name
        for engine in (args["tts"], *args["asr"].values())
        for what in ("weights", "codec")
        if what in engine["options"]
    }
    assert names == {"magpie.nemo", "codec.nemo", "parakeet.nemo", "streaming.nemo"}
    added = {"max_utterance_s": 8, "normalizer": "rules"}
    assert {what: args["tts"]["options"].pop(what) for what in added} == added
    assert args == wanted["args"]


@pytest.fixture(scope="module")
def moved(
    tiny_magpie: Callable[..., Path],
    tiny_codec: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[int], Any]:
    """A checkpoint that NeMo restores from copies elsewhere, which are then deleted."""
    models: dict[int, Any] = {}

    def model(stacking: int) -> Any:
        if stacking not in models:
            elsewhere = tmp_path_factory.mktemp("elsewhere")
            archive = tiny_magpie(stacking=stacking, max_decoder_steps=8, eos_bias=-100.0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
                models[stacking] = restore(
                    Path(shutil.copy(archive, elsewhere / "m.nemo")),
                    Path(shutil.copy(tiny_codec, elsewhere / "c.nemo")),
                )
            shutil.rmtree(elsewhere)
        return models[stacking]

    return model


@pytest.fixture(params=STACKINGS)
def stacking(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def model(moved: Callable[[int], Any], stacking: int) -> Any:
    return moved(stacking)


def member(archive: Path, ending: str) -> bytes:
    with tarfile.open(archive) as packed:
        name = next(name for name in packed.getnames() if name.endswith(ending))
        found = packed.extractfile(name)
        assert found
        return found.read()


def test_it_has_the_generation_s_shape(model: Any, stacking: int) -> None:
    assert model.frame_stacking_factor == stacking
    assert len(model.audio_embeddings) == 8 * stacking
    assert model.local_transformer.n_layers == stacking
    assert model.has_baked_context_embedding
    assert model.num_baked_speakers == 5
    assert model.output_sample_rate == 22050
    assert model.codec_model_samples_per_frame == 1024


def test_speakers_are_in_the_archive_by_name(tiny_magpie: Any, model: Any, stacking: int) -> None:
    archive = tiny_magpie(stacking=stacking, max_decoder_steps=8, eos_bias=-100.0)
    assert json.loads(member(archive, "_speakers.json")) == SPEAKERS[stacking]
    assert model.cfg.speaker_map.startswith("nemo:")


def test_every_language_has_tokens_of_its_own(model: Any, stacking: int) -> None:
    seen: set[int] = set()
    for language in LANGUAGES:
        name = TOKENIZERS[stacking][language]
        if (g2p := getattr(model.tokenizer.tokenizers[name], "g2p", None)) is not None:
            g2p.phoneme_probability = 1.0
        ids = set(model.tokenizer.encode(SENTENCES[language], name))
        assert len(ids) > 5
        assert not ids & seen
        seen |= ids


def test_nemo_takes_languages_it_does_not_know_for_english(moved: Callable[[int], Any]) -> None:
    from nemo.collections.tts.parts.utils.tts_dataset_utils import get_tokenizer_for_language

    def strange(stacking: int) -> set[str]:
        names = moved(stacking).tokenizer.tokenizer_names
        chosen = {language: get_tokenizer_for_language(language, names) for language in LANGUAGES}
        return {language for language in LANGUAGES if chosen[language] == "english_phoneme"} - {
            "en"
        }

    assert strange(1) == set()
    assert strange(2) == {"hi", "it", "vi"}
    mapping = moved(2).cfg.language_to_tokenizer_mapping
    assert {language: mapping[language][0] for language in LANGUAGES} == {
        language: name for language, name in TOKENIZERS[2].items() if language
    }


@pytest.mark.parametrize("language", ["en", "es", "de"])
def test_the_dictionaries_know_the_sentences(model: Any, stacking: int, language: str) -> None:
    tokenizer = model.tokenizer.tokenizers[TOKENIZERS[stacking][language]]
    tokenizer.g2p.phoneme_probability = 1.0
    symbols = tokenizer.g2p(SENTENCES[language])
    assert not [symbol for symbol in symbols if symbol.isupper() or symbol.startswith("#")]


@pytest.mark.parametrize("language", ["en", "fr", "zh", "ja"])
def test_it_speaks(model: Any, stacking: int, language: str) -> None:
    with quiet():
        audio, lengths = model.do_tts(SENTENCES[language], language, speaker_index=4)
    assert audio.shape == (1, 8 * 1024)
    assert lengths.tolist() == [8 * 1024]
    assert 0 < audio.abs().max() <= 1


def test_the_best_code_stands_out(model: Any) -> None:
    import torch

    tokens = [*model.tokenizer.encode(SENTENCES["en"], "english_phoneme"), model.eos_id]
    batch = {
        "text": torch.tensor([tokens] * 2),
        "text_lens": torch.tensor([len(tokens)] * 2),
        "speaker_indices": [0, 1],
    }
    with quiet(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.inference_parameters, "temperature", 0.0)
        codes = model.generate_speech(
            batch,
            model.create_chunk_state(2),
            end_of_text=[True, True],
            beginning_of_text=True,
            use_local_transformer_for_inference=True,
        ).predicted_codes
    assert codes.shape == (2, 8, 8)
    assert codes.unique().numel() > 30
    assert not torch.equal(codes[0], codes[1])


def test_a_seed_always_gives_the_same_weights(tiny_codec: Path, tmp_path: Path) -> None:
    import torch

    def weights(seed: int) -> bytes:
        archive = build_magpie(tmp_path / f"{seed}.nemo", tiny_codec, languages=("en",), seed=seed)
        return member(archive, "model_weights.ckpt")

    before = torch.get_rng_state()
    assert weights(3) == weights(3)
    assert weights(3) != weights(4)
    assert torch.equal(torch.get_rng_state(), before)


def test_building_and_restoring_are_quick(tiny_codec: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    archive = build_magpie(tmp_path / "magpie.nemo", tiny_codec)
    built = time.monotonic()
    restore(archive, tiny_codec)
    assert built - began < 60
    assert time.monotonic() - built < 60


def test_an_unknown_option_is_refused(tiny_codec: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="temprature"):
        build_magpie(tmp_path / "magpie.nemo", tiny_codec, temprature=1.0)


def test_the_public_codec_would_be_restored_with_wavlm(tmp_path: Path) -> None:
    from nemo.collections.tts.models import AudioCodecModel

    codec = build_codec(tmp_path / "codec.nemo", discriminator=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(Exception, match="SLMDiscriminator"):
            AudioCodecModel.restore_from(str(codec), map_location="cpu")
