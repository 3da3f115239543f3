"""A bot's mouth: what ServeTTSService makes of an LLM's tokens, of interruptions and of errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cluster_calls import eventually

from runtime.settings import Settings

pytestmark = pytest.mark.cluster

RATE = 8_000
FREED_MS = 50.0


@pytest.fixture(scope="module")
def mouth(scripted: Any, daemon: Settings, run: Any) -> Iterator[Any]:
    """Makes services over the scripted engines."""
    from runtime.bots import ServeTTSService, disconnect

    def make(**settings: Any) -> Any:
        chosen = ServeTTSService.Settings(**{"model": "scripted", "lead_s": None} | settings)
        return ServeTTSService(daemon=daemon, settings=chosen)

    yield make
    run(disconnect())


def heard(call: Any) -> list[int]:
    """The samples that came out, which count up within a request."""
    from pipecat.frames.frames import TTSAudioRawFrame

    return [int(s) for f in call.all(TTSAudioRawFrame) for s in np.frombuffer(f.audio, "<i2")]


def test_frames_of_an_utterance_come_in_order_under_one_context(mouth: Any, run: Any) -> None:
    from pipecat.frames.frames import (
        AggregatedTextFrame,
        MetricsFrame,
        TTSAudioRawFrame,
        TTSSpeakFrame,
        TTSStartedFrame,
        TTSStoppedFrame,
        TTSTextFrame,
    )
    from pipecat_calls import Call

    text = "Hello there, world. It is a fine day."

    async def speak() -> Any:
        service, connected = mouth(), asyncio.Event()

        @service.event_handler("on_connected")
        async def on_connected(_: Any) -> None:
            connected.set()

        async with Call(service) as call:
            await connected.wait()  # from then on metrics have the engine's name
            await call.send(TTSSpeakFrame(text))
            await call.next(TTSStoppedFrame)
        return call

    call = run(speak())
    spoken = (TTSStartedFrame, TTSAudioRawFrame, TTSTextFrame, TTSStoppedFrame)
    assert call.kinds(*spoken) == [kind.__name__ for kind in spoken]
    contexts = {f.context_id for f in call.down if isinstance(f, (*spoken, AggregatedTextFrame))}
    assert len(contexts) == 1
    assert None not in contexts
    assert heard(call) == list(range(len(heard(call)))), "no sample lost, doubled or late"
    assert {f.sample_rate for f in call.all(TTSAudioRawFrame)} == {RATE}
    metrics = [data for f in call.all(MetricsFrame) for data in f.data]
    named = {type(data).__name__: data for data in metrics}
    assert named["TTFBMetricsData"].value > 0
    assert named["TTSUsageMetricsData"].value == len(text)
    assert named["TTFBMetricsData"].model == "scripted_engines:ScriptedSynthesizer"


def test_tokens_of_an_llm_are_spoken_clause_by_clause_while_the_listener_waits(
    mouth: Any, run: Any
) -> None:
    from pipecat.frames.frames import (
        AggregatedTextFrame,
        LLMFullResponseEndFrame,
        LLMFullResponseStartFrame,
        LLMTextFrame,
        TTSAudioRawFrame,
        TTSStoppedFrame,
        TTSTextFrame,
    )
    from pipecat_calls import Call

    async def say(service: Any, first: str, rest: str) -> Any:
        async with Call(service) as call:
            await call.send(LLMFullResponseStartFrame())
            await call.send(*(LLMTextFrame(f"{word} ") for word in first.split()))
            if "," in first:
                await call.next(TTSAudioRawFrame)  # before there is a whole sentence
            await call.send(*(LLMTextFrame(f"{word} ") for word in rest.split()))
            await call.send(LLMFullResponseEndFrame())
            await call.next(TTSStoppedFrame)
        return call

    first, rest = "Well, this is the first clause,", "and here, the rest. Next, one more. 🙂"
    call = run(say(mouth(speak_by="clause"), first, rest))
    pieces = [frame.text for frame in call.all(TTSTextFrame)]
    assert pieces[0] == first, "'Well,' alone would be over too soon"
    assert " ".join(pieces) == f"{first} {rest}".removesuffix(" 🙂")
    assert len({frame.context_id for frame in call.all(TTSTextFrame)}) == 1
    assert heard(call) == list(range(len(heard(call)))), "all of it is one utterance"
    announced = [frame for frame in call.all(AggregatedTextFrame) if frame.will_be_spoken]
    assert [f.text for f in announced if not isinstance(f, TTSTextFrame)] == pieces

    call = run(say(mouth(speak_by="sentence"), "One", "two, and three of them. Next, one more."))
    sentences = ["One two, and three of them.", "Next, one more."]
    assert [frame.text for frame in call.all(TTSTextFrame)] == sentences


def test_what_follows_a_pause_of_the_llm_or_a_change_of_voice_is_said_in_its_place(
    mouth: Any, scripted: Any, run: Any
) -> None:
    from pipecat.frames.frames import (
        LLMFullResponseEndFrame,
        LLMFullResponseStartFrame,
        LLMTextFrame,
        TTSStoppedFrame,
        TTSTextFrame,
        TTSUpdateSettingsFrame,
    )
    from pipecat_calls import Call

    texts = ["One and two, and some more.", "Three, four.", "Five."]

    async def say() -> Any:
        service = mouth(speak_by="sentence")

        async def idle() -> bool:
            return bool((await scripted.info())["TTS"].engines[0].active == 0)

        async with Call(service) as call:
            await call.send(LLMFullResponseStartFrame(), LLMTextFrame(f"{texts[0]} Three"))
            await call.next(TTSTextFrame)
            assert await eventually(idle), "the LLM looks something up"
            await call.send(LLMTextFrame(", four. Five"))
            await call.next(TTSTextFrame, count=2)
            await call.send(TTSUpdateSettingsFrame(delta=service.Settings(language="de")))
            await call.send(LLMTextFrame("."), LLMFullResponseEndFrame())
            await call.next(TTSStoppedFrame)
            assert await eventually(idle)
        return call

    call = run(say())
    assert [frame.text for frame in call.all(TTSTextFrame)] == texts
    first, second = 80 * len(texts[0] + texts[1]), 80 * len(texts[2])
    assert heard(call) == [*range(first), *range(second)], "another voice is another utterance"


def test_an_interruption_frees_the_replica_and_nothing_late_is_heard(
    mouth: Any, scripted: Any, run: Any
) -> None:
    from pipecat.frames.frames import (
        InterruptionFrame,
        TTSAudioRawFrame,
        TTSSpeakFrame,
        TTSStoppedFrame,
        TTSTextFrame,
    )
    from pipecat_calls import Call

    async def barge_in() -> tuple[Any, float, list[Any]]:
        before = {one.stream for one in await scripted.aborted("TTS")}
        service = mouth(lead_s=3.0)
        async with Call(service) as call:
            await call.send(TTSSpeakFrame("Let me go on forever."))
            await call.next(TTSAudioRawFrame, count=8)
            assert not service._listener_waits()
            interrupted = time.time()
            await call.send(InterruptionFrame())
            await call.next(InterruptionFrame)
            assert service._listener_waits(), "for the first clause of what is said next"
            at = len(call.down)
            found: list[Any] = []

            async def look() -> bool:
                found[:] = [a for a in await scripted.aborted("TTS") if a.stream not in before]
                return bool(found)

            assert await eventually(look)
            await call.send(TTSSpeakFrame("Now this."))
            await call.next(TTSStoppedFrame)
        after = call.down[at:]
        assert [f.text for f in after if isinstance(f, TTSTextFrame)] == ["Now this."]
        late = [f for f in after if isinstance(f, TTSAudioRawFrame)]
        assert len({frame.context_id for frame in late}) == 1, "of the new context only"
        return call, interrupted, found

    _, interrupted, (aborted,) = run(barge_in())
    assert aborted.orphaned_ms < FREED_MS
    assert aborted.freed_at - interrupted < 1.0, "on any machine; figures are in docs/benchmarks"


def test_what_may_not_be_interrupted_is_said_to_its_end(mouth: Any, run: Any) -> None:
    from pipecat.frames.frames import (
        InterruptionFrame,
        TTSAudioRawFrame,
        TTSSpeakFrame,
        TTSStoppedFrame,
    )
    from pipecat_calls import Call

    text = "This is slowly recorded. Very slowly."

    async def announce() -> Any:
        async with Call(mouth()) as call:
            announcement = TTSSpeakFrame(text)
            announcement.interruptible = False
            await call.send(announcement)
            await call.next(TTSAudioRawFrame)
            await call.send(InterruptionFrame())
            await call.next(TTSStoppedFrame)
        return call

    assert heard(run(announce())) == list(range(80 * (len(text) - 1)))  # a space between two


def test_audio_is_made_no_further_ahead_of_the_listener_than_asked(mouth: Any, run: Any) -> None:
    from pipecat.frames.frames import InterruptionFrame, TTSAudioRawFrame, TTSSpeakFrame
    from pipecat_calls import Call

    async def listen() -> tuple[float, float]:
        async with Call(mouth(lead_s=0.3)) as call:
            await call.send(TTSSpeakFrame("Let me go on forever."))
            await call.next(TTSAudioRawFrame)
            begun = time.monotonic()
            await call.next(TTSAudioRawFrame, count=4)
            elapsed = time.monotonic() - begun
            made = sum(len(f.audio) for f in call.all(TTSAudioRawFrame)) / 2 / RATE
            await call.send(InterruptionFrame())
        return made, elapsed

    made, elapsed = run(listen())
    chunk = 0.21  # seconds
    assert made <= elapsed + 0.3 + 2 * chunk


def test_settings_change_with_the_next_piece_and_a_wrong_one_says_what_there_is(
    mouth: Any, run: Any
) -> None:
    from pipecat.frames.frames import (
        ErrorFrame,
        TTSSpeakFrame,
        TTSStoppedFrame,
        TTSUpdateSettingsFrame,
    )
    from pipecat.utils.errors import ErrorCategory
    from pipecat_calls import Call

    async def change() -> Any:
        service = mouth()
        voice = service.Settings
        async with Call(service) as call:
            await call.send(TTSSpeakFrame("One."), TTSUpdateSettingsFrame(delta=voice(voice="eve")))
            await call.send(TTSSpeakFrame("Two."))
            error = await call.next(ErrorFrame, up=True)
            assert not service.is_usable, "until its settings are changed"
            await call.send(TTSUpdateSettingsFrame(delta=voice(voice="ada")))
            await call.send(TTSSpeakFrame("Three."))
            await call.next(TTSStoppedFrame, count=3)
        return call, error

    call, error = run(change())
    assert "There is no voice 'eve'" in error.error
    assert "ada" in error.error
    assert error.category is ErrorCategory.INVALID_REQUEST
    assert len(heard(call)) == 80 * (len("One.") + len("Three."))


def test_a_failing_engine_costs_one_sentence_and_not_the_call(mouth: Any, run: Any) -> None:
    from pipecat.frames.frames import ErrorFrame, TTSSpeakFrame, TTSStoppedFrame
    from pipecat_calls import Call

    async def explode() -> Any:
        async with Call(mouth()) as call:
            for text in ("Explode: no, explode.", "explode once more", "explode again", "Fine."):
                await call.send(TTSSpeakFrame(text.lower()))
            await call.next(TTSStoppedFrame, count=4)
        return call

    call = run(explode())
    assert len(heard(call)) == 80 * len("Fine.")
    assert sum("exploded" in error.error for error in call.all(ErrorFrame, up=True)) == 3


def test_a_policy_that_there_is_not_is_refused_at_the_start_and_during_a_call(
    mouth: Any, run: Any
) -> None:
    from pipecat.frames.frames import ErrorFrame, TTSUpdateSettingsFrame
    from pipecat_calls import Call

    from runtime.errors import InvalidRequest

    with pytest.raises(InvalidRequest, match="'clause' or 'sentence'"):
        mouth(speak_by="word")

    async def change() -> Any:
        service = mouth()
        async with Call(service) as call:
            await call.send(TTSUpdateSettingsFrame(delta=service.Settings(speak_by="word")))
            error = await call.next(ErrorFrame, up=True)
        return service, error

    service, error = run(change())
    assert "'clause' or 'sentence'" in error.error
    assert service.settings.speak_by == "clause"
    assert service.is_usable


def test_blends_are_asked_for_as_voices(mouth: Any) -> None:
    service = mouth(blend={"aria": 0.7, "leo": 0.3}, normalise=False, speed=1.5, seed=4)
    request = service._request("Hello.")
    assert request.voice == "aria:0.7+leo:0.3"
    assert (request.normalise, request.speed, request.seed) == (False, 1.5, 4)
