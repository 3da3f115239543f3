"""Replicas are killed, and calls go on elsewhere."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import uuid
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scripted_engines import UNPLUGS, mark_of

from runtime.client import SpeechClient
from runtime.replica import ReplicaInfo
from runtime.speech import AudioChunk, FinalTranscript, PartialTranscript

pytestmark = pytest.mark.cluster

RATE = 8_000
BLOCK = b"\0\0" * 640  # 80 ms
RESTART_S = 40.0


async def replicas(client: SpeechClient, deployment: str, count: int) -> tuple[ReplicaInfo, ...]:
    """The replicas of a deployment, once there are ``count``."""
    known = client.known_replicas(deployment)
    changed = asyncio.Event()
    unsubscribe = known.subscribe(changed.set)
    try:
        async with asyncio.timeout(RESTART_S):
            while len(found := await client.replicas(deployment)) != count:
                changed.clear()
                await changed.wait()
    finally:
        unsubscribe()
    return found


@pytest.fixture
def pair(pair_client: SpeechClient, run: Any) -> SpeechClient:
    """A client of an application that has two replicas of each deployment."""
    run(replicas(pair_client, "ASR", 2))
    run(replicas(pair_client, "TTS", 2))
    return pair_client


async def kill(client: SpeechClient, deployment: str, replica: str) -> None:
    (pid,) = [r.pid for r in await client.replicas(deployment) if r.replica == replica]
    os.kill(pid, signal.SIGKILL)


def test_a_session_goes_on_where_its_replica_was_killed(pair, run) -> None:
    async def listen() -> tuple[list[Any], float, int]:
        async with pair.open_recognition(sample_rate=RATE) as session:
            events: list[Any] = []

            async def read() -> None:
                async for event in session:
                    events.append((time.monotonic(), event))  # noqa: PERF401

            reading = asyncio.create_task(read())
            for _ in range(30):
                await session.push(BLOCK)
            await session.flush()
            await kill(pair, "ASR", session.replica)
            killed = time.monotonic()
            for _ in range(30):
                await session.push(BLOCK)
            final = await session.finalize()
            await session.finish()
            await reading
            assert final.text == f"{60 * 640} samples"
            after = [at for at, event in events if at > killed]
            return [event for _, event in events], after[0] - killed, session.moves

    events, recovery_s, moves = run(listen())
    assert moves == 1
    assert recovery_s < 1.5
    assert [type(event) for event in events].count(FinalTranscript) == 1
    partials = [event.end_s for event in events if isinstance(event, PartialTranscript)]
    assert partials == sorted(set(partials)), "nothing is told twice"
    assert events[-1].settled_s == 60 * 640 / RATE


def test_an_utterance_that_grows_goes_on_where_its_replica_was_killed(pair, run) -> None:
    texts = ["One, two, and three.", "Slowly four. Slowly five.", "Six."]

    async def speak() -> tuple[list[AudioChunk], int]:
        chunks: list[AudioChunk] = []
        async with pair.synthesize(texts[0], growing=True) as stream:

            async def hear(texts: int, first: int = 10**9) -> None:
                async for chunk in stream:
                    chunks.append(chunk)
                    if chunk.texts >= texts or len(chunks) >= first:
                        return

            await hear(1)
            await kill(pair, "TTS", stream.started.replica)  # between two texts
            stream.extend(texts[1])
            await hear(2, first=len(chunks) + 1)
            await replicas(pair, "TTS", 2)
            await kill(pair, "TTS", stream.started.replica)  # within one
            await hear(2)
            stream.extend(texts[2])
            stream.finish()
            await hear(4)
            return chunks, stream.takeovers

    chunks, takeovers = run(speak())
    assert takeovers == 2
    samples = np.frombuffer(b"".join(chunk.pcm for chunk in chunks), "<i2")
    assert samples.tolist() == list(range(80 * sum(map(len, texts)) - 80))  # a space between two
    assert chunks[-1].end


def test_finals_are_neither_lost_nor_doubled_and_times_count_from_the_start(pair, run) -> None:
    async def listen() -> list[FinalTranscript]:
        async with pair.open_recognition(sample_rate=RATE, partials=False) as session:
            for utterance in range(4):
                for _ in range(10 + utterance):
                    await session.push(BLOCK)
                if utterance in (1, 2):
                    await session.flush()
                    await replicas(pair, "ASR", 2)
                    await kill(pair, "ASR", session.replica)
                await session.finalize()
            await session.finish()
            return [event async for event in session]

    finals = run(listen())
    assert [final.text for final in finals] == [f"{640 * n} samples" for n in (10, 11, 12, 13)]
    assert [final.utterance for final in finals] == [0, 1, 2, 3]
    assert [final.request for final in finals] == [1, 2, 3, 4]
    ends = np.cumsum([0.8, 0.88, 0.96, 1.04])
    assert [final.end_s for final in finals] == pytest.approx(ends)
    assert [final.start_s for final in finals] == pytest.approx([0.0, *ends[:-1]])


def test_a_final_that_was_asked_of_a_dying_replica_comes_from_another(pair, run) -> None:
    async def listen() -> FinalTranscript:
        async with pair.open_recognition(sample_rate=RATE) as session:
            await session.push(BLOCK * 20)
            pid = next(r.pid for r in await pair.replicas("ASR") if r.replica == session.replica)
            asking = asyncio.create_task(session.finalize())
            os.kill(pid, signal.SIGKILL)
            return await asking

    assert run(listen()).text == f"{20 * 640} samples"


def test_an_utterance_goes_on_from_the_very_sample_where_its_replica_was_killed(pair, run) -> None:
    text = " ".join(f"Sentence number {n} is said slowly." for n in range(40))

    async def speak(kill_at: int | None) -> tuple[list[AudioChunk], int]:
        chunks = []
        async with pair.synthesize(text) as stream:
            async for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == kill_at:
                    await kill(pair, "TTS", stream.started.replica)
            return chunks, stream.takeovers

    undisturbed, _ = run(speak(None))
    chunks, takeovers = run(speak(7))
    assert takeovers == 1
    assert sum(chunk.end for chunk in chunks) == 1
    assert all(a.next_sample == b.first_sample for a, b in pairwise(chunks))
    assert b"".join(c.pcm for c in chunks) == b"".join(c.pcm for c in undisturbed)


async def one_lost(client: SpeechClient, deployment: str, before: set[str]) -> set[str]:
    """The replicas of a deployment, once one of two is not among them any more."""
    lost = asyncio.Event()
    unsubscribe = client.known_replicas(deployment).subscribe(lost.set)
    try:
        async with asyncio.timeout(RESTART_S):
            while True:
                lost.clear()
                now = {replica.replica for replica in await client.replicas(deployment)}
                if len(before & now) < 2:
                    return now
                await lost.wait()
    finally:
        unsubscribe()


def test_an_utterance_goes_on_where_its_replica_lost_its_device_and_that_is_replaced(
    pair, run
) -> None:
    word = uuid.uuid4().hex
    text = f"Hello there. It was unplugged {word} just now. Good bye."

    async def speak() -> tuple[list[AudioChunk], set[str], set[str]]:
        before = {replica.replica for replica in await pair.replicas("TTS")}
        async with pair.synthesize(text, seed=1) as reply:
            chunks = [chunk async for chunk in reply]
        return chunks, before, await one_lost(pair, "TTS", before)

    try:
        chunks, before, now = run(speak())
    finally:
        mark_of(word).unlink()
    samples = np.frombuffer(b"".join(chunk.pcm for chunk in chunks), dtype="<i2")
    assert np.array_equal(samples, np.arange(len(samples)) % 30_000)
    assert len(before & now) == 1
    run(replicas(pair, "TTS", 2))


def test_a_session_goes_on_where_its_replica_lost_its_device_and_that_is_replaced(
    pair, run
) -> None:
    number = random.randrange(1_000, 30_000)
    unplugs = np.array([UNPLUGS, number], "<i2").tobytes() + BLOCK[4:]

    async def listen() -> tuple[set[str], set[str]]:
        before = {replica.replica for replica in await pair.replicas("ASR")}
        async with pair.open_recognition(sample_rate=RATE) as session:
            for block in (BLOCK, unplugs, BLOCK):
                await session.push(block)
                await session.flush()
            final = await session.finalize()
            moves = session.moves
        assert (final.text, moves) == (f"{3 * 640} samples", 1)
        for _ in range(8):
            # Who has lost its device answers still, and begins nothing.
            await pair.replicas("ASR")
            async with pair.open_recognition(sample_rate=RATE) as session:
                await session.push(BLOCK)
                assert (await session.finalize()).text == "640 samples"
                assert session.moves == 0
        return before, await one_lost(pair, "ASR", before)

    try:
        before, now = run(listen())
    finally:
        mark_of(str(number)).unlink()
    assert len(before & now) == 1
    run(replicas(pair, "ASR", 2))


def test_a_recording_in_one_call_is_recognised_elsewhere_if_its_replica_dies(pair, run) -> None:
    async def transcribe() -> list[str]:
        doomed = (await pair.replicas("ASR"))[0]
        asking = [
            asyncio.create_task(pair.transcribe(BLOCK * 500, sample_rate=RATE)) for _ in range(8)
        ]
        await asyncio.sleep(0)
        os.kill(doomed.pid, signal.SIGKILL)
        return [transcript.text for transcript in await asyncio.gather(*asking)]

    assert set(run(transcribe())) == {f"{500 * 640} samples"}


def test_calls_wait_for_the_only_replica_to_be_started_again(pair, scale, run) -> None:
    async def call() -> tuple[str, bool]:
        await asyncio.to_thread(scale, num_replicas=1)
        await replicas(pair, "ASR", 1)
        await replicas(pair, "TTS", 1)
        stream = pair.synthesize("It is said slowly. " * 200)
        await anext(stream)
        async with pair.open_recognition(sample_rate=RATE) as session:
            await session.push(BLOCK * 10)
            await session.flush()
            await kill(pair, "ASR", session.replica)
            await kill(pair, "TTS", stream.started.replica)
            await session.push(BLOCK * 10)
            final = await session.finalize()
        last = [chunk async for chunk in stream][-1]
        return final.text, last.end

    try:
        assert run(call()) == (f"{20 * 640} samples", True)
    finally:
        scale(num_replicas=2)


def test_two_replicas_share_the_sessions(pair, run) -> None:
    async def open_many() -> dict[str, int]:
        counts: dict[str, int] = {}
        sessions = [pair.open_recognition(sample_rate=RATE) for _ in range(16)]
        for session in sessions:
            await session.__aenter__()
            counts[session.replica] = counts.get(session.replica, 0) + 1
        for session in sessions:
            await session.aclose()
        return counts

    assert sorted(run(open_many()).values()) == [8, 8]
