"""What else can happen to a call: its caller leaves, slots run out, callers do it wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from cluster_calls import BLOCK, ENDLESS, RATE, eventually, opened
from daemons import place

from runtime.bench.barging import leaks_of
from runtime.bench.cluster import slots_left
from runtime.client import RecognitionSession, SpeechClient
from runtime.errors import Overloaded, ProtocolMismatch, SessionClosed, StreamStalled
from runtime.replica import AbortedStream
from runtime.speech import PROTOCOL_VERSION, RecognitionOptions, SynthesisRequest

pytestmark = pytest.mark.cluster

FREED_MS = 50.0


async def slots_taken(client: SpeechClient, deployment: str) -> int:
    infos = await client.replicas(deployment)
    return sum(engine.active for info in infos for engine in info.engines)


async def freed(client: SpeechClient, deployment: str, stream: str) -> AbortedStream:
    """What a replica tells of a stream that was aborted, once it does."""
    found: list[AbortedStream] = []

    async def look() -> bool:
        found.extend(one for one in await client.aborted(deployment) if one.stream == stream)
        return bool(found)

    assert await eventually(look)
    return found[0]


# --- callers leave -----------------------------------------------------------


def test_a_slot_is_free_soon_after_its_stream_was_closed_cancelled_or_dropped(
    pair_client, run
) -> None:
    async def close(client: SpeechClient) -> tuple[str, float]:
        stream = client.synthesize(ENDLESS)
        await anext(stream)
        await stream.aclose()
        return stream.id, time.time()

    async def cancel_task(client: SpeechClient) -> tuple[str, float]:
        stream = client.synthesize(ENDLESS)
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in stream:
                begun.set()

        reading = asyncio.create_task(read())
        await begun.wait()
        reading.cancel()
        await asyncio.wait({reading})
        return stream.id, time.time()

    async def drop(client: SpeechClient) -> tuple[str, float]:
        stream = client.synthesize(ENDLESS)
        await anext(stream)
        name = stream.id
        del stream
        return name, time.time()

    async def close_client(client: SpeechClient) -> tuple[str, float]:
        other = SpeechClient(client._calls, client._settings, client._attachment.joined())
        stream = other.synthesize(ENDLESS)
        await anext(stream)
        await other.aclose()
        return stream.id, time.time()

    async def measure() -> None:
        for leave in (close, cancel_task, drop, close_client):
            stream, left = await leave(pair_client)
            aborted = await freed(pair_client, "TTS", stream)
            assert aborted.orphaned_ms < FREED_MS, leave.__name__
            assert (aborted.freed_at - left) * 1e3 < FREED_MS, leave.__name__
        assert await slots_taken(pair_client, "TTS") == 0

    run(measure())


def test_a_session_that_was_closed_cancelled_or_dropped_frees_its_slot(pair_client, run) -> None:
    async def one() -> RecognitionSession:
        (session,) = await opened(pair_client, 1)
        await session.push(BLOCK)
        return session

    async def measure() -> None:
        closed = await one()
        left = time.time()
        await closed.aclose()
        assert ((await freed(pair_client, "ASR", closed.id)).freed_at - left) * 1e3 < FREED_MS

        dropped = await one()
        name = dropped.id
        del dropped
        left = time.time()
        assert ((await freed(pair_client, "ASR", name)).freed_at - left) * 1e3 < FREED_MS

        assert await slots_taken(pair_client, "ASR") == 0

    run(measure())


BOT = """
import asyncio, sys
from runtime.client import SpeechClient

async def main():
    client = await SpeechClient.connect(application="pair")
    session = client.open_recognition(sample_rate=8000)
    await session.__aenter__()
    await session.push(bytes(1280))
    await session.flush()
    stream = client.synthesize("This goes on forever. ")
    await anext(stream)
    print(session.id, stream.id, flush=True)
    async for _ in stream:
        pass

