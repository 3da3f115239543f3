"""Settings: their defaults, where they are read from, and what is refused."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from runtime.settings import Settings


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without settings, and with a home of its own."""
    for key in [*os.environ]:
        if key.startswith(("SPEECH_", "XDG_")):
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_settings_have_defaults(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings()
    assert settings.state_dir == tmp_path / ".local" / "state" / "speech-runtime"
    assert settings.port == 0
    assert settings.connect_timeout_s > 0


def test_the_state_folder_follows_xdg(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("XDG_STATE_HOME", "/var/states")
    assert Settings().state_dir == Path("/var/states/speech-runtime")


def test_the_cache_folder_follows_xdg(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Settings().cache_dir == tmp_path / ".cache" / "speech-runtime"
    bare.setenv("XDG_CACHE_HOME", "/var/caches")
    assert Settings().cache_dir == Path("/var/caches/speech-runtime")


def test_the_folder_of_models_follows_xdg_and_the_lock_follows_the_folder(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Settings().models_dir == tmp_path / ".cache" / "speech-runtime" / "models"
    bare.setenv("XDG_CACHE_HOME", "/var/caches")
    assert Settings().models_dir == Path("/var/caches/speech-runtime/models")
    bare.setenv("SPEECH_MODELS_DIR", "/srv/models")
    assert Settings().models_lock == Path("/srv/models/models.lock")
    bare.setenv("SPEECH_MODELS_LOCK", "/etc/speech/models.lock")
    assert Settings().models_lock == Path("/etc/speech/models.lock")


def test_settings_are_read_from_the_environment(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("SPEECH_STATE_DIR", "/srv/speech")
    bare.setenv("SPEECH_CACHE_DIR", "/srv/cache")
    bare.setenv("SPEECH_TEMP_DIR", "/run/ray")
    bare.setenv("SPEECH_PORT", "7000")
    bare.setenv("SPEECH_MODELS_DIR", "/srv/models")
    bare.setenv("SPEECH_CONNECT_TIMEOUT_S", "1.5")
    bare.setenv("SPEECH_START_TIMEOUT_S", "30")
    bare.setenv("SPEECH_ANSWER_TIMEOUT_S", "20")
    bare.setenv("SPEECH_TAKEOVER_TIMEOUT_S", "25")
    bare.setenv("SPEECH_REPLAY_S", "90")
    bare.setenv("SPEECH_DRAIN_TIMEOUT_S", "0")
    bare.setenv("SPEECH_STOP_TIMEOUT_S", "2")
    settings = Settings()
    assert settings.model_dump() == {
        "state_dir": Path("/srv/speech"),
        "cache_dir": Path("/srv/cache"),
        "temp_dir": Path("/run/ray"),
        "port": 7000,
        "models_dir": Path("/srv/models"),
        "models_lock": Path("/srv/models/models.lock"),
        "connect_timeout_s": 1.5,
        "start_timeout_s": 30.0,
        "stop_timeout_s": 2.0,
        "answer_timeout_s": 20.0,
        "takeover_timeout_s": 25.0,
        "replay_s": 90.0,
        "drain_timeout_s": 0.0,
    }
    assert settings.ray_dir == Path("/run/ray")


def test_an_empty_variable_is_as_good_as_none(bare: pytest.MonkeyPatch) -> None:
    defaults = Settings()
    for name in Settings.model_fields:
        bare.setenv(f"SPEECH_{name.upper()}", "")
    bare.setenv("XDG_STATE_HOME", "")
    bare.setenv("XDG_CACHE_HOME", "")
    assert Settings() == defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPEECH_PORT", "-1"),
        ("SPEECH_PORT", "65536"),
        ("SPEECH_PORT", "http"),
        ("SPEECH_CONNECT_TIMEOUT_S", "0"),
        ("SPEECH_START_TIMEOUT_S", "-5"),
        ("SPEECH_STOP_TIMEOUT_S", "soon"),
    ],
)
def test_a_senseless_setting_is_refused(bare: pytest.MonkeyPatch, name: str, value: str) -> None:
    bare.setenv(name, value)
    with pytest.raises(ValidationError, match=name.removeprefix("SPEECH_").lower()):
        Settings()


def test_settings_do_not_change(settings: Settings) -> None:
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


def test_each_state_folder_has_a_ray_folder_with_room_for_socket_names(tmp_path: Path) -> None:
    deep = tmp_path / ("deep/" * 30)
    one, other = Settings(state_dir=tmp_path), Settings(state_dir=deep)
    assert one.ray_dir == Settings(state_dir=tmp_path).ray_dir != other.ray_dir
    for settings in (one, other):
        below = settings.ray_dir.relative_to(tempfile.gettempdir())
        assert len(f"/tmp/{below}") <= 40
