"""How processes that a test starts find a daemon, and how a daemon finds the scripted engines."""

from __future__ import annotations

from pathlib import Path

from runtime.settings import Settings

SUPPORT = str(Path(__file__).parent)  # to be on PYTHONPATH where scripted engines are to run


def place(settings: Settings) -> dict[str, str]:
    """The variables with which a process finds the daemon of these settings."""
    variables = {"SPEECH_STATE_DIR": str(settings.state_dir)}
    if settings.temp_dir:
        variables["SPEECH_TEMP_DIR"] = str(settings.temp_dir)
    return variables
