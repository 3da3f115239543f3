"""Pulling models, against a hub on 127.0.0.1 and without one."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_hub import FakeHub, sha256
from pulling import CONTENT, FILE, NAME, REPO, catalogued, isolate, parakeets_hub, run
from tiny_models import COMMIT, OTHER, pinned

from runtime.errors import CheckpointError, HubError, InvalidRequest
from runtime.models import transfer
from runtime.models.catalogue import FileHash, Model, Pin
from runtime.models.hub import Hub, Token
from runtime.models.lock import read_lock, sole_writer, write_lock
from runtime.models.pull import Order, pull
from runtime.models.store import path_of, place
from runtime.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(models_dir=tmp_path / "models")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(monkeypatch, tmp_path)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with parakeets_hub() as running:
        yield running


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Parakeet in the catalogue, a little smaller."""
    return catalogued(monkeypatch, pinned(NAME, CONTENT))


def files_of(settings: Settings) -> set[str]:
    """What lies in the folder of models, without the lock's files."""
    found = {path.name for path in settings.models_dir.rglob("*") if path.is_file()}
    return found - {"models.lock", ".pulling"}


# --- what is pulled ----------------------------------------------------------


def test_a_pulled_model_is_where_engines_look_for_it(hub, model, settings) -> None:
    with pytest.raises(CheckpointError, match=f"speech models pull {NAME}"):
        path_of(NAME, settings)
    pulled = run(model, settings, hub)
    assert pulled.source == "hub"
    assert pulled.path == path_of(NAME, settings) == path_of("parakeet", settings)
    assert pulled.path.read_bytes() == CONTENT
    assert files_of(settings) == {FILE}
    entry = read_lock(settings.models_lock)[NAME]
    assert (entry.pin, entry.licence) == (model.pin, "cc-by-4.0")


def test_what_is_here_is_not_asked_for_again(hub, model, settings) -> None:
    run(model, settings, hub)
    before = settings.models_lock.read_bytes()
    assert run(model, settings, None).source == "here"
    assert settings.models_lock.read_bytes() == before


def test_a_damaged_file_is_replaced(hub, model, settings) -> None:
    path = run(model, settings, hub).path
    path.write_bytes(b"x" + CONTENT[1:])
    assert run(model, settings, hub).source == "hub"
    assert path.read_bytes() == CONTENT
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match="299,999 bytes, not 300,000"):
        path_of(NAME, settings)


def test_a_model_without_a_pin_is_held_to_what_its_first_pull_found(
    hub, model, settings, monkeypatch
) -> None:
    unresolved = catalogued(monkeypatch, replace(model, pin=None))
    with pytest.raises(CheckpointError, match=f"speech models pull {NAME}"):
        path_of(NAME, settings)
    assert run(unresolved, settings, hub).pin.commit == COMMIT
    hub.publish(REPO, OTHER, {FILE: b"newer"})
    path_of(NAME, settings).unlink()
    assert run(unresolved, settings, hub).pin.commit == COMMIT
    assert path_of(NAME, settings).read_bytes() == CONTENT


def test_another_revision_can_be_chosen_and_stays(hub, model, settings) -> None:
    hub.publish(REPO, OTHER, {FILE: b"newer"}, "next")
    first = run(model, settings, hub).path
    assert run(model, settings, hub, revision="next").pin.commit == OTHER
    assert path_of(NAME, settings).read_bytes() == b"newer"
    assert run(model, settings, None).pin.commit == OTHER
    assert first.read_bytes() == CONTENT, "an engine may have it open"
    assert run(model, settings, None, revision=COMMIT).pin.commit == COMMIT


# --- transfers that break ----------------------------------------------------


def test_a_transfer_that_breaks_goes_on_where_it_was(hub, model, settings) -> None:
    hub.faults = [100_000, ("status", 503), 50_000]
    run(model, settings, hub)
    starts = [request.bytes_from for request in hub.downloads]
    assert starts == [None, 100_000, 100_000, 150_000]
    assert path_of(NAME, settings).read_bytes() == CONTENT


