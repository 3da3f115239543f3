"""Scripted engines that hold memory: what they claim and what they take can be told apart."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from scripted_engines import ScriptedRecognizer, ScriptedSynthesizer

from runtime.memory.footprint import Footprint
from runtime.speech import AudioChunk, LoadReport, SynthesisRequest

_MIB = 1 << 20


def document(
    memory: dict[str, Any], args: dict[str, Any], deployments: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A Serve configuration of one application with these arguments."""
    application = {
        "name": "speech",
        "route_prefix": None,
        "import_path": "deployments.app:build_app",
        "args": {"memory": memory, **args},
        "deployments": deployments or [],
    }
    return {"proxy_location": "Disabled", "applications": [application]}


class _Weighty:
    """Claims ``claims_mib`` and holds ``holds_mib`` once it is loaded; -1 is more than there is."""

    def __init__(self, *, claims_mib: int = 128, holds_mib: int = 64, **options: Any) -> None:
        super().__init__(**options)
        self._size = holds_mib * _MIB
        self._weights = b""

    @staticmethod
    def footprint(options: Mapping[str, Any]) -> Footprint:
        slots = options.get("slots", 4)
        return Footprint(
            on_gpu=False,
            weights=options.get("claims_mib", 128) * _MIB,
            weights_from="table",
            workspace=0,
            state_per_slot=0,
            host=0,
            slots=slots,
            max_slots=slots,
        )

    async def load(self) -> LoadReport:
        if self._size < 0:
            raise MemoryError
        self._weights = b"\1" * self._size
        return LoadReport(0.0, 0.0)

    async def close(self) -> None:
        self._weights = b""


class WeightySynthesizer(_Weighty, ScriptedSynthesizer):
    """A sentence with the word "greedy" needs more memory than there is."""

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        if "greedy" in request.text:
            raise MemoryError
        async for chunk in super().synthesize(request, more):
            yield chunk


class WeightyRecognizer(_Weighty, ScriptedRecognizer):
    """A recognizer that holds memory."""
