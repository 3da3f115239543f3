"""A daemon that is stopped and started again in the middle of a call."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from daemons import SUPPORT, place

from runtime.bench.transport import document
from runtime.settings import Settings

pytestmark = pytest.mark.cluster

CALL = """
import asyncio, json, sys
from pipecat.frames.frames import (
    ErrorFrame, InputAudioRawFrame, TranscriptionFrame, TTSAudioRawFrame, TTSSpeakFrame,
    TTSStoppedFrame, VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame,
)
from pipecat_calls import Call
from runtime.bots import ServeSTTService, ServeTTSService, disconnect

async def turn(call):
    await call.send(VADUserStartedSpeakingFrame())
    await call.send(*(InputAudioRawFrame(bytes(640), 16_000, 1) for _ in range(50)))
    await call.send(VADUserStoppedSpeakingFrame(stop_secs=0.2))

async def told(what):
    print(what, flush=True)
    await asyncio.to_thread(sys.stdin.readline)

async def main():
    async with Call(ServeSTTService(), ServeTTSService()) as call:
        await turn(call)
        await call.next(TranscriptionFrame)
        await call.send(TTSSpeakFrame("Hello there."))
        await call.next(TTSStoppedFrame)
        await told("down")
        await call.send(TTSSpeakFrame("Is anybody there?"))
        error = await call.next(ErrorFrame, up=True)
        await turn(call)
        await told("up")
        heard = await call.next(TranscriptionFrame, count=2)
        call.down.clear()
        await call.send(TTSSpeakFrame("Here again."))
        await call.next(TTSStoppedFrame)
        spoken = sum(len(frame.audio) for frame in call.all(TTSAudioRawFrame))
    await disconnect()
    print(json.dumps({"error": error.error, "heard": heard.text, "spoken": spoken}))

asyncio.run(main())
"""


def test_a_call_outlives_its_daemon_and_goes_on_with_the_next(
    speech: Callable[..., Any], shell: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="sp-") as name:
        folder = Path(name)
        settings = Settings(state_dir=folder / "state", temp_dir=folder / "ray")
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(document(replicas=1)))

        def up() -> None:
            done = speech("up", config, "--detach", settings=settings)
            assert done.code == 0, done.err

        up()
        try:
            with subprocess.Popen(
                [sys.executable, "-c", CALL],
                env=shell | place(settings) | {"PYTHONPATH": SUPPORT},
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as call:
                assert call.stdin is not None
                assert call.stdout is not None
                assert call.stdout.readline() == "down\n"
                assert speech("down", settings=settings).code == 0
                print(file=call.stdin, flush=True)
                assert call.stdout.readline() == "up\n"
                up()
                answer, _ = call.communicate("\n", timeout=120)
            assert call.returncode == 0
            found = json.loads(answer)
        finally:
            speech("down", settings=settings)
    assert "daemon" in found["error"]
    assert found["heard"] == "16000"  # what was said while it was away
    assert found["spoken"] > 8_000
