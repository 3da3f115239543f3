"""Speaking through Serve handles."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import numpy as np
import pytest
from fake_tts import hear

from runtime.audio import pcm16_to_float32
from runtime.client import SpeechClient
from runtime.errors import (
    EngineFailed,
    InvalidRequest,
    NothingToSpeak,
    Overloaded,
    StreamStalled,
    TextTooLong,
    UnknownLanguage,
    UnknownVoice,
    UnsupportedOption,
)
from runtime.requests import MAX_TEXT_BYTES
from runtime.speech import AudioChunk

pytestmark = pytest.mark.cluster


async def read(client: SpeechClient, text: str, **options: Any) -> list[AudioChunk]:
    async with client.synthesize(text, **options) as stream:
        return [chunk async for chunk in stream]


async def active(client: SpeechClient) -> int:
    return (await client.info())["TTS"].engines[0].active


async def becomes_idle(client: SpeechClient, within_s: float = 2.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if await active(client) == 0:
            return True
    return False


def test_a_sentence_becomes_audible_audio(client, run) -> None:
    chunks = run(read(client, "Good morning, how can I help you?"))
    samples = pcm16_to_float32(b"".join(chunk.pcm for chunk in chunks))
    assert {chunk.sample_rate for chunk in chunks} == {24_000}
    assert 1.0 < len(samples) / 24_000 < 4.0
    assert np.sqrt(np.mean(samples**2)) > 0.01
    assert np.abs(samples).max() < 1.0


def test_chunks_are_contiguous_and_only_the_last_has_the_end_flag(scripted, run) -> None:
    chunks = run(read(scripted, "One sentence. Another one. And a third."))
    assert [chunk.first_sample for chunk in chunks[1:]] == [c.next_sample for c in chunks[:-1]]
    assert chunks[0].first_sample == 0
    assert [chunk.end for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.piece for chunk in chunks[:-1]] == [0, 1, 2]


def test_a_seed_repeats_the_audio(client, run) -> None:
    first, again, other = (
        b"".join(c.pcm for c in run(read(client, "The same words.", seed=seed)))
        for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_speed_changes_the_length(client, run) -> None:
    slow, fast = (
        run(read(client, "This takes a while to say.", speed=speed))[-1].next_sample
        for speed in (0.7, 1.4)
    )
    assert 1.5 < slow / fast < 2.5


def test_the_stream_says_how_the_request_was_understood(client, run) -> None:
    async def started() -> Any:
        async with client.synthesize("Hello \U0001f642 there.", voice="HEART") as stream:
            await anext(stream)
            return stream.started

    answer = run(started())
    assert (answer.voice, answer.language, answer.removed) == ("heart", "en", 1)


@pytest.mark.parametrize(
    ("text", "options", "error", "names"),
    [
        ("", {}, NothingToSpeak, "empty"),
        (" \n\t ", {}, NothingToSpeak, "empty"),
        ("\U0001f642\U0001f680", {}, NothingToSpeak, "letter"),
        ("Hello.", {"voice": "nobody"}, UnknownVoice, "heart"),
        ("Hallo.", {"language": "de"}, UnknownLanguage, "en"),
        ("Hello.", {"speed": 9.0}, UnsupportedOption, "2.0"),
        ("Hello.", {"normalise": False}, UnsupportedOption, "normalise"),
        ("é" * MAX_TEXT_BYTES, {}, TextTooLong, f"{MAX_TEXT_BYTES:,}"),
        ("你好", {}, NothingToSpeak, "en"),
    ],
)
def test_a_bad_request_is_a_typed_error_that_says_what_there_is(
    client, run, text, options, error, names
) -> None:
    with pytest.raises(error, match=names):
        run(read(client, text, **options))
    assert run(becomes_idle(client))


def test_another_protocol_version_is_refused_by_name(scripted, run) -> None:
    calls = scripted._deployment("TTS")

    async def ask() -> None:
        async for _ in calls.stream("synthesize", 999, "some-id", None):
            pass

    with pytest.raises(InvalidRequest, match="protocol 999"):
        run(ask())


def test_a_failing_model_fails_the_request_and_not_the_replica(scripted, run) -> None:
    with pytest.raises(EngineFailed, match="scripted model exploded"):
        run(read(scripted, "All is well. Then explode. Never said."))
    assert run(becomes_idle(scripted))
    assert run(read(scripted, "Still here."))[-1].end


def test_leaving_the_stream_stops_the_replica(scripted, run) -> None:
    async def leave_early() -> None:
        async with scripted.synthesize("forever") as stream:
            await anext(stream)
            assert await active(scripted) == 1

    run(leave_early())
    assert run(becomes_idle(scripted))


def test_cancelling_the_reading_task_stops_the_replica(scripted, run) -> None:
    async def cancel() -> None:
        begun = asyncio.Event()

        async def listen() -> None:
            async for _ in scripted.synthesize("forever"):
                begun.set()

        task = asyncio.create_task(listen())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancel())
    assert run(becomes_idle(scripted))


def test_dropping_the_stream_stops_the_replica(scripted, run) -> None:
    async def drop() -> None:
        stream = scripted.synthesize("forever")
        await anext(stream)

    run(drop())
    assert run(becomes_idle(scripted))


def test_a_megabyte_of_text_streams_in_flat_memory(scripted, run) -> None:
    text = "A sentence of about forty characters. " * 27_000
    assert len(text) > 1_000_000

    async def read_all() -> tuple[int, list[int]]:
        read, sizes = 0, []
        async with scripted.synthesize(text) as stream:
            async for chunk in stream:
                assert chunk.first_sample == read
                read = chunk.next_sample
                if chunk.piece % 5_000 == 0:
                    sizes.append((await scripted.info())["TTS"].resident_bytes)
        return read, sizes

    samples, sizes = run(read_all())
    spoken = len(text) - 27_000  # the spaces between sentences are not
    assert samples == 80 * spoken
    assert max(sizes) - sizes[0] < 50 << 20  # the audio alone is 160 MB


def test_a_replica_never_runs_far_ahead_of_its_reader(scripted, run) -> None:
    async def read_slowly() -> tuple[int, int]:
        async with scripted.synthesize("A sentence of some length. " * 4_000) as stream:
            await anext(stream)
            before = (await scripted.info())["TTS"].resident_bytes
            for _ in range(300):  # while nobody reads; unpaced, all would be made by now
                after = (await scripted.info())["TTS"].resident_bytes
            return before, after

    before, after = run(read_slowly())
    assert after - before < 8 << 20  # all of it is 17 MB; the lead of 5 s is 80 kB


def test_a_reader_that_stands_still_loses_its_slot(scripted, run) -> None:
    async def stand_still() -> None:
        async with scripted.synthesize("A sentence of some length. " * 4_000) as stream:
            await anext(stream)
            assert await becomes_idle(scripted, within_s=20.0)
            async for _ in stream:
                pass

    with pytest.raises(StreamStalled, match="5 s"):
        run(stand_still())


def test_texts_that_follow_are_spoken_in_one_utterance(client, run) -> None:
    texts = ["Good morning.", "How are you, today? Well.", "So am I."]

    async def grow() -> list[AudioChunk]:
        async with client.synthesize(texts[0], seed=3, growing=True) as stream:
            chunks = await hear(stream, 1)
            stream.extend(texts[1])
            chunks += await hear(stream, 2)
            assert await active(client) == 1, "it keeps its slot"
            stream.extend(texts[2])
            stream.finish()
            return chunks + [chunk async for chunk in stream]

    grown, whole = run(grow()), run(read(client, " ".join(texts), seed=3))
    assert b"".join(c.pcm for c in grown) == b"".join(c.pcm for c in whole)
    assert [c.piece for c in grown] == [c.piece for c in whole]
    assert [c.first_sample for c in grown[1:]] == [c.next_sample for c in grown[:-1]]
    assert [c.end for c in grown] == [False] * (len(grown) - 1) + [True]
    assert run(becomes_idle(client))


def test_an_utterance_with_nothing_to_say_gives_its_slot_back_and_goes_on_later(
    scripted, run
) -> None:
    async def pause() -> list[AudioChunk]:
        async with scripted.synthesize("One.", growing=True) as stream:
            chunks = await hear(stream, 1)
            waiting = asyncio.create_task(hear(stream, 2))
            assert await becomes_idle(scripted)
            stream.extend("Two and three.")
            chunks += await waiting
            stream.finish()
            chunks += [chunk async for chunk in stream]
            assert stream.takeovers == 0
            return chunks

    chunks = run(pause())
    samples = np.frombuffer(b"".join(chunk.pcm for chunk in chunks), "<i2")
    assert samples.tolist() == list(range(80 * len("One.Two and three.")))


def test_a_text_that_fails_ends_the_utterance_and_frees_its_slot(scripted, run) -> None:
    async def explode() -> None:
        async with scripted.synthesize("All is well.", growing=True) as stream:
            await hear(stream, 1)
            stream.extend("Then explode.")
            await hear(stream, 2)

    with pytest.raises(EngineFailed, match="exploded"):
        run(explode())
    assert run(becomes_idle(scripted))


def test_long_utterances_in_all_slots_at_once_end_and_one_more_is_refused(scripted, run) -> None:
    slots = 8
    text = "A sentence of some length. " * 200  # ten times the lead

    async def fill() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(scripted, text)) for _ in range(slots)]
        return [task.result()[-1].next_sample for task in tasks]

    async def crowd() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(slots):
                await anext(await stack.enter_async_context(scripted.synthesize("forever")))
            with pytest.raises(Overloaded, match="8 synthesis slots"):
                await read(scripted, "One too many.")

    assert len(set(run(fill()))) == 1
    run(crowd())
    assert run(becomes_idle(scripted))


def test_utterances_run_side_by_side(client, run) -> None:
    async def together() -> list[list[AudioChunk]]:
        return await asyncio.gather(*(read(client, f"Number {n} speaking.") for n in range(4)))

    assert all(chunks[-1].end and chunks[-1].first_sample for chunks in run(together()))
