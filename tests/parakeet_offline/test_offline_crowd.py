"""The offline Parakeet among many callers, live ones too, and when it is closed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")
from offline_parakeet import FILE, RATE, ROWS, Run, Watched, together, under_way, until
from tiny_parakeet import babble

from runtime.audio import resample
from runtime.engines import make_recognizer
from runtime.engines.parakeet.offline import ParakeetRecognizer
from runtime.errors import (
    EngineFailed,
    Overloaded,
)
from runtime.speech import RecognitionOptions, Transcript


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
        first = await under_way(engine, watched)
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
        running = await under_way(engine, watched)
        due = RecognitionOptions(mode="file", language="en", deadline_s=1.0)
        calls = [engine.transcribe(babble(4.0, seed=n), FILE) for n in range(ROWS)]
        await asyncio.gather(running, *calls, engine.transcribe(babble(2.0), due))

    run(main())
    assert 2 * RATE in watched.batches[1]


def test_those_who_come_back_are_waited_for(
    engine: ParakeetRecognizer, watched: Watched, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._batching, "once_s", 60.0)  # worth any wait, if they keep coming

    async def ask(number: int) -> None:
        await engine.transcribe(babble(2.0, seed=number), FILE)
        await engine.transcribe(babble(1.5, seed=number), FILE)

    async def main() -> None:
        first = await under_way(engine, watched)
        crowd = [asyncio.create_task(ask(number)) for number in range(ROWS)]
        await asyncio.gather(first, *crowd)

    run(main())
    assert [len(batch) for batch in watched.batches] == [1, ROWS, ROWS]


def test_nobody_waits_for_those_who_may_come_back_where_as_many_as_half_of_them_wait(
    engine: ParakeetRecognizer, watched: Watched, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[int] = []

    async def gather(count: int, answering: asyncio.Task[None]) -> None:
        gathered.append(count)

    monkeypatch.setattr(engine._batching, "_gather", gather)

    async def main() -> None:
        first = await under_way(engine, watched)
        crowd = asyncio.create_task(together(engine, *[babble(2.0)] * (ROWS + ROWS // 2)))
        await asyncio.gather(first, crowd)

    run(main())
    assert [len(batch) for batch in watched.batches] == [1, ROWS, ROWS // 2]
    assert gathered == [ROWS // 2], "those of the last batch"


def test_one_whose_words_cannot_be_read_fails_alone(
    engine: ParakeetRecognizer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = engine._batching._read

    def reading(tokens: Any, samples: int) -> Any:
        if samples == round(1.7 * RATE):
            raise ValueError("unreadable")
        return read(tokens, samples)

    monkeypatch.setattr(engine._batching, "_read", reading)

    async def main() -> list[Any]:
        sounds = (babble(1.7), babble(1.6), babble(1.5))
        calls = [engine.transcribe(sound, FILE) for sound in sounds]
        return await asyncio.gather(*calls, return_exceptions=True)

    bad, *good = run(main())
    assert isinstance(bad, EngineFailed)
    assert "unreadable" in str(bad)
    assert all(isinstance(one, Transcript) for one in good)


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


def test_whoever_is_tried_alone_when_the_engine_is_closed_is_told(
    weights: Path, engine: ParakeetRecognizer, run: Run
) -> None:
    other = make_recognizer("parakeet", {"weights": str(weights), "device": "cpu", "slots": 4})
    assert isinstance(other, ParakeetRecognizer)
    other._model = engine._model
    tried: list[int] = []
    held = threading.Event()

    def recognize(sounds: Any, boosts: Any) -> Any:
        tried.append(len(sounds))
        if len(tried) == 2:
            held.wait(30)
        raise ValueError("none of these")

    other._batching._recognize = recognize

    async def main() -> list[Any]:
        calls = [asyncio.create_task(other.transcribe(babble(1.0), FILE)) for _ in range(5)]
        await until(lambda: tried == [len(calls), 1])
        closing = asyncio.create_task(other.close())
        await asyncio.sleep(0)
        held.set()
        await closing
        return await asyncio.gather(*calls, return_exceptions=True)

    assert {type(answer) for answer in run(main())} == {EngineFailed}
