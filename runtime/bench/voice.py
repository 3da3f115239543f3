"""Whole calls as a person has them: from the last word spoken to the first sound of the answer.

Audio in real time through a Pipecat pipeline with Silero's VAD, smart turn, this project's
services and a parrot in place of the LLM. A second kind of turn barges in on the answer.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    AggregatedTextFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import BaseUserTurnStopStrategy, SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import (
    UserTurnStrategies,
    default_user_turn_stop_strategies,
)
from pipecat.workers.runner import WorkerRunner

from runtime.bench.asr import Clip
from runtime.bench.headset import RATE, Loudspeaker, Microphone, loud_part, stages
from runtime.bench.loop import LoopWatch
from runtime.bench.report import distribution
from runtime.bots import ServeSTTService, ServeTTSService, disconnect
from runtime.errors import SpeechError
from runtime.memory.process import resident_bytes
from runtime.playback import Playback
from runtime.settings import Settings

VAD = VADParams(start_secs=0.1, stop_secs=0.2)
"""Pipecat's, but that a start is told after 100 ms instead of 200: an interruption waits for it."""

STAGES = ("vad", "stt_final", "decision", "llm_token", "clause", "tts_audio", "transport")
LOOP_LIMIT_MS = 5.0
"""A callback that holds the loop for longer makes the other calls of a process wait."""

_PAUSE = re.compile(r"[,;.?!:]\s")
_ANSWER_WITHIN_S = 20.0
_BUFFERED_S = 0.060  # what a player holds before it starts
_CONNECTED_S = 1.0  # until both services of a call are there
_BARGE_IN_AFTER_S = 0.5  # of the answer
_QUIET_S = 0.8  # without a sound the answer is over
_SETTLED_TURNS = 10  # after as many, memory should not grow any more


class _Parrot(FrameProcessor):
    """Says again what the user said, a word at a time, in place of an LLM."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        said = str(frame.context.get_messages()[-1]["content"])
        await self.push_frame(LLMFullResponseStartFrame())
        for word in f"If I heard you well, you said: {said}".split():
            await self.push_frame(LLMTextFrame(f"{word} "))
        await self.push_frame(LLMFullResponseEndFrame())


class _Tap(FrameProcessor):
    """Calls back for each frame that goes downstream."""

    def __init__(self, note: Callable[[Frame], None]) -> None:
        super().__init__(enable_direct_mode=True)
        self._note = note

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction == FrameDirection.DOWNSTREAM:
            self._note(frame)
        await self.push_frame(frame, direction)


class _Marks:
    """When what happened last, in seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.starts: list[float] = []  # of the user's speech, as the VAD told
        self.vad: float | None = None
        self.final: float | None = None
        self.context: float | None = None
        self.token: float | None = None
        self.clause: float | None = None
        self.audio: float | None = None
        self.answered = asyncio.Event()
        self.errors: list[str] = []
        self.out_of_order = 0
        self.playback = Playback()
        self._contexts: list[str] = []
        self._stopped: set[str] = set()

    def after_stt(self, frame: Frame) -> None:
        now = time.monotonic()
        if isinstance(frame, VADUserStartedSpeakingFrame):
            self.starts.append(now)
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self.vad, self.final = now, None
        elif isinstance(frame, TranscriptionFrame):
            self.final = now

    def after_user(self, frame: Frame) -> None:
        if isinstance(frame, LLMContextFrame):
            self.context = time.monotonic()
            self.answered.clear()
            self.token = self.clause = self.audio = None

    def after_llm(self, frame: Frame) -> None:
        if isinstance(frame, LLMTextFrame) and self.token is None:
            self.token = time.monotonic()

    def after_tts(self, frame: Frame) -> None:
        now = time.monotonic()
        if isinstance(frame, AggregatedTextFrame) and not isinstance(frame, TTSTextFrame):
            self.clause = self.clause or now
        elif isinstance(frame, TTSAudioRawFrame):
            self.audio = self.audio or now
            if frame.context_id not in self._contexts[-1:]:
                self.playback = _next(self.playback)
                self.playback.arrived(now, _BUFFERED_S)
            self.playback.arrived(now, len(frame.audio) / 2 / frame.sample_rate)
        if isinstance(frame, (TTSAudioRawFrame, TTSTextFrame)):
            self._check_order(frame.context_id or "")
        elif isinstance(frame, TTSStoppedFrame):
            self._stopped.add(frame.context_id or "")
            self.answered.set()

    def _check_order(self, context: str) -> None:
        """A context's frames come together, and none after its end."""
        if context in self._stopped or context in self._contexts[:-1]:
            self.out_of_order += 1
        elif context not in self._contexts:
            self._contexts.append(context)


