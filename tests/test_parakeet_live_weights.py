"""NVIDIA's own streaming Parakeet: live callers' words, alone and in a crowd.

For whoever has pulled it: ``speech models pull nemotron`` and then ``make test ARGS='-m weights'``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from runtime.audio import AudioFile, resample
from runtime.bench.wer import word_error_rate
from runtime.engines import make_recognizer
from runtime.errors import CheckpointError
from runtime.speech import FinalTranscript, RecognitionOptions, Recognizer, Samples

pytestmark = pytest.mark.weights

Run = Callable[[Coroutine[Any, Any, Any]], Any]
RATE = 16_000
SECOND = np.zeros(RATE, dtype=np.float32)


@pytest.fixture(scope="module")
def nemotron(run: Run) -> Iterator[Recognizer]:
    try:
        engine = make_recognizer("parakeet-streaming", {"slots": 16})
    except CheckpointError as error:
        pytest.skip(f"needs NVIDIA's checkpoints: {error}")
    run(engine.load())
    run(engine.exercise())
    yield engine
    run(engine.close())


@pytest.fixture(scope="module")
def spoken(clips: list[Any]) -> list[tuple[str, Samples]]:
    """What is said in each clip, and its samples."""

    def samples(path: Any) -> Samples:
        file = AudioFile.open(path)
        return resample(np.concatenate(list(file.blocks())), file.sample_rate, RATE)

    return [(clip.text, samples(clip.path)) for clip in clips]


async def hear(engine: Recognizer, *turns: Samples, block_s: float = 0.08) -> list[str]:
    """The final text of each turn of one live stream, finalized at its last sample."""
    stream = engine.open(RecognitionOptions(language="en", partials=False, endpoint_ms=None))
    block, texts = round(block_s * RATE), []
    try:
        events = stream.events()
        for turn in turns:
            for start in range(0, len(turn), block):
                await stream.push(turn[start : start + block])
            request = await stream.finalize()
            async for event in events:
                if isinstance(event, FinalTranscript) and event.request == request:
                    texts.append(event.text)
                    break
    finally:
        await stream.close()
    return texts


@pytest.fixture(scope="module")
def alone(nemotron: Recognizer, spoken: Sequence[tuple[str, Samples]], run: Run) -> list[str]:
    """What is heard of each clip in a stream of its own."""
    return [run(hear(nemotron, sound))[0] for _, sound in spoken]


def test_live_clips_are_understood(
    spoken: Sequence[tuple[str, Samples]], alone: Sequence[str]
) -> None:
    heard = [(text, said) for (text, _), said in zip(spoken, alone, strict=True)]
    assert word_error_rate(heard) < 0.10, heard


def test_in_a_crowd_each_hears_its_own_words(
    nemotron: Recognizer, spoken: Sequence[tuple[str, Samples]], alone: Sequence[str], run: Run
) -> None:
    async def together() -> list[list[str]]:
        return await asyncio.gather(*(hear(nemotron, sound) for _, sound in spoken))

    heard = [said for (said,) in run(together())]
    assert word_error_rate(list(zip(alone, heard, strict=True))) < 0.03, heard


def test_nothing_of_a_turn_is_heard_in_the_next(
    nemotron: Recognizer, spoken: Sequence[tuple[str, Samples]], alone: Sequence[str], run: Run
) -> None:
    heard = run(hear(nemotron, *(sound for _, sound in spoken)))
    assert word_error_rate(list(zip(alone, heard, strict=True))) < 0.03, heard


def test_the_last_word_needs_no_silence_after_it(
    nemotron: Recognizer, spoken: Sequence[tuple[str, Samples]], alone: Sequence[str], run: Run
) -> None:
    waited = [run(hear(nemotron, np.concatenate([sound, SECOND])))[0] for _, sound in spoken]
    lasts = [(text.split()[-1], said.split()[-1]) for text, said in zip(waited, alone, strict=True)]
    assert word_error_rate(lasts) <= 0.10, lasts


@pytest.mark.parametrize("block_s", [0.02, 0.5])
def test_the_size_of_a_push_changes_no_word(
    nemotron: Recognizer,
    spoken: Sequence[tuple[str, Samples]],
    alone: Sequence[str],
    run: Run,
    block_s: float,
) -> None:
    heard = [run(hear(nemotron, sound, block_s=block_s))[0] for _, sound in spoken]
    assert heard == list(alone)
