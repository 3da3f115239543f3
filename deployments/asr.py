"""The ASR deployment: sessions that audio is pushed into, and recordings in one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from deployments.health import check, is_beyond_help, refuse_if_lost
from deployments.identity import census, replica_id, replica_info, settle_memory
from deployments.lease import ReplicaMemory
from deployments.logs import UtteranceLog
from deployments.metrics import EngineExporter, Instruments, once_a_second
from deployments.session import Session
from deployments.streams import Abort, AbortLog, until_left
from runtime.admission import Admission, Limits
from runtime.audio import check_sample_rate, pcm16_to_float32, resample
from runtime.config import AsrArgs, AsrUserConfig, RecognizerArgs, validate
from runtime.engines import make_recognizer
from runtime.engines.cuda import as_engine_error
from runtime.errors import (
    DaemonUnavailable,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    ReplicaLost,
    SessionClosed,
    SpeechError,
)
from runtime.memory.claims import Allotment
from runtime.metrics import ASR as ASR_METRICS
from runtime.replica import (
    AbortedStream,
    Acknowledgement,
    Block,
    Census,
    EngineInfo,
    RecognitionStarted,
    ReplicaInfo,
    check_protocol,
)
from runtime.requests import resolve_recognition
from runtime.speech import (
    FinalTranscript,
    LoadReport,
    RecognitionEvent,
    RecognitionMode,
    RecognitionOptions,
    Recognizer,
    Transcript,
)
from runtime.tally import HeardTally

_STOPPING = "The daemon is stopping."
_WORD_S = 1.0


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An engine that is ready, and who may use it."""

    name: str
    engine: Recognizer
    load: LoadReport
    admission: Admission


