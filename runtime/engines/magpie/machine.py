"""Decoder and codec as the scheduler's machine: a CUDA graph for each shape of work, or eager.

Every method is called from one thread. What goes to the device is one small tensor a call, what
comes back another; in between the host waits for nothing.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from runtime.engines.compiling import Kernels
from runtime.engines.cuda import release_cached
from runtime.engines.graphs import Graphs
from runtime.engines.magpie.checkpoint import Magpie
from runtime.engines.magpie.codec import Codec, IncrementalCodec, make_codec
from runtime.engines.magpie.decoder import Decoder, make_step
from runtime.engines.magpie.options import TEXT_STEP, text_places
from runtime.engines.magpie.prefill import Chunk, Entry, Voice
from runtime.engines.magpie.scheduler import FILLS, FRAMES, Part
from runtime.engines.magpie.state import BROKEN
from runtime.engines.steps import StepLog

_TIMED = 3  # steps of each size that are timed; the quickest counts


def build(
    magpie: Magpie,
    slots: int,
    *,
    max_tokens: int,
    max_frames: int,
    cfg: bool,
    cuda_graphs: bool,
    fused: bool,
    steps: StepLog,
) -> MagpieMachine:
    """Make a machine of a checkpoint; nothing of NeMo's model is needed afterwards.

    Args:
        magpie: As loaded.
        slots: How many chunks are spoken at the same time.
        max_tokens: Of the longest chunk, without the history before it.
        max_frames: Of the longest chunk.
        cfg: Classifier-free guidance.
        cuda_graphs: Replay graphs where there is a GPU.
        fused: Fused kernels where they can run.
        steps: Where each prefill, step and batch of the codec is noted.

    Raises:
        CheckpointError: The checkpoint is of a kind that does not run here.
    """
    model, device = magpie.model, torch.device(magpie.device)
    decoder = Decoder(
        model,
        slots,
        max_text=text_places(max_tokens),
        max_steps=-(-max_frames // int(model.frame_stacking_factor)),
        cfg=cfg,
        dtype=getattr(torch, magpie.dtype),
    )
    # In float16 its error is inaudible (56 dB, measured), in bfloat16 it is not (38 dB).
    codec_dtype = torch.float32 if magpie.dtype == "float32" else torch.float16
    converter = model._codec_converter
    codec = (make_codec if fused else IncrementalCodec)(
        model._codec_model,
        slots,
        quantizer=None if converter is None else converter.vector_quantizer_new,
        device=device,
        dtype=codec_dtype,
    )
    graphs = Graphs(device, wanted=cuda_graphs)
    step = make_step(decoder) if fused else decoder.step
    rate = magpie.files.codec_geometry.sample_rate
    return MagpieMachine(decoder, step, codec, graphs, steps, rate)


class MagpieMachine:
    """Fills slots, takes them forward and makes audio of their codes."""

    def __init__(
        self,
        decoder: Decoder,
        step: Callable[[Tensor], None],
        codec: Codec,
        graphs: Graphs,
        steps: StepLog,
        sample_rate: int,
    ) -> None:
        """All on one device.

        Args:
            decoder: Its state and its prefill are used.
            step: The decoder's own, or a fused one over its state.
            codec: With as many slots.
            graphs: For the device.
            steps: Where each prefill, step and batch of the codec is noted.
            sample_rate: In Hz.
        """
        self._decoder, self._take_step, self._codec = decoder, step, codec
        self._graphs, self._steps = graphs, steps
        self._device = decoder.state.keys.device
        self.sample_rate = sample_rate
        self.samples_per_frame = codec.samples_per_frame
        self.stacking = decoder.rules.stacking
        self.max_frames = decoder.extent.steps * self.stacking
        slots = decoder.extent.slots
        self._rows = _buckets(slots)
        self._texts = [*range(TEXT_STEP, decoder.extent.text, TEXT_STEP), decoder.extent.text]
        self._fills = _buckets(min(FILLS, slots))
        self._step_s: dict[int, float] = {}
        self._spoiled: set[int] = set()  # slots that hold numbers that are none
        self._pinned = self._device.type == "cuda"

    def warm_up(self) -> float:
        """Capture, or run once, every shape of work; time the steps.

        Returns:
            Seconds of the codec's largest batch of the longest block.

        Raises:
            OutOfMemory: The graphs do not fit.
        """
        self._compile()
        release_cached()  # what choosing kernels took; graphs have memory of their own
        spare = self._decoder.spare
        nobody = Part(self._nonsense(1), 0, False, True)
        for rows in reversed(self._fills):  # the largest first: the others fit into its memory
            for tokens in reversed(self._texts):
                self._fill_rows([self._entry(spare, nobody)] * rows, rows, tokens)
        for rows in reversed(self._rows):
            self._step_s[rows] = min(self._timed(self.step, [spare] * rows) for _ in range(_TIMED))
        for rows in reversed(self._rows):
            for frames in reversed(FRAMES):
                self.decode([(spare, 0)] * rows, frames)
        slots = self._rows[-1]
        return min(
            self._timed(self.decode, [(spare, 0)] * slots, FRAMES[-1]) for _ in range(_TIMED)
        )

    def _compile(self) -> None:
        """Compile the fused kernels of all shapes side by side, before the first is launched."""
        if self._device.type != "cuda" or not self._fused:
            return
        kernels, spare = Kernels(), self._decoder.spare
        with kernels.noted(), torch.no_grad():
            for rows in self._rows:
                self._step(self._to_device([spare] * rows))
                for frames in FRAMES:
                    self._decode(frames)(self._to_device([(spare, 0)] * rows))
        kernels.compile()

    @property
    def _fused(self) -> tuple[str, ...]:
        """Which parts run on fused kernels."""
        step, codec = self._take_step != self._decoder.step, self._codec
        return ("step",) * step + ("codec",) * (not isinstance(codec, IncrementalCodec))

    def exercise(self) -> None:
        """Take the longest text into every slot, make some steps, and their audio."""
        slots = range(self._decoder.extent.slots)
        part = Part(self._nonsense(self._decoder.extent.text), 0, False, True)
        for first in range(0, len(slots), self._fills[-1]):
            self.fill([(slot, part) for slot in slots[first : first + self._fills[-1]]])
        for _ in range(FRAMES[-1] // self.stacking):
            self.step(slots)
        self.decode([(slot, 0) for slot in slots], FRAMES[-1])

    def describe(self) -> dict[str, str]:
        """What was made in the warm-up, for the load report."""
        state, codec = self._decoder.state.bytes_per_slot, self._codec.state_bytes
        slots = self._decoder.extent.slots
        return {
            "slots": f"{slots} of {(state + codec) / (1 << 20):.1f} MiB",
            "kernels": ", ".join(
                f"{what} {'fused' if what in self._fused else 'plain'}"
                for what in ("step", "codec")
            ),
            "graphs": f"{self._graphs.captured} captured, {self._graphs.fallbacks} eager instead",
            "steps": ", ".join(f"{rows}: {s * 1e3:.2f} ms" for rows, s in self._step_s.items()),
        }

    @property
    def fallbacks(self) -> int:
        """Shapes of work that run eagerly since they could not be captured."""
        return self._graphs.fallbacks

    @property
    def codec_dtype(self) -> str:
        """What the codec computes in."""
        return str(self._codec.dtype).removeprefix("torch.")

    def fill(self, parts: Sequence[tuple[int, Part]]) -> None:
        """Take a part into each of these slots; see ``Machine``."""
        with self._steps.timed("prefill", len(parts)):
            for slot in self._spoiled.intersection(slot for slot, _ in parts):
                self._decoder.state.forget(slot)
                self._spoiled.remove(slot)
            entries = [self._entry(slot, part) for slot, part in parts]
            longest = max(len(entry.ids) for entry in entries)
            tokens = self._texts[bisect.bisect_left(self._texts, longest)]
            self._fill_rows(entries, _bucket(self._fills, len(entries)), tokens)

    def step(self, slots: Sequence[int]) -> list[int]:
        """Take slots forward; see ``Machine``."""
        rows = _bucket(self._rows, len(slots))
        filled = [*slots, *[self._decoder.spare] * (rows - len(slots))]
        with self._steps.timed("step", len(slots)):
            (ended,) = self._graphs.run(("step", rows), self._step, (self._to_device(filled),))
            found: list[int] = ended.tolist()[: len(slots)]
        self._spoiled.update(s for s, at in zip(slots, found, strict=True) if at == BROKEN)
        return found

    def decode(self, where: Sequence[tuple[int, int]], frames: int) -> list[bytes | None]:
        """Make audio; see ``Machine``."""
        rows = _bucket(self._rows, len(where))
        filled = [*where, *[(self._codec.spare, 0)] * (rows - len(where))]
        with self._steps.timed("codec", len(where)):
            (given,) = self._graphs.run(
                ("decode", rows, frames), self._decode(frames), (self._to_device(filled),)
            )
            audio = given[: len(where)].cpu().numpy()
        return [row[:-1].tobytes() if row[-1] else None for row in audio]

    def step_s(self, slots: int) -> float:
        """How long a step of so many slots took in the warm-up, in seconds."""
        return self._step_s.get(_bucket(self._rows, max(1, slots)), 0.0)

    def voice(self, context: Tensor) -> Voice:
        """Prepare a voice, from its context embedding of shape ``(places, d)``."""
        return self._decoder.prefill.voice(context)

    # --- the work, in tensors ------------------------------------------------

    def _entry(self, slot: int, part: Part) -> Entry:
        if slot == self._decoder.spare:
            return Entry(slot, part.chunk, part.chunk.ids)
        return self._decoder.entry(slot, part.chunk, carries=part.carries)

    def _fill_rows(self, entries: list[Entry], rows: int, tokens: int) -> None:
        packed = self._decoder.prefill.pack(entries, rows, tokens, self._decoder.spare)
        voices = [entry.chunk.voice for entry in entries]
        voices += [voices[0]] * (rows - len(voices))
        stacked = (
            torch.stack([voice.keys for voice in voices]),
            torch.stack([voice.values for voice in voices]),
            torch.stack([voice.hidden for voice in voices]),
        )
        self._graphs.run(("fill", rows, tokens), self._fill, (packed.to(self._device), *stacked))

    def _fill(self, packed: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> tuple[()]:
        self._decoder.prefill.fill(packed, keys, values, hidden)
        slots, carries = packed[:, 0], packed[:, 4] >= 0
        self._codec.clear(torch.where(carries, self._codec.spare, slots))
        return ()

    def _step(self, slots: Tensor) -> tuple[Tensor]:
        self._take_step(slots)
        return (self._decoder.state.ended[slots],)

    def _decode(self, frames: int) -> Callable[[Tensor], tuple[Tensor]]:
        rules = self._decoder.rules

        def decode(where: Tensor) -> tuple[Tensor]:
            slots, first = where.unbind(1)
            at = first[:, None] + torch.arange(frames, device=where.device)
            codes = self._decoder.state.frames[slots[:, None], at].transpose(1, 2)
            audio = self._codec.decode(slots, codes.clamp(0, rules.codes - 1))
            sound = torch.isfinite(audio).all(1, keepdim=True)
            scaled = (audio.clamp(-1.0, 1.0) * 32768.0).round().clamp(max=32767.0)
            return (torch.cat([scaled.to(torch.int16), sound.to(torch.int16)], 1),)

        return decode

    # --- helpers -------------------------------------------------------------

    def _nonsense(self, tokens: int) -> Chunk:
        weights, extent = self._decoder.weights, self._decoder.extent
        return Chunk((0,) * tokens, self.voice(weights.positions[: extent.context]))

    def _to_device(self, numbers: Sequence[Any]) -> Tensor:
        tensor = torch.tensor(numbers, dtype=torch.int64)
        if not self._pinned:
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _timed(self, work: Callable[..., Any], *args: Any) -> float:
        work(*args)  # captures
        started = time.perf_counter()
        work(*args)
        return time.perf_counter() - started


def _buckets(most: int) -> list[int]:
    """1, 2, 4 and so on, the most itself, and from 16 on also what lies half way between."""
    sizes = {1 << power for power in range(12)} | {3 << power for power in range(3, 10)}
    return sorted(size for size in sizes | {most} if size <= most)


def _bucket(buckets: Sequence[int], rows: int) -> int:
    return buckets[bisect.bisect_left(buckets, rows)]
