"""A deployment of the ASR without Ray: real sessions over scripted engines, in this process.

Replicas die, refuse, fall silent and fall behind when a test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
from fake_calls import FakeDeployment, Stream
from scripted_engines import RATE, ScriptedStream
from virtual_time import VirtualTime, run_virtually

from deployments.session import Session
from runtime.audio import float32_to_pcm16
from runtime.client.pusher import Pusher
from runtime.client.recognition import RecognitionSession
from runtime.errors import ReplicaLost, SessionClosed, SpeechError
from runtime.replica import Acknowledgement, Block, RecognitionStarted
from runtime.settings import Settings
from runtime.speech import (
    FinalTranscript,
    PartialTranscript,
    RecognitionEvent,
    RecognitionOptions,
    Samples,
    Word,
)

CALL_S = 0.001  # how long a push call is on its way, there and back


def pcm(first: int, samples: int) -> bytes:
    """PCM16 in which samples count up, so that none can be missing, doubled or moved."""
    return (np.arange(first, first + samples) % 30_000).astype("<i2").tobytes()


class Engine(ScriptedStream):
    """Remembers what it heard, may be slow, and may end utterances of some length by itself."""

    def __init__(self, replica: Replica, options: RecognitionOptions) -> None:
        super().__init__(set(), options, lambda _: None)
        self._replica = replica

    async def push(self, samples: Samples) -> None:
        if self._replica.slowness:
            await asyncio.sleep(self._replica.slowness * len(samples) / RATE)
        self._replica.heard += float32_to_pcm16(samples)
        await super().push(samples)
        while (longest := self._replica.longest) and self._heard - self._settled >= longest:
            heard, self._heard = self._heard, self._settled + longest
            self._final(0)
            self._heard = heard


class Replica:
    """A replica of the deployment, with as many slots as are asked for.

    Attributes:
        heard: PCM16 that its engine has heard, of all sessions.
        blocks: All that was pushed to it.
        sessions: Those that it knows.
        refusal: What it answers to who wants to begin.
        hangs_up: It ends calls before they begin.
        beginning: It begins calls; without it they wait.
        slowness: Seconds its engine takes for a second of audio.
        longest: Samples of an utterance that its engine ends by itself; 0 if it does not.
        appetite: Samples it takes of a block at the most.
        telling: Events go out; without it they are kept back.
        dies_in_push: It takes the next blocks, and dies before it has said so.
        push_failure: What push calls fail with.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.heard = b""
        self.blocks: list[Block] = []
        self.sessions: dict[str, Session] = {}
        self.refusal: SpeechError | None = None
        self.hangs_up = False
        self.beginning = asyncio.Event()
        self.beginning.set()
        self.slowness = 0.0
        self.longest = 0
        self.appetite: int | None = None
        self.telling = asyncio.Event()
        self.telling.set()
        self.dies_in_push = False
        self.push_failure: Exception | None = None
        self._serving: dict[asyncio.Task[None], Stream] = {}

    def open(self, stream: Stream, session_id: str, options: RecognitionOptions) -> None:
        """Begin a session, as ``ASR.recognize`` does."""
        if not self.alive:
            stream.put(ReplicaLost(f"Replica {self.name} is dead."))
        elif self.refusal is not None:
            stream.put(self.refusal)
        elif self.hangs_up:
            stream.put(None)
        else:
            serving = asyncio.create_task(self._serve(stream, session_id, options))
            self._serving[serving] = stream
            serving.add_done_callback(self._serving.pop)
            stream.on_cancel = serving.cancel

    async def _serve(self, stream: Stream, session_id: str, options: RecognitionOptions) -> None:
        def fail(failure: asyncio.Future[None]) -> None:
            stream.put(failure.exception())
            serving.cancel()

        serving = asyncio.current_task()
        assert serving is not None
        await self.beginning.wait()
        session = Session(Engine(self, options), options, RATE)
        self.sessions[session_id] = session
        stream.put(RecognitionStarted("scripted", "en", self.name, 0.0))
        session.failure.add_done_callback(fail)
        events = session.stream.events()
        try:
            async for event in events:
                await self.telling.wait()
                session.heard(event)
                if isinstance(event, FinalTranscript) and options.words:
                    word = Word("samples", event.start_s, event.end_s)
                    event = replace(event, words=(word,))
                stream.put(event)
            await self.telling.wait()
            stream.put(None)
        finally:
            await events.aclose()
            if self.sessions.get(session_id) is session:  # it may have come back
                del self.sessions[session_id]
            await session.close()

    @property
    def slots_taken(self) -> int:
        return len(self._serving)

    def push(self, blocks: tuple[Block, ...]) -> tuple[Acknowledgement, ...]:
        self.blocks += blocks
        answers = tuple(self._take(block) for block in blocks)
        if self.dies_in_push:
            self.die()
        return answers

    def _take(self, block: Block) -> Acknowledgement:
        if block.session not in self.sessions:
            return Acknowledgement(0, SessionClosed("There is no such recognition session here."))
        if self.appetite is not None and 2 * self.appetite < len(block.pcm):
            bite = block.pcm[: 2 * self.appetite]
            block = Block(block.session, block.first_sample, bite)
        return self.sessions[block.session].take(block)

    def die(self) -> None:
        """Everything is lost that was not told."""
        self.alive = False
        self.end_streams(ReplicaLost(f"Replica {self.name} has died."))

    def end_streams(self, error: Exception | None) -> None:
        """Its event streams end, with an error if there is one, and its sessions are gone."""
        for serving, stream in self._serving.items():
            stream.put(error)
            serving.cancel()
        self.sessions.clear()

    def forget_sessions(self) -> None:
        """It knows no session any more, and lets their streams stand."""
        self.sessions.clear()