def test_a_line_that_breaks_often_but_brings_something_gets_there(hub, model, settings) -> None:
    hub.faults = [20_000] * (2 * transfer.TRIES)
    run(model, settings, hub)
    assert path_of(NAME, settings).read_bytes() == CONTENT


def test_what_arrived_before_giving_up_is_kept_for_the_next_pull(hub, model, settings) -> None:
    hub.faults = [200_000, *[("status", 503)] * transfer.TRIES]
    with pytest.raises(HubError, match=r"after 200,000 of 300,000 bytes.*goes on from there"):
        run(model, settings, hub)
    with pytest.raises(CheckpointError):
        path_of(NAME, settings)
    assert files_of(settings) == {f".{FILE}.{sha256(CONTENT)[:16]}.part"}
    run(model, settings, hub)
    assert hub.downloads[-1].bytes_from == 200_000
    assert files_of(settings) == {FILE}


def test_a_hub_that_cannot_resume_is_read_from_the_start(hub, model, settings) -> None:
    hub.faults = [100_000, "no-ranges"]
    run(model, settings, hub)
    assert path_of(NAME, settings).read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_begun_anew(hub, model, settings) -> None:
    folder = place(settings, model, COMMIT)
    folder.mkdir(parents=True)
    (folder / f".{FILE}.{sha256(CONTENT)[:16]}.part").write_bytes(CONTENT + b"more")
    run(model, settings, hub)
    assert path_of(NAME, settings).read_bytes() == CONTENT


def test_content_that_is_not_the_pinned_is_not_kept(hub, model, settings) -> None:
    other = bytes(300_000)
    hub.repositories[REPO].commits[COMMIT][FILE] = other
    hub.repositories[REPO].listed[FILE] = sha256(CONTENT)
    with pytest.raises(CheckpointError) as caught:
        run(model, settings, hub)
    assert f"expected 300,000 bytes with sha256 {sha256(CONTENT)}" in str(caught.value)
    assert f"found 300,000 with {sha256(other)}" in str(caught.value)
    assert files_of(settings) == set()
    assert read_lock(settings.models_lock) == {}


def test_a_hub_that_lists_another_hash_than_the_pin_is_not_downloaded_from(
    hub, model, settings
) -> None:
    hub.repositories[REPO].listed[FILE] = "0" * 64
    with pytest.raises(CheckpointError, match="not to be trusted"):
        run(model, settings, hub)
    assert hub.downloads == []


# --- disks -------------------------------------------------------------------


def test_a_disk_that_fills_up_is_given_its_room_back(hub, model, settings) -> None:
    folder = place(settings, model, COMMIT)
    folder.mkdir(parents=True)
    part = folder / f".{FILE}.{sha256(CONTENT)[:16]}.part"
    part.symlink_to("/dev/full")  # answers each write as a full disk does
    with pytest.raises(CheckpointError, match=r"disk of .* is full.*SPEECH_MODELS_DIR"):
        run(model, settings, hub)
    assert not part.is_symlink()
    assert files_of(settings) == set()
    run(model, settings, hub)


def test_a_file_that_cannot_fit_is_refused_before_it_is_fetched(
    hub, model, settings, monkeypatch
) -> None:
    huge = replace(model, pin=Pin(COMMIT, {FILE: FileHash(sha256(CONTENT), 1 << 60)}))
    source = settings.models_dir.parent / FILE
    source.write_bytes(CONTENT)
    with pytest.raises(CheckpointError, match=r"has no room: 1073741824.00 GiB are needed"):
        run(catalogued(monkeypatch, huge), settings, None, folder=source.parent)
    assert files_of(settings) == set()


