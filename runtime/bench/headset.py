"""A caller's microphone and loudspeaker, in real time, as a Pipecat transport without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame, StartFrame
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams

RATE = 16_000
_BLOCK_S = 0.020
_BLOCK_BYTES = 2 * int(_BLOCK_S * RATE)
_LOUD = 328  # of 32,767: -40 dBFS


def loud_part(pcm: bytes, sample_rate: int) -> tuple[float, float] | None:
    """Where PCM16 is audible: seconds to the first and after the last sample above -40 dBFS."""
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)) > _LOUD)
    if not loud.size:
        return None
    return float(loud[0]) / sample_rate, float(loud[-1] + 1) / sample_rate


def parameters() -> TransportParams:
    """Audio both ways at ``RATE``."""
    return TransportParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        audio_in_sample_rate=RATE,
        audio_out_sample_rate=RATE,
    )


class Microphone(BaseInputTransport):
    """Blocks of 20 ms by the clock: silence, unless the caller speaks."""

    def __init__(self) -> None:
        """Silent until ``say``."""
        super().__init__(parameters())
        self._pending = b""
        self._said: asyncio.Future[float] | None = None
        self._capturing: asyncio.Task[None] | None = None

    async def start(self, frame: StartFrame) -> None:
        """Begin to capture."""
        await super().start(frame)
        await self.set_transport_ready(frame)
        self._capturing = self.create_task(self._capture(), "capture")

    async def cleanup(self) -> None:
        """Stop capturing."""
        await super().cleanup()
        if self._capturing is not None:
            await self.cancel_task(self._capturing)
            self._capturing = None

    async def say(self, pcm: bytes) -> float:
        """Speak, PCM16 at ``RATE``; returns when the first sample is captured (monotonic s)."""
        self._said = asyncio.get_running_loop().create_future()
        self._pending = pcm
        return await self._said

    async def _capture(self) -> None:
        due = time.monotonic()
        while True:
            due += _BLOCK_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            block, self._pending = self._pending[:_BLOCK_BYTES], self._pending[_BLOCK_BYTES:]
            if block and self._said is not None and not self._said.done():
                self._said.set_result(due - _BLOCK_S)  # a block is captured before it is sent
            audio = block.ljust(_BLOCK_BYTES, b"\0")
            await self.push_audio_frame(InputAudioRawFrame(audio, RATE, 1))


@dataclass(frozen=True, slots=True)
class Sound:
    """A stretch of audible output, in seconds of the monotonic clock."""

    start: float
    end: float


class Loudspeaker(BaseOutputTransport):
    """Plays what it is given, one block after the other, and notes when something is audible."""

    def __init__(self) -> None:
        """Silent."""
        super().__init__(parameters())
        self.sounds: list[Sound] = []
        self.heard = asyncio.Event()
        self._free_at = 0.0

    async def start(self, frame: StartFrame) -> None:
        """Begin to play."""
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        """Play a block; returns when the next one is due."""
        begins = max(time.monotonic(), self._free_at)
        self._free_at = begins + len(frame.audio) / 2 / RATE
        if (part := loud_part(frame.audio, RATE)) is not None:
            self.sounds.append(Sound(begins + part[0], begins + part[1]))
            self.heard.set()
        await asyncio.sleep(max(0.0, self._free_at - time.monotonic()))
        return True

    async def first_sound_after(self, moment: float) -> Sound:
        """The first audible stretch that ends after a moment; waits for it."""
        while not (later := self.sounds_after(moment)):
            self.heard.clear()
            await self.heard.wait()
        return later[0]

    def sounds_after(self, moment: float) -> Sequence[Sound]:
        """Those that end after a moment."""
        return [sound for sound in self.sounds if sound.end > moment]


def stages(**times: float | None) -> dict[str, Any]:
    """Milliseconds from each moment to the next, by the name of the next."""
    named = list(times.items())
    return {
        name: (then - before) * 1e3
        for (_, before), (name, then) in pairwise(named)
        if then is not None and before is not None
    }
