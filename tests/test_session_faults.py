"""What else can happen to a call: its caller leaves, slots run out, replicas come and go."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from runtime.client import RecognitionSession, SpeechClient
from runtime.errors import Overloaded, ProtocolMismatch, SessionClosed, StreamStalled
from runtime.replica import AbortedStream, Census
from runtime.speech import (
    PROTOCOL_VERSION,
    FinalTranscript,
    RecognitionOptions,
    SynthesisRequest,
)

pytestmark = pytest.mark.cluster

RATE = 8_000
BLOCK = b"\0\0" * 640  # 80 ms
FREED_MS = 50.0
ENDLESS = "This goes on forever. "


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> bool:
    """Whether something becomes true in time; asks the daemon again and again."""
    deadline = time.monotonic() + within_s
    while not (found := await check()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)  # asking is work for the replicas, too
    return found


async def replicas(client: SpeechClient, deployment: str, count: int) -> None:
    """Return once a deployment has ``count`` replicas."""

    async def there() -> bool:
        return len(await client.replicas(deployment)) == count

    assert await eventually(there, within_s=40)


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
    environment = shell | {
        "SPEECH_STATE_DIR": str(daemon.state_dir),
        "SPEECH_TEMP_DIR": str(daemon.temp_dir),
    }
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
    moments = random.Random(0)
    text = "It is said slowly. " * 400

    async def barge_in() -> None:
        async with pair_client.synthesize(text) as stream:
            for _ in range(moments.randrange(4)):
                await anext(stream)
        if moments.random() < 0.3:  # before there is an answer at all
            starting = asyncio.ensure_future(anext(pair_client.synthesize(text)))
            await asyncio.sleep(moments.random() * 0.01)
            starting.cancel()
            await asyncio.wait({starting})

    async def many(count: int) -> None:
        waiting = iter(range(count))

        async def caller() -> None:
            for _ in waiting:
                await barge_in()

        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(caller())

    async def settled() -> tuple[Census, ...]:
        async def idle() -> bool:
            return await slots_taken(pair_client, "TTS") == 0

        assert await eventually(idle)
        return await pair_client.census("TTS")

    async def measure() -> tuple[tuple[Census, ...], tuple[Census, ...], int, int]:
        await many(300)  # until caches and pools have their size
        before, tasks = await settled(), len(asyncio.all_tasks())
        await many(1_000)
        return before, await settled(), tasks, len(asyncio.all_tasks())

    before, after, tasks_before, tasks_after = run(measure())
    assert tasks_after <= tasks_before + 2
    for earlier, later in zip(before, after, strict=True):
        assert later.streams == 0
        assert later.tasks <= earlier.tasks + 2  # the count itself runs in one
        assert later.generators <= earlier.generators + 2
        assert later.resident_bytes < 1.02 * earlier.resident_bytes


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


# --- replicas come and go ----------------------------------------------------


async def talk(session: RecognitionSession, utterances: int) -> list[int]:
    """Say utterances of 5, 6, 7 ... blocks at the pace of speech; how many blocks were heard."""
    heard = []
    for utterance in range(utterances):
        for _ in range(5 + utterance):
            await session.push(BLOCK)
            await asyncio.sleep(0.08)
        heard.append(int((await session.finalize()).text.split()[0]) // 640)
    await session.finish()
    finals = [event async for event in session if isinstance(event, FinalTranscript)]
    assert [final.utterance for final in finals] == list(range(utterances))
    assert all(a.end_s == pytest.approx(b.start_s) for a, b in pairwise(finals))
    return heard


async def opened(client: SpeechClient, count: int) -> list[RecognitionSession]:
    sessions = [client.open_recognition(sample_rate=RATE, endpoint_ms=None) for _ in range(count)]
    for session in sessions:
        await session.__aenter__()
    return sessions


def test_scaling_up_and_down_loses_and_doubles_nothing_and_moves_only_who_must(
    pair_client, scale, run
) -> None:
    count, utterances = 20, 14

    async def calls() -> tuple[list[list[int]], list[int]]:
        await asyncio.to_thread(scale, num_replicas=1)
        await replicas(pair_client, "ASR", 1)
        sessions = await opened(pair_client, count)
        talking = [asyncio.create_task(talk(session, utterances)) for session in sessions]
        await asyncio.to_thread(scale, num_replicas=3)
        await replicas(pair_client, "ASR", 3)
        assert all(session.moves == 0 for session in sessions), "those that come move nobody"
        await asyncio.to_thread(scale, num_replicas=1)
        await replicas(pair_client, "ASR", 1)
        heard = await asyncio.gather(*talking)
        assert len({session.replica for session in sessions}) == 1
        for session in sessions:
            await session.aclose()
        return heard, [session.moves for session in sessions]

    try:
        heard, moves = run(calls())
    finally:
        scale(num_replicas=2)
    assert heard == [[5 + n for n in range(utterances)]] * count
    assert max(moves) <= 2


def test_a_rolling_upgrade_loses_and_doubles_nothing(pair_client, scale, run) -> None:
    count, utterances = 6, 14

    async def calls() -> tuple[list[list[int]], list[int], set[str], set[str]]:
        await replicas(pair_client, "ASR", 2)
        before = set(pair_client.known_replicas("ASR").serving)
        sessions = await opened(pair_client, count)
        talking = [asyncio.create_task(talk(session, utterances)) for session in sessions]
        await asyncio.to_thread(
            scale, wait=True, num_replicas=2, ray_actor_options={"num_cpus": 0.11}
        )
        after = set(pair_client.known_replicas("ASR").serving)
        heard = await asyncio.gather(*talking)
        for session in sessions:
            await session.aclose()
        return heard, [session.moves for session in sessions], before, after

    try:
        heard, moves, before, after = run(calls())
    finally:
        scale(wait=True, num_replicas=2)
    assert not before & after, "every replica was replaced"
    assert heard == [[5 + n for n in range(utterances)]] * count
    assert min(moves) >= 1


def test_an_utterance_finishes_on_a_replica_that_is_leaving(pair_client, scale, run) -> None:
    text = "It is said slowly. " * 60  # three seconds of work, 90 s of audio: beyond the lead

    async def speak() -> tuple[int, list[int]]:
        await replicas(pair_client, "TTS", 2)
        streams = [pair_client.synthesize(text) for _ in range(6)]
        for stream in streams:
            await anext(stream)
        await asyncio.to_thread(scale, num_replicas=1)

        async def read(stream: Any) -> int:
            return [chunk async for chunk in stream][-1].next_sample

        lengths = await asyncio.gather(*map(read, streams))
        return sum(stream.takeovers for stream in streams), lengths

    try:
        takeovers, lengths = run(speak())
    finally:
        scale(num_replicas=2)
    assert takeovers == 0
    assert len(set(lengths)) == 1


def test_replicas_follow_the_slots_in_use(pair_client, scale, run) -> None:
    autoscaling = {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 0.5,
        "downscale_delay_s": 0.5,
        "metrics_interval_s": 0.2,
        "look_back_period_s": 0.5,
    }

    async def load() -> None:
        await replicas(pair_client, "TTS", 1)
        streams = [pair_client.synthesize(ENDLESS) for _ in range(6)]
        for stream in streams:
            await anext(stream)
        await replicas(pair_client, "TTS", 2)
        for stream in streams:
            assert (await anext(stream)).samples
            await stream.aclose()
        await replicas(pair_client, "TTS", 1)

    try:
        scale(wait=True, autoscaling_config=autoscaling)
        run(load())
    finally:
        scale(num_replicas=2)


def test_calls_go_on_while_serves_controller_restarts(pair_client, run) -> None:
    import ray

    async def listen() -> FinalTranscript:
        await replicas(pair_client, "ASR", 2)
        async with pair_client.open_recognition(sample_rate=RATE) as session:
            await session.push(BLOCK)
            ray.kill(ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve"), no_restart=False)
            for _ in range(20):
                await session.push(BLOCK)
            async with pair_client.open_recognition(sample_rate=RATE) as another:
                await another.push(BLOCK)
                assert (await another.finalize()).text == "640 samples"
            async with pair_client.synthesize("A new utterance.") as stream:
                assert [chunk async for chunk in stream][-1].end
            assert session.moves == 0
            return await session.finalize()

    assert run(listen()).text == f"{21 * 640} samples"
