"""What the offline Parakeet engine is configured with, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from runtime.engines.models import PARAKEET
from runtime.engines.nvidia import NvidiaOptions, read_options
from runtime.engines.options import one_of, seconds

WINDOW_S = 30.0
MAX_WINDOW_S = 1440.0  # 24 minutes: what NVIDIA's card of parakeet-tdt-0.6b-v2 promises
MAX_SLOTS = 12  # as many windows of 30 s, or 36 of 10 s, keep an H100 busy
_SHORTEST_ROW_S = 5.0  # of a full batch; of shorter ones there would be more than it gains
_MOST_ROWS = 4  # to a slot

Device: TypeAlias = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class OfflineOptions:
    """The options of the offline engine.

    Attributes:
        common: Those that all of NVIDIA's engines have. A slot is memory for a window in a batch,
            or for several recordings that are shorter.
        window_s: The longest window in a batch.
        device: Where it runs; ``auto`` takes a GPU if there is one.
    """

    common: NvidiaOptions[Any]
    window_s: float
    device: Device

    @property
    def rows(self) -> int:
        """The most recordings in a batch."""
        slots = self.common.batch
        return max(slots, min(_MOST_ROWS * slots, int(slots * self.window_s / _SHORTEST_ROW_S)))


def read_offline_options(options: Mapping[str, Any]) -> OfflineOptions:
    """Check the options of the offline engine. On a CPU it runs in float32 unless it is told.

    Raises:
        ConfigError: An option that there is not, or a value that cannot be.
    """
    device = options.get("device", "auto")
    dtype = {"dtype": "float32" if device == "cpu" else "bfloat16"}
    common = read_options(
        "parakeet", {**dtype, **options}, PARAKEET, MAX_SLOTS, ("window_s", "device")
    )
    one_of("device", device, ("auto", "cpu", "cuda"))
    window = seconds("window_s", options.get("window_s", WINDOW_S), MAX_WINDOW_S)
    return OfflineOptions(common, window, device)
