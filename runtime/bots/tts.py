"""A bot's mouth: synthesis through the daemon, as a Pipecat service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.metrics.metrics import MetricsData
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TextAggregationMode, TTSService
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.tracing.service_decorators import traced_tts
from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given

from runtime.bots.clauses import ClauseAggregator
from runtime.bots.line import Line, category, engine_name, line_to
from runtime.client import SpeechClient
from runtime.client.synthesis import SynthesisStream
from runtime.config import TTS_DEPLOYMENT
from runtime.errors import DaemonUnavailable, InvalidRequest, SpeechError
from runtime.settings import Settings as DaemonSettings
from runtime.speakable import has_speech
from runtime.speech import AudioChunk, SynthesisRequest

_ENOUGH_S = 1.0  # with less audio than this still to be played, a clause is spoken at once
_SILENCE = 104  # of 32,767: -50 dBFS
_ONSET_S = 0.03  # kept before the first sound: consonants begin softly
_SILENT_S = 60.0  # longer than any takeover: what is said ends when we say so


@dataclass
class ServeTTSSettings(TTSSettings):
    """What can be changed during a call, by ``TTSUpdateSettingsFrame``; the next piece has it.

    Parameters:
        model: The speech application of the daemon that speaks, ``speech`` if None.
        voice: A voice's name; None takes the engine's default.
        blend: Voices and their weights, which sum to 1, instead of one voice; where the
            engine can.
        language: BCP 47 tag; None takes the voice's.
        normalise: Read numbers, dates and currency as words.
        speed: 1.0 is the voice's own pace, 2.0 twice as fast, where the engine can.
        seed: Makes the audio repeatable, where the engine can; None draws one.
        trim: Leave out the silence before the first sound of a reply, some tenths of a second
            with some engines: the listener waits through it.
        lead_s: Seconds of audio that may be synthesised ahead of what is played. Less is
            wasted when the user interrupts; None makes it as fast as the engine can.
        speak_by: What of an LLM's text is spoken at once. ``clause``: a clause where the
            listener would otherwise hear nothing, else whole sentences. ``sentence``: whole
            sentences.
    """

    blend: Mapping[str, float] | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    normalise: bool | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    speed: float | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    seed: int | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    trim: bool | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    lead_s: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    speak_by: Literal["clause", "sentence"] | NotGiven = field(default_factory=lambda: NOT_GIVEN)


@dataclass(slots=True)
class _Utterance:
    """What is being said in a context, text by text.

    Attributes:
        context: Its id.
        manner: How it is said: a request without a text.
        line: By which application.
        stream: Takes the texts.
        texts: How many it has got.
    """

    context: str
    manner: SynthesisRequest
    line: Line
    stream: SynthesisStream
    texts: int = 1


class ServeTTSService(TTSService):
    """Synthesis by the daemon's TTS deployment.

    Text comes token by token from an LLM, or whole in a ``TTSSpeakFrame``. All that is said in
    one context is one utterance of the daemon, to which each piece is added: it keeps its slot,
    and how one piece was said shapes the next where the engine can. An interruption ends the
    replica's work within one step of its engine. The text frame of each piece follows its
    audio, so that the context holds what was heard.
    """

    Settings = ServeTTSSettings
    _settings: ServeTTSSettings

    def __init__(
        self,
        *,
        daemon: DaemonSettings | None = None,
        address: str | None = None,
        settings: ServeTTSSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Nothing is connected before the pipeline starts.

        Args:
            daemon: Where the daemon is found; by default read from the environment.
            address: As for ``SpeechClient.connect``.
            settings: What differs from the defaults: the engine's voice and pace, normalised
                text, no silence before it, clauses, 5 s of lead.
            **kwargs: For ``TTSService``. Audio has the pipeline's output rate, or
                ``sample_rate``.

        Raises:
            InvalidRequest: ``speak_by`` is neither of its values.
        """
        complete = ServeTTSSettings(
            model=None,
            voice=None,
            language=None,
            blend=None,
            normalise=True,
            speed=1.0,
            seed=None,
            trim=True,
            lead_s=5.0,
            speak_by="clause",
        )
        if settings is not None:
            complete.apply_update(settings)
        _check_policy(complete)
        # Silence is an outage's doing, and must not end the service: it speaks again after it.
        kwargs = {
            "stop_frame_timeout_s": _SILENT_S,
            "max_consecutive_zero_audio_contexts": 0,
        } | kwargs
        super().__init__(
            settings=complete,
            text_aggregation_mode=TextAggregationMode.SENTENCE,
            push_start_frame=True,
            push_stop_frames=True,
            **kwargs,
        )
        self._text_aggregator = ClauseAggregator(
            self._listener_waits, self.text_aggregation_language
        )
        self.add_text_transformer(_only_speech)
        self._daemon = daemon
        self._address = address
        self._plays_until = 0.0  # by the monotonic clock
        self._sounding: str | None = None  # the context that was last heard
        self._connecting: asyncio.Task[None] | None = None
        self._client: SpeechClient | None = None  # whose engine metrics name
        self._utterance: _Utterance | None = None
        self._unsaid = False  # the last piece, or a part of it

    def can_generate_metrics(self) -> bool:
        """Yes: TTFB, and characters."""
        return True

    @property
    def supports_processing_metrics(self) -> bool:
        """No: synthesis keeps ``lead_s`` ahead of the listener, which is what would be timed."""
        return False

    async def start(self, frame: StartFrame) -> None:
        """Connect meanwhile, so that the first words need not wait for it."""
        await super().start(frame)
        self._begin_to_connect()

    async def cleanup(self) -> None:
        """Free what is left."""
        self._fall_silent()
        await super().cleanup()
        await self._stop_connecting()
        await self._disconnected()

    async def _update_settings(self, delta: TTSSettings) -> dict[str, Any]:
        """Apply a change; the next piece is spoken with it."""
        try:
            _check_policy(delta)
        except InvalidRequest as error:  # and go on as before
            await self.push_error(str(error), exception=error, category=ErrorCategory.APPLICATION)
            return {}
        if is_given(delta.voice) and not is_given(getattr(delta, "blend", NOT_GIVEN)):
            delta.blend = None  # the voice that was asked for last is the one that speaks
        changed: dict[str, Any] = await super()._update_settings(delta)
        if "model" in changed:
            await self._stop_connecting()
            self._begin_to_connect()
        return changed

    def _begin_to_connect(self) -> None:
        if self._connecting is None or self._connecting.done():
            self._connecting = self.create_task(self._connect(), "connect")

    async def _stop_connecting(self) -> None:
        if self._connecting is not None:
            await self.cancel_task(self._connecting)
            self._connecting = None

    async def _connect(self) -> None:
        try:
            client = await self._line().client()
            model = await engine_name(client, TTS_DEPLOYMENT)
        except SpeechError as error:
            await self._report(error)
            return
        if client is not self._client:
            await self._disconnected()
        self.set_core_metrics_data(MetricsData(processor=self.name, model=model))
        self._client = client
        await self._call_event_handler("on_connected")

    async def _disconnected(self) -> None:
        if self._client is not None:
            self._client = None
            await self._call_event_handler("on_disconnected")

    def _line(self) -> Line:
        return line_to(self._daemon, self._address, self._settings.model or None)

    async def _report(self, error: SpeechError) -> None:
        if isinstance(error, DaemonUnavailable):
            await self._disconnected()
        await self._call_event_handler("on_connection_error", str(error))
        await self.push_error(str(error), exception=error, category=category(error))

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak a piece of text into its audio context.

        Args:
            text: A clause, a sentence, or more.
            context_id: The turn that it belongs to.

        Yields:
            None: audio goes straight to the context.
        """
        async with self._telling():
            await self._wait_for_playback()
            await self.start_tts_usage_metrics(text)
            utterance = await self._said_by(text, context_id)
            await self._hear(utterance, utterance.texts)
        yield None

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        """Tell of an error, and go on; whatever ends the body ends the utterance."""
        heard, self._unsaid = False, False
        try:
            yield
            heard = True
        except SpeechError as error:
            await self._report(error)
        except Exception as error:  # or the context would stay open, and the bot mute
            await self.push_error(f"{self} failed: {error!r}", exception=error)
        finally:
            if not heard:  # an interruption cancels this task
                self._unsaid = True
                self._fall_silent()

    async def append_to_audio_context(self, context_id: str, frame: Frame) -> None:
        """Add a frame; text that was not said is not part of the conversation."""
        if self._unsaid and isinstance(frame, TTSTextFrame):
            frame.append_to_context = False
        await super().append_to_audio_context(context_id, frame)

    async def _said_by(self, text: str, context_id: str) -> _Utterance:
        """The utterance that says a text: that under way in the context, or a new one."""
        request = self._request(text)
        manner = replace(request, text="")
        current, line = self._utterance, self._line()
        asked = (context_id, manner, line)
        if current is not None and (current.context, current.manner, current.line) == asked:
            current.stream.extend(text)
            current.texts += 1
            return current
        if current is not None and current.context == context_id:
            await self._finish(current)
        self._fall_silent()
        client = await line.client()
        if client is not self._client:  # the daemon is another one, or there was none
            self._begin_to_connect()
        stream = client.synthesize(request, sample_rate=self.sample_rate, growing=True)
        self._utterance = _Utterance(context_id, manner, line, stream)
        return self._utterance

    async def _hear(self, utterance: _Utterance, texts: int | None = None) -> None:
        """Play it until so many of its texts have been said, or to its end."""
        context_id = utterance.context
        async for chunk in utterance.stream:
            if pcm := self._audible(chunk, context_id):
                audio = TTSAudioRawFrame(pcm, chunk.sample_rate, 1, context_id=context_id)
                await self.append_to_audio_context(context_id, audio)
                self._played_later(len(pcm) / 2 / chunk.sample_rate)
            if texts is not None and chunk.texts >= texts:
                return
            if not chunk.end:
                await self._wait_for_playback()

    async def _finish(self, utterance: _Utterance) -> None:
        """No more text comes: play what is left."""
        utterance.stream.finish()
        await self._hear(utterance)
        self._utterance = None

    def _fall_silent(self) -> None:
        if self._utterance is not None:
            self._utterance.stream.cancel()
            self._utterance = None

    def _audible(self, chunk: AudioChunk, context_id: str) -> bytes:
        """The chunk's PCM16, without the silence before the first sound of its context."""
        if self._sounding == context_id or not self._settings.trim:
            return chunk.pcm
        kept = sound(chunk.pcm, chunk.sample_rate)
        if kept:
            self._sounding = context_id
        return kept

    def _request(self, text: str) -> SynthesisRequest:
        settings = self._settings
        voice = settings.voice
        if settings.blend:
            voice = "+".join(f"{name}:{weight!r}" for name, weight in settings.blend.items())
        return SynthesisRequest(
            text,
            voice=voice or None,
            language=str(settings.language) if settings.language else None,
            normalise=bool(settings.normalise),
            seed=settings.seed,
            speed=settings.speed,
        )

    # --- how far ahead of the listener we are --------------------------------

    def _played_later(self, seconds: float) -> None:
        self._plays_until = max(self._plays_until, time.monotonic()) + seconds

    async def _wait_for_playback(self) -> None:
        if self._settings.lead_s is not None:
            ahead = self._plays_until - time.monotonic() - self._settings.lead_s
            if ahead > 0:
                await asyncio.sleep(ahead)

    def _listener_waits(self) -> bool:
        ahead = self._plays_until - time.monotonic()
        return self._settings.speak_by == "clause" and ahead < _ENOUGH_S

    # --- what becomes of a context -------------------------------------------

    async def flush_audio(self, context_id: str | None = None) -> None:
        """No more text comes: end the context once its audio has been played."""
        utterance = self._utterance
        if utterance is not None and context_id in (None, utterance.context):
            async with self._telling():
                await self._finish(utterance)
        if context_id is not None and self.audio_context_available(context_id):
            await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
            await self.remove_audio_context(context_id)

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """End the replica's work for it; what may not be interrupted goes on."""
        if self._utterance is not None and self._utterance.context == context_id:
            self._fall_silent()
        await super().on_audio_context_interrupted(context_id)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Note that an interruption ends what is being played, also beyond this service."""
        if isinstance(frame, InterruptionFrame):
            self._plays_until = 0.0
        await super().process_frame(frame, direction)


def _check_policy(settings: TTSSettings) -> None:
    policy = getattr(settings, "speak_by", NOT_GIVEN)
    if is_given(policy) and policy not in ("clause", "sentence"):
        raise InvalidRequest(f"speak_by is {policy!r}; it is 'clause' or 'sentence'.")


def sound(pcm: bytes, sample_rate: int) -> bytes:
    """PCM16 from shortly before its first sound on; empty if it is silent throughout."""
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)) > _SILENCE)
    if not loud.size:
        return b""
    return pcm[2 * max(0, int(loud[0]) - round(_ONSET_S * sample_rate)) :]


async def _only_speech(text: str, text_type: str) -> str:
    """Leave out what has no sound, such as an emoji alone: it is no error of a bot's."""
    return text if has_speech(text) else ""
