"""The offline Parakeet among many callers, live ones too, and when it is closed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")
from offline_parakeet import FILE, RATE, ROWS, Run, Watched, together, until
from tiny_parakeet import babble

from runtime.audio import resample
from runtime.engines import make_recognizer
from runtime.engines.parakeet.offline import ParakeetRecognizer
from runtime.errors import (
    EngineFailed,
    Overloaded,
)
from runtime.speech import RecognitionOptions


def test_in_a_crowd_each_hears_what_it_hears_alone(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    sounds = [babble(0.5 + 0.4 * n, seed=n) for n in range(2 * ROWS)]
    alone = [run(engine.transcribe(sound, FILE)) for sound in sounds]
    watched.batches.clear()
    crowd = run(together(engine, *sounds))
    assert [heard.text for heard in crowd] == [heard.text for heard in alone]
    for one, other in zip(crowd, alone, strict=True):
        assert [w.start_s for w in one.words] == [w.start_s for w in other.words]
    assert len(watched.batches) < len(sounds)
    assert max(map(len, watched.batches)) <= ROWS


def test_beyond_the_slots_a_caller_is_told_to_come_again(
    engine: ParakeetRecognizer, run: Run
) -> None:
    async def main() -> list[Any]:
        many = [
            engine.transcribe(babble(1.0, seed=1), FILE)
            for _ in range(engine.capabilities.slots + 1)
        ]
        return await asyncio.gather(*many, return_exceptions=True)

    answers = run(main())
    assert [type(answer) for answer in answers].count(Overloaded) == 1
    assert run(engine.transcribe(babble(1.0), FILE)).seconds == 1.0


def test_a_caller_who_leaves_is_not_recognised_and_frees_its_slot(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    async def main() -> None:
        first = asyncio.create_task(engine.transcribe(babble(3.0), FILE))
        await until(lambda: bool(watched.batches))
        leaving = [
            asyncio.create_task(engine.transcribe(babble(2.0, seed=n), FILE)) for n in range(3)
        ]
        await until(lambda: len(engine._batching.waiting) == 3)
        for task in leaving:
            task.cancel()
        await asyncio.gather(first, *leaving, return_exceptions=True)
        assert engine._whole == 0
        await engine.transcribe(babble(1.0), FILE)

    run(main())
    assert watched.batches == [[3 * RATE], [RATE]]


def test_the_one_that_is_due_goes_before_those_that_came_first(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    async def main() -> None:
        running = asyncio.create_task(engine.transcribe(babble(3.0), FILE))
        await until(lambda: bool(watched.batches))
        due = RecognitionOptions(mode="file", language="en", deadline_s=1.0)
        calls = [engine.transcribe(babble(4.0, seed=n), FILE) for n in range(ROWS)]
        await asyncio.gather(running, *calls, engine.transcribe(babble(2.0), due))

    run(main())
    assert 2 * RATE in watched.batches[1]


def test_those_who_come_back_are_waited_for_unless_others_wait(
    engine: ParakeetRecognizer, watched: Watched, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        engine._batching, "once_s", 60.0
    )  # worth any wait, as long as they keep coming
    gathered: list[int] = []
    gather = engine._batching._gather

    async def gathering(count: int) -> None:
        gathered.append(count)
        await gather(count)

    monkeypatch.setattr(engine._batching, "_gather", gathering)

    async def main() -> None:
        first = asyncio.create_task(engine.transcribe(babble(3.0), FILE))
        await until(lambda: bool(watched.batches))
        crowd = asyncio.create_task(together(engine, *[babble(2.0)] * (ROWS + ROWS // 2)))
        await until(lambda: len(engine._batching.waiting) == ROWS + ROWS // 2)
        await first
        await crowd

    run(main())
    assert [len(batch) for batch in watched.batches] == [1, ROWS, ROWS // 2]
    # Not after the one alone, nor after the full batch, while half as many waited.
    assert gathered == [ROWS // 2]


def test_one_that_the_model_fails_of_fails_alone(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    watched.failing = round(1.7 * RATE)
    sounds = [babble(1.7, seed=0), *(babble(1.6, seed=n) for n in range(1, 4))]

    async def main() -> list[Any]:
        calls = [engine.transcribe(sound, FILE) for sound in sounds]
        return await asyncio.gather(*calls, return_exceptions=True)

    bad, *good = run(main())
    assert isinstance(bad, EngineFailed)
    assert "this one" in str(bad)
    watched.failing = 0
    assert [one.text for one in good] == [
        run(engine.transcribe(sound, FILE)).text for sound in sounds[1:]
    ]


def test_a_live_stream_is_cut_by_what_is_spoken(
    engine: ParakeetRecognizer, clips: list[Any], run: Run
) -> None:
    from runtime.audio import AudioFile

    file = AudioFile.open(clips[0].path)
    spoken = resample(np.concatenate(list(file.blocks())), file.sample_rate, RATE)

    async def main() -> list[Any]:
        options = RecognitionOptions(language="en", endpoint_ms=None, words=True)
        stream = engine.open(options)
        await stream.push(spoken)
        assert await stream.finalize() == 1
        await stream.push(np.zeros(RATE, dtype=np.float32))
        assert await stream.finalize() == 2
        await stream.finish()
        events = [event async for event in stream.events()]
        await stream.close()
        return events

    said, silence = run(main())
    assert (said.request, silence.request) == (1, 2)
    assert said.text
    assert said.words
    assert silence.text == ""
    assert not engine._streams


def test_what_waits_when_the_engine_is_closed_is_told(
    weights: Path, engine: ParakeetRecognizer, run: Run
) -> None:
    other = make_recognizer("parakeet", {"weights": str(weights), "device": "cpu", "slots": 2})
    assert isinstance(other, ParakeetRecognizer)
    other._model = engine._model  # loaded once is enough

    async def main() -> list[Any]:
        calls = [asyncio.create_task(other.transcribe(babble(3.0), FILE)) for _ in range(3)]
        await until(lambda: other._batching._serving is not None)
        await other.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = run(main())
    assert {type(answer) for answer in answers} == {EngineFailed}
    with pytest.raises(EngineFailed, match="has been closed"):
        run(other.transcribe(babble(1.0), FILE))
