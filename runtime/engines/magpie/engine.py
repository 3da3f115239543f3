"""Magpie at the speed of the chip: many utterances in one step, and audio as it is made.

The acoustic model and the codec are run by code of our own (``decoder``, ``prefill``, ``codec``)
that gives NeMo's own codes; NeMo restores the checkpoint and tokenises. A thread of its own
drives the scheduler; requests and their audio pass between it and the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.engines.cuda import (
    HUNG_S,
    allocator_limit,
    as_engine_error,
    is_out_of_memory,
    release_cached,
    share_interpreter,
)
from runtime.engines.magpie.base import MagpieEngine
from runtime.engines.magpie.checkpoint import load
from runtime.engines.magpie.footprint import MAX_SLOTS, footprint
from runtime.engines.magpie.options import read_magpie_options
from runtime.engines.magpie.planner import Planned
from runtime.engines.magpie.scheduler import (
    FRAMES,
    Audio,
    Delivery,
    End,
    Part,
    Scheduler,
    Utterance,
)
from runtime.engines.nemo import pick_device
from runtime.engines.worker import ModelWorker
from runtime.errors import EngineFailed, NothingToSpeak, OutOfMemory, Overloaded, SpeechError
from runtime.growing import TextCount
from runtime.memory.footprint import GIB
from runtime.normalization import Normalizer
from runtime.speech import (
    FALLBACK,
    AudioChunk,
    LoadReport,
    SynthesisRequest,
)

if TYPE_CHECKING:
    from runtime.engines.magpie.machine import MagpieMachine
    from runtime.engines.magpie.prefill import Voice

_log = logging.getLogger(__name__)

_ALIGNMENT = 64  # tokens of text that the caches are rounded up to
_QUEUE = 2  # requests that may wait for a slot, by slots
_BLENDS_KEPT = 64
_KEEPS_UP = 0.8  # of real time: what a step and the codec may take
_ENDED = "The engine magpie was closed."


@dataclass(frozen=True, slots=True)
class _Restored:
    """How long NeMo took to restore the checkpoint, and in what type."""

    seconds: float
    dtype: str


class MagpieSynthesizer(MagpieEngine):
    """NVIDIA's Magpie TTS behind the ``Synthesizer`` contract, many utterances at a time.

    A seed repeats the audio of a piece on the same device and dtype; in bfloat16 only as long as
    the batch it is in has the same size, since arithmetic then rounds alike.
    """

    def __init__(self, **options: Any) -> None:
        """Options are those of ``MagpieOptions``; files are looked at, nothing is loaded.

        Raises:
            ConfigError: An option that there is not, or a value that cannot be.
            CheckpointError: The files are not there, damaged, or of no kind that runs here.
        """
        self._given = dict(options)
        read = read_magpie_options("magpie", options, MAX_SLOTS, "bfloat16")
        self._slots = read.common.batch
        counted = ("requests_broken",)
        super().__init__("magpie", read, streaming=True, slots=self._slots, counted=counted)
        self._texts = ModelWorker("magpie-text", extra="nemo")
        self._machine: MagpieMachine | None = None
        self._scheduler: Scheduler | None = None
        self._contexts: dict[str, Any] = {}
        self._voices: dict[str, Voice] = {}
        self._broken: SpeechError | None = None
        self._turn_began: float | None = None  # by the monotonic clock
        self._hung_s = math.inf  # after which a turn is taken for one that never ends

    def check(self) -> None:
        """See ``Checked``: a device that is lost does not come back within this process.

        Raises:
            EngineFailed: The model cannot go on, or a turn of it does not end.
        """
        if self._broken is not None:
            raise self._broken
        began = self._turn_began
        if began is not None and (took := time.monotonic() - began) > self._hung_s:
            raise EngineFailed(f"magpie: the GPU has not answered for {took:.0f} s.")

    # --- loading -------------------------------------------------------------

    async def load(self) -> LoadReport:
        """Restore the checkpoint, and capture or run once every shape of work."""
        report = await self._worker.run(self._load)
        self._worker.meanwhile(self._turn)
        return report

    def _load(self) -> LoadReport:
        normalizer = self._begin_to_load()
        device = pick_device(self._options.device)
        try:
            machine, restored = self._restore(device, normalizer)
            gc.collect()  # NeMo's model: from here on only what was taken of it is there
            release_cached()
            started = time.perf_counter()
            codec_s = machine.warm_up()
            self._steps.take()  # they are nobody's
        except Exception as error:
            if is_out_of_memory(error):
                raise self._too_many(error) from error
            raise
        warmup_s = time.perf_counter() - started
        self._machine = machine
        if device == "cuda":  # a CPU may be slow, and busy
            self._hung_s = HUNG_S
            share_interpreter()
        for name in self._files.geometry.speakers:
            self._voices[name] = self._voice(name)
        self._counts[f"{FALLBACK}magpie eager"] = machine.fallbacks
        self._scheduler = Scheduler(
            machine,
            self._slots,
            lead_s=self._options.lead_s,
            clock=time.monotonic,
            counts=self._counts,
        )
        return LoadReport(
            seconds=restored.seconds,
            warmup_ms=warmup_s * 1e3,
            details=self._report(
                normalizer,
                device=device,
                dtype=f"{restored.dtype}, codec {machine.codec_dtype}",
                **machine.describe(),
            ),
            sustains=self._sustains(machine, codec_s),
        )

    def _restore(self, device: str, normalizer: Normalizer) -> tuple[MagpieMachine, _Restored]:
        """A machine, and what is left of NeMo's model: nothing but its front end and voices."""
        from runtime.engines.magpie.machine import build

        magpie = load(self._files, device, self._options.dtype_on(device))
        planner = self._take_of(magpie.model, normalizer)
        self._temperature = float(magpie.model.inference_parameters.temperature)
        machine = build(
            magpie,
            self._slots,
            max_tokens=planner.max_tokens,
            max_frames=self._max_frames,
            cfg=self._options.cfg,
            cuda_graphs=self._options.cuda_graphs,
            fused=self._options.fused,
            steps=self._steps,
        )
        self._contexts = self._voicing.contexts(magpie.model)
        return machine, _Restored(magpie.seconds, magpie.dtype)

    def _too_many(self, error: Exception) -> OutOfMemory:
        estimate, limit = footprint(self._given), allocator_limit()
        rest = limit - estimate.weights - estimate.workspace
        fitting = max(0, min(self._slots - 1, rest // estimate.state_per_slot))
        mend = f"about {fitting} would: set slots: {fitting}." if fitting else "nor would one."
        return OutOfMemory(
            f"magpie with {self._slots} slots does not fit into the {limit / GIB:.2f} GiB that it "
            f"may allocate; {mend} ({as_engine_error(error, 'magpie')})"
        )

    def _sustains(self, machine: MagpieMachine, codec_s: float) -> int:
        """The most slots that keep real time, by the steps and the codec as timed."""
        frames = self._files.codec_geometry.frame_rate
        for slots in range(self._slots, 1, -1):
            steps_s = machine.step_s(slots) * frames / machine.stacking
            blocks_s = codec_s * slots / self._slots * frames / FRAMES[-1]
            if steps_s + blocks_s <= _KEEPS_UP:
                return slots
        return 1

    async def exercise(self) -> None:
        """Fill every slot, and take them all forward: shapes are fixed, so this is the peak."""
        await self._worker.run(self._exercise)

    def _exercise(self) -> None:
        machine = self._machine
        if machine is None:
            raise RuntimeError("exercise() was called before load()")
        machine.exercise()

    # --- speaking ------------------------------------------------------------

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        """Speak; see ``Synthesizer.synthesize``."""
        self.check()
        scheduler = self._scheduler
        if scheduler is None:
            raise RuntimeError("synthesize() was called before load()")
        if scheduler.waiting >= _QUEUE * self._slots:
            raise Overloaded(f"All {self._slots} slots are taken, and as many requests wait twice.")
        loop = asyncio.get_running_loop()
        made: asyncio.Queue[Delivery] = asyncio.Queue()
        utterance = Utterance(lambda item: _hand_over(loop, made, item))
        count = TextCount(request.first_piece)
        planning = asyncio.create_task(self._plan(utterance, request, more, count))
        planning.add_done_callback(lambda task: _hand_failure(task, made))
        rate, piece = self._capabilities.sample_rate, request.first_piece
        first_sample = texts = 0
        try:
            scheduler.submit(utterance)
            while not isinstance(item := await made.get(), End):
                if not isinstance(item, Audio):
                    raise item
                if item.piece < 0:  # a text without a sound, perhaps before others are spoken
                    if count.texts > texts:
                        texts = count.texts
                        yield AudioChunk(b"", rate, first_sample, piece, texts=texts)
                    continue
                piece = item.piece
                if item.piece_end:
                    count.spoken(piece)
                texts = count.texts
                yield AudioChunk(item.pcm, rate, first_sample, piece, item.piece_end, texts)
                first_sample += len(item.pcm) // 2
                utterance.read = first_sample
                self._worker.nudge()
        finally:
            utterance.cancelled = True
            planning.cancel()
            self._worker.nudge()
        if not first_sample and not request.first_piece and more is None:
            raise NothingToSpeak(
                f"The tokeniser of {request.language!r} knows no sound for {request.text[:40]!r}."
            )
        yield AudioChunk(b"", rate, first_sample, piece, texts=count.texts, end=True)

    async def _plan(
        self,
        utterance: Utterance,
        request: SynthesisRequest,
        more: AsyncIterator[str] | None,
        count: TextCount,
    ) -> None:
        """Add the parts of a request to its utterance, a piece ahead of what is spoken."""
        planner, drawn = self._planner, int(np.random.SeedSequence().generate_state(1)[0])
        assert planner is not None
        seed = drawn if request.seed is None else request.seed
        voice = self._voices.get(request.voice or "")
        if voice is None:  # a blend
            voice = await self._worker.run(self._voice, request.voice or "")

        async def run(work: Callable[..., Any], *args: Any) -> Any:
            return await self._texts.run(work, *args, background=not utterance.starved)

        carry = self._options.carry
        async with aclosing(planner.planned(request, more, carry, run, count)) as pieces:
            async for planned in pieces:
                if planned is None:
                    utterance.deliver(Audio(b"", -1, piece_end=False))
                    continue
                utterance.parts.extend(self._parts(request, planned, seed, voice))
                self._worker.nudge()
        utterance.complete = True
        self._worker.nudge()

    def _parts(
        self, request: SynthesisRequest, planned: Planned, seed: int, voice: Voice
    ) -> Iterator[Part]:
        from runtime.engines.magpie.prefill import Chunk

        piece = planned.piece
        seeds = np.random.SeedSequence([seed, piece.index]).spawn(len(piece.chunks))
        for index, (tokens, drawn) in enumerate(zip(piece.chunks, seeds, strict=True)):
            last = index == len(piece.chunks) - 1
            yield Part(
                Chunk(
                    tokens.ids,
                    voice,
                    seed=int(drawn.generate_state(1, np.uint64)[0] >> 1),
                    temperature=self._temperature,
                    last=planned.ends and last,
                ),
                piece=piece.index,
                carries=planned.carries or index > 0,
                ends_piece=last,
                heard=piece.index >= request.first_piece,
                pause_s=self._options.pause_s if planned.pauses and last else 0.0,
            )

    def _voice(self, name: str) -> Voice:
        """On the model's thread: of a voice, or a blend."""
        assert self._machine is not None
        context = self._voicing.mix(name, self._contexts)
        voice = self._machine.voice(context)
        while len(self._voices) >= len(self._contexts) + _BLENDS_KEPT:
            oldest = next(known for known in self._voices if known not in self._contexts)
            del self._voices[oldest]
        self._voices[name] = voice
        return voice

    # --- the model's thread --------------------------------------------------

    def _turn(self) -> bool:
        """One turn of the scheduler; whether there is more to do."""
        scheduler = self._scheduler
        if scheduler is None or self._broken is not None:
            return False
        try:
            self._turn_began = time.monotonic()
            return scheduler.turn()
        except Exception as error:
            failure = as_engine_error(error, "magpie")
            _log.exception("magpie cannot go on")
            self._broken = failure
            scheduler.fail(failure)
            return False
        finally:
            self._turn_began = None

    async def close(self) -> None:
        """Free everything; utterances under way fail."""
        self._broken = self._broken or EngineFailed(_ENDED)
        self._texts.close()
        self._worker.close()
        if self._normalizer is not None:  # which may compile grammars just now
            await asyncio.to_thread(self._normalizer.close)
        await self._texts.finished()
        await self._worker.finished()
        if self._scheduler is not None:
            self._scheduler.fail(EngineFailed(_ENDED))
        self._machine = self._scheduler = self._planner = self._normalizer = None
        self._contexts, self._voices = {}, {}


def _hand_over(
    loop: asyncio.AbstractEventLoop, made: asyncio.Queue[Delivery], item: Delivery
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and its caller with it
        loop.call_soon_threadsafe(made.put_nowait, item)


def _hand_failure(task: asyncio.Task[None], made: asyncio.Queue[Delivery]) -> None:
    """A text that cannot be planned ends its utterance."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    made.put_nowait(error if isinstance(error, SpeechError) else EngineFailed(str(error)))