class ASR:
    """Audio in, partial and final transcripts out."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it: engines load asynchronously
        self, args: AsrArgs, allotment: Allotment
    ) -> None:
        """Load the engines, one after the other: their peaks must not add up."""
        self._args = args
        self._allotment = allotment
        self._config = AsrUserConfig()
        self._sessions: dict[str, Session] = {}
        self._draining_since: float | None = None
        self._engines: dict[RecognitionMode, _Loaded] = {}
        self._exporters = {
            mode: EngineExporter(ASR_METRICS.engine, chosen.engine, {"mode": mode})
            for mode, chosen in self._chosen().items()
        }
        self._memory = ReplicaMemory(allotment, self._load_engines, self._unload_engines)
        await self._memory.start()
        self._metrics = Instruments(ASR_METRICS)
        self._aborts = AbortLog(self._metrics.orphaned)
        self._log = UtteranceLog()
        self._exporting = asyncio.create_task(once_a_second(self._export))
        settle_memory()

    async def _load_engines(self) -> tuple[Admission, ...]:
        ready = []
        for mode, args in self._chosen().items():
            engine = make_recognizer(args.engine, args.options)
            load = await engine.load()
            await engine.exercise()
            ready.append((mode, args.engine, engine, load))
        # Nobody is let in before all are there: to load one holds up what runs beside it.
        for mode, name, engine, load in ready:
            slots = self._allotment.slots(engine.capabilities.slots, load)
            admission = Admission(slots, f"{mode} recognition", self._limits())
            if self._draining_since is not None:
                admission.close(_STOPPING)
            self._engines[mode] = _Loaded(name, engine, load, admission)
        return tuple(loaded.admission for loaded in self._engines.values())

    async def _unload_engines(self, reason: str) -> None:
        for session in self._sessions.values():
            session.fail(ReplicaLost(reason))
        for mode, args in self._chosen().items():
            loaded = self._engines[mode]
            await loaded.engine.close()
            # Its capabilities are still asked for; it holds nothing until it is loaded again.
            fresh = make_recognizer(args.engine, args.options)
            self._engines[mode] = replace(loaded, engine=fresh)
            self._exporters[mode].forget()

    def _chosen(self) -> dict[RecognitionMode, RecognizerArgs]:
        chosen: dict[RecognitionMode, RecognizerArgs | None] = {
            "live": self._args.live,
            "file": self._args.file,
        }
        return {mode: args for mode, args in chosen.items() if args is not None}

    def _limits(self) -> Limits:
        return Limits(self._config.max_waiting, self._config.max_wait_s)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply a changed ``user_config``, to open sessions too."""
        self._config = validate(AsrUserConfig, user_config, "ASR user_config")
        for loaded in self._engines.values():
            loaded.admission.limits = self._limits()
        self._log.words = self._config.log_words
        for session in self._sessions.values():
            session.close_when_idle(self._config.idle_timeout_s)

    async def check_health(self) -> None:
        """Serve replaces a replica when this raises; one that failed to load never gets here."""
        self._memory.check()
        for loaded in self._engines.values():
            check(loaded.engine)

    async def info(self) -> ReplicaInfo:
        """This replica and its engines."""
        return replica_info(
            tuple(
                EngineInfo(
                    mode,
                    loaded.name,
                    loaded.engine.capabilities,
                    loaded.load,
                    loaded.admission.taken,
                    loaded.admission.waiting,
                )
                for mode, loaded in self._engines.items()
            )
        )

    async def aborted(self) -> tuple[AbortedStream, ...]:
        """The latest sessions whose callers left before the end."""
        return self._aborts.recent()

    async def census(self) -> Census:
        """What this replica holds, to find leaks; slow."""
        return census(sum(loaded.admission.taken for loaded in self._engines.values()))

    async def drain(self, abort: bool = False) -> int:
        """Begin nothing any more; sessions end where their utterance does.

        Args:
            abort: End them now.

        Returns:
            How many are left.
        """
        for loaded in self._engines.values():
            loaded.admission.close(_STOPPING)
        now = asyncio.get_running_loop().time()
        if self._draining_since is None:
            self._draining_since = now
        # A word that has just begun shows in a partial soon.
        late = abort or now - self._draining_since >= _WORD_S
        for session in self._sessions.values():
            if late and (abort or not session.busy):
                session.fail(DaemonUnavailable(_STOPPING))
        return sum(loaded.admission.taken for loaded in self._engines.values())

    async def recognize(
        self, protocol: int, session_id: str, options: RecognitionOptions, resumed: bool = False
    ) -> AsyncGenerator[RecognitionStarted | RecognitionEvent, None]:
        """Open a session and stream its events until it is finished, idle or cancelled.

        Args:
            protocol: The caller's ``PROTOCOL_VERSION``.
            session_id: The caller's name for the session, to push with.
            options: How to recognise.
            resumed: The session was under way on a replica that is lost or stopping.

        Raises:
            InvalidRequest: Of any kind; see ``resolve_recognition``.
            Overloaded: All slots are taken, and the queue is full or took too long.
            StreamStalled: No audio came for ``idle_timeout_s``.
            OutOfMemory: It needs more memory than the replica's lease allows.
            ReplicaLost: The replica parked for want of memory, or lost its device; another can
                go on.
            EngineFailed: The model failed.
            DaemonUnavailable: The daemon is stopping.
        """
        tally = HeardTally(session_id, options.mode, resumed=resumed)
        abort = Abort()
        try:
            check_protocol(protocol)
            loaded, options = self._resolve(options)
            async with loaded.admission.slot(ahead=resumed) as queued_s:
                refuse_if_lost(loaded.engine, replica_id())
                tally.began(queued_s, options.language)
                session = self._open(session_id, loaded, options, tally)
                try:
                    with abort.noted():
                        language = options.language or ""
                        yield RecognitionStarted(loaded.name, language, replica_id(), queued_s)
                        events = until_left(session.stream.events(), abort, session.failure)
                        async with aclosing(events):
                            async for event in events:
                                session.heard(event)
                                self._heard(event, tally)
                                yield event
                finally:
                    tally.audio_s = session.seconds
                    await self._close(session_id, session)
            tally.outcome = "done"
        except SpeechError as error:
            tally.outcome = type(error).__name__
            if isinstance(error, Overloaded):
                error.replica = replica_id()
            self._raise_if_lost(error, options.mode)
            raise
        except Exception as error:  # of an engine that is not ours
            failure = as_engine_error(error, f"The {options.mode} engine")
            tally.outcome = type(failure).__name__
            raise failure from error
        finally:
            self._aborts.freed(session_id, abort)
            self._ended(tally)
            self._log.write(tally.session_line())

    def _heard(self, event: RecognitionEvent, tally: HeardTally) -> None:
        final_s = tally.heard(event)
        if isinstance(event, FinalTranscript) and event.text:
            if final_s is not None:
                self._metrics.final.observe(final_s * 1e3)
            self._log.write(tally.final_line(event, final_s, words=self._log.words))

    def _ended(self, tally: HeardTally) -> None:
        """Into the metrics with the numbers of a session or a recording."""
        metrics, mode = self._metrics, {"mode": tally.mode}
        metrics.requests.inc(tags={**mode, "outcome": tally.outcome})
        if tally.queued_s is not None:
            metrics.queue_wait.observe(tally.queued_s * 1e3, tags=mode)
            if tally.resumed:
                metrics.taken_over.inc()
            if tally.outcome != "done":
                metrics.aborted.inc(tags={**mode, "reason": tally.outcome})
        if tally.audio_s:
            metrics.audio.inc(tally.audio_s)
        if tally.rtf is not None:
            metrics.rtf.observe(tally.rtf)

    async def _export(self) -> None:
        self._metrics.sessions.set(len(self._sessions))
        for mode, loaded in self._engines.items():
            await self._exporters[mode].export(
                loaded.engine, loaded.load, loaded.admission, parked=self._memory.parked
            )

    def _open(
        self, session_id: str, loaded: _Loaded, options: RecognitionOptions, tally: HeardTally
    ) -> Session:
        stream = loaded.engine.open(options)
        rate = loaded.engine.capabilities.sample_rate
        session = Session(stream, options, rate, tally.asked)
        session.close_when_idle(self._config.idle_timeout_s)
        self._sessions[session_id] = session
        return session

    async def _close(self, session_id: str, session: Session) -> None:
        if self._sessions.get(session_id) is session:  # and not opened again meanwhile
            del self._sessions[session_id]
        await session.close()

    async def push(self, blocks: tuple[Block, ...]) -> tuple[Acknowledgement, ...]:
        """Add a block to each of several sessions; answers at once, whatever engines do.

        Blocks may come again, in part or as a whole: samples that have arrived are skipped.
        """
        return tuple(self._take(block) for block in blocks)

    def _take(self, block: Block) -> Acknowledgement:
        session = self._sessions.get(block.session)
        if session is None:
            return Acknowledgement(
                0,
                SessionClosed(
                    "There is no such recognition session here: it was closed, timed out, or "
                    "never opened. Open another one."
                ),
            )
        return session.take(block)

    async def transcribe(
        self, protocol: int, pcm: bytes, options: RecognitionOptions, resumed: bool = False
    ) -> Transcript:
        """Recognise a recording of at most a handle call's size (4 MiB) in one call.

        Raises:
            InvalidRequest: Of any kind; see ``resolve_recognition``.
            Overloaded: All slots are taken, and the queue is full or took too long.
            OutOfMemory: It needs more memory than the replica's lease allows.
            ReplicaLost: The replica parked for want of memory, or lost its device; another can
                go on.
            EngineFailed: The model failed.
            DaemonUnavailable: The daemon is stopping.
        """
        tally = HeardTally("", options.mode, resumed=resumed)
        transcript = None
        try:
            check_protocol(protocol)
            loaded, options = self._resolve(options)
            samples = pcm16_to_float32(pcm)
            rate = loaded.engine.capabilities.sample_rate
            if options.sample_rate != rate:
                samples = await asyncio.to_thread(resample, samples, options.sample_rate, rate)
            async with loaded.admission.slot(ahead=resumed) as queued_s:
                refuse_if_lost(loaded.engine, replica_id())
                tally.began(queued_s, options.language)
                began = time.monotonic()
                transcript = await loaded.engine.transcribe(samples, options)
                tally.engine_s = time.monotonic() - began
            tally.audio_s = transcript.seconds
            tally.outcome = "done"
        except SpeechError as error:
            tally.outcome = type(error).__name__
            if isinstance(error, Overloaded):
                error.replica = replica_id()
            if isinstance(error, EngineFailed) and self._memory.parked:
                raise ReplicaLost("The replica parked: memory is short.") from error
            self._raise_if_lost(error, options.mode)
            raise
        except Exception as error:  # of an engine that is not ours
            failure = as_engine_error(error, f"The {options.mode} engine")
            tally.outcome = type(failure).__name__
            raise failure from error
        finally:
            self._ended(tally)
            self._log.write(tally.recording_line(transcript, words=self._log.words))
        return replace(transcript, seconds=len(pcm) / 2 / options.sample_rate)

    def _raise_if_lost(self, error: SpeechError, mode: RecognitionMode) -> None:
        loaded = self._engines.get(mode)
        if isinstance(error, EngineFailed) and loaded and is_beyond_help(loaded.engine):
            raise ReplicaLost(str(error)) from error

    def _resolve(self, options: RecognitionOptions) -> tuple[_Loaded, RecognitionOptions]:
        check_sample_rate(options.sample_rate)
        if options.mode not in self._engines:
            raise InvalidRequest(
                f"No engine is configured for mode {options.mode!r}; modes: "
                f"{', '.join(self._engines)}."
            )
        loaded = self._engines[options.mode]
        return loaded, resolve_recognition(options, loaded.engine.capabilities)
