"""A stream that ends, fails or has more than it can decode leaves nobody waiting."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from segment_streams import (
    TAIL,
    Fixture,
    play,
    silence,
    speech,
    start,
    turns_of_the_loop,
    until_decoded,
)

from runtime.engines.embedded.segmenter import FRAME, SAMPLE_RATE
from runtime.errors import EngineFailed, Overloaded, SessionClosed
from runtime.speech import FinalTranscript

# --- the end of a stream -----------------------------------------------------


def test_a_finished_stream_says_what_was_said_and_its_events_end() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(speech(20))
        await f.stream.finish()
        (final,) = await f.events()
        assert isinstance(final, FinalTranscript)
        assert (final.text, final.request) == (str(20 * FRAME), 0)

    play(script)


@pytest.mark.parametrize("wait", [True, False])
def test_a_finished_stream_takes_nothing_more(wait: bool) -> None:
    async def script(f: Fixture) -> None:
        await f.stream.finish()
        if wait:
            assert await f.events() == []
        for call in (f.stream.push(speech(1)), f.stream.finalize(), f.stream.finish()):
            with pytest.raises(SessionClosed, match="open another one"):
                await call

    play(script)


def test_a_closed_stream_frees_its_slot_and_its_events_end() -> None:
    async def script(f: Fixture) -> None:
        reading = await start(f.events())
        assert not reading.done()
        assert f.freed == []
        await f.stream.close()
        assert f.freed == [f.stream]
        assert await reading == []
        with pytest.raises(SessionClosed):
            await f.stream.push(speech(1))

    play(script)


def test_a_stream_is_closed_while_its_model_works() -> None:
    async def script(f: Fixture) -> None:
        f.model.may_go_on.clear()
        reading = asyncio.create_task(f.events())
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        await f.model_is_busy()
        await f.stream.close()
        assert await reading == []

    play(script)


def test_closing_a_stream_again_is_harmless() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.close()
        await f.stream.close()
        assert await f.events() == []

    play(script)


def test_what_was_heard_before_a_stream_was_closed_can_be_read_afterwards() -> None:
    async def script(f: Fixture) -> None:
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        first = await anext(f.stream.events())
        await f.stream.push(np.concatenate([speech(30), silence(30)]))
        await until_decoded(f, 2)
        await f.stream.close()
        (second,) = await f.finals()
        assert isinstance(first, FinalTranscript)
        assert (first.utterance, second.utterance) == (0, 1)

    play(script)


# --- a model that fails ------------------------------------------------------


def test_a_failing_model_fails_the_events_and_every_call_after() -> None:
    async def script(f: Fixture) -> None:
        f.model.failure = ZeroDivisionError("no frames per second")
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        with pytest.raises(EngineFailed, match="scripted failed: ZeroDivisionError: no frames"):
            await f.events()
        for call in (f.stream.push(speech(1)), f.stream.finalize(), f.stream.finish()):
            with pytest.raises(EngineFailed, match="ZeroDivisionError"):
                await call

    play(script)


def test_events_before_the_failure_are_still_read() -> None:
    async def script(f: Fixture) -> None:
        events = f.stream.events()
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        assert (await anext(events)).text == str((20 + TAIL) * FRAME)
        f.model.failure = ZeroDivisionError()
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        with pytest.raises(EngineFailed):
            await anext(events)

    play(script)


def test_an_error_of_ours_is_not_wrapped() -> None:
    async def script(f: Fixture) -> None:
        f.model.failure = Overloaded("The device is full.", retry_after_s=3)
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        with pytest.raises(Overloaded, match="The device is full"):
            await f.events()

    play(script)


def test_a_failed_stream_frees_its_slot_when_it_is_closed() -> None:
    async def script(f: Fixture) -> None:
        f.model.failure = ZeroDivisionError()
        await f.stream.push(np.concatenate([speech(20), silence(30)]))
        with pytest.raises(EngineFailed):
            await f.events()
        await f.stream.close()
        assert f.freed == [f.stream]

    play(script)


# --- more than can be decoded ------------------------------------------------


async def fill(f: Fixture) -> None:
    """Hold the model at an utterance's end, and push as much as may wait behind it."""
    f.model.may_go_on.clear()
    await f.stream.push(np.concatenate([speech(20), silence(20)]))
    await f.model_is_busy()
    for _ in range(15):
        assert (await start(f.stream.push(silence(2 * SAMPLE_RATE / FRAME)))).done()


def test_a_push_waits_while_too_much_is_undecoded_and_goes_on_when_it_is_decoded() -> None:
    async def script(f: Fixture) -> None:
        await fill(f)
        waiting = await start(f.stream.push(silence(1)))
        assert not waiting.done()
        f.model.may_go_on.set()
        await waiting
        await f.stream.finish()
        assert len(await f.finals()) == 1

    play(script)


def test_one_push_of_more_than_may_wait_waits_too_and_is_heard_to_its_end() -> None:
    async def script(f: Fixture) -> None:
        f.model.may_go_on.clear()
        signal = np.concatenate([speech(20), silence(20), silence(2_000), speech(10)])
        waiting = await start(f.stream.push(signal))
        await f.model_is_busy()
        await turns_of_the_loop()
        assert not waiting.done()
        f.model.may_go_on.set()
        await waiting
        await f.stream.finish()
        assert [final.text for final in await f.finals()] == [
            str((20 + TAIL) * FRAME),
            str((10 + 10) * FRAME),
        ]

    play(script)


def test_a_waiting_push_is_let_go_when_the_stream_is_closed() -> None:
    async def script(f: Fixture) -> None:
        await fill(f)
        waiting = await start(f.stream.push(silence(1)))
        await f.stream.close()
        with pytest.raises(SessionClosed):
            await waiting

    play(script)


def test_a_waiting_push_is_let_go_when_the_model_fails() -> None:
    async def script(f: Fixture) -> None:
        await fill(f)
        waiting = await start(f.stream.push(silence(1)))
        f.model.failure = ZeroDivisionError()
        f.model.may_go_on.set()
        with pytest.raises(EngineFailed):
            await waiting

    play(script)
