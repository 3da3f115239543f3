"""Magpie as NeMo runs it: ``generate_speech`` with its key-value cache, one chunk at a time.

The yardstick of this project's own engine, and what runs where CUDA graphs cannot: on a CPU,
say. On an H100 NeMo's loop takes about as long as the audio lasts, at whatever precision
(docs/benchmarks.md). Nothing here changes what NeMo computes: the loop, the attention
prior, the sampling and the text history between chunks are its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.audio import float32_to_pcm16, in_blocks
from runtime.engines.magpie.base import MagpieEngine
from runtime.engines.magpie.checkpoint import Magpie, load
from runtime.engines.magpie.options import CODEC_CONTEXT, CODEC_WINDOW, read_reference_options
from runtime.engines.magpie.planner import Piece, Planned
from runtime.engines.magpie.tokens import Tokens
from runtime.engines.nemo import pick_device
from runtime.errors import EngineFailed, NothingToSpeak
from runtime.growing import TextCount
from runtime.memory.footprint import GIB
from runtime.speech import (
    AudioChunk,
    LoadReport,
    Samples,
    SynthesisRequest,
)

_MESSAGE_S = 0.5  # of audio: few messages
_SILENCE = 10 ** (-50 / 20)  # amplitude below which a sample counts as silent
_WARM_FRAMES = 16


class _Stopped(Exception):  # not an error: the caller has left
    """Raised within NeMo's loop once nobody wants the audio any more."""


@dataclass(slots=True)
class _Carried:
    """What a piece leaves to the next one of its group.

    Attributes:
        state: NeMo's ``ChunkState``: text history, its encoding, how far it was attended.
        codes: The last frames of codes, shape ``(1, codebooks, frames)``.
    """

    state: Any = None
    codes: Any = None


@dataclass(slots=True)
class _Utterance:
    """One request on its way through the model."""

    request: SynthesisRequest
    seed: int
    stop: threading.Event = field(default_factory=threading.Event)
    carried: _Carried = field(default_factory=_Carried)


