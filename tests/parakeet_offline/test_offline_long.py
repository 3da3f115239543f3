"""The offline Parakeet and long recordings."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")
from offline_parakeet import FILE, RATE, ROWS, WINDOW_S, Run, Watched, together, until
from tiny_parakeet import babble

from runtime.engines.parakeet.offline import ParakeetRecognizer
from runtime.speech import FinalTranscript, Transcript


def test_a_minute_is_recognised_in_windows_and_holds_up_nobody(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    async def main() -> tuple[Transcript, bool]:
        long = asyncio.create_task(engine.transcribe(babble(60.0, seed=7), FILE))
        await until(lambda: bool(watched.batches))
        await together(engine, babble(1.0), babble(2.0))
        first = not long.done()
        return await long, first

    heard, short_ones_were_first = run(main())
    assert short_ones_were_first
    assert heard.seconds == 60.0
    assert len(heard.words) > 60
    assert max(length for batch in watched.batches for length in batch) <= WINDOW_S * RATE
    assert max(map(len, watched.batches)) <= ROWS
    # Windows overlap by half at this size; no sample is recognised more often than that.
    assert sum(map(sum, watched.batches)) < 1.7 * 63 * RATE
    assert all(one.start_s <= other.start_s for one, other in pairwise(heard.words))
    assert all(0 <= word.start_s <= word.end_s <= 60.0 for word in heard.words)
    assert heard.text == " ".join(word.text for word in heard.words)


def test_a_recording_that_arrives_in_pieces_has_the_words_of_one_that_is_there(
    engine: ParakeetRecognizer, run: Run
) -> None:
    sound = babble(20.0, seed=8)

    async def main() -> tuple[Transcript, list[FinalTranscript]]:
        whole = await engine.transcribe(sound, FILE)
        stream = engine.open(FILE)
        for at in range(0, len(sound), 33_333):
            await stream.push(sound[at : at + 33_333])
        await stream.finish()
        finals = [event async for event in stream.events()]
        await stream.close()
        return whole, [event for event in finals if isinstance(event, FinalTranscript)]

    whole, finals = run(main())
    pieces = [word for final in finals for word in final.words]
    assert [word.text for word in pieces] == [word.text for word in whole.words]
    assert not engine._streams


def test_an_hour_of_silence_costs_nothing_and_says_nothing(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    minute = np.zeros(60 * RATE, dtype=np.float32)

    async def main() -> list[Any]:
        stream = engine.open(FILE)
        for _ in range(60):
            await stream.push(minute)
        await stream.finish()
        events = [event async for event in stream.events()]
        await stream.close()
        return events

    assert run(main()) == []
    assert watched.batches == []
