"""What a checkpoint says of itself: both public shapes, and every other kind by its name.

The archives here are handmade: a configuration, and a few bytes in place of weights.
"""

from __future__ import annotations

import copy
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.engines.archive import CONFIG, WEIGHTS
from runtime.engines.magpie.geometry import (
    TOKENIZERS,
    CodecGeometry,
    read_codec,
    read_geometry,
    speakers_file,
)
from runtime.errors import CheckpointError

SPEAKERS = {"John": 0, "Sofia": 1, "Aria": 2, "Jason": 3, "Leo": 4}
DECEMBER: dict[str, Any] = {
    "target": "nemo.collections.tts.models.magpietts.MagpieTTSModel",
    "nemo_version": "2.6.0rc0",
    "model_type": "decoder_ce",
    "local_transformer_type": "autoregressive",
    "embedding_dim": 768,
    "local_transformer_n_layers": 1,
    "local_transformer_n_heads": 1,
    "local_transformer_hidden_dim": 256,
    "encoder": {"n_layers": 6, "d_model": 768},
    "decoder": {"n_layers": 12, "d_model": 768, "sa_n_heads": 12},
    "text_tokenizers": {"english_phoneme": {}, "spanish_phoneme": {}, "text_ce_tokenizer": {}},
    "speaker_map": "nemo:0123_speakers.json",
}
SUMMER: dict[str, Any] = {
    **DECEMBER,
    "nemo_version": "2.8.0rc0",
    "frame_stacking_factor": 2,
    "local_transformer_n_layers": 2,
    "local_transformer_n_heads": 12,
    "local_transformer_hidden_dim": 768,
    "inference_parameters": {"max_decoder_steps": 600},
    "use_moe": False,
}
CODEC: dict[str, Any] = {
    "target": "nemo.collections.tts.models.audio_codec.AudioCodecModel",
    "sample_rate": 22050,
    "samples_per_frame": 1024,
    "vector_quantizer": {"num_groups": 8, "num_levels_per_group": [8, 7, 6, 6]},
}
FILES = {WEIGHTS: b"w" * 1500, "0123_speakers.json": json.dumps(SPEAKERS).encode()}

Save = Callable[..., Path]


