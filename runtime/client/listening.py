"""The recognition of one session, carried from replica to replica.

Audio since the last final is kept. When the replica is lost, stops, or does not know
the session, another takes it over and hears that audio again, as fast as it can. What
callers see is one stream: times, utterances and answers are counted from its start.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime.client.replay import ReplayBuffer, Stretch
from runtime.errors import DaemonUnavailable, Overloaded, ReplicaLost, SessionClosed
from runtime.replica import Acknowledgement, Block, RecognitionStarted
from runtime.settings import Settings
from runtime.speech import (
    PROTOCOL_VERSION,
    FinalTranscript,
    PartialTranscript,
    RecognitionEvent,
    RecognitionOptions,
)

if TYPE_CHECKING:
    from runtime.client.calls import CallStream, DeploymentCalls
    from runtime.client.pusher import Pusher

_log = logging.getLogger(__name__)

_BLOCK_S = 10.0  # seconds of audio in a block at the most
_FULL_PAUSE_S = 0.1  # before a replica that is behind is offered more
_UTTERANCE_MAY_END_S = 5.0  # a session leaves a stopping replica at a final, or after this
_MAX_LOSSES = 8  # replicas lost without a final before the session is the suspect
_REASON_S = 1.0  # the event stream says why a session is over, shortly after a push found out


class Listening:
    """Keeps one session alive; ``RecognitionSession`` is what callers hold of it.

    Attributes:
        id: Under which replicas know the session.
        started: What the replica said at the beginning; None until the first has answered.
        moves: How many times another replica took it over.
        buffer: The audio since the last final.
        acknowledged: Samples that the replica has.
        failure: Why it ended before its time.
        over: No more events will come.
    """

    def __init__(
        self, calls: DeploymentCalls, options: RecognitionOptions, settings: Settings
    ) -> None:
        """Nothing happens until ``start``."""
        self.id = uuid.uuid4().hex
        self.started: RecognitionStarted | None = None
        self.moves = 0
        self.buffer = ReplayBuffer(round(settings.replay_s * options.sample_rate))
        self.acknowledged = 0
        self.failure: Exception | None = None
        self.over = False
        self._calls = calls
        self._options = options
        self._answer_timeout_s = settings.answer_timeout_s
        self._patience = calls.patience(settings.takeover_timeout_s)
        self._on_event: Callable[[RecognitionEvent], None] = lambda _: None
        self._on_change: Callable[[], None] = lambda: None
        self._requests = 0
        self._finishing = False
        self._utterances = 0  # finals so far
        self._losses = 0  # of replicas since the last of them
        self._moved = False  # away from a replica that stops: no loss
        self._heard_s = 0.0  # audio time of the last partial of this utterance
        self._heard_before_s = 0.0  # the same, of the replica before
        self._opening: CallStream | None = None
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._moving: asyncio.TimerHandle | None = None

    async def start(
        self, on_event: Callable[[RecognitionEvent], None], on_change: Callable[[], None]
    ) -> None:
        """Open the session on a replica.

        Args:
            on_event: Called with each event.
            on_change: Called when anything else has happened: audio was acknowledged, or
                the session is over.

        Raises:
            SpeechError: No replica took it; see ``ASR.recognize``.
        """
        self._on_event, self._on_change = on_event, on_change
        link = await self._open()
        self._unsubscribe = self._calls.replicas.subscribe(self._replicas_changed)
        self._task = asyncio.create_task(self._run(link))

    def push(self, pcm: bytes) -> None:
        """Take PCM16."""
        self.buffer.append(pcm)
        self._wake()

    def finalize(self) -> int:
        """Ask for the end of the utterance; its final carries the number returned."""
        self._requests += 1
        self.buffer.ask(self._requests)
        self._wake(urgent=True)
        return self._requests

    def finish(self) -> None:
        """No more audio will come."""
        self._finishing = True
        self.buffer.ask(0)
        self._wake(urgent=True)

    def cancel(self) -> None:
        """End the session at once, from any callback of the loop."""
        self.over = True
        self._unsubscribe()
        self._stop_moving()
        if self._opening is not None:
            self._opening.cancel()
        if self._link is not None:
            self._link.close()
        if self._task is not None:
            self._task.cancel()

    async def closed(self) -> None:
        """Return once a cancelled session is gone."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _wake(self, *, urgent: bool = False) -> None:
        if self._link is not None:
            self._link.wake(urgent=urgent)

    # --- one replica after the other -----------------------------------------

    async def _open(self) -> _Link:
        """Open the session on any replica, for as long as there is patience."""
        resumed = self.started is not None
        self._patience.begin()
        while True:
            stream = self._calls.stream(
                "recognize", PROTOCOL_VERSION, self.id, self._options, resumed
            )
            self._opening = stream
            try:
                started = await stream.first(min(self._answer_timeout_s, self._patience.left_s))
                if self.over:
                    stream.cancel()
                    raise SessionClosed("The session was closed while it was being opened.")
                if not isinstance(started, RecognitionStarted):
                    raise ReplicaLost("The replica ended the call before it began.")
            except (Overloaded, ReplicaLost) as error:
                await self._patience.wait(error, begun=resumed)
                continue
            finally:
                self._opening = None
            self._patience.answered()
            self.started = started
            pusher = self._calls.pusher(started.replica)
            self.acknowledged = self.buffer.first
            self._link = _Link(self, stream, started.replica, pusher, self._utterances)
            self._link.wake()
            self._replicas_changed()  # it may have begun to stop meanwhile
            return self._link

    async def _run(self, link: _Link) -> None:
        try:
            while not await self._read(link):
                link.close()
                self._link = None
                self._stop_moving()
                self._check_losses()
                self._heard_before_s = max(self._heard_s, self._heard_before_s)
                self.moves += 1
                if self.buffer.dropped:
                    _log.warning(
                        "A session moved after more audio without a final than it keeps: "
                        "%.1f s are lost.",
                        self.buffer.dropped / self._options.sample_rate,
                    )
                    self.buffer.dropped = 0
                link = await self._open()
        except Exception as error:
            self.failure = error
        except asyncio.CancelledError:
            if not self.over:  # by nobody here
                self.failure = DaemonUnavailable("The session was cancelled from outside.")
            raise
        finally:
            link.close()
            self._link = None
            self._unsubscribe()
            self.over = True
            self._on_change()

    def _check_losses(self) -> None:
        """Give up on audio that no replica gets through, before it has felled them all.

        Raises:
            DaemonUnavailable: Too many replicas were lost since the last final.
        """
        self._losses += not self._moved
        self._moved = False
        if self._losses > _MAX_LOSSES:
            raise DaemonUnavailable(
                f"{self._losses} replicas in a row were lost with this session before they gave a "
                "final; see the daemon's log."
            )

    async def _read(self, link: _Link) -> bool:
        """Pass on events from one replica; False if another one has to go on."""
        try:
            async for event in link.stream:
                placed = link.place(event)
                self._note(placed, link)
        except ReplicaLost as error:
            self._calls.replicas.lost(link.replica)
            link.close()
            await self._patience.wait(error, begun=True)
            return False
        except SessionClosed:  # the engine's stream ended under a push that was too late
            return False
        return not link.leaving and (self._finishing or self.over)

    def _note(self, event: RecognitionEvent, link: _Link) -> None:
        if isinstance(event, PartialTranscript):
            if event.end_s <= self._heard_before_s + 0.5 / self._options.sample_rate:
                return  # heard again by this replica, and passed on long ago
            self._heard_s = event.end_s
        else:
            self._utterances += 1
            self._losses = 0
            self._heard_s = self._heard_before_s = 0.0
            if event.request:
                self.buffer.answered(event.request)
            else:
                # Times are the engine's, at its own rate: never trust them beyond what it was sent.
                settled = round(event.settled_s * self._options.sample_rate)
                self.buffer.settle(min(settled, link.sent))
        self._on_event(event)
        if isinstance(event, FinalTranscript) and self._moving is not None:
            self._move(link)

    # --- leaving a replica that stops ----------------------------------------

    def _replicas_changed(self) -> None:
        link = self._link
        if link is None or link.leaving or self._moving is not None:
            return
        if self._calls.replicas.is_leaving(link.replica):
            loop = asyncio.get_running_loop()
            # The utterance may end where it is heard; a session between two moves at once.
            busy = self._heard_s > 0 or self.buffer.waits
            wait_s = _UTTERANCE_MAY_END_S if busy else 0.0
            self._moving = loop.call_later(wait_s, self._move, link)

    def _move(self, link: _Link) -> None:
        self._stop_moving()
        self._moved = True
        link.leave()

    def _stop_moving(self) -> None:
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None

    # --- what the link tells -------------------------------------------------

    def link_acknowledged(self, position: int) -> None:
        """The replica has all samples before ``position``."""
        self.acknowledged = max(self.acknowledged, position)
        self._on_change()


