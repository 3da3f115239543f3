"""What is on this machine against its pin: content, licence and shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import COMMIT, codec, magpie, nemo, parakeet, pinned

from runtime.engines.magpie.geometry import read_geometry
from runtime.errors import CheckpointError
from runtime.models.catalogue import CODEC, Model
from runtime.models.lock import Locked, read_lock, write_lock
from runtime.models.store import place
from runtime.models.verify import Mismatch, Verdict, verify
from runtime.settings import Settings

MAGPIE = "magpie_tts_multilingual_357m"
OFFLINE = "parakeet-tdt-0.6b-v3"
STREAMING = "nemotron-speech-streaming-en-0.6b"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "models").mkdir()
    return Settings(models_dir=tmp_path / "models")


def placed(settings: Settings, name: str, content: bytes) -> tuple[Model, Path]:
    """A model whose file is here, as its pin has it."""
    model = pinned(name, content)
    path = place(settings, model, COMMIT) / model.files[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return model, path


def checked(model: Model, settings: Settings) -> Verdict:
    return verify(model, settings, lambda *_: None)


GOOD: dict[str, list[dict[str, Any]]] = {
    MAGPIE: [magpie()],
    f"{MAGPIE}@2025-12": [magpie(stacking=1, local_layers=1, local_d=256)],
    CODEC: [codec()],
    "parakeet-tdt-0.6b-v2": [parakeet()],
    OFFLINE: [parakeet()],
    STREAMING: [parakeet(att_context_size=[[70, 13], [70, 6], [70, 1], [70, 0]])],
}


@pytest.mark.parametrize("name", GOOD)
def test_each_model_passes_as_it_is_published(settings, name) -> None:
    model, _ = placed(settings, name, nemo(*GOOD[name]))
    assert checked(model, settings) == Verdict(model, COMMIT, pulled=True)


def test_one_flipped_bit_is_told_with_both_hashes(settings) -> None:
    model, path = placed(settings, OFFLINE, nemo(parakeet()))
    assert model.pin is not None
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (wrong,) = checked(model, settings).mismatches
    assert wrong.what == f"sha256 of {OFFLINE}.nemo"
    assert wrong.expected == model.pin.files[f"{OFFLINE}.nemo"].sha256 != wrong.found


def test_a_file_cut_short_is_told_with_both_sizes(settings) -> None:
    content = nemo(parakeet(), weights=bytes(5000))
    model, path = placed(settings, OFFLINE, content)
    path.write_bytes(content[:2048])
    wrong = {one.what: one for one in checked(model, settings).mismatches}
    assert wrong[f"size of {OFFLINE}.nemo"].expected == f"{len(content):,}"
    assert wrong[f"size of {OFFLINE}.nemo"].found == "2,048"
    assert "no complete .nemo" in wrong[f"configuration in {OFFLINE}.nemo"].found


@pytest.mark.parametrize(
    ("name", "configs", "what", "expected", "found"),
    [
        (OFFLINE, [parakeet(n_layers=17)], "encoder.n_layers", "24", "17"),
        (OFFLINE, [parakeet(d_model=512)], "encoder.d_model", "1024", "512"),
        (OFFLINE, [parakeet() | {"encoder": {}}], "encoder.feat_in", "128", "None"),
        (OFFLINE, [parakeet() | {"decoder": 1}], "decoder.prednet.pred_hidden", "640", "None"),
        (OFFLINE, [parakeet() | {"target": "a.CTC"}], "target", "EncDecRNNTBPEModel", "CTC"),
        (STREAMING, [parakeet()], "encoder.att_context_size", "70", "-1"),
        (STREAMING, [parakeet(att_context_size=7)], "encoder.att_context_size", "70", "7"),
        (MAGPIE, [magpie(stacking=1)], "stacking", "2", "1"),
        (MAGPIE, [magpie(local_layers=1)], "local transformer layers", "2", "1"),
        (MAGPIE, [magpie(local_d=256)], "local transformer width", "768", "256"),
        (CODEC, [codec(groups=13)], "codebooks", "8", "13"),
    ],
)
def test_a_shape_that_the_engines_do_not_build_on_is_told(
    settings, name, configs, what, expected, found
) -> None:
    model, path = placed(settings, name, nemo(*configs))
    mismatch = Mismatch(f"{what} in {path.name}", expected, found)
    assert mismatch in checked(model, settings).mismatches


@pytest.mark.parametrize("name", [MAGPIE, CODEC])
def test_another_kind_of_model_is_told(settings, name) -> None:
    model, path = placed(settings, name, nemo(parakeet()))
    (wrong,) = checked(model, settings).mismatches
    assert wrong.what == f"configuration in {path.name}"
    assert "EncDecRNNTBPEModel" in wrong.found


def test_of_several_configurations_in_an_archive_the_last_counts(settings) -> None:
    """As in the public Magpie of 2026, which was appended to; NeMo unpacks the last as well."""
    model, path = placed(settings, MAGPIE, nemo(magpie(stacking=1), magpie(local_d=9), magpie()))
    assert read_geometry(path).stacking == 2
    assert checked(model, settings).mismatches == ()


def test_what_is_not_pulled_is_no_mismatch(settings) -> None:
    model = pinned(OFFLINE, b"")
    assert checked(model, settings) == Verdict(model, COMMIT, pulled=False)


def test_the_lock_counts_before_the_pin(settings) -> None:
    model, path = placed(settings, OFFLINE, nemo(parakeet()))
    other = pinned(OFFLINE, b"other", commit=COMMIT)
    assert other.pin is not None
    write_lock(settings.models_lock, {OFFLINE: Locked(model.repo, other.pin)})
    whats = [wrong.what for wrong in checked(model, settings).mismatches]
    assert whats == [f"size of {path.name}", f"sha256 of {path.name}"]


@pytest.mark.parametrize(
    ("name", "licence", "fits"),
    [
        (OFFLINE, "cc-by-4.0", True),
        (OFFLINE, "", True),
        (OFFLINE, "cc-by-nc-4.0", False),
        (STREAMING, "nvidia-open-model-license", True),
        (STREAMING, "NVIDIA Open Model License Agreement", True),
        (STREAMING, "cc-by-4.0", False),
    ],
)
def test_the_licence_that_came_with_a_pull_is_the_one_that_is_published_here(
    settings, name, licence, fits
) -> None:
    model, _ = placed(settings, name, nemo(*GOOD[name]))
    assert model.pin is not None
    write_lock(settings.models_lock, {name: Locked(model.repo, model.pin, licence)})
    expected = () if fits else (Mismatch("licence", model.licence, licence),)
    assert checked(model, settings).mismatches == expected


# --- the lock ----------------------------------------------------------------


def test_the_lock_is_the_same_text_for_the_same_models(settings) -> None:
    entries = {}
    for name in (OFFLINE, MAGPIE):
        model = pinned(name, name.encode())
        assert model.pin is not None
        entries[name] = Locked(model.repo, model.pin, "cc-by-4.0")
    write_lock(settings.models_lock, entries)
    text = settings.models_lock.read_text()
    assert read_lock(settings.models_lock) == entries
    write_lock(settings.models_lock, dict(reversed(entries.items())))
    assert settings.models_lock.read_text() == text
    assert text.index(MAGPIE) < text.index(OFFLINE)
    assert max(map(len, text.splitlines())) < 100


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 2, "models": {}}', '{"version": 1, "models": {"a": {}}}'],
)
def test_a_damaged_lock_is_refused_and_not_overwritten(settings, text) -> None:
    settings.models_lock.write_text(text)
    with pytest.raises(CheckpointError, match=r"models.lock is no lock of models"):
        checked(pinned(OFFLINE, b""), settings)


def test_a_lock_of_another_repository_is_refused(settings) -> None:
    model = pinned(OFFLINE, b"")
    assert model.pin is not None
    write_lock(settings.models_lock, {OFFLINE: Locked("somebody/else", model.pin)})
    with pytest.raises(CheckpointError, match=f"should be {OFFLINE}.nemo of nvidia/{OFFLINE}"):
        checked(model, settings)
