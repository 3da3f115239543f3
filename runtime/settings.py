"""What the environment decides: where files are kept, and time limits.

Everything else is in the Serve configuration (``runtime.config``).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cached_property
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "speech-runtime"


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "speech-runtime"


def _default_models_dir() -> Path:
    return _default_cache_dir() / "models"


class Settings(BaseSettings):
    """Read from ``SPEECH_*`` environment variables, validated once, frozen.

    One state folder holds at most one daemon; several daemons on a machine use several.
    """

    model_config = SettingsConfigDict(env_prefix="SPEECH_", env_ignore_empty=True, frozen=True)

    state_dir: Path = Field(
        default_factory=_default_state_dir,
        description="The daemon's record, token, lock and log.",
    )
    cache_dir: Path = Field(
        default_factory=_default_cache_dir,
        description="What can be made again: compiled grammars. Daemons may share it.",
    )
    temp_dir: Path | None = Field(
        default=None,
        description="Ray's sockets and logs; at most 40 characters long, as socket names must "
        "fit into 107. By default a folder of its own under the system's temporary folder.",
    )
    port: int = Field(
        default=0, ge=0, le=65_535, description="Port of the cluster's head; 0 takes a free one."
    )
    models_dir: Path = Field(
        default_factory=_default_models_dir,
        description="NVIDIA's checkpoints, as `speech models pull` places them.",
    )
    models_lock: Path = Field(
        default_factory=lambda settings: settings["models_dir"] / "models.lock",
        description="Which revision of each model this machine holds to.",
    )
    connect_timeout_s: float = Field(
        default=5.0, gt=0, description="How long a client tries to reach the daemon."
    )
    answer_timeout_s: float = Field(
        default=15.0,
        gt=0,
        description="How long a client waits for a call to begin; more than the deployments' "
        "max_wait_s.",
    )
    takeover_timeout_s: float = Field(
        default=15.0,
        gt=0,
        description="How long a session whose replica is lost looks for another.",
    )
    replay_s: float = Field(
        default=60.0,
        gt=0,
        description="Seconds of audio since the last final that a session keeps to replay.",
    )
    start_timeout_s: float = Field(
        default=600.0, gt=0, description="How long the deployments may take to become ready."
    )
    drain_timeout_s: float = Field(
        default=10.0,
        ge=0,
        description="How long `speech down` lets utterances finish before it ends them.",
    )
    stop_timeout_s: float = Field(
        default=60.0, gt=0, description="How long `speech down` waits before it kills the daemon."
    )

    @cached_property
    def ray_dir(self) -> Path:
        """The folder for Ray's sockets and logs."""
        if self.temp_dir is not None:
            return self.temp_dir
        owner = hashlib.sha256(str(self.state_dir.absolute()).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"speech-{os.getuid()}-{owner}"
