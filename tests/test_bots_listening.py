"""A bot's ears: transcripts, the order of a turn, and settings, over a real daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from bot_turns import talk

from runtime.settings import Settings

PER_BLOCK = 160  # samples at the scripted engine's 8 kHz


@pytest.fixture(scope="module")
def ears(scripted: Any, daemon: Settings, run: Any) -> Iterator[Any]:
    """Makes services over the scripted engines."""
    from runtime.bots import ServeSTTService, disconnect

    def make(ttfs: float = 0.5, **settings: Any) -> Any:
        chosen = ServeSTTService.Settings(**{"model": "scripted"} | settings)
        return ServeSTTService(daemon=daemon, settings=chosen, ttfs_p99_latency=ttfs)

    yield make
    run(disconnect())


def said(blocks: int) -> str:
    return f"{blocks * PER_BLOCK} samples"


@pytest.mark.cluster
def test_each_turn_has_its_interims_and_one_final_that_is_marked_so(ears: Any, run: Any) -> None:
    from pipecat.frames.frames import (
        InterimTranscriptionFrame,
        MetricsFrame,
        STTMetadataFrame,
        TranscriptionFrame,
    )
    from pipecat_calls import Call

    async def two_turns() -> Any:
        async with Call(ears(ttfs=0.4)) as call:
            await talk(call, 120)
            await call.next(TranscriptionFrame)
            await talk(call, 60)
            await call.next(TranscriptionFrame, count=2)
        return call

    call = run(two_turns())
    finals = call.all(TranscriptionFrame)
    assert [(final.text, final.finalized) for final in finals] == [
        (said(120), True),
        (said(60), True),
    ]
    assert finals[1].result.start_s == pytest.approx(2.4)
    assert call.all(InterimTranscriptionFrame)
    assert call.all(STTMetadataFrame)[0].ttfs_p99_latency == 0.4
    named = {type(data).__name__: data for f in call.all(MetricsFrame) for data in f.data}
    assert named["TTFBMetricsData"].model == "scripted_engines:ScriptedRecognizer"
    assert 0.2 <= named["TTFBMetricsData"].value < 30, "from the end of speech, not of the VAD"
    assert named["STTUsageMetricsData"].value.audio_seconds == pytest.approx(1.2)


@pytest.mark.cluster
def test_the_transcript_is_there_before_the_turn_ends_and_no_timeout_is_paid(
    ears: Any, run: Any
) -> None:
    from pipecat.frames.frames import (
        LLMContextFrame,
        TranscriptionFrame,
        UserStoppedSpeakingFrame,
    )
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import (
        LLMContextAggregatorPair,
        LLMUserAggregatorParams,
    )
    from pipecat.turns.user_start import VADUserTurnStartStrategy
    from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
    from pipecat.turns.user_turn_strategies import UserTurnStrategies
    from pipecat_calls import Call

    long = 60.0  # what a turn would wait for a transcript that is not final

    async def turns() -> Any:
        strategies = UserTurnStrategies(
            start=[VADUserTurnStartStrategy()],
            stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.0)],
        )
        pair = LLMContextAggregatorPair(
            LLMContext(),
            user_params=LLMUserAggregatorParams(
                user_turn_strategies=strategies, user_turn_stop_timeout=long
            ),
        )
        async with Call(ears(ttfs=long), pair.user()) as call:
            for turn in range(1, 4):
                await talk(call, 10 * turn)
                await call.next(LLMContextFrame, count=turn)
        return call

    began = time.monotonic()
    call = run(turns())
    assert time.monotonic() - began < long
    messages = call.all(LLMContextFrame)[-1].context.get_messages()
    assert [m["content"] for m in messages] == [said(10), said(20), said(30)]
    assert len(call.all(UserStoppedSpeakingFrame)) == 3
    assert not call.all(TranscriptionFrame), "the aggregator has taken them in"


@pytest.mark.cluster
def test_settings_change_during_the_call_and_a_wrong_one_can_be_mended(ears: Any, run: Any) -> None:
    from pipecat.frames.frames import (
        ErrorFrame,
        InterimTranscriptionFrame,
        STTUpdateSettingsFrame,
        TranscriptionFrame,
        UserStoppedSpeakingFrame,
    )
    from pipecat.transcriptions.language import Language
    from pipecat.utils.errors import ErrorCategory
    from pipecat_calls import Call

    async def change() -> Any:
        service = ears()
        connected: list[str | None] = []

        @service.event_handler("on_connected")
        async def on_connected(_: Any) -> None:
            connected.append(service.settings.language)
            call.news.set()

        async with Call(service) as call:

            async def turn(number: int) -> None:
                await talk(call, 60)
                await call.next(TranscriptionFrame, count=number)
                await call.send(UserStoppedSpeakingFrame())

            await turn(1)
            await call.send(
                STTUpdateSettingsFrame(delta=service.Settings(language=Language.DE, interim=False))
            )
            await call.until(lambda: connected[1:] == ["de"])
            interims = len(call.all(InterimTranscriptionFrame))
            await turn(2)
            assert len(call.all(InterimTranscriptionFrame)) == interims
            await call.send(STTUpdateSettingsFrame(delta=service.Settings(language="xx")))
            error = await call.next(ErrorFrame, up=True)
            await call.send(STTUpdateSettingsFrame(delta=service.Settings(language="en")))
            await call.until(lambda: connected[2:] == ["en"])
            await turn(3)
        return call, error

    call, error = run(change())
    assert [frame.text for frame in call.all(TranscriptionFrame)] == [said(60)] * 3
    assert [str(frame.language) for frame in call.all(TranscriptionFrame)] == ["None", "de", "en"]
    assert "does not understand 'xx'" in error.error
    assert error.category is ErrorCategory.INVALID_REQUEST
