"""Replicas come and go, and calls go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cluster_calls import BLOCK, ENDLESS, RATE, opened, replicas

from runtime.bench.scaling import LATER, SESSIONS, Talk, talk, up_and_down
from runtime.speech import FinalTranscript

pytestmark = pytest.mark.cluster


def test_scaling_up_and_down_loses_and_doubles_nothing_and_moves_only_who_must(
    pair_client, scale, run
) -> None:
    async def to(count: int) -> None:
        await asyncio.to_thread(scale, num_replicas=count)

    try:
        scaled = run(up_and_down(pair_client, to, RATE))
    finally:
        scale(num_replicas=2)
    assert len(scaled.talks) == SESSIONS + LATER
    assert sum(talk.words_lost for talk in scaled.talks) == 0
    assert sum(talk.samples_doubled for talk in scaled.talks) == 0
    assert scaled.moved_early == 0, "those that come move nobody"
    assert 1 <= max(scaled.moves) <= 2
    assert len(scaled.replicas) == 1
    assert scaled.leaked_slots == 0


def test_a_rolling_upgrade_loses_and_doubles_nothing(pair_client, scale, run) -> None:
    async def calls() -> tuple[list[Talk], list[int], set[str], set[str]]:
        await replicas(pair_client, "ASR", 2)
        before = set(pair_client.known_replicas("ASR").serving)
        sessions, over = await opened(pair_client, 6), asyncio.Event()
        talking = [asyncio.create_task(talk(session, over)) for session in sessions]
        await asyncio.to_thread(
            scale, wait=True, num_replicas=2, ray_actor_options={"num_cpus": 0.11}
        )
        after = set(pair_client.known_replicas("ASR").serving)
        over.set()
        talks = await asyncio.gather(*talking)
        for session in sessions:
            await session.aclose()
        return talks, [session.moves for session in sessions], before, after

    try:
        talks, moves, before, after = run(calls())
    finally:
        scale(wait=True, num_replicas=2)
    assert not before & after, "every replica was replaced"
    assert sum(talk.words_lost + talk.samples_doubled for talk in talks) == 0
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
