"""A ``.nemo`` is read to its end, and what is damaged is said by its name."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from runtime.engines.archive import CONFIG, WEIGHTS, NemoArchive
from runtime.engines.magpie.geometry import read_geometry
from runtime.errors import CheckpointError

SETTINGS = {"target": "some.Model", "sizes": [1, 2]}
MEMBERS = [
    ("0123_words.dict", b"hello  h\n" * 200),
    (CONFIG, yaml.safe_dump(SETTINGS).encode()),
    (WEIGHTS, bytes(range(256)) * 20),
    ("speakers.json", b"{}"),
]


def packed(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def saved(folder: Path, content: bytes) -> NemoArchive:
    path = folder / "model.nemo"
    path.write_bytes(content)
    return NemoArchive(path)


def blocks(size: int) -> int:
    return 512 * -(-size // 512)


END = sum(512 + blocks(len(content)) for _, content in MEMBERS)
"""Where the members end: two empty blocks follow, and padding to 10,240 bytes."""


def test_a_whole_archive_gives_its_settings_and_files(tmp_path: Path) -> None:
    archive = saved(tmp_path, packed(MEMBERS))
    archive.check_complete()
    assert archive.config() == SETTINGS
    assert archive.read("nemo:0123_words.dict") == archive.read("0123_words.dict") == MEMBERS[0][1]


def test_the_compressed_archives_of_nemo_1_are_read(tmp_path: Path) -> None:
    archive = saved(tmp_path, gzip.compress(packed(MEMBERS)))
    archive.check_complete()
    assert archive.config() == SETTINGS
    assert archive.read("nemo:0123_words.dict") == MEMBERS[0][1]


def test_a_folder_that_one_was_unpacked_into_is_read(tmp_path: Path) -> None:
    for name, content in MEMBERS:
        (tmp_path / name).write_bytes(content)
    archive = NemoArchive(tmp_path)
    archive.check_complete()
    assert archive.config() == SETTINGS
    assert archive.read("nemo:0123_words.dict") == MEMBERS[0][1]
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"there is no {WEIGHTS} in it"):
        archive.check_complete()


def test_of_several_files_of_one_name_the_last_counts(tmp_path: Path) -> None:
    later = yaml.safe_dump(SETTINGS | {"target": "another.Model"}).encode()
    archive = saved(tmp_path, packed([*MEMBERS, (CONFIG, later)]))
    archive.check_complete()
    assert archive.config()["target"] == "another.Model"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("cut", [*range(1, END + 1, 509), *range(512, END + 1, 512), END])
def test_an_archive_cut_off_anywhere_is_no_complete_one(
    tmp_path: Path, cut: int, compressed: bool
) -> None:
    content = packed(MEMBERS)
    if compressed:
        content = gzip.compress(content)
        cut = cut * (len(content) - 1) // END
    archive = saved(tmp_path, content[:cut])
    with pytest.raises(CheckpointError, match=r"no complete \.nemo .*: fetch it again"):
        archive.check_complete()


def test_only_padding_may_be_missing(tmp_path: Path) -> None:
    content = packed(MEMBERS)
    assert not any(content[END:])
    saved(tmp_path, content[: END + 512]).check_complete()


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    content = bytearray(packed(MEMBERS))
    last = END - 512 - blocks(len(MEMBERS[-1][1]))
    content[last + 148] ^= 0xFF  # of its checksum
    with pytest.raises(CheckpointError, match=r"no complete \.nemo"):
        saved(tmp_path, bytes(content)).check_complete()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"PK\x03\x04" + b"z" * 2000, b"x", b"x" * 4096, b"\x1f\x8b", b"\x1f\x8bxyz"],
    ids=["empty", "nul", "zip", "short", "text", "gzip's first bytes", "gzip of nothing"],
)
def test_what_is_no_archive_is_no_complete_one(tmp_path: Path, content: bytes) -> None:
    archive = saved(tmp_path, content)
    for look in (archive.check_complete, archive.config, lambda: read_geometry(archive.path)):
        with pytest.raises(CheckpointError, match=r"no complete \.nemo") as refused:
            look()
        assert str(archive.path) in str(refused.value)


def test_an_empty_archive_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"there is no {WEIGHTS} in it"):
        saved(tmp_path, packed([])).check_complete()


@pytest.mark.parametrize("look", ["check_complete", "config"])
def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path, look: str) -> None:
    path = tmp_path / "gone.nemo"
    with pytest.raises(CheckpointError, match=r"gone\.nemo cannot be read: No such file"):
        getattr(NemoArchive(path), look)()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("look", ["check_complete", "config"])
def test_a_file_that_may_not_be_read_is_said_to_be_so(tmp_path: Path, look: str) -> None:
    archive = saved(tmp_path, packed(MEMBERS))
    archive.path.chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        getattr(archive, look)()


def test_an_archive_without_settings_is_refused(tmp_path: Path) -> None:
    archive = saved(tmp_path, packed([member for member in MEMBERS if member[0] != CONFIG]))
    archive.check_complete()
    with pytest.raises(CheckpointError, match=f"there is no {CONFIG} in it"):
        archive.config()
    with pytest.raises(CheckpointError, match=f"there is no {CONFIG} in it"):
        read_geometry(archive.path)


@pytest.mark.parametrize(
    "content", [b"a: [1", b"a: b: c", b"\xff\xfe\xff", b"a: \0", b"made: 2026-13-45", b"[x]: 1"]
)
def test_settings_that_are_not_yaml_are_refused(tmp_path: Path, content: bytes) -> None:
    archive = saved(tmp_path, packed([(CONFIG, content), (WEIGHTS, b"w")]))
    with pytest.raises(CheckpointError, match=f"its {CONFIG} is not YAML"):
        archive.config()


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"just words", b"5"])
def test_settings_that_are_no_mapping_are_refused(tmp_path: Path, content: bytes) -> None:
    archive = saved(tmp_path, packed([(CONFIG, content), (WEIGHTS, b"w")]))
    with pytest.raises(CheckpointError, match=f"its {CONFIG} holds no settings"):
        archive.config()


def test_settings_cannot_run_code(tmp_path: Path) -> None:
    content = b"a: !!python/object/apply:os.system ['true']"
    archive = saved(tmp_path, packed([(CONFIG, content), (WEIGHTS, b"w")]))
    with pytest.raises(CheckpointError, match="is not YAML"):
        archive.config()


def test_a_link_within_to_nowhere_is_a_missing_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packing:
        link = tarfile.TarInfo(f"./{CONFIG}")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere.yaml"
        packing.addfile(link)
    with pytest.raises(CheckpointError, match=f"there is no {CONFIG} in it"):
        saved(tmp_path, buffer.getvalue()).config()


def test_a_file_within_too_large_to_be_settings_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.engines.archive._SMALL", 1000)
    archive = saved(tmp_path, packed(MEMBERS))
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} has 5,120 bytes, which is more"):
        archive.read(WEIGHTS)
    assert archive.config() == SETTINGS