asyncio.run(main())
"""


def test_a_bot_that_is_killed_leaves_nothing_behind(pair_client, daemon, run, shell) -> None:
    environment = shell | place(daemon)
    command = [sys.executable, "-c", BOT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as bot:
        try:
            assert bot.stdout is not None
            session, stream = bot.stdout.readline().split()
        finally:
            bot.kill()
        left = time.time()
    for deployment, name in (("ASR", session), ("TTS", stream)):
        aborted = run(freed(pair_client, deployment, name))
        assert (aborted.freed_at - left) * 1e3 < FREED_MS
    assert run(slots_taken(pair_client, "ASR")) == run(slots_taken(pair_client, "TTS")) == 0


def test_a_thousand_barge_ins_leak_nothing(pair_client, run) -> None:
    leaks = run(leaks_of(pair_client, "It is said slowly. " * 400, count=1_000))
    assert (leaks.tasks, leaks.generators) == (0, 0)
    assert run(slots_left(pair_client, ("TTS",))) == 0
    assert leaks.growth is not None
    assert leaks.growth < 0.02
    assert len(leaks.streams) > 500, "most of them had begun"


# --- slots run out -----------------------------------------------------------


def test_a_full_house_refuses_in_less_than_ten_milliseconds(scripted, run) -> None:
    async def measure() -> list[float]:
        took = []
        full = [scripted.synthesize(ENDLESS) for _ in range(8)]
        for stream in full:
            await anext(stream)
        for _ in range(20):
            asked = time.perf_counter()
            with pytest.raises(Overloaded) as refused:
                await anext(scripted.synthesize("One too many."))
            took.append((time.perf_counter() - asked) * 1e3)
            assert refused.value.retry_after_s > 0
            assert refused.value.replica
        for stream in full:
            assert (await anext(stream)).samples, "those that run go on"
            await stream.aclose()
        return took

    assert sorted(run(measure()))[10] < 10


def test_whoever_waits_for_a_slot_gets_the_next_and_is_told_how_long_it_took(
    pair_client, run
) -> None:
    async def measure() -> None:
        full = [pair_client.synthesize(ENDLESS) for _ in range(64)]
        for stream in full:
            await anext(stream)
        waiting = pair_client.synthesize("At last.")
        first = asyncio.ensure_future(anext(waiting))

        async def in_the_queue() -> bool:
            infos = await pair_client.replicas("TTS")
            return any(engine.waiting for info in infos for engine in info.engines)

        assert await eventually(in_the_queue)
        for stream in full:
            await stream.aclose()
        assert (await first).samples
        assert waiting.started.queued_s > 0
        await waiting.aclose()

    run(measure())


def test_whoever_waits_too_long_for_a_slot_is_refused(pair_client, run) -> None:
    async def measure() -> float:
        full = [pair_client.open_recognition(sample_rate=RATE) for _ in range(64)]
        for session in full:
            await session.__aenter__()
        asked = time.monotonic()
        with pytest.raises(Overloaded):
            async with pair_client.open_recognition(sample_rate=RATE):
                pass
        for session in full:
            await session.aclose()
        return time.monotonic() - asked

    assert 0.9 < run(measure()) < 4  # a second on each replica


# --- what callers may do wrong -----------------------------------------------


def test_pushing_after_the_end_is_refused(pair_client, run) -> None:
    async def push() -> None:
        async with pair_client.open_recognition(sample_rate=RATE) as session:
            await session.push(BLOCK)
            await session.finish()
            with pytest.raises(SessionClosed):
                await session.push(BLOCK)
        with pytest.raises(SessionClosed):
            await session.push(BLOCK)
        with pytest.raises(SessionClosed, match="async with"):
            await pair_client.open_recognition(sample_rate=RATE).push(BLOCK)

    run(push())


def test_audio_at_many_times_real_time_is_all_heard(pair_client, run) -> None:
    async def push() -> str:
        async with pair_client.open_recognition(sample_rate=RATE, partials=False) as session:
            for _ in range(4_000):  # 320 s, five times what is kept to replay
                await session.push(BLOCK)
            return (await session.finalize()).text

    assert run(push()) == f"{4_000 * 640} samples"


def test_a_session_left_idle_is_closed_and_its_caller_told_why(scripted, run) -> None:
    async def idle() -> float:
        async with scripted.open_recognition(sample_rate=RATE) as session:
            await session.push(BLOCK)
            began = time.monotonic()
            with pytest.raises(StreamStalled, match="No audio came for 2 s"):
                await anext(session)
            took = time.monotonic() - began
            with pytest.raises(StreamStalled):
                await session.push(BLOCK)
            return took

    assert 1.9 < run(idle()) < 4


@pytest.mark.parametrize(
    ("deployment", "method", "argument"),
    [
        ("TTS", "synthesize", SynthesisRequest("Hello.")),
        ("ASR", "recognize", RecognitionOptions(sample_rate=RATE)),
    ],
)
def test_a_client_of_another_release_is_refused_by_name(
    scripted, run, deployment, method, argument
) -> None:
    async def call() -> None:
        await anext(
            scripted._calls[deployment].stream(method, PROTOCOL_VERSION + 1, "id", argument)
        )

    with pytest.raises(ProtocolMismatch, match="install the same release"):
        run(call())
