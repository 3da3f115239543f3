"""A user's turn in a Pipecat call that a test drives."""

from __future__ import annotations

from typing import Any

BLOCK = bytes(640)  # 20 ms at 16 kHz


async def talk(call: Any, blocks: int) -> None:
    """The user speaks, and stops."""
    from pipecat.frames.frames import (
        InputAudioRawFrame,
        VADUserStartedSpeakingFrame,
        VADUserStoppedSpeakingFrame,
    )

    await call.send(VADUserStartedSpeakingFrame(start_secs=0.2))
    await call.send(*(InputAudioRawFrame(BLOCK, 16_000, 1) for _ in range(blocks)))
    await call.send(VADUserStoppedSpeakingFrame(stop_secs=0.2))
