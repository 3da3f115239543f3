"""Checkpoints are counted from their headers: exactly, cheaply, and without running them."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import sys
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_files import Storage, Tensor, modules, pickled, torch_zip

from runtime.errors import ConfigError
from runtime.memory.checkpoint import FLOATS, OTHERS, bytes_as, elements

# --- checkpoints -------------------------------------------------------------


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's names are there while checkpoints are written."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def state_dict() -> tuple[OrderedDict[str, Any], dict[str, int]]:
    """Two tensors that share a storage, and one of each other type; with their metadata."""
    shared = Storage("FloatStorage", "0", 600)
    state: OrderedDict[str, Any] = OrderedDict(
        weight=Tensor(shared, 20, 30),
        tied=Tensor(shared, 600),
        half=Tensor(Storage("BFloat16Storage", "1", 50), 50),
        steps=Tensor(Storage("LongStorage", "2", 1)),
    )
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    return state, {"0": 2400, "1": 100, "2": 8}


COUNTED = {"float32": 600, "bfloat16": 50, "int64": 1}


@pytest.fixture
def checkpoint() -> bytes:
    state, storages = state_dict()
    return torch_zip(pickled(state), storages)


def tar_of(members: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# --- PyTorch -----------------------------------------------------------------


def test_a_storage_that_tensors_share_is_counted_once(tmp_path: Path, checkpoint: bytes) -> None:
    assert elements(saved(tmp_path / "model.ckpt", checkpoint)) == COUNTED


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["archive/", "model_weights/", ""])
def test_the_folder_in_the_zip_and_its_compression_do_not_matter(
    tmp_path: Path, method: int, top: str
) -> None:
    state, storages = state_dict()
    data = torch_zip(pickled({"state_dict": state, "epoch": 3}), storages, method, top)
    assert elements(saved(tmp_path / "a", data)) == COUNTED


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_that_runs_code_is_counted_and_runs_none(tmp_path: Path) -> None:
    state, storages = state_dict()
    state["evil"] = Evil(tmp_path / "was here")
    data = pickled(state)
    assert elements(saved(tmp_path / "a", torch_zip(data, storages))) == COUNTED
    assert not (tmp_path / "was here").exists()
    # It would have, otherwise.
    pickle.loads(pickle.dumps(Evil(tmp_path / "was here")))
    assert (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in the memo: 16 GB of empty places before it
        b"\x80\x02]p2000000000\n.",  # the same, in letters
        b"\x80\x05\x96" + (8 << 30).to_bytes(8, "little") + b".",  # a bytearray of 8 GiB
        b"\x80\x04\x8e" + (8 << 30).to_bytes(8, "little") + b".",  # bytes of 8 GiB
        b"\x80\x02\x82\x01.",  # an object that copyreg knows by number
        b"\x80\x02}X\x05\x00\x00\x00ab",  # cut off
        b"",
        b"\x80\x02(lp0\nP1\n.",
    ],
)
def test_a_pickle_that_lies_is_refused_and_allocates_nothing(tmp_path: Path, data: bytes) -> None:
    file = saved(tmp_path / "a", torch_zip(data, {}))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"data\.pkl"):
            elements(file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_pickle_that_unpacks_to_more_than_headers_take_is_refused(tmp_path: Path) -> None:
    data = torch_zip(bytes(100 << 20), {}, zipfile.ZIP_DEFLATED)
    assert len(data) < 1 << 20
    with pytest.raises(ConfigError, match="far larger"):
        elements(saved(tmp_path / "a", data))


def test_a_storage_that_the_zip_does_not_hold_is_not_believed(tmp_path: Path) -> None:
    data = pickled({"a": Tensor(Storage("FloatStorage", "0", 1_000_000_000), 5)})
    with pytest.raises(ConfigError, match=r"'0' is 1000000000 numbers of float32.* has 20 bytes"):
        elements(saved(tmp_path / "a", torch_zip(data, {"0": 20})))
    with pytest.raises(ConfigError, match="lacks it"):
        elements(saved(tmp_path / "a", torch_zip(data, {})))


def test_numbers_of_an_unknown_type_are_not_guessed(tmp_path: Path) -> None:
    data = pickled([Tensor(Storage("OddStorage", "0", 5), 5)])
    with pytest.raises(ConfigError, match="OddStorage, which is not known"):
        elements(saved(tmp_path / "a", torch_zip(data, {"0": 20})))


# --- safetensors -------------------------------------------------------------


def safetensors(header: Any, data: int) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


TWO = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F16", "shape": [3, 4], "data_offsets": [0, 24]},
    "b": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
}


def test_safetensors_are_counted_by_type(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.safetensors", safetensors(TWO, 32))
    assert elements(file) == {"float16": 12, "int64": 1}


def test_tensors_that_are_left_out_by_name_are_not_counted(
    tmp_path: Path, checkpoint: bytes
) -> None:
    saved(tmp_path / "a.safetensors", safetensors(TWO, 32))
    assert elements(tmp_path / "a.safetensors", "b") == {"float16": 12}
    whole = saved(tmp_path / "a.ckpt", checkpoint)
    assert elements(whole, "half") == {"float32": 600, "int64": 1}
    assert elements(whole, "weight") == COUNTED, "what another tensor shares counts"
    archive = saved(tmp_path / "a.nemo", tar_of({"model_weights.ckpt": checkpoint}, "w:gz"))
    assert elements(archive, "s") == {"float32": 600, "bfloat16": 50}


def test_shards_in_a_folder_are_one_checkpoint(tmp_path: Path) -> None:
    for shard in "ab":
        saved(tmp_path / f"{shard}.safetensors", safetensors(TWO, 32))
    assert elements(tmp_path) == {"float16": 24, "int64": 2}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (safetensors(TWO, 31), "71 bytes|is 2.. bytes long; by its header it would be"),
        (safetensors(TWO, 33), "by its header it would be"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "cut off: its header is"),
        ((20 << 20).to_bytes(8, "little") + b"{" + bytes(20 << 20), "claims to be 20971520"),
        ((9).to_bytes(8, "little") + b"{notjson}", "not JSON"),
        (safetensors({"a": {**TWO["a"], "shape": [3, 5]}}, 24), "says of tensor 'a'"),
        (safetensors({"a": {**TWO["a"], "shape": [-3, -4]}}, 24), "says of tensor 'a'"),
        (safetensors({"a": {**TWO["a"], "dtype": "F7"}}, 24), "says of tensor 'a'"),
        (safetensors({"a": 5}, 0), "says of tensor 'a'"),
    ],
)
def test_safetensors_that_do_not_agree_with_themselves_are_refused(
    tmp_path: Path, data: bytes, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        elements(saved(tmp_path / "a", data))


# --- NeMo --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("folder", ["", "./", "model/"])
def test_the_weights_in_a_nemo_archive_are_counted(
    tmp_path: Path, checkpoint: bytes, mode: str, folder: str
) -> None:
    members = {f"{folder}a.yaml": b"x: 1", f"{folder}model_weights.ckpt": checkpoint, "b": b"b"}
    assert elements(saved(tmp_path / "m.nemo", tar_of(members, mode))) == COUNTED


def test_a_folder_is_an_unpacked_archive_or_holds_one(tmp_path: Path, checkpoint: bytes) -> None:
    one = saved(tmp_path / "m.nemo", tar_of({"model_weights.ckpt": checkpoint}))
    assert elements(tmp_path) == COUNTED
    saved(tmp_path / "n.nemo", one.read_bytes())
    with pytest.raises(ConfigError, match=r"holds 2 models: name one of m\.nemo, n\.nemo"):
        elements(tmp_path)
    saved(tmp_path / "model_weights.ckpt", checkpoint)  # one form is counted, not both
    assert elements(tmp_path) == COUNTED


class Holes(io.FileIO):
    """A file in which zeros take no space."""

    def write(self, data: Any) -> int:
        if len(data) < 1 << 20 or data.count(0) < len(data):
            return super().write(data)
        self.seek(len(data), os.SEEK_CUR)
        return len(data)


def bytes_read() -> int:
    """By this process, ever, from files in memory or not."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_only_headers_are_read_however_large_the_file(tmp_path: Path) -> None:
    numbers, block = 1 << 26, bytes(16 << 20)
    data = pickled([Tensor(Storage("FloatStorage", "0", numbers), numbers)])
    weights, whole = tmp_path / "weights", tmp_path / "m.nemo"
    with Holes(weights, "w+") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", data)
        with archive.open("a/data/0", "w") as entry:
            for _ in range(numbers * 4 // len(block)):
                entry.write(block)
    with Holes(whole, "w") as file, tarfile.open(fileobj=file, mode="w") as nemo:
        nemo.copybufsize = len(block)
        nemo.add(weights, "model_weights.ckpt")
    assert whole.stat().st_size > numbers * 4
    before = bytes_read()
    assert elements(whole) == {"float32": numbers}
    assert bytes_read() - before < 1 << 20


# --- what is no checkpoint ---------------------------------------------------


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("form", ["zip", "tar", "gzip"])
def test_a_file_that_was_cut_off_is_refused(
    tmp_path: Path, checkpoint: bytes, form: str, kept: float
) -> None:
    whole = {
        "zip": checkpoint,
        "tar": tar_of({"model_weights.ckpt": checkpoint})[: 512 + len(checkpoint)],
        "gzip": gzip.compress(tar_of({"model_weights.ckpt": checkpoint})[: 512 + 400], 0),
    }[form]
    with pytest.raises(ConfigError):
        elements(saved(tmp_path / "a", whole[: int(len(whole) * kept)]))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "it is empty"),
        (b"<html>Not found</html>", "starts with b'<html>No'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "starts with b'version '"),
        (pickle.dumps({"a": 1}, protocol=2), r"pickle, as PyTorch wrote before 1\.6"),
        (tar_of({"a.yaml": b"", "b.ckpt": b"x"}), r"without model_weights\.ckpt.*a\.yaml, b\.ckpt"),
        (tar_of({"model_weights.ckpt": b"oops"}), "damaged or cut off"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_what_it_is(
    tmp_path: Path, data: bytes, found: str
) -> None:
    file = saved(tmp_path / "a.nemo", data)
    with pytest.raises(ConfigError, match=found) as caught:
        elements(file)
    assert str(file) in str(caught.value)


def test_a_zip_of_something_else_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", "")
    with pytest.raises(ConfigError, match=r"holds word/document\.xml"):
        elements(saved(tmp_path / "a.pt", stream.getvalue()))


def test_a_folder_without_weights_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it holds nothing"):
        elements(tmp_path)
    saved(tmp_path / "README.md", b"")
    with pytest.raises(ConfigError, match=r"it holds README\.md"):
        elements(tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.nemo cannot be read: No such file"):
        elements(tmp_path / "no.nemo")


@given(data=st.binary(max_size=400), head=st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b\x08"]))
def test_noise_is_refused_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes
) -> None:
    file = saved(tmp_path_factory.getbasetemp() / "noise", head + data)
    with pytest.raises(ConfigError):
        elements(file)


@given(at=st.integers(0, 2000), byte=st.integers(0, 255), form=st.sampled_from(["zip", "tar"]))
def test_one_wrong_byte_is_refused_or_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, form: str
) -> None:
    state, storages = state_dict()
    good = torch_zip(pickled(state), storages)
    data = bytearray(good if form == "zip" else tar_of({"model_weights.ckpt": good}))
    data[at % len(data)] = byte
    file = saved(tmp_path_factory.getbasetemp() / "wrong", bytes(data))
    try:
        counted = elements(file)
    except ConfigError:
        return
    assert counted == COUNTED


# --- bytes -------------------------------------------------------------------

COUNTS = st.dictionaries(st.sampled_from([*FLOATS, *OTHERS]), st.integers(0, 1 << 40))


@given(counts=COUNTS, dtype=st.sampled_from(list(FLOATS)))
def test_floats_are_counted_as_they_will_be_run_and_others_as_they_are(
    counts: dict[str, int], dtype: str
) -> None:
    floats = sum(count for kind, count in counts.items() if kind in FLOATS)
    others = {kind: count for kind, count in counts.items() if kind in OTHERS}
    assert bytes_as(counts, dtype) == floats * FLOATS[dtype] + bytes_as(others, "float64")
    assert bytes_as(others, dtype) == sum(OTHERS[kind] * count for kind, count in others.items())


def test_a_type_that_nothing_can_be_run_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="dtype is 'int8'"):
        bytes_as({"float32": 1}, "int8")
    with pytest.raises(ConfigError, match="no type of numbers 'float31'"):
        bytes_as({"float31": 1}, "float32")