class MagpieReference(MagpieEngine):
    """NeMo's own loop behind the ``Synthesizer`` contract; one utterance at a time.

    A seed repeats the audio of a piece exactly on the same device and dtype, whichever piece a
    request starts with: pieces before it that carry over to it are spoken again, unheard.
    """

    def __init__(self, **options: Any) -> None:
        """Options are those of ``MagpieOptions``; files are looked at, nothing is loaded.

        Raises:
            ConfigError: An option that there is not, or a value that cannot be.
            CheckpointError: The files are not there, damaged, or of no kind that runs here.
        """
        read = read_reference_options(options)
        super().__init__("magpie-reference", read, streaming=False, slots=1)
        self._stop: threading.Event | None = None
        self._magpie: Magpie | None = None

    async def load(self) -> LoadReport:
        """Restore the checkpoint, prewarm the normaliser, and speak a few frames."""
        return await self._worker.run(self._load)

    def _load(self) -> LoadReport:
        normalizer = self._begin_to_load()
        device = pick_device(self._options.device)
        self._magpie = magpie = load(self._files, device, self._options.common.dtype)
        model = magpie.model
        model.inference_parameters.max_decoder_steps = self._max_frames
        model.decoder.register_forward_pre_hook(self._check_wanted)
        self._voicing.attach(model)
        planner = self._take_of(model, normalizer)
        loaded = time.perf_counter()
        self._speak_nonsense(planner.shortest, _WARM_FRAMES)
        return LoadReport(
            seconds=magpie.seconds,
            warmup_ms=(time.perf_counter() - loaded) * 1e3,
            details=self._report(
                normalizer,
                device=device,
                dtype=f"{magpie.dtype}, codec float32",
                weights=f"{magpie.weight_bytes / GIB:.2f} GiB",
            ),
            sustains=1,
        )

    async def exercise(self) -> None:
        """Speak the longest chunk there can be."""
        await self._worker.run(self._exercise)

    def _exercise(self) -> None:
        planner = self._planner
        if planner is None:
            raise RuntimeError("exercise() was called before load()")
        self._speak_nonsense(planner.longest, self._max_frames)

    async def synthesize(
        self, request: SynthesisRequest, more: AsyncIterator[str] | None = None
    ) -> AsyncGenerator[AudioChunk, None]:
        """Speak; see ``Synthesizer.synthesize``."""
        drawn = int(np.random.SeedSequence().generate_state(1)[0])
        seed = drawn if request.seed is None else request.seed
        planner = self._planner
        if planner is None:
            raise RuntimeError("synthesize() was called before load()")
        utterance, count = _Utterance(request, seed), TextCount(request.first_piece)
        rate = self._capabilities.sample_rate
        first_sample, piece = 0, request.first_piece
        run, carry = self._worker.run, self._options.carry
        try:
            async with aclosing(planner.planned(request, more, carry, run, count)) as pieces:
                async for planned in pieces:
                    if planned is None:  # a text without a sound
                        yield AudioChunk(b"", rate, first_sample, piece, texts=count.texts)
                        continue
                    samples = await run(self._speak, utterance, planned)
                    if planned.piece.index < request.first_piece:
                        continue  # said for what it leaves to the next one
                    piece = planned.piece.index
                    for block, last in in_blocks(float32_to_pcm16(samples), int(_MESSAGE_S * rate)):
                        if last:
                            count.spoken(piece)
                        yield AudioChunk(block, rate, first_sample, piece, last, count.texts)
                        first_sample += len(block) // 2
        finally:
            utterance.stop.set()  # within NeMo's loop it ends at the next step
        if not first_sample and not request.first_piece and more is None:
            raise NothingToSpeak(
                f"The tokeniser of {request.language!r} knows no sound for {request.text[:40]!r}."
            )
        yield AudioChunk(b"", rate, first_sample, piece, texts=count.texts, end=True)

    async def close(self) -> None:
        """Free the model."""
        if self._stop is not None:
            self._stop.set()
        self._worker.close()
        if self._normalizer is not None:  # which may compile grammars just now
            await asyncio.to_thread(self._normalizer.close)
        await self._worker.finished()
        self._magpie = None
        self._planner = None
        self._normalizer = None
        self._voicing.detach()

    def _speak(self, utterance: _Utterance, planned: Planned) -> Samples:
        piece = planned.piece
        if not planned.carries:
            utterance.carried = _Carried()
        seeds = np.random.SeedSequence([utterance.seed, piece.index]).spawn(len(piece.chunks))
        self._stop = utterance.stop
        try:
            parts = self._speak_piece(utterance, piece, seeds, planned.ends)
        except _Stopped as stopped:
            raise EngineFailed("magpie-reference was closed, or its caller left.") from stopped
        if planned.pauses:
            pause = round(self._options.pause_s * self._capabilities.sample_rate)
            silent = trailing_silence(parts[-1])
            parts.append(np.zeros(max(0, pause - silent), dtype=np.float32))
        return np.concatenate(parts)

    def _speak_piece(
        self,
        utterance: _Utterance,
        piece: Piece,
        seeds: Sequence[np.random.SeedSequence],
        ends: bool,
    ) -> list[Samples]:
        row = self._voicing.row(utterance.request.voice or "")
        return [
            self._speak_chunk(
                utterance.carried,
                chunk,
                row=row,
                ends=ends and index == len(seeds) - 1,
                seed=int(seed.generate_state(1, np.uint64)[0] >> 1),
            )
            for index, (chunk, seed) in enumerate(zip(piece.chunks, seeds, strict=True))
        ]

    def _speak_chunk(
        self, carried: _Carried, chunk: Tokens, *, row: int, ends: bool, seed: int
    ) -> Samples:
        with self._steps.timed("chunk"):
            codes = self._generate(carried, chunk.ids, row, ends, seed)
        if codes.shape[-1] >= self._max_frames:
            self._counts["chunks_cut_short"] += 1
        with self._steps.timed("codec"):
            return self._decode(carried, codes)

    def _generate(
        self, carried: _Carried, ids: tuple[int, ...], row: int, ends: bool, seed: int
    ) -> Any:
        """Codes of a chunk, shape ``(1, codebooks, frames)``."""
        import torch

        assert self._magpie is not None
        model, device = self._magpie.model, self._magpie.device
        begins = carried.state is None
        if begins:
            carried.state = model.create_chunk_state(1)
        torch.manual_seed(seed)  # NeMo draws from the global generators
        batch = {
            "text": torch.tensor([ids], device=device),
            "text_lens": torch.tensor([len(ids)], device=device),
            "speaker_indices": [row],
        }
        # NeMo neither turns its cache on nor empties it between chunks.
        model.decoder.reset_cache(use_cache=True)
        try:
            with torch.no_grad(), _autocast(self._magpie):
                output = model.generate_speech(
                    batch,
                    chunk_state=carried.state,
                    end_of_text=[ends],
                    beginning_of_text=begins,
                    use_cfg=self._options.cfg,
                    use_local_transformer_for_inference=True,
                )
        finally:
            model.decoder.reset_cache(use_cache=False)
            model.local_transformer.reset_cache(use_cache=False)
        return output.predicted_codes[:1, :, : int(output.predicted_codes_lens[0])]

    def _decode(self, carried: _Carried, codes: Any) -> Samples:
        """Samples of new frames, as the codec would make them from all frames at once.

        At most ``CODEC_WINDOW`` frames go through it together: of a chunk of 23 s at once it
        would need more memory than everything else.
        """
        windows = [self._decode_window(carried, part) for part in codes.split(CODEC_WINDOW, -1)]
        return np.concatenate(windows)

    def _decode_window(self, carried: _Carried, codes: Any) -> Samples:
        import torch

        assert self._magpie is not None
        frames = codes.shape[-1]
        if not frames:
            return np.zeros(0, dtype=np.float32)
        model = self._magpie.model
        together = codes if carried.codes is None else torch.cat([carried.codes, codes], dim=-1)
        carried.codes = together[:, :, -CODEC_CONTEXT:]
        length = torch.tensor([together.shape[-1]], device=together.device)
        with torch.no_grad():
            if model._codec_converter is not None:
                together = model._codec_converter.convert_new_to_original(
                    audio_tokens=together, audio_lens=length
                )
            audio, _ = model._codec_model.decode(tokens=together, tokens_len=length)
        new = frames * self._files.codec_geometry.samples_per_frame
        samples: Samples = audio[0, -new:].float().cpu().numpy()
        if not np.isfinite(samples).all():
            raise EngineFailed("The codec gave samples that are not numbers; try dtype bfloat16.")
        return samples

    def _speak_nonsense(self, ids: tuple[int, ...], frames: int) -> None:
        """Run a chunk of exactly ``frames`` frames, whatever the model wants to say."""
        assert self._magpie is not None
        parameters = self._magpie.model.inference_parameters
        before = parameters.max_decoder_steps, parameters.min_generated_frames
        frames = min(frames, self._max_frames)
        parameters.max_decoder_steps, parameters.min_generated_frames = frames, frames + 1
        carried = _Carried()
        self._stop = None
        try:
            self._decode(carried, self._generate(carried, ids, 0, True, 0))
        finally:
            parameters.max_decoder_steps, parameters.min_generated_frames = before

    def _check_wanted(self, *_: object) -> None:
        if self._stop is not None and self._stop.is_set():
            raise _Stopped


def trailing_silence(samples: Samples) -> int:
    """How many samples at the end are below -50 dBFS."""
    loud = np.flatnonzero(np.abs(samples) >= _SILENCE)
    return int(len(samples) - 1 - loud[-1]) if loud.size else len(samples)


def _autocast(magpie: Magpie) -> Any:
    """NeMo mixes float32 (priors, masks) with the weights' type: let torch choose per operation."""
    import torch

    dtype = getattr(torch, magpie.dtype)
    return torch.autocast(magpie.device, dtype=dtype, enabled=magpie.dtype != "float32")
