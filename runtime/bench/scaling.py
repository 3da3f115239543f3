"""Live sessions talk while replicas come and go, to an engine that counts what it hears.

Each utterance is of another length, and all that the engine says of it is how many samples
it was: what is lost is missing in a number, and what is heard twice is too much in one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count as counting

from runtime.bench.cluster import replicas_are, slots_left
from runtime.bench.outcome import Outcome
from runtime.client import RecognitionSession, SpeechClient
from runtime.config import ASR_DEPLOYMENT
from runtime.speech import FinalTranscript

SESSIONS = 20
"""That talk from the beginning."""

LATER = 10
"""That begin once there are three replicas, and so are on all of them."""

BLOCK_S = 0.080
_SHORTEST, _LENGTHS = 5, 14  # blocks of an utterance; how many lengths there are
_BETWEEN_S = 0.001  # what may lie between the end of a final and the start of the next


@dataclass(slots=True)
class Talk:
    """What one session said and what was understood; sizes in samples.

    Attributes:
        said: Of each utterance.
        answers: What ``finalize()`` answered to each.
        finals: The session's final transcripts.
        longest_wait_s: For an answer.
    """

    said: list[int] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    finals: list[FinalTranscript] = field(default_factory=list)
    longest_wait_s: float = 0.0

    @property
    def words_lost(self) -> int:
        """Utterances that were not told of once, in their place, with their number."""
        lost, place_s = 0, 0.0
        for index, (size, answer) in enumerate(zip(self.said, self.answers, strict=True)):
            told = [final for final in self.finals if final.utterance == index]
            right = [_number(final.text) for final in told] == [_number(answer)] == [size]
            lost += not right or abs(told[0].start_s - place_s) > _BETWEEN_S
            place_s = told[-1].end_s if told else place_s
        return lost

    @property
    def samples_doubled(self) -> int:
        """What utterances were told to be longer than they were."""
        heard: Counter[int] = Counter()
        for final in self.finals:
            heard[final.utterance] += _number(final.text)
        said = dict(enumerate(self.said))
        return sum(max(0, size - said.get(index, 0)) for index, size in heard.items())


@dataclass(slots=True)
class Scaled:
    """What sessions met while replicas came and went.

    Attributes:
        talks: What each session said and what was understood.
        moved_early: Sessions that moved though replicas only came.
        moves: Of each session, in the end.
        replicas: On which they are then.
        leaked_slots: Slots that are taken a while after all have ended.
    """

    talks: list[Talk]
    moved_early: int
    moves: list[int]
    replicas: set[str]
    leaked_slots: int


async def talk(session: RecognitionSession, over: asyncio.Event) -> Talk:
    """Say utterances at the pace of speech until ``over``, and one more; then end the session."""
    rate = session.options.sample_rate
    block = bytes(2 * round(BLOCK_S * rate))
    told = Talk()
    for utterance in counting():
        last = over.is_set()
        blocks = _SHORTEST + utterance % _LENGTHS
        for _ in range(blocks):
            await session.push(block)
            await asyncio.sleep(BLOCK_S)
        asked = time.monotonic()
        told.answers.append((await session.finalize()).text)
        told.longest_wait_s = max(told.longest_wait_s, time.monotonic() - asked)
        told.said.append(blocks * len(block) // 2)
        if last:
            break
    await session.finish()
    told.finals = [event async for event in session if isinstance(event, FinalTranscript)]
    return told


async def up_and_down(
    client: SpeechClient, scale: Callable[[int], Awaitable[None]], sample_rate: int
) -> Scaled:
    """Sessions talk while one replica becomes three and these one again; more join in between.

    Args:
        client: Of an engine that counts; nobody else may listen through it.
        scale: Asks for another number of recognition's replicas, and need not wait for them.
        sample_rate: Of what is pushed, in Hz; the engine's own.
    """
    over = asyncio.Event()
    sessions: list[RecognitionSession] = []
    talking: list[asyncio.Task[Talk]] = []

    async def begin(count: int) -> None:
        for _ in range(count):
            session = client.open_recognition(sample_rate=sample_rate, endpoint_ms=None)
            sessions.append(await session.__aenter__())
            talking.append(asyncio.create_task(talk(session, over)))

    await scale(1)
    await replicas_are(client, ASR_DEPLOYMENT, 1)
    try:
        await begin(SESSIONS)
        await scale(3)
        await replicas_are(client, ASR_DEPLOYMENT, 3)
        early = sum(session.moves > 0 for session in sessions)
        await begin(LATER)
        await scale(1)
        await replicas_are(client, ASR_DEPLOYMENT, 1)
        over.set()
        talks = await asyncio.gather(*talking)
    finally:
        for task in talking:
            task.cancel()
        for session in sessions:
            await session.aclose()
    return Scaled(
        talks=talks,
        moved_early=early,
        moves=[session.moves for session in sessions],
        replicas={session.replica for session in sessions},
        leaked_slots=await slots_left(client, (ASR_DEPLOYMENT,)),
    )


async def scaled(
    client: SpeechClient, scale: Callable[[int], Awaitable[None]], sample_rate: int
) -> Outcome:
    """The row of ``up_and_down``."""
    what = await up_and_down(client, scale, sample_rate)
    return Outcome(
        words_lost=sum(talk.words_lost for talk in what.talks),
        samples_doubled=sum(talk.samples_doubled for talk in what.talks),
        recovery_ms=max(talk.longest_wait_s for talk in what.talks) * 1e3,
        leaked_slots=what.leaked_slots,
        more={"sessions": SESSIONS, "joined_later": LATER, "moved": sum(map(bool, what.moves))},
    )


def _number(text: str) -> int:
    return int(text.split()[0])
