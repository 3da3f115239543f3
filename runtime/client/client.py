"""The client: what a bot, a script or the command line speaks and listens through."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from runtime.audio import AudioFile, check_sample_rate, float32_to_pcm16
from runtime.client.connection import Attachment, attach, claim_event_loop, deployments
from runtime.client.recognition import RecognitionSession, as_pcm16
from runtime.client.replicas import Replicas
from runtime.client.synthesis import SynthesisStream
from runtime.config import APPLICATION, ASR_DEPLOYMENT, TTS_DEPLOYMENT
from runtime.errors import (
    AudioFormatError,
    DaemonUnavailable,
    DeadlineMissed,
    InvalidRequest,
    Overloaded,
    ReplicaLost,
)
from runtime.replica import AbortedStream, Census, ReplicaInfo
from runtime.requests import check_deadline, check_text_length
from runtime.settings import Settings
from runtime.speech import (
    PROTOCOL_VERSION,
    FinalTranscript,
    RecognitionOptions,
    Samples,
    SynthesisRequest,
    SynthesizerCapabilities,
    Transcript,
    Voice,
)

if TYPE_CHECKING:
    from runtime.client.calls import DeploymentCalls

_ONE_CALL_BYTES = 2 << 20  # a recording up to this size (a minute at 16 kHz) goes in one call
_PUSH_S = 5.0  # seconds of a longer recording that go in one push


class SpeechClient:
    """Handles to the daemon's deployments, tied to the event loop that made it.

    Make one with ``connect()`` and share it: it holds no session by itself.
    """

    def __init__(
        self, calls: dict[str, DeploymentCalls], settings: Settings, attachment: Attachment
    ) -> None:
        """Used by ``connect``."""
        self._calls = calls
        self._settings = settings
        self._attachment = attachment
        self._closed = False
        self._streams: weakref.WeakSet[SynthesisStream | RecognitionSession] = weakref.WeakSet()

    @classmethod
    async def connect(
        cls,
        *,
        address: str | None = None,
        application: str = APPLICATION,
        settings: Settings | None = None,
    ) -> SpeechClient:
        """Find the daemon and connect to it; inside its cluster, use that.

        Args:
            address: ``host:port`` of a Ray cluster, or ``auto``, to connect to a daemon of
                which this host has no record. Needs a raylet of that cluster on this host.
            application: Name of the speech application in the Serve configuration.
            settings: By default read from the environment.

        Raises:
            DaemonUnavailable: No daemon, another version, no token, no raylet here, or Ray was
                imported under other settings. Within ``connect_timeout_s`` (5 s).
        """
        claim_event_loop()
        settings = settings or Settings()
        attachment = await attach(settings, address)
        try:
            calls = await deployments(application, attachment)
        except BaseException:
            await attachment.detach()
            raise
        return cls(calls, settings, attachment)

    async def aclose(self) -> None:
        """End all streams; the last client to close disconnects this process.

        Unless the process was in the cluster before ``connect``.
        """
        for stream in tuple(self._streams):
            await stream.aclose()
        if not self._closed:
            self._closed = True
            self._calls = {}
            await self._attachment.detach()

    @property
    def connected(self) -> bool:
        """False once this client was closed, or the daemon it is connected to has ended."""
        return not self._closed and not self._attachment.ended

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- synthesis -----------------------------------------------------------

    def synthesize(
        self,
        request: SynthesisRequest | str,
        *,
        sample_rate: int | None = None,
        growing: bool = False,
        **options: Any,
    ) -> SynthesisStream:
        """Speak; nothing happens until the stream is read.

        Args:
            request: A request, or its text with the other fields as keywords
                (``voice``, ``language``, ``normalise``, ``seed``, ``speed``).
            sample_rate: Hz of the chunks, 8,000 to 192,000; None takes the engine's own.
            growing: More texts follow by ``extend``, as an LLM makes them, until ``finish``.
            **options: Fields to replace in the request.

        Raises:
            DaemonUnavailable: The daemon runs no TTS.
            TextTooLong: More text than one call carries.
            AudioFormatError: A sample rate that cannot be.
        """
        if isinstance(request, str):
            request = SynthesisRequest(request, **options)
        else:
            request = replace(request, **options)
        check_text_length(request.text)
        calls = self._deployment(TTS_DEPLOYMENT)
        stream = SynthesisStream(calls, request, self._settings, sample_rate, growing=growing)
        self._streams.add(stream)
        return stream

    async def synthesis_capabilities(self) -> SynthesizerCapabilities:
        """What the daemon's synthesizer can do."""
        (engine,) = (await self._info(TTS_DEPLOYMENT)).engines
        assert isinstance(engine.capabilities, SynthesizerCapabilities)
        return engine.capabilities

    async def voices(self) -> tuple[Voice, ...]:
        """The voices that can be asked for; the first is the default."""
        return (await self.synthesis_capabilities()).voices

    # --- recognition ---------------------------------------------------------

    def open_recognition(
        self, options: RecognitionOptions | None = None, **changes: Any
    ) -> RecognitionSession:
        """A live session; enter it to open it.

        Args:
            options: How to recognise; by default live, with partials, at 16 kHz.
            **changes: Fields to replace in the options.

        Raises:
            InvalidRequest: With a deadline: a session lasts as long as its caller likes.
            DaemonUnavailable: The daemon runs no ASR.
        """
        options = replace(options or RecognitionOptions(), **changes)
        check_sample_rate(options.sample_rate)
        if options.deadline_s is not None:
            raise InvalidRequest("A live session has no deadline_s; recordings may have one.")
        return self._session(options)

    def _session(self, options: RecognitionOptions) -> RecognitionSession:
        session = RecognitionSession(self._deployment(ASR_DEPLOYMENT), options, self._settings)
        self._streams.add(session)
        return session

    async def transcribe(
        self,
        audio: str | Path | AudioFile | bytes | Samples,
        *,
        sample_rate: int | None = None,
        options: RecognitionOptions | None = None,
        on_utterance: Callable[[FinalTranscript], None] | None = None,
        **changes: Any,
    ) -> Transcript:
        """Recognise a recording of any length, in bounded memory.

        Args:
            audio: A file (path or opened), PCM16 bytes, or float32 samples.
            sample_rate: Hz, needed for bytes and samples; a file knows its own.
            options: How to recognise; by default ``mode="file"``.
            on_utterance: Called with each utterance, of a long recording as it is recognised.
            **changes: Fields to replace in the options.

        Raises:
            AudioFormatError: Not readable as audio.
            InvalidRequest: Of any kind; see ``resolve_recognition``.
            Overloaded: All slots are taken.
            DeadlineMissed: It was not recognised within ``deadline_s``.
            DaemonUnavailable: The daemon runs no ASR, or went away.
        """
        if isinstance(audio, (str, Path)):
            audio = await asyncio.to_thread(AudioFile.open, audio)
        if isinstance(audio, AudioFile):
            sample_rate = audio.sample_rate
        if sample_rate is None:
            raise AudioFormatError("Say at which sample_rate (in Hz) the samples are.")
        check_sample_rate(sample_rate)
        changes = {"mode": "file", "partials": False} | changes if options is None else changes
        options = replace(options or RecognitionOptions(), sample_rate=sample_rate, **changes)
        async with _due(options.deadline_s):
            return await self._transcribe(audio, sample_rate, options, on_utterance)

    async def _transcribe(
        self,
        audio: AudioFile | bytes | Samples,
        sample_rate: int,
        options: RecognitionOptions,
        on_utterance: Callable[[FinalTranscript], None] | None,
    ) -> Transcript:
        calls = self._deployment(ASR_DEPLOYMENT)
        blocks = _pcm_blocks(audio, sample_rate)
        if isinstance(audio, bytes):  # which are cut, and need no reading
            first, second = next(blocks, b""), next(blocks, b"")
        else:
            first = await asyncio.to_thread(next, blocks, b"")
            second = await asyncio.to_thread(next, blocks, b"")
        if not second:
            if not first:
                raise AudioFormatError("The recording holds no samples.")
            transcript: Transcript = await self._persistently(
                calls, "transcribe", PROTOCOL_VERSION, first, options, resumable=True
            )
            if on_utterance is not None:
                for utterance in transcript.utterances:
                    on_utterance(utterance)
            return transcript
        return await _transcribe_long(self._session(options), [first, second], blocks, on_utterance)

    async def _persistently(
        self, calls: DeploymentCalls, method: str, *args: Any, resumable: bool = False
    ) -> Any:
        """Call any replica, and another one if it is lost; for calls that change nothing.

        ``resumable`` methods take whether the call was under way as their last argument.
        """
        patience = calls.patience(self._settings.takeover_timeout_s)
        begun = False
        while True:
            try:
                if calls.replicas.none_left:
                    raise ReplicaLost("No replica runs.")
                return await calls.call(method, *args, *((begun,) if resumable else ()))
            except (Overloaded, ReplicaLost) as error:
                begun |= isinstance(error, ReplicaLost)
                await patience.wait(error, begun=begun)

    # --- the daemon ----------------------------------------------------------

    async def info(self) -> dict[str, ReplicaInfo]:
        """One replica of each deployment, by the deployment's name."""
        return {name: await self._info(name) for name in self._calls}

    async def replicas(self, deployment: str) -> tuple[ReplicaInfo, ...]:
        """All replicas of a deployment (``ASR`` or ``TTS``) that take new sessions.

        Raises:
            DaemonUnavailable: The daemon runs no such deployment.
        """
        return tuple(await self._ask_all(deployment, "info"))

    async def aborted(self, deployment: str) -> tuple[AbortedStream, ...]:
        """The latest streams of a deployment whose callers left before the end.

        Raises:
            DaemonUnavailable: The daemon runs no such deployment.
        """
        return tuple(one for some in await self._ask_all(deployment, "aborted") for one in some)

    async def census(self, deployment: str) -> tuple[Census, ...]:
        """What each replica of a deployment holds, to find leaks; slow.

        Raises:
            DaemonUnavailable: The daemon runs no such deployment.
        """
        return tuple(await self._ask_all(deployment, "census"))

    def known_replicas(self, deployment: str) -> Replicas:
        """What this process knows of a deployment's replicas, as Serve tells it.

        Raises:
            DaemonUnavailable: The daemon runs no such deployment.
        """
        return self._deployment(deployment).replicas

    async def _ask_all(self, deployment: str, method: str) -> list[Any]:
        """The answers of all replicas that take new sessions and can be reached."""
        calls = self._deployment(deployment)
        await self._info(deployment)  # the router knows them once it has routed a call
        asked = (calls.call(method, replica=replica) for replica in calls.replicas.serving)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, ReplicaLost):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _info(self, deployment: str) -> ReplicaInfo:
        calls = self._deployment(deployment)
        try:
            async with asyncio.timeout(self._settings.answer_timeout_s):
                info: ReplicaInfo = await self._persistently(calls, "info")
        except TimeoutError:
            raise DaemonUnavailable(
                f"No replica of {deployment} answered within {self._settings.answer_timeout_s:g} "
                "s; see `speech status`."
            ) from None
        return info

    def push_calls(self) -> dict[str, int]:
        """How many calls have carried audio so far, by the replica they went to."""
        return self._deployment(ASR_DEPLOYMENT).push_calls()

    def _deployment(self, name: str) -> DeploymentCalls:
        if self._closed:
            raise DaemonUnavailable("This client has been closed; connect another one.")
        if name not in self._calls:
            raise DaemonUnavailable(
                f"The daemon runs no {name}; it has {', '.join(self._calls) or 'nothing'}."
            )
        return self._calls[name]


