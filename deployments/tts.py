"""The TTS deployment: validates, speaks, and never runs far ahead of its reader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ray.serve import metrics
from ray.serve.handle import DeploymentHandle

from deployments.identity import replica_info
from runtime.config import TtsArgs, TtsUserConfig, validate
from runtime.engines import make_synthesizer
from runtime.errors import Overloaded, SpeechError, StreamStalled
from runtime.replica import EngineInfo, ReplicaInfo, SynthesisStarted, check_protocol
from runtime.requests import resolve_synthesis
from runtime.speech import AudioChunk, SynthesisRequest

# Beyond this many characters cleaning the text takes longer than an event loop may be held.
_LONG_TEXT = 10_000


class _Lead:
    """How far an utterance has been read, and waiting for its reader to catch up."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        """``limit`` in samples."""
        self.limit = limit
        self._timeout_s = timeout_s
        self._read = 0
        self._moved = asyncio.Event()

    def advance(self, read: int) -> None:
        """The reader has taken ``read`` samples in all."""
        self._read = max(self._read, read)
        self._moved.set()

    async def wait_for_reader(self, produced: int) -> None:
        """Return once no more than ``limit`` of the ``produced`` samples are unread."""
        while produced - self._read > self.limit:
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
        self, args: TtsArgs, *others: DeploymentHandle
    ) -> None:
        """Load the engine; ``others`` are deployments for which this one is the root."""
        self._name = args.engine
        self._config = TtsUserConfig()
        self._leads: dict[str, _Lead] = {}
        self._engine = make_synthesizer(args.engine, args.options)
        self._load = await self._engine.load()
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

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply a changed ``user_config``; utterances under way keep theirs."""
        self._config = validate(TtsUserConfig, user_config, "TTS user_config")

    async def check_health(self) -> None:
        """Serve restarts a replica when this raises; one that failed to load never gets here."""

    async def info(self) -> ReplicaInfo:
        """This replica and its engine."""
        engine = EngineInfo(
            "tts", self._name, self._engine.capabilities, self._load, len(self._leads)
        )
        return replica_info((engine,))

    async def synthesize(
        self, protocol: int, stream_id: str, request: SynthesisRequest
    ) -> AsyncGenerator[SynthesisStarted | AudioChunk, None]:
        """Speak a request; ``advance`` with the same ``stream_id`` keeps it going.

        Raises:
            InvalidRequest: Of any kind; see ``resolve_synthesis``.
            Overloaded: All slots are taken.
            StreamStalled: Nobody read for ``stall_timeout_s``.
            EngineFailed: The model failed.
        """
        arrived = time.monotonic()
        outcome = "cancelled"
        try:
            check_protocol(protocol)
            async with aclosing(self._speak(stream_id, request)) as stream:
                first = True
                async for item in stream:
                    if first and isinstance(item, AudioChunk):
                        self._first_audio.observe((time.monotonic() - arrived) * 1e3)
                        first = False
                    yield item
            outcome = "done"
        except SpeechError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._requests.inc(tags={"outcome": outcome})

    async def _speak(
        self, stream_id: str, request: SynthesisRequest
    ) -> AsyncGenerator[SynthesisStarted | AudioChunk, None]:
        capabilities = self._engine.capabilities
        if len(request.text) > _LONG_TEXT:
            resolved, removed = await asyncio.to_thread(resolve_synthesis, request, capabilities)
        else:
            resolved, removed = resolve_synthesis(request, capabilities)
        if removed:
            self._removed.inc(removed)
        if len(self._leads) >= capabilities.slots:
            raise Overloaded(f"All {capabilities.slots} synthesis slots are taken.")
        rate = capabilities.sample_rate
        lead = _Lead(round(self._config.lead_s * rate), self._config.stall_timeout_s)
        self._leads[stream_id] = lead
        self._active.set(len(self._leads))
        try:
            yield SynthesisStarted(
                rate, resolved.voice or "", resolved.language or "", removed, lead.limit
            )
            async with aclosing(self._engine.synthesize(resolved)) as chunks:
                async for chunk in chunks:
                    if chunk.samples:
                        self._audio.inc(chunk.samples / rate)
                    yield chunk
                    await lead.wait_for_reader(chunk.next_sample)
        finally:
            del self._leads[stream_id]
            self._active.set(len(self._leads))

    async def advance(self, stream_id: str, read: int) -> None:
        """The reader of a stream has taken ``read`` samples in all; unknown streams are over."""
        lead = self._leads.get(stream_id)
        if lead is not None:
            lead.advance(read)
