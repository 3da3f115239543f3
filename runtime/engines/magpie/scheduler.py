"""Who speaks in which slot, and what is done next: continuous batching, first audio first.

Nothing here knows of torch. A ``Machine`` carries out what is decided; whoever drives the
scheduler calls ``turn`` from one thread as long as there is something to do. A turn is at most
one prefill of a few texts, one step of the decoder and the codec's work that is due, so that
nobody waits for more than that.

* A request gets a slot between two steps, and its first frames go to the codec at once. Those
  who are comfortably ahead of their listeners let it pass: always at the codec, whose work grows
  with every row, and at the decoder where a smaller step is much quicker.
* Audio leaves in small blocks first and in larger ones as an utterance gets ahead of its
  listener: a block is only as long as leaves time for the next one, by the steps as measured.
* An utterance may wait in its slot for its next part, which an LLM still writes. Where its
  listener has heard everything meanwhile, that part is as urgent as a newcomer's first.
* Who has ``lead_s`` of audio that nobody has read yet rests, and costs nothing.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from runtime.errors import EngineFailed, SpeechError

FRAMES = (1, 2, 4, 8)
"""How many frames of a stream the codec takes at once."""

FILLS = 8
"""Texts that are taken in together, at the most."""

COMFORT_S = 0.5
"""Who is this far ahead of their listener lets newcomers pass."""

_MUCH_QUICKER = 0.5  # a step without the comfortable ones, as a share of one with them
_SILENCE = 104  # of 32768: about -50 dBFS
_SLOWER = 1.5  # the next block may take so much longer than was measured


@dataclass(frozen=True, slots=True)
class Part:
    """A chunk of text that is spoken in one go.

    Attributes:
        chunk: What the machine speaks.
        piece: Of the request's text that it belongs to.
        carries: It goes on with the part before.
        ends_piece: No other part of the piece follows.
        heard: Its audio is wanted; else it is spoken for what it leaves to the next one.
        pause_s: Silence that is to follow, in seconds; what the model left of it counts.
    """

    chunk: Any
    piece: int
    carries: bool
    ends_piece: bool
    heard: bool = True
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Audio:
    """A block of an utterance: PCM16."""

    pcm: bytes
    piece: int
    piece_end: bool


class End:
    """The last that an utterance delivers."""


Delivery = Audio | End | SpeechError


class Machine(Protocol):
    """What carries out the work of a turn, in slots counted from 0."""

    sample_rate: int
    samples_per_frame: int
    stacking: int
    max_frames: int

    def fill(self, parts: Sequence[tuple[int, Part]]) -> None:
        """Take a part into each of these slots."""
        ...

    def step(self, slots: Sequence[int]) -> list[int]:
        """Take slots forward by ``stacking`` frames.

        Returns:
            For each the frame of its part from which on nothing is speech any more: ``NEVER``
            while it goes on, ``BROKEN`` if its numbers are none any more.
        """
        ...

    def decode(self, where: Sequence[tuple[int, int]], frames: int) -> list[bytes | None]:
        """Make audio of some frames of each slot, from a frame of its part on.

        Returns:
            PCM16 of each; None where the codec's numbers are none any more.
        """
        ...

    def step_s(self, slots: int) -> float:
        """How long a step of so many slots takes, in seconds."""
        ...


@dataclass(eq=False, slots=True)
class Utterance:
    """A request on its way; ``parts`` are added, and audio read, by other threads.

    Attributes:
        deliver: Takes what has been made, from the scheduler's thread.
        parts: Those not yet begun.
        complete: No part will be added any more.
        cancelled: Nobody wants it any more.
        read: Samples that its reader has taken.
    """

    deliver: Callable[[Delivery], None]
    parts: deque[Part] = field(default_factory=deque)
    complete: bool = False
    cancelled: bool = False
    read: int = 0
    arrival: int = 0
    slot: int | None = None
    part: Part | None = None
    made: int = 0  # frames of the part
    spoken: int = 0  # those of them that are speech
    decoded: int = 0  # those of them that have been audio
    over: bool = True  # the part's last frame has been made
    delivered: int = 0  # samples, of all parts
    first_at: float | None = None
    waited: bool = False
    quiet: int = 0  # samples at the end that are silent

    @property
    def undecoded(self) -> int:
        """Frames that the codec has not seen."""
        return self.spoken - self.decoded

    @property
    def between(self) -> bool:
        """Whether its part, if it had one, is all audio."""
        return self.over and not self.undecoded

    @property
    def starved(self) -> bool:
        """Whether it could go on, if it had a part."""
        return self.between and not self.parts


class Scheduler:
    """Gives slots to utterances, and takes them all forward, turn by turn."""

    def __init__(
        self,
        machine: Machine,
        slots: int,
        *,
        lead_s: float,
        clock: Callable[[], float],
        counts: dict[str, int],
    ) -> None:
        """What is done is added to ``counts``; ``clock`` gives seconds."""
        self._machine, self._clock, self._counts = machine, clock, counts
        self._rate = machine.sample_rate
        self._lead = round(lead_s * self._rate)
        self._free = list(range(slots - 1, -1, -1))
        self._waiting: list[Utterance] = []
        self._speaking: list[Utterance] = []
        self._arrivals = 0
        self._lock = threading.Lock()  # of `_waiting`: others submit

    @property
    def free(self) -> int:
        """Slots that nobody speaks in."""
        return len(self._free)

    @property
    def waiting(self) -> int:
        """Utterances without a slot."""
        return len(self._waiting)

    def submit(self, utterance: Utterance) -> None:
        """Speak it once there is a slot; from any thread."""
        with self._lock:
            self._arrivals += 1
            utterance.arrival = self._arrivals
            self._waiting.append(utterance)

    def turn(self) -> bool:
        """Do what is due; False if there was nothing."""
        self._drop_cancelled()
        filled = self._fill()
        stepped = self._step()
        decoded = self._decode()
        self._drop_ended()
        return filled or stepped or decoded

    def fail(self, error: SpeechError) -> None:
        """End all utterances with an error: the machine cannot go on."""
        for utterance in self._everybody():
            self._leave(utterance)
            utterance.deliver(error)

    # --- coming and going ----------------------------------------------------

    def _everybody(self) -> list[Utterance]:
        with self._lock:
            return [*self._speaking, *self._waiting]

    def _drop_cancelled(self) -> None:
        for utterance in self._everybody():
            if utterance.cancelled:
                self._leave(utterance)

    def _drop_ended(self) -> None:
        for utterance in self._everybody():
            # In this order: what is complete gets no part any more.
            if utterance.complete and utterance.starved:
                self._leave(utterance)
                utterance.deliver(End())

    def _leave(self, utterance: Utterance) -> None:
        if utterance.slot is None:
            with self._lock:
                self._waiting.remove(utterance)
            return
        self._speaking.remove(utterance)
        self._free.append(utterance.slot)
        utterance.slot = None

    # --- prefill -------------------------------------------------------------

    def _fill(self) -> bool:
        ready = [u for u in self._everybody() if u.parts and u.between and not self._rests(u)]
        ready.sort(key=lambda u: (self._ahead_s(u), u.arrival))
        chosen: list[Utterance] = []
        for utterance in ready:
            if len(chosen) == FILLS:
                break
            if utterance.slot is None:
                if not self._free:
                    continue
                utterance.slot = self._free.pop()
                with self._lock:
                    self._waiting.remove(utterance)
                self._speaking.append(utterance)
            chosen.append(utterance)
        if not chosen:
            return False
        work = []
        for utterance in chosen:
            if utterance.waited and self._ahead_s(utterance) <= 0:
                utterance.first_at = None  # its listener waits for it as for a newcomer
            utterance.part = part = utterance.parts.popleft()
            utterance.made = utterance.spoken = utterance.decoded = 0
            utterance.quiet, utterance.over = 0, False
            assert utterance.slot is not None
            work.append((utterance.slot, part))
        self._machine.fill(work)
        return True

    # --- the decoder ---------------------------------------------------------

    def _step(self) -> bool:
        active = [u for u in self._speaking if not u.over and not self._rests(u)]
        hasty = [u for u in active if not self._comfortable(u)]
        if any(u.first_at is None for u in hasty) and len(hasty) < len(active):
            quick, whole = self._machine.step_s(len(hasty)), self._machine.step_s(len(active))
            if quick < _MUCH_QUICKER * whole:
                active = hasty
        if not active:
            return False
        slots = [u.slot for u in active if u.slot is not None]
        for utterance, ended in zip(active, self._machine.step(slots), strict=True):
            if ended < 0:
                self._counts["requests_broken"] += 1
                self._leave(utterance)
                utterance.deliver(
                    EngineFailed("The model's numbers were none any more; the request was ended.")
                )
                continue
            utterance.made += self._machine.stacking
            utterance.spoken = min(ended, utterance.made, self._machine.max_frames)
            cut = utterance.made >= self._machine.max_frames
            utterance.over = ended <= utterance.made or cut
            if ended > utterance.made and cut:
                self._counts["chunks_cut_short"] += 1
            if utterance.over and not utterance.undecoded:
                self._end_part(utterance, b"")
        return True

    # --- the codec -----------------------------------------------------------

    def _decode(self) -> bool:
        done = False
        # Newcomers first; and while there is one that has no audio yet, only those who need it.
        hurry = any(u.first_at is None and not u.between for u in self._speaking)
        while due := self._due(hurry):
            frames, utterances = due
            where = [(u.slot, u.decoded) for u in utterances if u.slot is not None]
            made = self._machine.decode(where, frames)
            for utterance, pcm in zip(utterances, made, strict=True):
                self._heard(utterance, pcm, frames)
            done = True
        return done

    def _due(self, hurry: bool) -> tuple[int, list[Utterance]] | None:
        """Those who come next at the codec, and how many frames of each."""
        groups: dict[tuple[bool, int], list[Utterance]] = {}
        for utterance in self._speaking:
            pending, wanted = utterance.undecoded, self._block(utterance)
            if not utterance.over:
                # The last step's frames wait: the next may be silent, and theirs the last block.
                pending -= self._machine.stacking if utterance.first_at is not None else 0
                if pending < wanted:
                    continue
            if pending <= 0 or (hurry and self._comfortable(utterance)):
                continue
            frames = max(size for size in FRAMES if size <= min(pending, wanted) or size == 1)
            groups.setdefault((utterance.first_at is not None, frames), []).append(utterance)
        if not groups:
            return None
        first = min(groups, key=lambda group: (group[0], -group[1]))
        return first[1], groups[first]

    def _block(self, utterance: Utterance) -> int:
        """Frames of its next block: as many as can be made while it still has something to say."""
        stacking = self._machine.stacking
        if utterance.first_at is None:
            return stacking
        step_s = self._machine.step_s(len(self._speaking))
        steps = self._ahead_s(utterance) / (_SLOWER * step_s) if step_s > 0 else math.inf
        fitting = [size for size in FRAMES if size <= stacking * steps]
        return max([stacking, *fitting])

    def _heard(self, utterance: Utterance, pcm: bytes | None, frames: int) -> None:
        utterance.decoded += frames
        if pcm is None:
            self._counts["requests_broken"] += 1
            self._leave(utterance)
            utterance.deliver(
                EngineFailed("The codec's numbers were none any more; the request was ended.")
            )
            return
        part = utterance.part
        assert part is not None
        if part.heard and part.pause_s:
            utterance.quiet = _silent_end(pcm, utterance.quiet)
        if utterance.between:
            self._end_part(utterance, pcm)
        else:
            self._say(utterance, pcm, piece_end=False)

    def _end_part(self, utterance: Utterance, pcm: bytes) -> None:
        part = utterance.part
        assert part is not None
        if part.pause_s:
            missing = round(part.pause_s * self._rate) - utterance.quiet
            pcm += bytes(2 * max(0, missing))
        self._say(utterance, pcm, piece_end=part.ends_piece)
        utterance.waited = not utterance.parts

    def _say(self, utterance: Utterance, pcm: bytes, piece_end: bool) -> None:
        part = utterance.part
        assert part is not None
        if not part.heard or not pcm:
            return
        if utterance.first_at is None:
            utterance.first_at = self._clock() - utterance.delivered / self._rate
        utterance.delivered += len(pcm) // 2
        utterance.deliver(Audio(pcm, part.piece, piece_end))

    # --- how far ahead -------------------------------------------------------

    def _ahead_s(self, utterance: Utterance) -> float:
        """Of a listener who began with the first audio; 0 before it."""
        if utterance.first_at is None:
            return 0.0
        return utterance.delivered / self._rate - (self._clock() - utterance.first_at)

    def _comfortable(self, utterance: Utterance) -> bool:
        return utterance.first_at is not None and self._ahead_s(utterance) >= COMFORT_S

    def _rests(self, utterance: Utterance) -> bool:
        return utterance.delivered - utterance.read >= self._lead


def _silent_end(pcm: bytes, before: int) -> int:
    """Silent samples at the end of a block, and of what was silent before it."""
    samples = np.frombuffer(pcm, dtype="<i2")
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) >= _SILENCE)
    return int(len(samples) - 1 - loud[-1]) if loud.size else before + len(samples)
