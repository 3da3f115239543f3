"""The TTS deployment: validates, speaks, and never runs far ahead of its reader."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.growing import Growing
from deployments.health import check, is_beyond_help, refuse_if_lost
from deployments.identity import census, replica_id, replica_info, settle_memory
from deployments.lease import ReplicaMemory
from deployments.logs import UtteranceLog
from deployments.metrics import EngineExporter, Instruments, once_a_second
from deployments.streams import Abort, AbortLog, until_left
from runtime.admission import Admission, Limits
from runtime.config import TtsArgs, TtsUserConfig, validate
from runtime.engines import make_synthesizer
from runtime.engines.cuda import as_engine_error
from runtime.errors import (
    DaemonUnavailable,
    EngineFailed,
    Overloaded,
    ReplicaLost,
    SpeechError,
    StreamStalled,
)
from runtime.memory.claims import Allotment
from runtime.metrics import TTS as TTS_METRICS
from runtime.replica import (
    AbortedStream,
    Census,
    EngineInfo,
    Growth,
    ReplicaInfo,
    SynthesisStarted,
    check_protocol,
)
from runtime.requests import resolve_synthesis, resolve_text
from runtime.speech import AudioChunk, SynthesisRequest
from runtime.tally import SpokenTally

# Beyond this many characters cleaning the text takes longer than an event loop may be held.
_LONG_TEXT = 10_000
_STOPPING = "The daemon is stopping."


class _Lead:
    """How far an utterance has been read, and waiting for its reader to catch up."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        """``limit`` in samples."""
        self.limit = limit
        self._timeout_s = timeout_s
        self._read = 0
        self._moved = asyncio.Event()
        self._nudged = False

    def advance(self, read: int) -> None:
        """The reader has taken ``read`` samples in all."""
        self._read = max(self._read, read)
        self._moved.set()

    def nudge(self) -> None:
        """Wait no longer: the utterance is over."""
        self._nudged = True
        self._moved.set()

    async def wait_for_reader(self, produced: int) -> None:
        """Return once no more than ``limit`` of the ``produced`` samples are unread, or nudged."""
        self._nudged = False
        while produced - self._read > self.limit and not self._nudged:
            self._moved.clear()
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._moved.wait()
            except TimeoutError:
                raise StreamStalled(
                    f"The reader took no audio for {self._timeout_s:g} s; its utterance was ended."
                ) from None


def _resolved(texts: Sequence[str]) -> list[tuple[str, int]]:
    return [resolve_text(text) for text in texts]


class TTS:
    """Text in, a stream of audio chunks out."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it: engines load asynchronously
        self, args: TtsArgs, allotment: Allotment, *others: DeploymentHandle
    ) -> None:
        """Load the engine; ``others`` are deployments for which this one is the root."""
        self._name = args.engine
        self._args = args
        self._allotment = allotment
        self._draining = False
        self._config = TtsUserConfig()
        self._leads: dict[str, _Lead] = {}
        self._growing: dict[str, Growing] = {}
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._exporter = EngineExporter(TTS_METRICS.engine, args.engine, {})
        self._memory = ReplicaMemory(allotment, self._load_engine, self._unload_engine)
        await self._memory.start()
        self._metrics = Instruments(TTS_METRICS)
        self._aborts = AbortLog(self._metrics.orphaned)
        self._log = UtteranceLog()
        self._exporting = asyncio.create_task(once_a_second(self._export))
        settle_memory()

    async def _load_engine(self) -> tuple[Admission, ...]:
        self._engine = make_synthesizer(self._args.engine, self._args.options)
        self._load = await self._engine.load()
        await self._engine.exercise()
        slots = self._allotment.slots(self._engine.capabilities.slots, self._load)
        self._admission = Admission(slots, "synthesis", self._limits())
        if self._draining:
            self._admission.close(_STOPPING)
        return (self._admission,)

    async def _unload_engine(self, reason: str) -> None:
        self._stop_all(ReplicaLost(reason))
        self._stopped = asyncio.get_running_loop().create_future()
        await self._engine.close()
        # Its capabilities are still asked for; it holds nothing until it is loaded again.
        self._engine = make_synthesizer(self._args.engine, self._args.options)
        self._exporter.forget()

    def _stop_all(self, error: SpeechError) -> None:
        if not self._stopped.done():
            self._stopped.set_exception(error)
            self._stopped.exception()  # seen: there may be nobody left to be told
        for lead in self._leads.values():
            lead.nudge()

    def _limits(self) -> Limits:
        return Limits(self._config.max_waiting, self._config.max_wait_s)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply a changed ``user_config``; utterances under way keep theirs."""
        self._config = validate(TtsUserConfig, user_config, "TTS user_config")
        self._admission.limits = self._limits()
        self._log.words = self._config.log_words

    async def check_health(self) -> None:
        """Serve replaces a replica when this raises; one that failed to load never gets here."""
        self._memory.check()
        check(self._engine)

    async def info(self) -> ReplicaInfo:
        """This replica and its engine."""
        engine = EngineInfo(
            "tts",
            self._name,
            self._engine.capabilities,
            self._load,
            self._admission.taken,
            self._admission.waiting,
        )
        return replica_info((engine,))

    async def aborted(self) -> tuple[AbortedStream, ...]:
        """The latest utterances whose callers left before the end."""
        return self._aborts.recent()

    async def census(self) -> Census:
        """What this replica holds, to find leaks; slow."""
        return census(self._admission.taken)

    async def drain(self, abort: bool = False) -> int:
        """Begin no utterance any more; those under way go on to their end.

        Args:
            abort: End them now.

        Returns:
            How many are left.
        """
        self._draining = True
        self._admission.close(_STOPPING)
        for growing in self._growing.values():
            growing.hurry()
        if abort:
            self._stop_all(DaemonUnavailable(_STOPPING))
        return self._admission.taken

    async def synthesize(
        self,
        protocol: int,
        stream_id: str,
        request: SynthesisRequest,
        resumed: bool = False,
        growth: Growth | None = None,
    ) -> AsyncGenerator[SynthesisStarted | AudioChunk, None]:
        """Speak a request; ``advance`` with the same ``stream_id`` keeps it going.

        Args:
            protocol: The caller's ``PROTOCOL_VERSION``.
            stream_id: The caller's name for the utterance.
            request: What to say.
            resumed: The utterance was under way on a replica that was lost.
            growth: For an utterance that grows by ``extend``: its texts so far. It ends when it
                is complete, or has had nothing to say for ``text_timeout_s``.

        Raises:
            InvalidRequest: Of any kind; see ``resolve_synthesis``.
            Overloaded: All slots are taken, and the queue is full or took too long; or memory
                is short.
            ReplicaLost: The replica parked for want of memory, or lost its device; another can
                go on.
            StreamStalled: Nobody read for ``stall_timeout_s``.
            EngineFailed: The model failed.
            OutOfMemory: The request needs more memory than the replica's lease allows.
            DaemonUnavailable: The daemon is stopping.
        """
        tally = SpokenTally(stream_id, resumed=resumed)
        abort = Abort()
        try:
            check_protocol(protocol)
            resolved = await self._resolve(request, tally)
            growing = None
            if growth is not None:
                growing = Growing(self._config.text_timeout_s, tally)
                await self._grow(growing, growth)
            async with self._admission.slot(ahead=resumed) as queued_s:
                refuse_if_lost(self._engine, replica_id())
                tally.began(queued_s)
                speaking = self._speak(stream_id, resolved, growing, tally, abort)
                async with aclosing(speaking):
                    async for item in speaking:
                        with abort.noted():
                            yield item
            tally.outcome = "done"
        except SpeechError as error:
            tally.outcome = type(error).__name__
            if isinstance(error, Overloaded):
                error.replica = replica_id()
            if isinstance(error, EngineFailed) and is_beyond_help(self._engine):
                raise ReplicaLost(str(error)) from error
            raise
        except Exception as error:  # of an engine that is not ours
            failure = as_engine_error(error, self._name)
            tally.outcome = type(failure).__name__
            raise failure from error
        finally:
            self._aborts.freed(stream_id, abort)
            self._ended(tally)

    def _ended(self, tally: SpokenTally) -> None:
        """Into the metrics and the log with an utterance's numbers."""
        metrics = self._metrics
        metrics.requests.inc(tags={"outcome": tally.outcome})
        if tally.queued_s is not None:
            metrics.queue_wait.observe(tally.queued_s * 1e3)
            if tally.resumed:
                metrics.taken_over.inc()
            if tally.outcome != "done":
                metrics.aborted.inc(tags={"reason": tally.outcome})
        if tally.first_audio_s is not None:
            metrics.first_audio.observe(tally.first_audio_s * 1e3)
        if tally.rtf is not None:
            metrics.rtf.observe(tally.rtf)
            metrics.audio.inc(tally.audio_s)
        if tally.playback.underruns:
            metrics.underrun.inc(tally.playback.underrun_s)
            metrics.underrun_utterances.inc()
        self._log.write(tally.line(words=self._log.words))

    async def _export(self) -> None:
        await self._exporter.export(
            self._engine, self._load, self._admission, parked=self._memory.parked
        )

    async def _resolve(self, request: SynthesisRequest, tally: SpokenTally) -> SynthesisRequest:
        """The request as the engine takes it; what it lost is noted."""
        capabilities = self._engine.capabilities
        if len(request.text) > _LONG_TEXT:
            resolved, removed = await asyncio.to_thread(resolve_synthesis, request, capabilities)
        else:
            resolved, removed = resolve_synthesis(request, capabilities)
        if removed:
            self._metrics.removed.inc(removed)
        if capabilities.seed and resolved.seed is None:
            # Drawn here and told to the caller, so that another replica can go on with it.
            resolved = replace(resolved, seed=secrets.randbits(32))
        tally.resolved(resolved, removed)
        return resolved

    async def _grow(self, growing: Growing, growth: Growth, first: int = 0) -> None:
        """Add texts, of which the first is the one in that place; those that it has are left."""
        if sum(map(len, growth.texts)) > _LONG_TEXT:
            resolved = await asyncio.to_thread(_resolved, growth.texts)
        else:
            resolved = _resolved(growth.texts)
        new = resolved[max(0, growing.count - first) :]
        removed = sum(characters for _, characters in new)
        if removed:
            self._metrics.removed.inc(removed)
        growing.add([text for text, _ in new], removed, complete=growth.complete)

    async def _speak(
        self,
        stream_id: str,
        request: SynthesisRequest,
        growing: Growing | None,
        tally: SpokenTally,
        abort: Abort,
    ) -> AsyncGenerator[SynthesisStarted | AudioChunk, None]:
        # Those of now: while the first item is on its way the replica may park.
        engine, stopped = self._engine, self._stopped
        rate = engine.capabilities.sample_rate
        lead = _Lead(round(self._config.lead_s * rate), self._config.stall_timeout_s)
        self._leads[stream_id] = lead
        if growing is not None:
            self._growing[stream_id] = growing
        try:
            yield SynthesisStarted(
                rate,
                request.voice or "",
                request.language or "",
                tally.removed,
                lead.limit,
                request.seed,
                replica_id(),
                tally.queued_s or 0.0,
            )
            tally.read()
            chunks = until_left(engine.synthesize(request, growing), abort, stopped)
            async with aclosing(chunks):
                async for chunk in chunks:
                    tally.made(chunk)
                    yield chunk
                    with abort.noted():
                        await lead.wait_for_reader(chunk.next_sample)
                    tally.read()
                    if growing is not None:
                        growing.spoken(chunk.texts)
        finally:
            if self._leads.get(stream_id) is lead:  # and not opened again meanwhile
                del self._leads[stream_id]
                self._growing.pop(stream_id, None)

    async def extend(self, stream_id: str, first: int, growth: Growth) -> int:
        """Add texts to an utterance that grows.

        Args:
            stream_id: Which.
            first: Place of the first of them among those after the request's own, from 0.
            growth: The texts, and whether there will be others. Those it has already are left.

        Returns:
            How many it has now, for the caller to go on from; -1 if it takes no text any more.

        Raises:
            NothingToSpeak: A text holds nothing to speak.
        """
        growing = self._growing.get(stream_id)
        if growing is None or growing.over:
            return -1
        if first <= growing.count:
            await self._grow(growing, growth, first)
        return growing.count

    async def advance(self, stream_id: str, read: int) -> None:
        """The reader of a stream has taken ``read`` samples in all; unknown streams are over."""
        lead = self._leads.get(stream_id)
        if lead is not None:
            lead.advance(read)
