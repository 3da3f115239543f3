"""A bot's ears: transcripts, the order of a turn, settings, and daemons that come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runtime.settings import Settings

BLOCK = bytes(640)  # 20 ms at 16 kHz
PER_BLOCK = 160  # samples at the scripted engine's 8 kHz


@pytest.fixture(scope="module")
def ears(scripted: Any, daemon: Settings, run: Any) -> Iterator[Any]:
    """Makes services over the scripted engines."""
    from runtime.bots import ServeSTTService, disconnect

    def make(ttfs: float = 0.5, **settings: Any) -> Any:
        chosen = ServeSTTService.Settings(**{"model": "scripted"} | settings)
        return ServeSTTService(daemon=daemon, settings=chosen, ttfs_p99_latency=ttfs)

    yield make
    run(disconnect())


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


def said(blocks: int) -> str:
    return f"{blocks * PER_BLOCK} samples"


@pytest.mark.cluster
def test_each_turn_has_its_interims_and_one_final_that_is_marked_so(ears: Any, run: Any) -> None:
    from pipecat.frames.frames import (
        InterimTranscriptionFrame,
        MetricsFrame,
        STTMetadataFrame,
        TranscriptionFrame,
    )
    from pipecat_calls import Call

    async def two_turns() -> Any:
        async with Call(ears(ttfs=0.4)) as call:
            await talk(call, 120)
            await call.next(TranscriptionFrame)
            await talk(call, 60)
            await call.next(TranscriptionFrame, count=2)
        return call

    call = run(two_turns())
    finals = call.all(TranscriptionFrame)
    assert [(final.text, final.finalized) for final in finals] == [
        (said(120), True),
        (said(60), True),
    ]
    assert finals[1].result.start_s == pytest.approx(2.4)
    assert call.all(InterimTranscriptionFrame)
    assert call.all(STTMetadataFrame)[0].ttfs_p99_latency == 0.4
    named = {type(data).__name__: data for f in call.all(MetricsFrame) for data in f.data}
    assert named["TTFBMetricsData"].model == "scripted_engines:ScriptedRecognizer"
    assert 0.2 <= named["TTFBMetricsData"].value < 30, "from the end of speech, not of the VAD"
    assert named["STTUsageMetricsData"].value.audio_seconds == pytest.approx(1.2)


@pytest.mark.cluster
def test_the_transcript_is_there_before_the_turn_ends_and_no_timeout_is_paid(
    ears: Any, run: Any
) -> None:
    from pipecat.frames.frames import (
        LLMContextFrame,
        TranscriptionFrame,
        UserStoppedSpeakingFrame,
    )
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import (
        LLMContextAggregatorPair,
        LLMUserAggregatorParams,
    )
    from pipecat.turns.user_start import VADUserTurnStartStrategy
    from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
    from pipecat.turns.user_turn_strategies import UserTurnStrategies
    from pipecat_calls import Call

    long = 60.0  # what a turn would wait for a transcript that is not final

    async def turns() -> Any:
        strategies = UserTurnStrategies(
            start=[VADUserTurnStartStrategy()],
            stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.0)],
        )
        pair = LLMContextAggregatorPair(
            LLMContext(),
            user_params=LLMUserAggregatorParams(
                user_turn_strategies=strategies, user_turn_stop_timeout=long
            ),
        )
        async with Call(ears(ttfs=long), pair.user()) as call:
            for turn in range(1, 4):
                await talk(call, 10 * turn)
                await call.next(LLMContextFrame, count=turn)
        return call

    began = time.monotonic()
    call = run(turns())
    assert time.monotonic() - began < long
    messages = call.all(LLMContextFrame)[-1].context.get_messages()
    assert [m["content"] for m in messages] == [said(10), said(20), said(30)]
    assert len(call.all(UserStoppedSpeakingFrame)) == 3
    assert not call.all(TranscriptionFrame), "the aggregator has taken them in"


@pytest.mark.cluster
def test_settings_change_during_the_call_and_a_wrong_one_can_be_mended(ears: Any, run: Any) -> None:
    from pipecat.frames.frames import (
        ErrorFrame,
        InterimTranscriptionFrame,
        STTUpdateSettingsFrame,
        TranscriptionFrame,
        UserStoppedSpeakingFrame,
    )
    from pipecat.transcriptions.language import Language
    from pipecat.utils.errors import ErrorCategory
    from pipecat_calls import Call

    async def change() -> Any:
        service = ears()
        connected: list[str | None] = []

        @service.event_handler("on_connected")
        async def on_connected(_: Any) -> None:
            connected.append(service.settings.language)
            call.news.set()

        async with Call(service) as call:

            async def turn(number: int) -> None:
                await talk(call, 60)
                await call.next(TranscriptionFrame, count=number)
                await call.send(UserStoppedSpeakingFrame())

            await turn(1)
            await call.send(
                STTUpdateSettingsFrame(delta=service.Settings(language=Language.DE, interim=False))
            )
            await call.until(lambda: connected[1:] == ["de"])
            interims = len(call.all(InterimTranscriptionFrame))
            await turn(2)
            assert len(call.all(InterimTranscriptionFrame)) == interims
            await call.send(STTUpdateSettingsFrame(delta=service.Settings(language="xx")))
            error = await call.next(ErrorFrame, up=True)
            await call.send(STTUpdateSettingsFrame(delta=service.Settings(language="en")))
            await call.until(lambda: connected[2:] == ["en"])
            await turn(3)
        return call, error

    call, error = run(change())
    assert [frame.text for frame in call.all(TranscriptionFrame)] == [said(60)] * 3
    assert [str(frame.language) for frame in call.all(TranscriptionFrame)] == ["None", "de", "en"]
    assert "does not understand 'xx'" in error.error
    assert error.category is ErrorCategory.INVALID_REQUEST


class _Session:
    """A session that hears as many blocks as it gets, and may fail."""

    def __init__(self, line: _FakeLine) -> None:
        self._line = line
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._bytes = 0
        self._finals = 0
        self.left = False

    async def __aenter__(self) -> _Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.left = True
        self._line.changed()

    async def push(self, pcm: bytes) -> None:
        self._bytes += len(pcm)

    async def finalize(self) -> None:
        from runtime.speech import FinalTranscript

        self._line.asked += 1
        self._finals += 1
        text = f"{self._bytes // 640} blocks"
        final = FinalTranscript(text, 0, 0.0, 1.0, request=self._finals)
        (self._line.late or self._events).put_nowait(final)
        self._line.changed()

    def come(self) -> None:
        """What was kept back arrives, in order."""
        late, self._line.late = self._line.late, None
        while late is not None and not late.empty():
            self._events.put_nowait(late.get_nowait())

    async def finish(self) -> None:
        if self._bytes and not self._line.asked:
            await self.finalize()
        self._events.put_nowait(None)

    def fail(self, error: Exception) -> None:
        self._events.put_nowait(error)

    def __aiter__(self) -> _Session:
        return self

    async def __anext__(self) -> Any:
        event = await self._events.get()
        if event is None:
            raise StopAsyncIteration
        if isinstance(event, Exception):
            raise event
        return event


class _FakeLine:
    """A daemon that can be away, in place of ``runtime.bots.line.Line``."""

    def __init__(self) -> None:
        self.away: Exception | None = None
        self.late: asyncio.Queue[Any] | None = None  # where finals are kept back, if they are
        self.asked = 0
        self.sessions: list[_Session] = []
        self.changed: Callable[[], None] = lambda: None

    async def client(self) -> _FakeLine:
        if self.away is not None:
            raise self.away
        return self

    def open_recognition(self, options: Any) -> _Session:
        self.sessions.append(_Session(self))
        self.changed()
        return self.sessions[-1]

    async def info(self) -> dict[str, Any]:
        from types import SimpleNamespace

        return {"ASR": SimpleNamespace(engines=[SimpleNamespace(role="live", name="fake")])}


@pytest.fixture
def fake_line(monkeypatch: pytest.MonkeyPatch) -> _FakeLine:
    from runtime.bots import stt

    line = _FakeLine()
    monkeypatch.setattr(stt, "line_to", lambda *_: line)
    monkeypatch.setattr(stt, "_FIRST_PAUSE_S", 0.01)
    return line


def test_a_restarted_daemon_costs_one_error_and_what_was_said_meanwhile_is_heard(
    fake_line: _FakeLine,
) -> None:
    from pipecat.frames.frames import ErrorFrame, TranscriptionFrame
    from pipecat.utils.errors import ErrorCategory
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService
    from runtime.errors import DaemonUnavailable

    gone = DaemonUnavailable("The daemon is gone: start it again with `speech up`.")

    async def restart() -> Any:
        service = ServeSTTService()
        async with Call(service) as call:
            await talk(call, 5)
            await call.next(TranscriptionFrame)
            fake_line.away = gone
            fake_line.sessions[0].fail(gone)
            await call.next(ErrorFrame, up=True)
            await talk(call, 7)
            await asyncio.sleep(0.1)  # some attempts in vain
            fake_line.away = None
            await call.next(TranscriptionFrame, count=2)
        return service, call

    service, call = asyncio.run(restart())
    assert [f.text for f in call.all(TranscriptionFrame)] == ["5 blocks", "7 blocks"]
    (error,) = call.all(ErrorFrame, up=True)
    assert "speech up" in error.error
    assert error.category is ErrorCategory.CONNECTIVITY
    assert service.is_usable


def test_a_daemon_that_is_away_for_long_costs_bounded_memory(fake_line: _FakeLine) -> None:
    from pipecat.frames.frames import ErrorFrame, InputAudioRawFrame, TranscriptionFrame
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService
    from runtime.errors import DaemonUnavailable

    async def wait() -> Any:
        fake_line.away = DaemonUnavailable("No daemon is running.")
        async with Call(ServeSTTService()) as call:
            await call.next(ErrorFrame, up=True)
            second = InputAudioRawFrame(BLOCK * 50, 16_000, 1)
            await call.send(*(second for _ in range(100)))
            await talk(call, 1)
            await call.until(lambda: call.kinds(type(second)) and len(call.all(type(second))) > 100)
            fake_line.away = None
            await call.next(TranscriptionFrame)
        return call

    (final,) = asyncio.run(wait()).all(TranscriptionFrame)
    kept = int(final.text.split()[0])
    assert 29 * 50 <= kept <= 30 * 50


def test_a_full_daemon_is_asked_again_when_it_says(fake_line: _FakeLine) -> None:
    from pipecat.frames.frames import ErrorFrame, TranscriptionFrame
    from pipecat.utils.errors import ErrorCategory
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService
    from runtime.errors import Overloaded

    async def refused() -> Any:
        fake_line.away = Overloaded("All 4 recognition slots are taken.", retry_after_s=0.05)
        async with Call(ServeSTTService()) as call:
            error = await call.next(ErrorFrame, up=True)
            fake_line.away = None
            await talk(call, 3)
            final = await call.next(TranscriptionFrame)
        return error, final

    error, final = asyncio.run(refused())
    assert error.category is ErrorCategory.RATE_LIMIT
    assert final.text == "3 blocks"


def test_the_last_words_are_heard_before_the_call_ends(fake_line: _FakeLine) -> None:
    from pipecat.frames.frames import InputAudioRawFrame, TranscriptionFrame
    from pipecat.tests.utils import run_test

    from runtime.bots import ServeSTTService

    frames = [InputAudioRawFrame(BLOCK, 16_000, 1) for _ in range(30)]
    down, _ = asyncio.run(run_test(ServeSTTService(), frames_to_send=frames, start_timeout=20))
    assert [f.text for f in down if isinstance(f, TranscriptionFrame)] == ["30 blocks"]


def test_a_session_that_ended_is_opened_again_without_an_error(
    fake_line: _FakeLine,
) -> None:
    from pipecat.frames.frames import ErrorFrame, TranscriptionFrame
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService
    from runtime.errors import StreamStalled

    async def mute() -> Any:
        async with Call(ServeSTTService()) as call:
            await talk(call, 2)
            await call.next(TranscriptionFrame)
            fake_line.sessions[0].fail(StreamStalled("No audio came for 60 s."))
            fake_line.changed = call.news.set
            await call.until(lambda: fake_line.sessions[0].left)
            await talk(call, 4)
            await call.next(TranscriptionFrame, count=2)
            await fake_line.sessions[1].finish()  # as when another service closes the client
            await call.until(lambda: fake_line.sessions[1].left)
            await talk(call, 6)
            await call.next(TranscriptionFrame, count=3)
        return call

    call = asyncio.run(mute())
    assert [f.text for f in call.all(TranscriptionFrame)] == ["2 blocks", "4 blocks", "6 blocks"]
    assert not call.all(ErrorFrame, up=True)


def test_a_daemon_that_comes_back_without_the_language_is_told_of(fake_line: _FakeLine) -> None:
    from pipecat.frames.frames import ErrorFrame
    from pipecat.utils.errors import ErrorCategory
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService
    from runtime.errors import DaemonUnavailable, UnknownLanguage

    async def come_back() -> Any:
        fake_line.away = DaemonUnavailable("No daemon is running.")
        async with Call(ServeSTTService()) as call:
            await call.next(ErrorFrame, up=True)
            fake_line.away = UnknownLanguage("fake does not understand 'de'.")
            return await call.next(ErrorFrame, up=True, count=2)

    error = asyncio.run(come_back())
    assert "'de'" in error.error
    assert error.category is ErrorCategory.INVALID_REQUEST


@pytest.mark.parametrize("closed", [True, False])
def test_whatever_ends_a_session_is_told_and_the_bot_hears_again(
    fake_line: _FakeLine, closed: bool
) -> None:
    from pipecat.frames.frames import ErrorFrame, TranscriptionFrame
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService
    from runtime.errors import SessionClosed

    # Another service of the process has left the daemon meanwhile, or there is a fault of ours.
    failure = SessionClosed("The session was closed.") if closed else ValueError("a fault")
    heard: list[str] = []

    async def fail() -> Any:
        service = ServeSTTService()
        for event in ("on_connected", "on_disconnected"):

            @service.event_handler(event)
            async def note(_: Any, event: str = event) -> None:
                heard.append(event)

        async with Call(service) as call:
            await talk(call, 2)
            await call.next(TranscriptionFrame)
            fake_line.sessions[0].fail(failure)
            error = await call.next(ErrorFrame, up=True)
            await talk(call, 3)
            await call.next(TranscriptionFrame, count=2)
        return call, error

    call, error = asyncio.run(fail())
    assert [f.text for f in call.all(TranscriptionFrame)] == ["2 blocks", "3 blocks"]
    assert str(failure) in error.error
    assert heard == ["on_connected", "on_disconnected"] * 2


def test_a_final_of_what_the_user_said_before_going_on_is_not_the_turns_last(
    fake_line: _FakeLine,
) -> None:
    from pipecat.frames.frames import TranscriptionFrame
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService

    async def go_on() -> Any:
        async with Call(ServeSTTService()) as call:
            fake_line.late, fake_line.changed = asyncio.Queue(), call.news.set
            for _ in range(2):  # the first answer takes longer than the user's pause
                await talk(call, 2)
            await call.until(lambda: fake_line.asked == 2)
            fake_line.sessions[0].come()
            await call.next(TranscriptionFrame, count=2)
        return call.all(TranscriptionFrame)

    finals = asyncio.run(go_on())
    assert [(final.text, final.finalized) for final in finals] == [
        ("2 blocks", False),
        ("4 blocks", True),
    ]


def test_what_was_said_while_there_was_no_line_ends_its_turn_too(fake_line: _FakeLine) -> None:
    from pipecat.frames.frames import ErrorFrame, TranscriptionFrame
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService
    from runtime.errors import DaemonUnavailable

    async def wait() -> Any:
        fake_line.away = DaemonUnavailable("No daemon is running.")
        async with Call(ServeSTTService()) as call:
            await call.next(ErrorFrame, up=True)
            for _ in range(2):
                await talk(call, 2)
            fake_line.away = None
            await call.next(TranscriptionFrame, count=2)
        return call.all(TranscriptionFrame)

    finals = asyncio.run(wait())
    assert [(final.text, final.finalized) for final in finals] == [
        ("2 blocks", False),
        ("4 blocks", True),
    ]


def test_a_session_that_does_not_end_is_not_waited_for_when_settings_change(
    fake_line: _FakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipecat.frames.frames import (
        STTUpdateSettingsFrame,
        TranscriptionFrame,
        UserStoppedSpeakingFrame,
    )
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService, stt

    async def never(_: Any) -> None:
        pass

    monkeypatch.setattr(stt, "_LAST_WORDS_S", 0.1)

    async def change() -> Any:
        service = ServeSTTService()
        async with Call(service) as call:
            await talk(call, 1)
            await call.next(TranscriptionFrame)
            monkeypatch.setattr(_Session, "finish", never)
            fake_line.changed = call.news.set
            await call.send(UserStoppedSpeakingFrame())
            await call.send(STTUpdateSettingsFrame(delta=service.Settings(language="de")))
            await call.until(lambda: len(fake_line.sessions) == 2)
            await talk(call, 3)
            await call.next(TranscriptionFrame, count=2)
        return call.all(TranscriptionFrame)

    assert [final.text for final in asyncio.run(change())] == ["1 blocks", "3 blocks"]


def test_what_was_said_before_a_change_of_settings_is_heard(fake_line: _FakeLine) -> None:
    from pipecat.frames.frames import (
        InputAudioRawFrame,
        STTUpdateSettingsFrame,
        TranscriptionFrame,
    )
    from pipecat_calls import Call

    from runtime.bots import ServeSTTService

    async def change() -> Any:
        service = ServeSTTService()
        async with Call(service) as call:
            block = InputAudioRawFrame(BLOCK, 16_000, 1)
            await call.send(*(block for _ in range(6)))  # the VAD has not told of it yet
            await call.send(STTUpdateSettingsFrame(delta=service.Settings(language="de")))
            await call.next(TranscriptionFrame)
            await talk(call, 3)
            await call.next(TranscriptionFrame, count=2)
        return call.all(TranscriptionFrame)

    finals = asyncio.run(change())
    assert [final.text for final in finals] == ["6 blocks", "3 blocks"]
    assert [session.left for session in fake_line.sessions] == [True, True]
