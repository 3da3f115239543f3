"""A bot's mouth without a daemon: frames in their order, outages, and whose voice it is."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.speech import AudioChunk


class _FakeLine:
    """A daemon that says a tone, in place of ``runtime.bots.line.Line``."""

    away: Exception | None = None

    def __init__(self) -> None:
        self.requests: list[Any] = []

    async def client(self) -> _FakeLine:
        if self.away is not None:
            raise self.away
        return self

    async def info(self) -> dict[str, Any]:
        return {"TTS": SimpleNamespace(engines=[SimpleNamespace(role="tts", name="fake")])}

    def synthesize(self, request: Any, sample_rate: int, growing: bool) -> _FakeStream:
        assert growing
        self.requests.append(request)
        return _FakeStream(sample_rate)


class _FakeStream:
    """Silence, a tone, and what is softer than it."""

    def __init__(self, rate: int) -> None:
        silence, tone = np.zeros(rate // 2, "<i2"), np.full(rate // 10, 9_000, "<i2")
        parts = (silence, np.concatenate([silence, tone]), tone // 1_000)
        last = [False, False, True]
        self._chunks = iter(
            AudioChunk(part.tobytes(), rate, 0, texts=int(end))
            for part, end in zip(parts, last, strict=True)
        )

    def finish(self) -> None:
        pass

    def cancel(self) -> None:
        pass

    def __aiter__(self) -> _FakeStream:
        return self

    async def __anext__(self) -> AudioChunk:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


@pytest.mark.parametrize(("trim", "seconds"), [(True, 0.03 + 0.2), (False, 1.2)])
def test_pipecats_own_runner_finds_the_frames_it_expects_and_no_silence_before_them(
    monkeypatch: pytest.MonkeyPatch, trim: bool, seconds: float
) -> None:
    from pipecat.frames.frames import (
        AggregatedTextFrame,
        LLMAssistantPushAggregationFrame,
        TTSAudioRawFrame,
        TTSSpeakFrame,
        TTSStartedFrame,
        TTSStoppedFrame,
        TTSTextFrame,
    )
    from pipecat.tests.utils import run_test

    from runtime.bots import ServeTTSService, tts

    monkeypatch.setattr(tts, "line_to", lambda *_: _FakeLine())
    service = ServeTTSService(settings=ServeTTSService.Settings(trim=trim))
    down, _ = asyncio.run(
        run_test(
            service,
            frames_to_send=[TTSSpeakFrame("Hello there.")],
            expected_down_frames=[
                AggregatedTextFrame,
                TTSStartedFrame,
                *[TTSAudioRawFrame] * (2 if trim else 3),
                TTSTextFrame,
                LLMAssistantPushAggregationFrame,
                TTSStoppedFrame,
            ],
            start_timeout=20,
        )
    )
    audio = [frame for frame in down if isinstance(frame, TTSAudioRawFrame)]
    assert sum(f.num_frames / f.sample_rate for f in audio) == pytest.approx(seconds, abs=0.001)


def test_a_bot_without_its_daemon_says_how_to_start_one_and_speaks_once_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipecat.frames.frames import (
        ErrorFrame,
        TTSAudioRawFrame,
        TTSSpeakFrame,
        TTSStoppedFrame,
        TTSTextFrame,
    )
    from pipecat.utils.errors import ErrorCategory
    from pipecat_calls import Call

    from runtime.bots import ServeTTSService, tts
    from runtime.errors import DaemonUnavailable

    line = _FakeLine()
    monkeypatch.setattr(tts, "line_to", lambda *_: line)

    async def speak() -> tuple[Any, Any]:
        line.away = DaemonUnavailable("No daemon is running. Start one with `speech up`.")
        service = ServeTTSService()

        @service.event_handler("on_connected")
        async def on_connected(_: Any) -> None:
            connected.append(line.away is None)

        async with Call(service) as call:
            for number in range(1, 5):  # more than Pipecat takes for a service that is no use
                await call.send(TTSSpeakFrame("Is anybody there?"))
                await call.next(TTSStoppedFrame, count=number)
            line.away = None
            await call.send(TTSSpeakFrame("Hello again."))
            await call.next(TTSAudioRawFrame)
            await call.next(TTSStoppedFrame, count=5)
        return service, call

    connected: list[bool] = []

    service, call = asyncio.run(speak())
    errors = [error for error in call.all(ErrorFrame, up=True) if "speech up" in error.error]
    assert {error.category for error in errors} == {ErrorCategory.CONNECTIVITY}
    assert service.is_usable
    assert connected == [True]
    *unheard, heard = call.all(TTSTextFrame)
    assert not any(frame.append_to_context for frame in unheard), "nobody has heard them"
    assert len(unheard) == 4
    assert (heard.text, heard.append_to_context) == ("Hello again.", True)


def test_the_voice_that_was_asked_for_last_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipecat.frames.frames import TTSSpeakFrame, TTSStoppedFrame, TTSUpdateSettingsFrame
    from pipecat_calls import Call

    from runtime.bots import ServeTTSService, tts

    line = _FakeLine()
    monkeypatch.setattr(tts, "line_to", lambda *_: line)
    changes = [{"blend": {"Aria": 0.5, "Leo": 0.5}}, {"voice": "Mia"}, {"blend": {"Leo": 1.0}}]

    async def speak() -> None:
        service = ServeTTSService()
        async with Call(service) as call:
            for number, change in enumerate(changes, 1):
                delta = ServeTTSService.Settings(**change)
                await call.send(TTSUpdateSettingsFrame(delta=delta), TTSSpeakFrame("Hello."))
                await call.next(TTSStoppedFrame, count=number)

    asyncio.run(speak())
    assert [request.voice for request in line.requests] == ["Aria:0.5+Leo:0.5", "Mia", "Leo:1.0"]