def packed(members: list[tuple[str, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def written(config: object) -> bytes:
    return config if isinstance(config, bytes) else yaml.safe_dump(config, sort_keys=False).encode()


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a ``.nemo`` of a configuration, or of its bytes, and files."""

    def save(config: object, files: Mapping[str, bytes] = FILES, **fields: Any) -> Path:
        if isinstance(config, dict):
            config = {**config, **fields}
        path = tmp_path / "magpie.nemo"
        path.write_bytes(packed([(CONFIG, written(config)), *files.items()]))
        return path

    return save


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    copied = copy.deepcopy(config)
    inner = copied
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return copied


# --- the two that are public ---


def test_the_release_of_december_2025_is_known_by_its_shape(save: Save) -> None:
    geometry = read_geometry(save(DECEMBER))
    assert geometry.release == "2025-12"
    assert geometry.describe() == (
        "2025-12 (stacking 1, encoder 6 and decoder 12 layers of 768, local transformer 1 of 256)"
    )
    assert (geometry.stacking, geometry.heads, geometry.local_heads) == (1, 12, 1)
    assert geometry.max_frames == 500  # which it does not say
    assert geometry.nemo_version == "2.6.0rc0"


def test_the_release_of_2026_is_known_by_its_shape(save: Save) -> None:
    geometry = read_geometry(save(SUMMER))
    assert geometry.release == "2026"
    assert geometry.describe() == (
        "2026 (stacking 2, encoder 6 and decoder 12 layers of 768, local transformer 2 of 768)"
    )
    assert (geometry.stacking, geometry.heads, geometry.local_heads) == (2, 12, 12)
    assert geometry.max_frames == 600


@pytest.mark.parametrize(
    "other",
    [
        {"embedding_dim": 512},
        {"encoder": {"n_layers": 5}},
        {"decoder": {"n_layers": 11, "sa_n_heads": 12}},
        {"decoder": {"n_layers": 12, "sa_n_heads": 6}},
        {"frame_stacking_factor": 1},
        {"local_transformer_n_layers": 3},
        {"local_transformer_hidden_dim": 256},
        {"local_transformer_n_heads": 1},
    ],
    ids=str,
)
def test_another_shape_of_the_kind_is_described_by_its_numbers(
    save: Save, other: dict[str, Any]
) -> None:
    geometry = read_geometry(save(SUMMER, **other))
    assert geometry.release is None
    assert geometry.describe().startswith("stacking ")


def test_the_codec_is_described_by_its_configuration(save: Save) -> None:
    codec = read_codec(save(CODEC))
    assert codec == CodecGeometry(22050, 1024, 8, 2016)
    assert codec.frame_rate == pytest.approx(21.5332, abs=1e-4)
    resampling = read_codec(save(CODEC, sample_rate=16000, output_sample_rate=24000))
    assert resampling.sample_rate == 24000


# --- what cannot be run ---


@pytest.mark.parametrize(
    ("what", "found", "wanted"),
    [
        ("model_type", "decoder_context_tts", "decoder_ce"),
        ("model_type", None, "decoder_ce"),
        ("local_transformer_type", "maskgit", "autoregressive"),
        ("local_transformer_type", "none", "autoregressive"),
        ("use_bpe_char_tokenizer", True, False),
        ("legacy_text_conditioning", True, False),
        ("use_moe", True, False),
    ],
)
def test_another_kind_of_magpie_is_refused_with_what_it_is_and_should_be(
    save: Save, what: str, found: object, wanted: object
) -> None:
    path = save(SUMMER, **{what: found})
    with pytest.raises(CheckpointError) as refused:
        read_geometry(path)
    assert str(refused.value) == (
        f"{path} is a Magpie of a kind that cannot be run here: {what} is {found!r}; "
        f"this release runs {wanted!r}."
    )


@pytest.mark.parametrize("stacking", [0, 3, 4])
def test_another_frame_stacking_is_refused(save: Save, stacking: int) -> None:
    with pytest.raises(CheckpointError, match=f"a step yields {stacking} frames .* 1 and 2 are"):
        read_geometry(save(SUMMER, frame_stacking_factor=stacking))


def test_what_is_no_magpie_is_refused_with_what_it_is(save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"is no Magpie: it is a .*\.AudioCodecModel"):
        read_geometry(save(CODEC))
    with pytest.raises(CheckpointError, match="is no Magpie: it is a model without a name"):
        read_geometry(save(without(SUMMER, "target")))


def test_what_is_no_codec_is_refused_with_what_it_is(save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"is no codec: it is a .*\.MagpieTTSModel"):
        read_codec(save(SUMMER))
    with pytest.raises(CheckpointError, match="is no codec: it is a model without a name"):
        read_codec(save(without(CODEC, "target")))


@pytest.mark.parametrize(
    "broken",
    [
        without(SUMMER, "embedding_dim"),
        without(SUMMER, "encoder"),
        without(SUMMER, "decoder", "sa_n_heads"),
        SUMMER | {"embedding_dim": "wide"},
        SUMMER | {"encoder": None},
        SUMMER | {"decoder": [12]},
        SUMMER | {"inference_parameters": "fast"},
        SUMMER | {"language_to_tokenizer_mapping": ["en"]},
        SUMMER | {"language_to_tokenizer_mapping": {"en": None}},
    ],
    ids=range(9),
)
def test_a_magpie_without_what_describes_it_is_refused(save: Save, broken: dict[str, Any]) -> None:
    path = save(broken)
    with pytest.raises(CheckpointError, match="lacks what describes a Magpie") as refused:
        read_geometry(path)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "broken",
    [
        without(CODEC, "samples_per_frame"),
        without(CODEC, "vector_quantizer"),
        without(CODEC, "vector_quantizer", "num_groups"),
        CODEC | {"vector_quantizer": None},
        CODEC | {"sample_rate": "fast"},
    ],
    ids=range(5),
)
def test_a_codec_without_what_describes_it_is_refused(save: Save, broken: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="lacks what describes a codec"):
        read_codec(save(broken))


# --- tokenisers ---


def tokenizers(save: Save, names: list[str], **fields: Any) -> dict[str, str]:
    config = SUMMER | {"text_tokenizers": {name: {} for name in names}} | fields
    return dict(read_geometry(save(config)).tokenizers)


def test_languages_are_in_the_order_of_the_checkpoints_tokenisers(save: Save) -> None:
    names = ["japanese_phoneme", "text_ce_tokenizer", "english_phoneme", "french_chartokenizer"]
    found = tokenizers(save, names)
    assert list(found.items()) == [
        ("ja", "japanese_phoneme"),
        ("en", "english_phoneme"),
        ("fr", "french_chartokenizer"),
    ]


def test_the_names_of_2026_that_nemo_does_not_map_are_known(save: Save) -> None:
    names = [
        "english_phoneme",
        "italian_chartokenizer",
        "vietnamese_chartokenizer",
        "hindi_phoneme",
    ]
    assert tokenizers(save, names) == {
        "en": "english_phoneme",
        "it": "italian_chartokenizer",
        "vi": "vietnamese_chartokenizer",
        "hi": "hindi_phoneme",
    }


def test_of_several_tokenisers_of_a_language_the_best_is_taken(save: Save) -> None:
    names = ["hindi_phoneme", "hindi_chartokenizer", "english", "english_phoneme"]
    assert tokenizers(save, names) == {"hi": "hindi_chartokenizer", "en": "english_phoneme"}


def test_the_checkpoints_own_map_of_languages_goes_first(save: Save) -> None:
    found = tokenizers(
        save,
        ["portuguese_br", "portuguese_pt", "hindi_chartokenizer", "hindi_phoneme", "english"],
        language_to_tokenizer_mapping={
            "hi": ["hindi_ipa", "hindi_phoneme"],
            "pt-BR": "portuguese_br",
            "pt-PT": ["portuguese_pt"],
            "ko": ["korean_phoneme"],
        },
    )
    assert found == {"pt": "portuguese_br", "hi": "hindi_phoneme", "en": "english"}


def test_one_tokeniser_as_it_was_named_before_is_english(save: Save) -> None:
    config = without(DECEMBER, "text_tokenizers") | {"text_tokenizer": {"_target_": "IPA"}}
    assert read_geometry(save(config)).languages == ("en",)


@pytest.mark.parametrize("names", [[], ["text_ce_tokenizer"]])
def test_a_checkpoint_of_no_known_language_is_refused(save: Save, names: list[str]) -> None:
    with pytest.raises(CheckpointError, match="none of its tokenisers is of a language"):
        tokenizers(save, names)


def test_known_names_are_nemos_and_those_that_it_lacks() -> None:
    pytest.importorskip("nemo", reason="needs the extra `nemo`")
    from nemo.collections.tts.parts.utils.tts_dataset_utils import LANGUAGE_TOKENIZER_MAP

    assert TOKENIZERS.keys() == LANGUAGE_TOKENIZER_MAP.keys()
    more = {}
    for language, names in LANGUAGE_TOKENIZER_MAP.items():
        assert TOKENIZERS[language][: len(names)] == tuple(names)
        more[language] = TOKENIZERS[language][len(names) :]
    assert {language: names for language, names in more.items() if names} == {
        "it": ("italian_chartokenizer",),
        "vi": ("vietnamese_chartokenizer",),
        "hi": ("hindi_phoneme",),
    }


# --- speakers ---


def test_speakers_are_in_the_order_of_their_rows(save: Save) -> None:
    assert read_geometry(save(SUMMER)).speakers == ("John", "Sofia", "Aria", "Jason", "Leo")
    inline = save(SUMMER, speaker_map={"Leo": 1, "Aria": 0})
    assert read_geometry(inline).speakers == ("Aria", "Leo")


def test_speakers_beside_the_checkpoint_go_first(save: Save) -> None:
    path = save(SUMMER)
    speakers_file(path).write_text('{"Zoe": 1, "Yan": 0}')
    assert speakers_file(path).name == "magpie.nemo.speakers.json"
    assert read_geometry(path).speakers == ("Yan", "Zoe")


@pytest.mark.parametrize("fields", [{"speaker_map": None}, {"speaker_map": {}}])
def test_a_checkpoint_may_name_no_speakers(save: Save, fields: dict[str, Any]) -> None:
    assert read_geometry(save(SUMMER, **fields)).speakers == ()


def test_a_speaker_map_that_is_not_in_the_archive_is_missed_by_name(save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"there is no 0123_speakers\.json in it"):
        read_geometry(save(SUMMER, {WEIGHTS: b"w"}))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"Aria": 0, "Leo": 2}', r"names the rows \[0, 2\]"),
        ('{"Aria": 1, "Leo": 2}', r"names the rows \[1, 2\]"),
        ('{"Aria": 0, "Leo": 0}', r"names the rows \[0\]"),
        ('{"Aria": -1, "Leo": 0}', r"names the rows \[-1, 0\]"),
        ('{"Aria": 0', "maps no names to rows"),
        ('{"Aria": "first"}', "maps no names to rows"),
        ('["Aria", "Leo"]', "maps no names to rows"),
        ("5", "maps no names to rows"),
        ('{"Aria": Infinity}', "maps no names to rows"),
    ],
)
@pytest.mark.parametrize("where", ["beside", "within"])
def test_a_wrong_map_of_speakers_is_refused_with_where_it_is(
    save: Save, content: str, why: str, where: str
) -> None:
    if where == "beside":
        path = save(SUMMER)
        speakers_file(path).write_text(content)
        named = str(speakers_file(path))
    else:
        path = save(SUMMER, FILES | {"0123_speakers.json": content.encode()})
        named = f"{path}: its speaker_map"
    with pytest.raises(CheckpointError, match=why) as refused:
        read_geometry(path)
    assert str(refused.value).startswith(f"{named} ")
