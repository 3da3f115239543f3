"""A bot's ears while its daemon comes and goes, is full or slow: nothing that is said is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from bot_turns import BLOCK, talk


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