def test_a_folder_that_cannot_be_made_is_named(model, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(models_dir=tmp_path / "file" / "models")
    with pytest.raises(CheckpointError, match=r"file/models.* cannot be read or written"):
        run(model, settings, None)


def test_a_lock_that_cannot_be_written_leaves_the_old_one(settings, monkeypatch) -> None:
    settings.models_dir.mkdir()
    write_lock(settings.models_lock, {})
    before = settings.models_lock.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_lock(settings.models_lock, dict(read_lock(settings.models_lock)))
    assert settings.models_lock.read_bytes() == before
    assert os.listdir(settings.models_dir) == ["models.lock"]


def test_a_second_pull_waits_for_the_first(hub, model, settings) -> None:
    waiting, done = threading.Event(), threading.Event()

    def second() -> None:
        make: Callable[[], Hub] = lambda: Hub(Token(), endpoint=hub.url)  # noqa: E731
        list(pull([Order(model)], settings, make, lambda *_: None, waiting.set))
        done.set()

    thread = threading.Thread(target=second)
    with sole_writer(settings.models_dir, lambda: None):
        thread.start()
        assert waiting.wait(10)
        assert not done.wait(0.2)
        assert hub.requests == []
    thread.join(10)
    assert done.is_set()


# --- without a network -------------------------------------------------------


def test_a_folder_is_copied_and_checked(model, settings, tmp_path) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    (folder / FILE).write_bytes(CONTENT)
    pulled = run(model, settings, None, folder=folder)
    assert pulled.source == "folder"
    assert pulled.path.stat().st_ino != (folder / FILE).stat().st_ino
    pulled.path.unlink()
    (folder / FILE).write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(CheckpointError, match="is not what it should be"):
        run(model, settings, None, folder=folder)
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match=f"usb has no {FILE}"):
        run(model, settings, None, folder=folder)


def test_a_single_file_is_taken_by_its_name(model, settings, tmp_path) -> None:
    (tmp_path / FILE).write_bytes(CONTENT)
    assert run(model, settings, None, folder=tmp_path / FILE).source == "folder"
    (tmp_path / "other.nemo").write_bytes(CONTENT)
    path_of(NAME, settings).unlink()
    with pytest.raises(CheckpointError, match=f"other.nemo has no {FILE}"):
        run(model, settings, None, folder=tmp_path / "other.nemo")


def test_the_models_of_another_machine_are_a_folder_too(hub, model, settings, tmp_path) -> None:
    run(model, settings, hub)
    here = Settings(models_dir=tmp_path / "elsewhere")
    assert run(model, here, None, folder=settings.models_dir).source == "folder"


def test_a_folder_does_not_tell_a_revision_that_nobody_pinned(
    model, settings, tmp_path, monkeypatch
) -> None:
    unresolved = catalogued(monkeypatch, replace(model, pin=None))
    (tmp_path / FILE).write_bytes(b"of some revision")
    for revision in (None, "main", COMMIT[:12]):
        with pytest.raises(InvalidRequest, match="all 40 digits"):
            run(unresolved, settings, None, folder=tmp_path, revision=revision)
    pulled = run(unresolved, settings, None, folder=tmp_path, revision=OTHER)
    assert pulled.pin == Pin(OTHER, {FILE: FileHash(sha256(b"of some revision"), 16)})


@pytest.mark.parametrize("place_in_cache", [f"snapshots/{COMMIT}/{FILE}", "blobs/SHA"])
def test_what_hugging_faces_cache_has_takes_no_network_and_no_second_copy(
    own_cache, model, settings, place_in_cache
) -> None:
    blob = own_cache / f"models--nvidia--{NAME}" / place_in_cache.replace("SHA", sha256(CONTENT))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    pulled = run(model, settings, None)
    assert pulled.source == "cache"
    assert pulled.path.stat().st_ino == blob.stat().st_ino
    assert files_of(settings) == {FILE}


def test_a_cache_with_damaged_content_is_not_used_silently(own_cache, model, settings) -> None:
    blob = own_cache / f"models--nvidia--{NAME}" / "snapshots" / COMMIT / FILE
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is not what it should be"):
        run(model, settings, None)
    assert blob.read_bytes() == b"damaged"
    assert files_of(settings) == set()