def _next(before: Playback) -> Playback:
    """The loudspeaker of the next answer, which counts on."""
    after = Playback()
    after.underruns, after.underrun_s = before.underruns, before.underrun_s
    return after


@dataclass(slots=True)
class _Tally:
    voice_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in STAGES})
    noticed_ms: list[float] = field(default_factory=list)
    silenced_ms: list[float] = field(default_factory=list)
    silence_ms: list[float] = field(default_factory=list)
    early: int = 0
    underruns: int = 0
    underrun_s: float = 0.0
    out_of_order: int = 0
    resident: list[int] = field(default_factory=list)


class _Call:
    """One caller and the bot that answers."""

    def __init__(self, daemon: Settings, *, smart_turn: bool) -> None:
        self.microphone, self.loudspeaker = Microphone(), Loudspeaker()
        self.marks = _Marks()
        stop: list[BaseUserTurnStopStrategy] = (
            default_user_turn_stop_strategies()
            if smart_turn
            else [SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.0)]
        )
        strategies = UserTurnStrategies(start=[VADUserTurnStartStrategy()], stop=stop)
        pair = LLMContextAggregatorPair(
            LLMContext(), user_params=LLMUserAggregatorParams(user_turn_strategies=strategies)
        )
        processors = [
            self.microphone,
            VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VAD)),
            ServeSTTService(daemon=daemon),
            _Tap(self.marks.after_stt),
            pair.user(),
            _Tap(self.marks.after_user),
            _Parrot(),
            _Tap(self.marks.after_llm),
            ServeTTSService(daemon=daemon),
            _Tap(self.marks.after_tts),
            self.loudspeaker,
            pair.assistant(),
        ]
        self._worker = PipelineWorker(
            Pipeline(processors),
            cancel_on_idle_timeout=False,
            enable_rtvi=False,
            params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
        )
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Call:
        started = asyncio.Event()

        @self._worker.event_handler("on_pipeline_started")
        async def on_pipeline_started(*_: object) -> None:
            started.set()

        @self._worker.event_handler("on_pipeline_error")
        async def on_pipeline_error(_: object, frame: ErrorFrame) -> None:
            self.marks.errors.append(frame.error)

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self._worker)
        self._running = asyncio.create_task(runner.run())
        await started.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._worker.queue_frame(EndFrame())
        if self._running is not None:
            await self._running

    async def turn(self, clip: Clip, tally: _Tally, *, interrupted_by: Clip | None) -> None:
        """Say a clip, hear the answer, and end it by another clip or by listening."""
        await self._say(clip, tally)
        if interrupted_by is not None:
            await asyncio.sleep(_BARGE_IN_AFTER_S)
            await self._answer(time.monotonic())
            await self._barge_in(interrupted_by, tally)
        await self._hear_out()
        if self.marks.errors:
            raise SpeechError(f"The bot met an error: {self.marks.errors[0]}")

    async def _say(self, clip: Clip, tally: _Tally) -> None:
        begun = await self.microphone.say(clip.pcm)
        audible = loud_part(clip.pcm, RATE)
        assert audible is not None
        ended = begun + audible[1]
        await asyncio.sleep(max(0.0, ended - time.monotonic()))
        if self.loudspeaker.sounds_after(begun + audible[0]):
            tally.early += 1  # it took a pause for the end
            return
        sound = await self._answer(ended)
        marks = self.marks
        tally.voice_ms.append((sound - ended) * 1e3)
        # The transcript is there before or after the VAD's word of a later pause.
        took = stages(
            ended=ended,
            vad=marks.vad,
            stt_final=marks.final,
            decision=marks.context,
            llm_token=marks.token,
            clause=marks.clause,
            tts_audio=marks.audio,
            transport=sound,
        )
        for stage, ms in took.items():
            tally.stages_ms[stage].append(ms)

    async def _barge_in(self, clip: Clip, tally: _Tally) -> None:
        audible = loud_part(clip.pcm, RATE)
        assert audible is not None
        onset = await self.microphone.say(clip.pcm[2 * int(audible[0] * RATE) :])
        ended = onset + audible[1] - audible[0]
        await asyncio.sleep(max(0.0, ended - time.monotonic()))
        if self.loudspeaker.sounds_after(onset):  # or the answer was over by itself
            silent = _first_silence(onset, self.loudspeaker)
            tally.silence_ms.append((silent - onset) * 1e3)
            for noticed in [start for start in self.marks.starts if start > onset][:1]:
                tally.noticed_ms.append((noticed - onset) * 1e3)
                tally.silenced_ms.append((silent - noticed) * 1e3)
        await self._answer(ended)

    async def _answer(self, after: float) -> float:
        """When the first sound after a moment begins."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                return (await self.loudspeaker.first_sound_after(after)).start
        except TimeoutError:
            told = f": {self.marks.errors[0]}" if self.marks.errors else "."
            raise SpeechError(
                f"The bot did not answer within {_ANSWER_WITHIN_S:g} s{told}"
            ) from None

    async def _hear_out(self) -> None:
        """Return once the answer is over, as made and as played."""
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            await self.marks.answered.wait()
        sounds = self.loudspeaker.sounds
        while (left := sounds[-1].end + _QUIET_S - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)


def _first_silence(onset: float, loudspeaker: Loudspeaker) -> float:
    """Where the sound that is heard at ``onset`` ends, with a pause after it."""
    ends = onset
    for sound in loudspeaker.sounds_after(onset):
        if sound.start > ends + 0.3:
            break
        ends = sound.end
    return ends


async def sweep(
    daemon: Settings,
    clips: Sequence[Clip],
    calls: Sequence[int],
    turns: int,
    on_row: Callable[[dict[str, Any]], None],
    *,
    smart_turn: bool = True,
) -> list[dict[str, Any]]:
    """A row for each number of calls at once, of ``turns`` turns in all.

    ``clips`` are speech at 16 kHz; those with a pause inside are left out, as they might be
    answered before their end. Every second turn is ended by barging in.
    """
    logger.disable("pipecat")
    clips = [clip for clip in clips if not _PAUSE.search(clip.text)]
    rows = []
    for count in calls:
        tally, watch = _Tally(), LoopWatch()
        each = -(-turns // count)
        async with AsyncExitStack() as stack:
            bots = [
                await stack.enter_async_context(_Call(daemon, smart_turn=smart_turn))
                for _ in range(count)
            ]
            await asyncio.sleep(_CONNECTED_S)
            with _frozen_heap(), watch.watching():
                talks = (_converse(bot, clips[n:], each, tally) for n, bot in enumerate(bots))
                await asyncio.gather(*talks)
        row = {
            "scenario": "pipeline",
            "calls": count,
            "turns": each * count,
            "voice_to_voice_ms": distribution(tally.voice_ms),
            **{f"{stage}_ms": distribution(tally.stages_ms[stage]) for stage in STAGES},
            "interruption_ms": distribution(tally.silence_ms),
            "noticed_ms": distribution(tally.noticed_ms),
            "silenced_ms": distribution(tally.silenced_ms),
            "early_answers": tally.early,
            "gaps": tally.underruns,
            "gap_s": round(tally.underrun_s, 3),
            "out_of_order": tally.out_of_order,
            "loop_held_ms": watch.worst_ms,
            "loop_held_by": "; ".join(
                f"{held.ms:g} ms: {held.what}" for held in watch.over(LOOP_LIMIT_MS)[:3]
            ),
            "grown_mib": _growth(tally.resident),
        }
        rows.append(row)
        on_row(row)
    await disconnect()
    return rows


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """What is imported is not looked at by the garbage collector: as bots are told to have it."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _converse(call: _Call, clips: Sequence[Clip], turns: int, tally: _Tally) -> None:
    waiting = itertools.cycle(clips)
    for number in range(turns):
        other = next(waiting) if number % 2 else None
        await call.turn(next(waiting), tally, interrupted_by=other)
        tally.resident.append(await asyncio.to_thread(_resident))
    tally.underruns += call.marks.playback.underruns
    tally.underrun_s += call.marks.playback.underrun_s
    tally.out_of_order += call.marks.out_of_order


def _resident() -> int:
    return resident_bytes(os.getpid()) or 0


def _growth(resident: Sequence[int]) -> float | None:
    """MiB by which this process has grown once it had settled; None if it did not get there."""
    if len(resident) < 2 * _SETTLED_TURNS:
        return None
    first, last = resident[_SETTLED_TURNS - 1], resident[-1]
    return round((last - first) / 2**20, 1)