@asynccontextmanager
async def _due(deadline_s: float | None) -> AsyncIterator[None]:
    """Give up what is not done in so many seconds; whoever works on it is told to stop.

    Raises:
        DeadlineMissed: It was not.
        InvalidRequest: That is no time.
    """
    check_deadline(deadline_s)
    limit = asyncio.timeout(deadline_s)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineMissed(
            f"The recording was not recognised within {deadline_s:g} s: the engine is slower than "
            "that, or many are before it (see `speech status`). Allow more time."
        ) from error


def _pcm_blocks(audio: AudioFile | bytes | Samples, sample_rate: int) -> Iterator[bytes]:
    """The recording as PCM16: whole if one call can carry it, else in blocks of ``_PUSH_S``."""
    if isinstance(audio, AudioFile):
        per_block = 1 if 2 * audio.seconds * sample_rate > _ONE_CALL_BYTES else None
        gathered: list[bytes] = []
        for samples in audio.blocks():
            gathered.append(float32_to_pcm16(samples))
            if per_block and len(gathered) >= _PUSH_S:
                yield b"".join(gathered)
                gathered.clear()
        if gathered:
            yield b"".join(gathered)
        return
    pcm = audio if isinstance(audio, bytes) else as_pcm16(audio)
    size = len(pcm) if len(pcm) <= _ONE_CALL_BYTES else 2 * int(_PUSH_S * sample_rate)
    for start in range(0, len(pcm), max(size, 1)):
        yield pcm[start : start + size]


async def _transcribe_long(
    session: RecognitionSession,
    head: list[bytes],
    blocks: Iterator[bytes],
    on_utterance: Callable[[FinalTranscript], None] | None,
) -> Transcript:
    pushed = 0

    async def push_all() -> None:
        nonlocal pushed
        for block in head:
            await session.push(block)
            pushed += len(block) // 2
        while block := await asyncio.to_thread(next, blocks, b""):
            await session.push(block)
            pushed += len(block) // 2
        await session.finish()

    finals: list[FinalTranscript] = []
    async with session:
        pushing = asyncio.create_task(push_all())
        try:
            async for event in session:
                if isinstance(event, FinalTranscript):
                    finals.append(event)
                    if on_utterance is not None:
                        on_utterance(event)
            await pushing
        finally:
            pushing.cancel()
    return Transcript.of(finals, pushed / session.options.sample_rate)
