"""A bot's ears: recognition of one call through the daemon, as a Pipecat service."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterimTranscriptionFrame,
    StartFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import MetricsData
from pipecat.services.settings import STTSettings
from pipecat.services.stt_service import STTService
from pipecat.transcriptions.language import Language
from pipecat.utils.time import time_now_iso8601
from pipecat.utils.tracing.service_decorators import traced_stt
from pipecat.utils.types import NOT_GIVEN, NotGiven

from runtime.bots.line import Line, category, engine_name, line_to
from runtime.client import RecognitionSession
from runtime.config import ASR_DEPLOYMENT
from runtime.errors import InvalidRequest, Overloaded, SessionClosed, SpeechError, StreamStalled
from runtime.settings import Settings as DaemonSettings
from runtime.speech import FinalTranscript, PartialTranscript, RecognitionOptions

_log = logging.getLogger(__name__)

EMBEDDED_TTFS_P99 = 0.5
"""Seconds from the end of speech to its final transcript, with ``stop_secs=0.2``.

Measured with the embedded engines and one call: docs/benchmarks/xeon-2core-turn.json has a p99
of 224 ms from the VAD's stop on.
"""

_KEPT_S = 30.0  # seconds of audio that wait for a connection; older audio is given up
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 4.0
_LAST_WORDS_S = 3.0  # how long the end of a call, or of a session, waits for its last transcript


@dataclass
class ServeSTTSettings(STTSettings):
    """What can be changed during a call, by ``STTUpdateSettingsFrame``.

    Parameters:
        model: The speech application of the daemon that listens, ``speech`` if None. Another
            one may run another engine, or the same with another right context, which a
            replica keeps for its life.
        language: BCP 47 tag; None takes the engine's own.
        endpoint_ms: Silence in ms of audio that ends an utterance by itself; None leaves that
            to the pipeline's VAD.
        interim: Whether interim transcriptions are wanted.
        words: Whether finals carry the times of their words (``frame.result.words``), where
            the engine knows them; one that does not refuses the session.
    """

    endpoint_ms: int | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    interim: bool | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    words: bool | NotGiven = field(default_factory=lambda: NOT_GIVEN)


class _Mark(Enum):
    """What stands between blocks of audio."""

    FINALIZE = "the user has stopped speaking"
    FINISH = "the call ends"
    RENEW = "what follows is for a session with other settings"


class ServeSTTService(STTService):
    """Recognition by the daemon's ASR deployment.

    Give it the pipeline's VAD, before it or in the user aggregator: the final transcript is
    asked for when the VAD says that the user has stopped, and comes marked ``finalized``, so
    that no turn strategy waits for more. ``frame.result`` is the ``PartialTranscript`` or
    ``FinalTranscript`` of ``runtime.speech``.

    The call outlives its replica (the session moves) and its daemon: after a restart the
    service connects again. Audio of the meantime is kept for 30 s. Each outage is one
    ``ErrorFrame`` that says what to do.
    """

    Settings = ServeSTTSettings
    _settings: ServeSTTSettings

    def __init__(
        self,
        *,
        daemon: DaemonSettings | None = None,
        address: str | None = None,
        settings: ServeSTTSettings | None = None,
        ttfs_p99_latency: float | None = EMBEDDED_TTFS_P99,
        **kwargs: Any,
    ) -> None:
        """Nothing is connected before the pipeline starts.

        Args:
            daemon: Where the daemon is found; by default read from the environment.
            address: As for ``SpeechClient.connect``.
            settings: What differs from the defaults: no language, no endpointing, interim
                transcriptions, no words.
            ttfs_p99_latency: Seconds from the end of speech to the final transcript, p99.
                Turn strategies wait no longer for a transcript that does not come. Measure
                yours: ``speech bench turn``.
            **kwargs: For ``STTService``.
        """
        complete = ServeSTTSettings(
            model=None, language=None, endpoint_ms=None, interim=True, words=False
        )
        if settings is not None:
            complete.apply_update(settings)
        super().__init__(settings=complete, ttfs_p99_latency=ttfs_p99_latency, **kwargs)
        self._daemon = daemon
        self._address = address
        self._audio: deque[bytes | _Mark] = deque()
        self._queued = 0  # bytes
        self._more = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._session: RecognitionSession | None = None  # while it takes audio
        self._renewing: asyncio.Task[None] | None = None
        self._asked = 0  # finals, of the session
        self._connected = False
        self._ending = False
        self._finals: set[asyncio.Task[Any]] = set()

    def can_generate_metrics(self) -> bool:
        """Yes: TTFB, which here is from the end of speech to the final, and seconds of audio."""
        return True

    async def start(self, frame: StartFrame) -> None:
        """Begin to listen."""
        await super().start(frame)
        self._begin()

    async def stop(self, frame: EndFrame) -> None:
        """Hear what was said last, then hang up."""
        await super().stop(frame)
        if self._listening is not None:
            self._ending = True
            self._put(_Mark.FINISH)
            await asyncio.wait({self._listening}, timeout=_LAST_WORDS_S)
        await self._hang_up()

    async def cancel(self, frame: CancelFrame) -> None:
        """Hang up."""
        await super().cancel(frame)
        await self._hang_up()

    async def cleanup(self) -> None:
        """Hang up, however the pipeline ended."""
        await super().cleanup()
        await self._hang_up()

    # --- audio in ------------------------------------------------------------

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Take a block of audio; transcripts come by themselves."""
        self._put(audio)
        yield None

    def _put(self, item: bytes | _Mark) -> None:
        # Never waits: frames of the whole pipeline come behind this one.
        self._audio.append(item)
        if isinstance(item, bytes):
            self._queued += len(item)
            while self._queued > 2 * _KEPT_S * self.sample_rate:
                self._take()
        self._more.set()

    def _take(self) -> bytes | _Mark:
        item = self._audio.popleft()
        if isinstance(item, bytes):
            self._queued -= len(item)
        return item

    async def _handle_vad_user_stopped_speaking(self, frame: VADUserStoppedSpeakingFrame) -> None:
        # Asked for before the frame goes on: others start to work on it at once.
        if self._listening is not None:
            self.request_finalize()
            self._put(_Mark.FINALIZE)
        await super()._handle_vad_user_stopped_speaking(frame)

    # --- the session ---------------------------------------------------------

    def _begin(self) -> None:
        if self._listening is None:
            self._listening = self.create_task(self._listen(), "listen")

    async def _hang_up(self) -> None:
        await self._stop_renewing()
        listening, self._listening = self._listening, None
        if listening is not None:
            await self.cancel_task(listening)
            await self._disconnected()
        self._audio.clear()
        self._queued = 0

    async def _disconnected(self) -> None:
        if self._connected:
            self._connected = False
            await self._call_event_handler("on_disconnected")

    async def _listen(self) -> None:
        """Keep a session open until the call ends, or there is no sense in trying again."""
        pause_s = 0.0
        while True:
            try:
                client = await self._line().client()
                async with client.open_recognition(self._options()) as session:
                    self._connected = True
                    await self._call_event_handler("on_connected")
                    model = await engine_name(client, ASR_DEPLOYMENT)
                    self.set_core_metrics_data(MetricsData(processor=self.name, model=model))
                    pause_s = 0.0
                    await self._converse(session)
                await self._disconnected()
                if self._ending and not self._audio:
                    return
            except StreamStalled:
                await self._disconnected()
                # A muted caller: the slot is for others until there is audio again.
                while not self._audio:
                    self._more.clear()
                    await self._more.wait()
            except Exception as error:  # whatever it is, or the bot would be deaf without a word
                # Its line was closed while it was opened: that says nothing of the request.
                hopeless = isinstance(error, InvalidRequest) and not isinstance(
                    error, SessionClosed
                )
                await self._disconnected()
                if not pause_s or hopeless:  # once an outage
                    await self._report(error)
                if hopeless:
                    return
                pause_s = min(max(_FIRST_PAUSE_S, 2 * pause_s), _LONGEST_PAUSE_S)
                if isinstance(error, Overloaded):
                    pause_s = max(pause_s, error.retry_after_s)
                await asyncio.sleep(pause_s)

    async def _converse(self, session: RecognitionSession) -> None:
        """Push audio and pass on what was heard, until the call ends or the client is closed."""
        self._session, self._asked = session, 0
        pushing = self.create_task(self._push(session), "push")
        try:
            async for event in session:
                if isinstance(event, PartialTranscript):
                    await self._heard_partly(event)
                else:
                    await self._heard(event)
        finally:
            self._session = None
            for task in (pushing, *self._finals):
                await self.cancel_task(task)

    async def _push(self, session: RecognitionSession) -> None:
        while True:
            while not self._audio:
                self._more.clear()
                await self._more.wait()
            item = self._take()
            try:
                if isinstance(item, bytes):
                    await session.push(item)
                elif item is not _Mark.FINALIZE:
                    await session.finish()
                    return
                else:
                    self._asked += 1
                    final = self.create_task(_finalize(session), "finalize")
                    self._finals.add(final)
                    final.add_done_callback(self._finals.discard)
                    await asyncio.sleep(0)  # asked before what follows is pushed
            except SpeechError:
                return  # whoever reads the session is told the same

    def _line(self) -> Line:
        return line_to(self._daemon, self._address, self._settings.model or None)

    def _options(self) -> RecognitionOptions:
        settings = self._settings
        return RecognitionOptions(
            sample_rate=self.sample_rate,
            language=str(settings.language) if settings.language else None,
            words=bool(settings.words),
            partials=bool(settings.interim),
            endpoint_ms=settings.endpoint_ms or None,
        )

    async def _report(self, error: Exception) -> None:
        if not isinstance(error, SpeechError):
            await self.push_error(f"{self} failed: {error!r}", exception=error)
            return
        await self._call_event_handler("on_connection_error", str(error))
        await self.push_error(str(error), exception=error, category=category(error))

    # --- transcripts out -----------------------------------------------------

    async def _heard_partly(self, event: PartialTranscript) -> None:
        await self.push_frame(
            InterimTranscriptionFrame(
                event.text, self._user_id, time_now_iso8601(), self._language(), result=event
            )
        )

    async def _heard(self, event: FinalTranscript) -> None:
        # One that comes only after the user has gone on and paused again is not the whole turn.
        newest = (
            event.request > 0 and event.request == self._asked and _Mark.FINALIZE not in self._audio
        )
        if not event.text:
            if newest and not self._last_transcript_time:
                # There was no speech after all: nothing to wait for, or to measure.
                await self._reset_stt_ttfb_state()
            return
        if newest:
            self.confirm_finalize()
        # Before the frame, which ends the span that usage belongs to.
        await self.emit_stt_usage_metrics()
        await self.push_frame(
            TranscriptionFrame(
                event.text, self._user_id, time_now_iso8601(), self._language(), result=event
            )
        )
        await self._handle_transcription(event.text, True, self._language())

    @traced_stt
    async def _handle_transcription(
        self, transcript: str, is_final: bool, language: Language | None = None
    ) -> None:
        """Where Pipecat's tracing takes hold."""

    def _language(self) -> Language | None:
        try:
            return Language(self._settings.language)
        except ValueError:
            return None

    # --- settings ------------------------------------------------------------

    async def _update_settings(self, delta: STTSettings) -> dict[str, Any]:
        """Apply a change: a session with the new settings takes over once the user is silent.

        The one before hears out what it has been given, so that nothing is lost between them.
        """
        changed: dict[str, Any] = await super()._update_settings(delta)
        if changed and self._listening is not None:
            await self._request_reconnect()
        return changed

    async def _do_reconnect(self) -> None:
        # Does not wait: meanwhile Pipecat would keep audio back, but not the ends of turns in it.
        # Both go on into the queue, and whoever is connected next finds them in their order.
        session = self._session
        if session is None:
            await self._begin_anew()
            return
        self._put(_Mark.RENEW)
        await self._stop_renewing()
        self._renewing = self.create_task(self._see_ended(session), "renew")

    async def _see_ended(self, session: RecognitionSession) -> None:
        await asyncio.sleep(_LAST_WORDS_S)
        if self._session is session:  # it does not come to its end
            await self._begin_anew()

    async def _begin_anew(self) -> None:
        if self._listening is not None:
            await self.cancel_task(self._listening)
            self._listening = None
            await self._disconnected()
        self._begin()

    async def _stop_renewing(self) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            await self.cancel_task(renewing)


async def _finalize(session: RecognitionSession) -> None:
    try:
        await session.finalize()  # whoever reads the session gets the transcript as well
    except SpeechError as error:
        _log.debug("No final transcript: %s", error)
