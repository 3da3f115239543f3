"""The ASR deployment: sessions that audio is pushed into, and recordings in one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray.serve import metrics

from deployments.identity import replica_info
from runtime.audio import Resampler, check_sample_rate, pcm16_to_float32, resample
from runtime.config import AsrArgs, AsrUserConfig, RecognizerArgs, validate
from runtime.engines import make_recognizer
from runtime.errors import (
    AudioFormatError,
    InvalidRequest,
    SessionClosed,
    SpeechError,
    StreamStalled,
)
from runtime.replica import EngineInfo, RecognitionStarted, ReplicaInfo, check_protocol
from runtime.requests import resolve_recognition
from runtime.speech import (
    LoadReport,
    RecognitionEvent,
    RecognitionMode,
    RecognitionOptions,
    RecognitionStream,
    Recognizer,
    Transcript,
)


class _Session:
    """A caller's audio on its way into an engine's stream."""

    def __init__(self, stream: RecognitionStream, from_rate: int, to_rate: int) -> None:
        """Rates in Hz: the caller's and the engine's."""
        self.stream = stream
        self.finished = False
        self.last_heard = time.monotonic()
        self._received = 0  # samples, at the caller's rate
        self._rates = (from_rate, to_rate)
        self._resampler = Resampler(from_rate, to_rate)
        self._in_order = asyncio.Lock()

    async def push(self, first_sample: int, pcm: bytes) -> int:
        """Take a block that starts at ``first_sample``; samples known already are skipped."""
        async with self._in_order:
            self.last_heard = time.monotonic()
            if first_sample > self._received:
                raise AudioFormatError(
                    f"A block starts at sample {first_sample}, but only {self._received} have "
                    "arrived: blocks are pushed in order and without gaps."
                )
            samples = pcm16_to_float32(pcm)[self._received - first_sample :]
            self._received += len(samples)
            await self.stream.push(self._resampler.push(samples))
            return self._received

    async def finalize(self) -> int:
        """End the utterance; see ``RecognitionStream.finalize``."""
        async with self._in_order:
            self.last_heard = time.monotonic()
            await self._flush()
            return await self.stream.finalize()

    async def finish(self) -> None:
        """No more audio; see ``RecognitionStream.finish``."""
        async with self._in_order:
            await self._flush()
            await self.stream.finish()
            self.finished = True

    async def _flush(self) -> None:
        """Push what the resampler holds back, so that nothing leaks into the next utterance."""
        await self.stream.push(self._resampler.push(pcm16_to_float32(b""), last=True))
        self._resampler = Resampler(*self._rates)


class ASR:
    """Audio in, partial and final transcripts out."""

    async def __init__(self, args: AsrArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        """Load the engines, one after the other: their peaks must not add up."""
        self._config = AsrUserConfig()
        self._sessions: dict[str, _Session] = {}
        self._engines: dict[RecognitionMode, tuple[str, Recognizer, LoadReport]] = {}
        self._active: dict[RecognitionMode, int] = {}
        chosen: dict[RecognitionMode, RecognizerArgs | None] = {
            "live": args.live,
            "file": args.file,
        }
        for mode, engine_args in chosen.items():
            if engine_args is not None:
                engine = make_recognizer(engine_args.engine, engine_args.options)
                self._engines[mode] = (engine_args.engine, engine, await engine.load())
                self._active[mode] = 0
        self._requests = metrics.Counter(
            "speech_asr_requests_total",
            "Sessions and recordings, by how they ended.",
            tag_keys=("mode", "outcome"),
        )
        self._audio = metrics.Counter("speech_asr_audio_seconds_total", "Audio recognised.")
        self._sessions_open = metrics.Gauge("speech_asr_sessions", "Open sessions.")

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply a changed ``user_config``, to open sessions too."""
        self._config = validate(AsrUserConfig, user_config, "ASR user_config")

    async def check_health(self) -> None:
        """Serve restarts a replica when this raises; one that failed to load never gets here."""

    async def info(self) -> ReplicaInfo:
        """This replica and its engines."""
        return replica_info(
            tuple(
                EngineInfo(mode, name, engine.capabilities, load, self._active[mode])
                for mode, (name, engine, load) in self._engines.items()
            )
        )

    async def recognize(
        self, protocol: int, session_id: str, options: RecognitionOptions
    ) -> AsyncGenerator[RecognitionStarted | RecognitionEvent, None]:
        """Open a session and stream its events until it is finished, idle or cancelled.

        Raises:
            InvalidRequest: Of any kind; see ``resolve_recognition``.
            Overloaded: All slots are taken.
            StreamStalled: No audio came for ``idle_timeout_s``.
            EngineFailed: The model failed.
        """
        outcome = "cancelled"
        try:
            check_protocol(protocol)
            name, engine, options = self._admit(options)
            stream = engine.open(options)
            rate = engine.capabilities.sample_rate
            session = _Session(stream, options.sample_rate, rate)
            self._sessions[session_id] = session
            self._active[options.mode] += 1
            self._sessions_open.set(len(self._sessions))
            try:
                yield RecognitionStarted(name, options.language or "")
                async with aclosing(self._events(session)) as events:
                    async for event in events:
                        yield event
            finally:
                await stream.close()
                del self._sessions[session_id]
                self._active[options.mode] -= 1
                self._sessions_open.set(len(self._sessions))
            outcome = "done"
        except SpeechError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._requests.inc(tags={"mode": options.mode, "outcome": outcome})

    async def _events(self, session: _Session) -> AsyncGenerator[RecognitionEvent, None]:
        """The stream's events, until it ends or the session has been idle for too long."""
        async with aclosing(session.stream.events()) as events:
            while True:
                upcoming = asyncio.ensure_future(anext(events, None))
                try:
                    while not upcoming.done():
                        await asyncio.wait({upcoming}, timeout=self._idle_left(session))
                        if not upcoming.done() and self._idle_left(session) == 0:
                            raise StreamStalled(
                                f"No audio came for {self._config.idle_timeout_s:g} s; the session "
                                "was closed."
                            )
                finally:
                    if not upcoming.done():
                        upcoming.cancel()
                        await asyncio.wait({upcoming})
                event = upcoming.result()
                if event is None:
                    return
                yield event

    def _idle_left(self, session: _Session) -> float | None:
        if session.finished:
            return None
        return max(0.0, session.last_heard + self._config.idle_timeout_s - time.monotonic())

    async def push(self, session_id: str, first_sample: int, pcm: bytes) -> int:
        """Add a block to a session; returns how many samples have arrived in all.

        A block may be pushed again: samples that have arrived already are skipped.
        Returns late when the engine is behind, which bounds what it has to hold.

        Raises:
            SessionClosed: There is no such session here.
            AudioFormatError: A gap before the block, or no PCM16.
        """
        return await self._session(session_id).push(first_sample, pcm)

    async def finalize(self, session_id: str) -> int:
        """End the utterance; the final that answers carries the number returned."""
        return await self._session(session_id).finalize()

    async def finish(self, session_id: str) -> None:
        """No more audio will come; the event stream ends after the last final."""
        await self._session(session_id).finish()

    async def transcribe(
        self, protocol: int, pcm: bytes, options: RecognitionOptions
    ) -> Transcript:
        """Recognise a recording of at most a handle call's size (4 MiB) in one call.

        Raises:
            InvalidRequest: Of any kind; see ``resolve_recognition``.
            Overloaded: All slots are taken.
            EngineFailed: The model failed.
        """
        outcome = "cancelled"
        try:
            check_protocol(protocol)
            _, engine, options = self._admit(options)
            samples = pcm16_to_float32(pcm)
            rate = engine.capabilities.sample_rate
            if options.sample_rate != rate:
                samples = await asyncio.to_thread(resample, samples, options.sample_rate, rate)
            self._active[options.mode] += 1
            try:
                transcript = await engine.transcribe(samples, options)
            finally:
                self._active[options.mode] -= 1
            self._audio.inc(transcript.seconds)
            outcome = "done"
        except SpeechError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._requests.inc(tags={"mode": options.mode, "outcome": outcome})
        return replace(transcript, seconds=len(pcm) / 2 / options.sample_rate)

    def _admit(self, options: RecognitionOptions) -> tuple[str, Recognizer, RecognitionOptions]:
        check_sample_rate(options.sample_rate)
        if options.mode not in self._engines:
            raise InvalidRequest(
                f"No engine is configured for mode {options.mode!r}; modes: "
                f"{', '.join(self._engines)}."
            )
        name, engine, _ = self._engines[options.mode]
        return name, engine, resolve_recognition(options, engine.capabilities)

    def _session(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionClosed(
                "There is no such recognition session here: it was closed, timed out, or never "
                "opened. Open another one."
            )
        return session