class _Link:
    """A session on one replica: where it is in the audio, and what that replica counts."""

    def __init__(
        self,
        owner: Listening,
        stream: CallStream,
        replica: str,
        pusher: Pusher,
        utterances: int,
    ) -> None:
        self.stream = stream
        self.replica = replica
        self.leaving = False
        self._owner = owner
        self._pusher = pusher
        self._rate = owner._options.sample_rate
        self._base = owner.buffer.first  # the replica's first sample, in the session
        self._position = self._base  # the next sample to push, in the session
        self.sent = self._base  # up to where the replica may have the audio
        self._utterances = utterances
        self._asked: list[int] = []  # the session's number of each of the replica's requests
        self._finished = False
        self._closed = False
        self._pause: asyncio.TimerHandle | None = None

    def wake(self, *, urgent: bool = False) -> None:
        """There may be something to push."""
        if not self._closed and self._following(1) is not None:
            self._pusher.wake(self, urgent=urgent)

    def _following(self, most: int) -> Stretch | None:
        if self._finished:
            return None
        passed = self._asked[-1] if self._asked else 0
        return self._owner.buffer.following(self._position, passed, most)

    def close(self) -> None:
        """Free the replica's slot."""
        self._closed = True
        self._pusher.forget(self)
        if self._pause is not None:
            self._pause.cancel()
        self.stream.cancel()

    def leave(self) -> None:
        """Let another replica go on."""
        self.leaving = True
        self.close()

    def place(self, event: RecognitionEvent) -> RecognitionEvent:
        """An event as the session counts times, utterances and requests."""
        shift = self._base / self._rate
        utterance = event.utterance + self._utterances
        start_s, end_s = event.start_s + shift, event.end_s + shift
        if isinstance(event, PartialTranscript):
            return replace(event, utterance=utterance, start_s=start_s, end_s=end_s)
        return replace(
            event,
            utterance=utterance,
            start_s=start_s,
            end_s=end_s,
            words=tuple(
                replace(word, start_s=word.start_s + shift, end_s=word.end_s + shift)
                for word in event.words
            ),
            request=self._asked[event.request - 1] if event.request else 0,
            settled_s=event.settled_s + shift if event.settled_s else 0.0,
        )

    # --- PushSource ----------------------------------------------------------

    def next_block(self, most: int) -> Block | None:
        """See ``PushSource``."""
        samples = min(round(_BLOCK_S * self._rate), most // 2)
        stretch = None if self._closed else self._following(samples)
        if stretch is None:
            return None
        request, finalize = stretch.request, 0
        if request is not None and request.number:
            self._asked.append(request.number)
            finalize = len(self._asked)
        self._finished = request is not None and not request.number
        first = stretch.first_sample - self._base
        self.sent = stretch.first_sample + len(stretch.pcm) // 2
        return Block(self._owner.id, first, stretch.pcm, finalize, self._finished)

    def acknowledged(self, block: Block, answer: Acknowledgement) -> None:
        """See ``PushSource``."""
        if self._closed:
            return
        if answer.error is not None:
            self.push_failed(answer.error)
            return
        self._position = self._base + answer.received
        if answer.received < block.next_sample:
            if answer.received < block.first_sample:
                self.leave()  # it lacks audio that is no longer kept: a clock was off
                return
            self._take_back(block)
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(_FULL_PAUSE_S, self.wake)
        else:
            self.wake()
        self._owner.link_acknowledged(self._position)

    def push_failed(self, error: Exception) -> None:
        """See ``PushSource``."""
        if self._closed:
            return
        if isinstance(error, ReplicaLost):
            self.leave()
            return
        # The event stream tells why, if it has not been lost with the session.
        loop = asyncio.get_running_loop()
        self._pause = loop.call_later(_REASON_S, self.leave)

    def _take_back(self, block: Block) -> None:
        self._finished = False
        if block.finalize:
            self._asked.pop()
