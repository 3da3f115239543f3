"""A deployment of the ASR without Ray: real sessions over scripted engines, in this process.

Replicas die, refuse, fall silent and fall behind when a test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
from scripted_engines import RATE, ScriptedStream

from virtual_time import VirtualTime, run_virtually

from deployments.session import Session
from runtime.audio import float32_to_pcm16
from runtime.client.pusher import Pusher
from runtime.client.recognition import RecognitionSession
from runtime.client.recovery import Patience
from runtime.client.replicas import Replicas
from runtime.errors import DaemonUnavailable, Overloaded, ReplicaLost, SessionClosed
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


class Stream:
    """Stands for ``CallStream``: items come from a replica until it ends, fails or is left."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self.over = False
        self.on_cancel: Callable[[], None] = lambda: None

    def put(self, item: Any) -> None:
        """An item, an exception to raise, or None for the end."""
        self._items.put_nowait(item)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        if self.over:
            raise StopAsyncIteration
        try:
            item = await self._items.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.over or item is None:
            self.over = True
            raise StopAsyncIteration
        if isinstance(item, Exception):
            self.over = True
            raise item
        return item

    async def first(self, within_s: float) -> Any:
        try:
            async with asyncio.timeout(within_s):
                return await anext(self, None)
        except TimeoutError:
            raise ReplicaLost(f"No replica began the call within {within_s:g} s.") from None
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        if not self.over:
            self.over = True
            self.put(None)
            self.on_cancel()


class Engine(ScriptedStream):
    """Remembers what it heard, and may be slow."""

    def __init__(self, replica: Replica, options: RecognitionOptions) -> None:
        super().__init__(set(), options)
        self._replica = replica

    async def push(self, samples: Samples) -> None:
        if self._replica.slowness:
            await asyncio.sleep(self._replica.slowness * len(samples) / RATE)
        self._replica.heard += float32_to_pcm16(samples)
        await super().push(samples)


class Replica:
    """A replica of the deployment, with as many slots as are asked for.

    Attributes:
        heard: PCM16 that its engine has heard, of all sessions.
        blocks: All that was pushed to it.
        sessions: Those that it knows.
        refusal: What it answers to who wants to begin.
        beginning: It begins calls; without it they wait.
        slowness: Seconds its engine takes for a second of audio.
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
        self.refusal: Overloaded | None = None
        self.beginning = asyncio.Event()
        self.beginning.set()
        self.slowness = 0.0
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
        session = Session(Engine(self, options), options.mode, options.sample_rate, RATE)
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


class FakeAsr:
    """Stands for ``DeploymentCalls``; the first replica by name that may take a call does."""

    def __init__(self, clock: Callable[[], float], names: str = "ab") -> None:
        self.replicas = Replicas(clock)
        self.opened: list[str] = []  # replicas that were asked to begin
        self.resumed: list[bool] = []  # whether the session had begun elsewhere
        self.daemon_lives = True
        self._named: frozenset[str] = frozenset()
        self._all: dict[str, Replica] = {}
        self._pushers: dict[str, Pusher] = {}
        self.serve(names)

    def __getitem__(self, name: str) -> Replica:
        return self._all[name]

    def serve(self, names: str) -> None:
        """These take new sessions, one letter each; those that leave live on."""
        self._named = frozenset(names)
        for name in self._named - self._all.keys():
            self._all[name] = Replica(name)
        self.replicas.update(names)

    @property
    def slots_taken(self) -> int:
        """Calls that run on any replica."""
        return sum(replica.slots_taken for replica in self._all.values())

    def stream(
        self,
        method: str,
        protocol: int,
        session_id: str,
        options: RecognitionOptions,
        resumed: bool,
    ) -> Stream:
        assert method == "recognize"
        self._check_alive()
        self.resumed.append(resumed)
        stream = Stream()
        if self._named:
            name = min(self.replicas.preferred(self._named))
            self.opened.append(name)
            if not self[name].alive:
                self.replicas.lost(name)
            self[name].open(stream, session_id, options)
        return stream

    async def call(
        self, method: str, blocks: tuple[Block, ...], *, replica: str
    ) -> tuple[Acknowledgement, ...]:
        assert method == "push"
        self._check_alive()
        called = self[replica]
        await asyncio.sleep(CALL_S / 2)
        if called.push_failure is not None:
            raise called.push_failure
        answers = called.push(blocks) if called.alive else ()
        await asyncio.sleep(CALL_S / 2)
        if not called.alive:
            self.replicas.lost(replica)
            raise ReplicaLost(f"Replica {replica} is dead.")
        return answers

    def pusher(self, replica: str) -> Pusher:
        if replica not in self._pushers:
            self._pushers[replica] = Pusher(self, replica)  # type: ignore[arg-type]
        return self._pushers[replica]

    def patience(self, limit_s: float) -> Patience:
        return Patience(limit_s, self.replicas, self._check_alive)

    def _check_alive(self) -> None:
        if not self.daemon_lives:
            raise DaemonUnavailable("The daemon is gone.")


class Reader:
    """Reads a session's events until they end."""

    def __init__(self, session: RecognitionSession) -> None:
        self.events: list[RecognitionEvent] = []
        self.done = asyncio.create_task(self._read(session))

    async def _read(self, session: RecognitionSession) -> None:
        async for event in session:
            self.events.append(event)  # noqa: PERF401

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
