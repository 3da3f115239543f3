"""Listening through Serve handles."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from runtime.audio import AudioFile, float32_to_pcm16
from runtime.bench.wer import plain_words, word_error_rate
from runtime.client import SpeechClient
from runtime.errors import (
    AudioFormatError,
    Overloaded,
    SessionClosed,
    StreamStalled,
    UnknownLanguage,
    UnsupportedOption,
)
from runtime.memory.process import resident_bytes
from runtime.replica import Block
from runtime.speech import (
    PROTOCOL_VERSION,
    FinalTranscript,
    PartialTranscript,
    RecognitionEvent,
    RecognitionOptions,
)

pytestmark = pytest.mark.cluster


def pcm(path: Path) -> bytes:
    return b"".join(float32_to_pcm16(block) for block in AudioFile.open(path).blocks())


async def sessions_open(client: SpeechClient) -> int:
    return sum(engine.active for engine in (await client.info())["ASR"].engines)


async def no_session_is_left(client: SpeechClient, within_s: float = 2.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if await sessions_open(client) == 0:
            return True
    return False


def test_ten_recorded_clips_are_recognised_with_few_errors(client, clips, run) -> None:
    pairs = [(clip.text, run(client.transcribe(clip.path)).text) for clip in clips]
    assert word_error_rate(pairs) <= 0.10


def test_speech_becomes_text_again(client, run) -> None:
    sentence = "The next train to the airport leaves in twelve minutes."

    async def round_trip() -> str:
        async with client.synthesize(sentence, seed=1) as stream:
            chunks = [chunk async for chunk in stream]
        audio = b"".join(chunk.pcm for chunk in chunks)
        return (await client.transcribe(audio, sample_rate=chunks[0].sample_rate)).text

    assert plain_words(run(round_trip())) == plain_words(sentence)


def test_words_have_times_in_order_within_the_recording(client, clips, run) -> None:
    jfk = next(clip for clip in clips if clip.path.name == "jfk.wav")
    transcript = run(client.transcribe(jfk.path, words=True))
    assert len(transcript.words) == 22
    times = [t for word in transcript.words for t in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert 0 <= times[0] < 2.0
    assert 9.0 < times[-1] <= transcript.seconds + 0.3


def test_a_live_stream_gives_partials_and_then_a_final(client, clips, run) -> None:
    clip = next(clip for clip in clips if clip.path.name == "librivox_0870.wav")

    async def listen() -> list[RecognitionEvent]:
        events: list[RecognitionEvent] = []
        async with client.open_recognition() as session:

            async def push() -> None:
                audio = pcm(clip.path)
                for start in range(0, len(audio), 16_000):  # half a second at a time
                    await session.push(audio[start : start + 16_000])
                    await asyncio.sleep(0.1)  # a fast microphone, so that there are pauses
                await session.finish()

            pushing = asyncio.create_task(push())
            events += [event async for event in session]
            await pushing
        return events

    events = run(listen())
    partials = [event for event in events if isinstance(event, PartialTranscript)]
    finals = [event for event in events if isinstance(event, FinalTranscript)]
    assert partials
    assert isinstance(events[-1], FinalTranscript)
    assert word_error_rate([(clip.text, " ".join(final.text for final in finals))]) <= 0.1
    assert all(0 <= event.start_s <= event.end_s <= clip.seconds for event in events)


def test_finalize_answers_with_the_utterance_and_the_next_one_starts_clean(
    client, clips, run
) -> None:
    first, second = (clip for clip in clips if clip.path.name in ("cards_001.wav", "jfk.wav"))

    async def two_turns() -> list[FinalTranscript]:
        async with client.open_recognition(endpoint_ms=None) as session:
            finals = []
            for clip in (first, second):
                await session.push(pcm(clip.path), sample_rate=16_000)
                finals.append(await session.finalize())
            finals.append(await session.finalize())  # nothing was said since
            return finals

    one, two, nothing = run(two_turns())
    assert word_error_rate([(first.text, one.text), (second.text, two.text)]) <= 0.1
    assert nothing.text == ""
    assert [final.utterance for final in (one, two, nothing)] == [0, 1, 2]


@pytest.mark.parametrize("mode", ["live", "file"])
def test_silence_and_noise_say_nothing(client, run, mode) -> None:
    rng = np.random.default_rng(0)
    hiss = rng.normal(0, 0.02, 4 * 16_000).astype(np.float32)
    for samples in (np.zeros(4 * 16_000, dtype=np.float32), hiss):
        transcript = run(client.transcribe(samples, sample_rate=16_000, mode=mode))
        assert transcript.text == ""


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(48_000, 2, "PCM_16"), (8_000, 1, "PCM_U8"), (44_100, 1, "PCM_24"), (16_000, 1, "FLOAT")],
)
def test_other_rates_channels_and_depths_are_heard(
    client, clips, run, tmp_path, rate, channels, subtype
) -> None:
    import soxr

    clip = next(clip for clip in clips if clip.path.name == "goforward.wav")
    samples, _ = soundfile.read(clip.path, dtype="float32")
    resampled = soxr.resample(samples, 16_000, rate)
    path = tmp_path / "other.wav"
    soundfile.write(path, np.stack([resampled] * channels, axis=1), rate, subtype=subtype)
    heard = run(client.transcribe(path)).text
    assert word_error_rate([(clip.text, heard)]) <= 0.25


def test_samples_that_are_not_numbers_are_read_as_silence(client, clips, run, tmp_path) -> None:
    samples, _ = soundfile.read(clips[0].path, dtype="float32")
    broken = np.concatenate([np.full(800, np.nan, dtype=np.float32), samples])
    path = tmp_path / "nan.wav"
    soundfile.write(path, broken, 16_000, subtype="FLOAT")
    recording = AudioFile.open(path)
    assert word_error_rate([(clips[0].text, run(client.transcribe(recording)).text)]) <= 0.34
    assert recording.invalid_samples == 800


def test_a_minute_of_real_speech_goes_through_in_order(client, clips, run, tmp_path) -> None:
    read = [clip for clip in clips if clip.seconds > 2.9 and clip.path.name[0] in "jl"]
    gap = np.zeros(16_000, dtype=np.float32)
    parts = [part for clip in read for part in (soundfile.read(clip.path, dtype="float32")[0], gap)]
    repeats = 1 + int(70 * 16_000 // sum(map(len, parts)))
    path = tmp_path / "minute.wav"
    soundfile.write(path, np.concatenate(parts * repeats), 16_000)
    utterances: list[FinalTranscript] = []
    transcript = run(client.transcribe(path, on_utterance=utterances.append))
    reference = " ".join(clip.text for clip in read * repeats)
    assert transcript.seconds >= 70  # more than one call carries
    assert word_error_rate([(reference, transcript.text)]) <= 0.12
    assert len(utterances) >= 2
    assert [u.start_s for u in utterances] == sorted(u.start_s for u in utterances)


def test_an_hour_is_transcribed_in_flat_memory(scripted, run, tmp_path) -> None:
    import os

    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(60 * 16_000, dtype=np.int16))

    async def transcribe() -> tuple[Any, int, int]:
        before = (await scripted.info())["ASR"].resident_bytes
        ours = resident_bytes(os.getpid()) or 0
        transcript = await scripted.transcribe(path)
        grown = (await scripted.info())["ASR"].resident_bytes - before
        return transcript, grown, (resident_bytes(os.getpid()) or 0) - ours

    transcript, replica_grew, client_grew = run(transcribe())
    assert transcript.seconds == 3600
    heard = int(transcript.text.split()[0])
    assert heard == 3600 * 8_000  # every sample, at the engine's rate
    assert replica_grew < 30 << 20
    assert client_grew < 30 << 20  # the samples alone are 115 MB


def test_empty_recordings_are_refused(client, run, tmp_path) -> None:
    with pytest.raises(AudioFormatError, match="no samples"):
        run(client.transcribe(b"", sample_rate=16_000))
    with pytest.raises(AudioFormatError, match="no samples"):
        run(client.transcribe(np.zeros(0, dtype=np.float32), sample_rate=16_000))


@pytest.mark.parametrize(
    ("audio", "options", "error", "names"),
    [
        (b"\0\0" * 800, {}, AudioFormatError, "sample_rate"),
        (b"\0\0" * 800, {"sample_rate": 4_000}, AudioFormatError, "4000 Hz"),
        (b"\0" * 801, {"sample_rate": 16_000}, AudioFormatError, "801 bytes"),
        (np.zeros((80, 2), np.float32), {"sample_rate": 16_000}, AudioFormatError, "shape"),
        (b"\0\0" * 800, {"sample_rate": 16_000, "language": "fr"}, UnknownLanguage, "en"),
    ],
)
def test_a_bad_recording_is_a_typed_error(client, run, audio, options, error, names) -> None:
    with pytest.raises(error, match=names):
        run(client.transcribe(audio, **options))


def test_word_times_are_refused_where_the_engine_has_none(client, run) -> None:
    async def ask() -> None:
        async with client.open_recognition(words=True):
            pass

    with pytest.raises(UnsupportedOption, match="file"):
        run(ask())


def test_a_block_at_another_rate_is_refused_and_the_session_goes_on(scripted, run) -> None:
    async def push() -> FinalTranscript:
        async with scripted.open_recognition(sample_rate=8_000) as session:
            with pytest.raises(AudioFormatError, match="16000 Hz"):
                await session.push(b"\0\0" * 800, sample_rate=16_000)
            with pytest.raises(AudioFormatError, match="even"):
                await session.push(b"\0" * 3)
            await session.push(b"\0\0" * 800, sample_rate=8_000)
            return await session.finalize()

    assert run(push()).text == "800 samples"


def test_pushing_after_the_end_is_a_typed_error(scripted, run) -> None:
    async def push_late() -> None:
        async with scripted.open_recognition(sample_rate=8_000) as session:
            await session.push(b"\0\0" * 800)
            await session.finish()
            await session.push(b"\0\0" * 800)

    with pytest.raises(SessionClosed):
        run(push_late())


def test_blocks_that_come_again_out_of_order_or_after_a_gap_count_once(scripted, run) -> None:
    async def push() -> tuple[list[int], list[RecognitionEvent]]:
        calls, audio = scripted._calls["ASR"], b"\0\0" * 800
        options = RecognitionOptions(sample_rate=8_000, partials=False)
        stream = calls.stream("recognize", PROTOCOL_VERSION, "by-hand", options)
        started = await anext(stream)

        async def received(block: Block) -> int:
            (answer,) = await calls.call("push", (block,), replica=started.replica)
            assert answer.error is None
            return int(answer.received)

        firsts = (0, 0, 1_600, 400, 1_200, 0)
        counts = [await received(Block("by-hand", first, audio)) for first in firsts]
        for _ in range(2):
            await received(Block("by-hand", 2_000, b"", finalize=1))
        await received(Block("by-hand", 2_000, b"", finish=True))
        return counts, [event async for event in stream]

    counts, events = run(push())
    assert counts == [800, 800, 800, 1_200, 2_000, 2_000]
    assert [(event.text, event.request) for event in events] == [("2000 samples", 1)]


def test_a_session_left_idle_is_closed_and_told_why(scripted, run) -> None:
    async def stay_idle() -> None:
        async with scripted.open_recognition(sample_rate=8_000) as session:
            async for _ in session:
                pass

    with pytest.raises(StreamStalled, match="2 s"):
        run(stay_idle())
    assert run(no_session_is_left(scripted))


def test_leaving_the_session_frees_its_slot(scripted, run) -> None:
    async def leave() -> None:
        async with scripted.open_recognition(sample_rate=8_000) as session:
            await session.push(b"\0\0" * 800)
            assert await sessions_open(scripted) == 1

    run(leave())
    assert run(no_session_is_left(scripted))


def test_a_cancelled_caller_frees_its_slot(scripted, run) -> None:
    async def cancel() -> None:
        opened = asyncio.Event()

        async def listen() -> None:
            async with scripted.open_recognition(sample_rate=8_000) as session:
                opened.set()
                async for _ in session:
                    pass

        task = asyncio.create_task(listen())
        await opened.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancel())
    assert run(no_session_is_left(scripted))


def test_a_session_beyond_the_slots_is_told_when_to_come_back(scripted, run) -> None:
    async def crowd() -> float:
        async with (
            scripted.open_recognition(sample_rate=8_000),
            scripted.open_recognition(sample_rate=8_000),
            scripted.open_recognition(sample_rate=8_000),
            scripted.open_recognition(sample_rate=8_000),
        ):
            with pytest.raises(Overloaded) as refusal:
                async with scripted.open_recognition(sample_rate=8_000):
                    pass
            return refusal.value.retry_after_s

    assert run(crowd()) == 1.0  # a first guess: no slot has become free yet
    assert run(no_session_is_left(scripted))
