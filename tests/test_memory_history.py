"""What engines measured, kept in a file from one start to the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.memory.footprint import GIB
from runtime.memory.history import History, Measured, signature
from runtime.settings import Settings

MEASURED = Measured(bytes=9 * GIB, context=GIB, state=2 * GIB, host=GIB, at=1_790_000_000.5)


def test_what_was_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "measured.json"
    History(path).note("tts=magpie{}", "NVIDIA GB10", MEASURED)
    again = History(path)
    assert again.get("tts=magpie{}", "NVIDIA GB10") == MEASURED
    assert again.get("tts=magpie{}", "NVIDIA H100") is None
    assert again.get("tts=hibari{}", "NVIDIA GB10") is None


def test_a_newer_figure_takes_the_place_of_an_earlier_one_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    history = History(path)
    newer = Measured.of(5 * GIB, 0, 0, 0)
    for name, figure in (("a", MEASURED), ("b", MEASURED), ("a", newer)):
        history.note(name, "gpu", figure)
    assert [History(path).get(name, "gpu") for name in "ab"] == [newer, MEASURED]


def test_the_history_lives_with_the_daemon(settings: Settings) -> None:
    History.kept_in(settings).note("a", "gpu", MEASURED)
    assert [path.name for path in settings.state_dir.iterdir()] == ["measured.json"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe",
        b'{"gpu: a": 7}',
        b'{"gpu: a": {}}',
        b'{"gpu: a": {"bytes": 1, "context": 1, "state": 1, "host": 1, "at": 1, "more": 1}}',
        b'{"gpu: a": {"bytes": "9", "context": 1, "state": 1, "host": 1, "at": 1}}',
        b'{"gpu: a": {"bytes": NaN, "context": 1, "state": 1, "host": 1, "at": 1}}',
        b'{"gpu: a": {"bytes": null, "context": 1, "state": 1, "host": 1, "at": 1}}',
    ],
)
def test_a_damaged_file_is_an_empty_history_and_is_written_anew(
    tmp_path: Path, text: bytes
) -> None:
    path = tmp_path / "measured.json"
    path.write_bytes(text)
    history = History(path)
    assert history.get("a", "gpu") is None
    history.note("b", "gpu", MEASURED)
    assert History(path).get("b", "gpu") == MEASURED


def test_a_folder_in_its_place_is_an_empty_history(tmp_path: Path) -> None:
    assert History(tmp_path).get("a", "gpu") is None


def test_a_file_is_replaced_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "measured.json"
    History(path).note("a", "gpu", MEASURED)

    def cut_off(self: Path, text: str, encoding: str) -> None:
        with self.open("w", encoding=encoding) as file:
            file.write(text[: len(text) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", cut_off)
    with pytest.raises(OSError, match="No space left"):
        History(path).note("b", "gpu", MEASURED)
    assert History(path).get("a", "gpu") == MEASURED


# --- the margin --------------------------------------------------------------


@given(
    st.integers(0, 200 * GIB),
    st.integers(0, 2 * GIB),
    st.integers(0, 100 * GIB),
    st.integers(0, 8 * GIB),
)
def test_the_next_claim_covers_what_was_measured_with_a_little_to_spare(
    size: int, context: int, state: int, host: int
) -> None:
    fixed = Measured(size, context, state, host, 0.0).fixed
    claim = fixed + context + state + host
    assert claim >= size + max(0.03 * size - 1, 32 << 20)
    # Tensors are as large each time; what a process holds of the host is not.
    share, least = (0.03, 32 << 20) if context else (0.50, 64 << 20)
    assert fixed <= max(0, size - context - state - host) + max(share * size + 1, least)


# --- signatures --------------------------------------------------------------


def test_a_signature_names_engines_and_options_in_any_order_and_no_slots() -> None:
    one = signature({"live": ("a", {"slots": 1, "x": 1, "y": 2}), "file": ("b", {})})
    two = signature({"file": ("b", {}), "live": ("a", {"y": 2, "x": 1, "max_slots": 9})})
    assert one == two
    others = [
        signature({"live": ("a", {"x": 1, "y": 3}), "file": ("b", {})}),
        signature({"live": ("b", {}), "file": ("a", {"x": 1, "y": 2})}),
        signature({"live": ("a", {"x": 1, "y": 2})}),
    ]
    assert len({one, *others}) == 4


def test_an_option_that_json_does_not_know_can_be_part_of_a_signature(tmp_path: Path) -> None:
    name = signature({"tts": ("a", {"path": tmp_path})})
    History(tmp_path / "m.json").note(name, "gpu", MEASURED)
    assert list(json.loads((tmp_path / "m.json").read_text())) == [f"gpu: {name}"]
