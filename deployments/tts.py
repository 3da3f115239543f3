"""The TTS deployment: validates, speaks, and never runs far ahead of its reader."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray.serve import metrics
from ray.serve.handle import DeploymentHandle

from deployments.identity import census, replica_id, replica_info, settle_memory
from deployments.lease import ReplicaMemory
from deployments.streams import Abort, AbortLog, until_left
from runtime.admission import Admission, Limits
from runtime.config import TtsArgs, TtsUserConfig, validate
from runtime.engines import make_synthesizer
from runtime.engines.cuda import as_engine_error
from runtime.errors import DaemonUnavailable, Overloaded, ReplicaLost, SpeechError, StreamStalled
from runtime.memory.claims import Allotment
from runtime.replica import (
    AbortedStream,
    Census,
    EngineInfo,
    ReplicaInfo,
    SynthesisStarted,
    check_protocol,
)
from runtime.requests import resolve_synthesis
from runtime.speech import AudioChunk, Counting, SynthesisRequest

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
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._memory = ReplicaMemory(allotment, self._load_engine, self._unload_engine)
        await self._memory.start()
        self._requests = metrics.Counter(
            "speech_tts_requests_total", "Utterances, by how they ended.", tag_keys=("outcome",)
        )
        self._removed = metrics.Counter(
            "speech_tts_removed_characters_total", "Characters that could not be spoken."
        )
        self._first_audio = metrics.Histogram(
            "speech_tts_first_audio_ms",
            "From the request's arrival at the replica to its first audio.",
            boundaries=[5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000],
        )
        self._audio = metrics.Counter("speech_tts_audio_seconds_total", "Audio synthesised.")
        self._active = metrics.Gauge("speech_tts_active", "Utterances under way.")
        self._taken_over = metrics.Counter(
            "speech_tts_utterances_taken_over_total", "Utterances that came from a lost replica."
        )
        self._queued = metrics.Histogram(
            "speech_tts_queue_wait_ms",
            "Waiting for a slot.",
            boundaries=[1, 10, 50, 100, 500, 1000, 5000, 30000],
        )
        self._events = metrics.Counter(
            "speech_tts_engine_events_total",
            "What the engine did to texts: characters removed, chunks cut short and the like.",
            tag_keys=("event",),
        )
        self._info = metrics.Gauge(
            "speech_tts_engine_info",
            "Always 1; the tags say which engine speaks, and what normalises its texts.",
            tag_keys=("engine", "normalizer"),
        )
        self._aborts = AbortLog("tts")
        self._export_counts()
        settle_memory()

    async def _load_engine(self) -> tuple[Admission, ...]:
        self._engine = make_synthesizer(self._args.engine, self._args.options)
        self._counted: dict[str, int] = {}
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
        self._counted = {}

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

    async def check_health(self) -> None:
        """Serve replaces a replica when this raises; one that failed to load never gets here."""
        self._memory.check()

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
        if abort:
            self._stop_all(DaemonUnavailable(_STOPPING))
        return self._admission.taken

    async def synthesize(
        self, protocol: int, stream_id: str, request: SynthesisRequest, resumed: bool = False
    ) -> AsyncGenerator[SynthesisStarted | AudioChunk, None]:
        """Speak a request; ``advance`` with the same ``stream_id`` keeps it going.

        Args:
            protocol: The caller's ``PROTOCOL_VERSION``.
            stream_id: The caller's name for the utterance.
            request: What to say.
            resumed: The utterance was under way on a replica that was lost.

        Raises:
            InvalidRequest: Of any kind; see ``resolve_synthesis``.
            Overloaded: All slots are taken, and the queue is full or took too long; or memory
                is short.
            ReplicaLost: The replica parked for want of memory; another can go on.
            StreamStalled: Nobody read for ``stall_timeout_s``.
            EngineFailed: The model failed.
            OutOfMemory: The request needs more memory than the replica's lease allows.
            DaemonUnavailable: The daemon is stopping.
        """
        arrived = time.monotonic()
        outcome = "cancelled"
        abort = Abort()
        try:
            check_protocol(protocol)
            resolved, removed = await self._resolve(request)
            async with self._admission.slot(ahead=resumed) as queued_s:
                self._queued.observe(queued_s * 1e3)
                if resumed:
                    self._taken_over.inc()
                first = True
                speaking = self._speak(stream_id, resolved, removed, queued_s, abort)
                async with aclosing(speaking):
                    async for item in speaking:
                        if first and isinstance(item, AudioChunk):
                            self._first_audio.observe((time.monotonic() - arrived) * 1e3)
                            first = False
                        with abort.noted():
                            yield item
            outcome = "done"
        except SpeechError as error:
            outcome = type(error).__name__
            if isinstance(error, Overloaded):
                error.replica = replica_id()
            raise
        except Exception as error:  # of an engine that is not ours
            outcome = type(error).__name__
            raise as_engine_error(error, self._name) from error
        finally:
            self._aborts.freed(stream_id, abort)
            self._requests.inc(tags={"outcome": outcome})
            self._export_counts()

    def _export_counts(self) -> None:
        # Again each time: Ray forgets a gauge that is not set for a while.
        normalizer = self._load.details.get("normalizer", "its own")
        self._info.set(1, tags={"engine": self._name, "normalizer": normalizer})
        if not isinstance(self._engine, Counting):
            return
        for event, count in self._engine.counts.items():
            if count > self._counted.get(event, 0):
                self._events.inc(count - self._counted.get(event, 0), tags={"event": event})
                self._counted[event] = count

    async def _resolve(self, request: SynthesisRequest) -> tuple[SynthesisRequest, int]:
        """The request as the engine takes it, and how many characters it lost."""
        capabilities = self._engine.capabilities
        if len(request.text) > _LONG_TEXT:
            resolved, removed = await asyncio.to_thread(resolve_synthesis, request, capabilities)
        else:
            resolved, removed = resolve_synthesis(request, capabilities)
        if removed:
            self._removed.inc(removed)
        if capabilities.seed and resolved.seed is None:
            # Drawn here and told to the caller, so that another replica can go on with it.
            resolved = replace(resolved, seed=secrets.randbits(32))
        return resolved, removed

    async def _speak(
        self,
        stream_id: str,
        request: SynthesisRequest,
        removed: int,
        queued_s: float,
        abort: Abort,
    ) -> AsyncGenerator[SynthesisStarted | AudioChunk, None]:
        # Those of now: while the first item is on its way the replica may park.
        engine, stopped = self._engine, self._stopped
        rate = engine.capabilities.sample_rate
        lead = _Lead(round(self._config.lead_s * rate), self._config.stall_timeout_s)
        self._leads[stream_id] = lead
        self._active.set(len(self._leads))
        made = 0
        try:
            yield SynthesisStarted(
                rate,
                request.voice or "",
                request.language or "",
                removed,
                lead.limit,
                request.seed,
                replica_id(),
                queued_s,
            )
            chunks = until_left(engine.synthesize(request), abort, stopped)
            async with aclosing(chunks):
                async for chunk in chunks:
                    made = chunk.next_sample
                    yield chunk
                    with abort.noted():
                        await lead.wait_for_reader(chunk.next_sample)
        finally:
            if self._leads.get(stream_id) is lead:  # and not opened again meanwhile
                del self._leads[stream_id]
            self._active.set(len(self._leads))
            if made:
                self._audio.inc(made / rate)

    async def advance(self, stream_id: str, read: int) -> None:
        """The reader of a stream has taken ``read`` samples in all; unknown streams are over."""
        lead = self._leads.get(stream_id)
        if lead is not None:
            lead.advance(read)