class FakeAsr(FakeDeployment[Replica]):
    """The deployment."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock, Replica)
        self._pushers: dict[str, Pusher] = {}

    @property
    def slots_taken(self) -> int:
        """Calls that run on any replica."""
        return sum(replica.slots_taken for replica in self)

    def stream(
        self,
        method: str,
        protocol: int,
        session_id: str,
        options: RecognitionOptions,
        resumed: bool,
    ) -> Stream:
        assert method == "recognize"
        stream = Stream()
        replica = self._choose(resumed)
        if replica is not None:
            replica.open(stream, session_id, options)
        return stream

    async def call(
        self, method: str, blocks: tuple[Block, ...], *, replica: str
    ) -> tuple[Acknowledgement, ...]:
        assert method == "push"
        self._check_alive()
        called = self[replica]
        await asyncio.sleep(CALL_S / 2)
        failure = called.push_failure
        answers = called.push(blocks) if called.alive and failure is None else ()
        await asyncio.sleep(CALL_S / 2)
        if not called.alive:
            failure = ReplicaLost(f"Replica {replica} is dead.")
        if isinstance(failure, ReplicaLost):
            self.replicas.lost(replica)
        if failure is not None:
            raise failure
        return answers

    def pusher(self, replica: str) -> Pusher:
        if replica not in self._pushers:
            self._pushers[replica] = Pusher(self, replica)  # type: ignore[arg-type]
        return self._pushers[replica]


class Reader:
    """Reads a session's events until they end."""

    def __init__(self, session: RecognitionSession) -> None:
        self.events: list[RecognitionEvent] = []
        self.done = asyncio.create_task(self._read(session))

    async def _read(self, session: RecognitionSession) -> None:
        async for event in session:
            self.events.append(event)

    @property
    def finals(self) -> list[FinalTranscript]:
        return [event for event in self.events if isinstance(event, FinalTranscript)]

    @property
    def texts(self) -> list[str]:
        return [final.text for final in self.finals]

    @property
    def partials(self) -> list[PartialTranscript]:
        return [event for event in self.events if isinstance(event, PartialTranscript)]


class Fixture:
    """Replicas ``a`` and ``b``, and sessions of 8,000 samples a second."""

    def __init__(self, time: VirtualTime, **settings: float) -> None:
        limits = {"replay_s": 60, "takeover_timeout_s": 10, "answer_timeout_s": 4} | settings
        self.time = time
        self.asr = FakeAsr(time.monotonic)
        self.settings = Settings(**limits)  # type: ignore[arg-type]

    def session(self, **options: Any) -> RecognitionSession:
        """To be entered."""
        chosen = RecognitionOptions(sample_rate=RATE, **options)
        return RecognitionSession(self.asr, chosen, self.settings)  # type: ignore[arg-type]


def play(script: Callable[[Fixture], Coroutine[Any, Any, None]], **settings: float) -> None:
    """Run a script in virtual time; afterwards nothing may be left of its sessions."""

    async def main(time: VirtualTime) -> None:
        fixture = Fixture(time, **settings)
        await script(fixture)
        await asyncio.sleep(1.0)
        assert fixture.asr.slots_taken == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtually(
        main,
        "deployments.session",
        "runtime.client.pusher",
        "runtime.client.recognition",
        "runtime.client.recovery",
    )
