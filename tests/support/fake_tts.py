"""A deployment of the TTS without Ray: replicas whose audio is known to the sample.

A text is a list of numbers: each is a sentence, and says how many samples it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
from fake_calls import FakeDeployment, Stream
from scripted_engines import RATE
from virtual_time import VirtualTime, run_virtually

from runtime.client.synthesis import SynthesisStream
from runtime.errors import ReplicaLost, SpeechError
from runtime.replica import Growth, SynthesisStarted
from runtime.settings import Settings
from runtime.speech import AudioChunk, SynthesisRequest

DRAWN_SEED = 4711


def rendition(piece: int, samples: int, *of: int) -> npt.NDArray[np.int16]:
    """What a sentence sounds like; no two stretches are alike."""
    return np.random.default_rng([piece, *of]).integers(-9_000, 9_000, samples, dtype=np.int16)


def undisturbed(text: str, seed: int = DRAWN_SEED, first_piece: int = 0) -> bytes:
    """What an engine that repeats its audio says, from a sentence on."""
    sentences = list(enumerate(map(int, text.split())))
    return b"".join(rendition(*one, seed).tobytes() for one in sentences[first_piece:])


class Replica:
    """A replica of the deployment.

    Attributes:
        requests: What it was asked to say.
        reports: How far its readers were, in the order in which they said so.
        lives_for: Items of a stream before it dies, the first item included.
        repeats: Its audio can be repeated by seed.
        marks: It marks the end of each sentence.
        sound_at_the_end: The last sound comes with the end, and not before it.
        cuts: Samples of each chunk, in turn.
        lead: Samples it may be ahead of the reader.
        refusal: What it answers to who wants to begin.
        failure: What it fails with after its life, instead of being lost.
        silent: It never begins.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.requests: list[SynthesisRequest] = []
        self.reports: list[int] = []
        self.lives_for: int | None = None
        self.repeats = True
        self.marks = True
        self.sound_at_the_end = False
        self.cuts = [100]
        self.lead = 8_000
        self.refusal: SpeechError | None = None
        self.failure: SpeechError | None = None
        self.silent = False
        self.growing: dict[str, GrowingUtterance] = {}

    def grow(self, stream_id: str, stream: Stream, request: SynthesisRequest, g: Growth) -> None:
        """Begin an utterance that grows."""
        if not self.alive:
            stream.put(ReplicaLost(f"Replica {self.name} is dead."))
            return
        if self.refusal is not None:
            stream.put(self.refusal)
            return
        self.requests.append(request)
        drawn = DRAWN_SEED if request.seed is None else request.seed
        stream.put(SynthesisStarted(RATE, "ada", "en", 0, self.lead, drawn, self.name, 0.0))
        self.growing[stream_id] = GrowingUtterance(self, stream, request, drawn, g)

    def lose(self) -> None:
        """Die, with all utterances that grow."""
        self.alive = False
        for utterance in self.growing.values():
            if not utterance.stream.over:
                utterance.stream.break_off(ReplicaLost(f"Replica {self.name} has died."))
        self.growing.clear()

    def run_dry(self) -> None:
        """Nobody has given a text for too long."""
        for utterance in self.growing.values():
            utterance.end()
        self.growing.clear()

    def open(self, stream: Stream, request: SynthesisRequest) -> None:
        """Begin an utterance, as ``TTS.synthesize`` does, and be done with it at once."""
        if not self.alive or self.lives_for == 0:
            self.alive = False
            stream.put(ReplicaLost(f"Replica {self.name} is dead."))
        elif self.refusal is not None:
            stream.put(self.refusal)
        elif not self.silent:
            self.requests.append(request)
            for item in list(self._speak(request))[: self.lives_for]:
                stream.put(item)
            if self.lives_for is None:
                stream.put(None)
            else:
                self.alive = False
                stream.put(self.failure or ReplicaLost(f"Replica {self.name} has died."))

    def _speak(self, request: SynthesisRequest) -> Iterator[SynthesisStarted | AudioChunk]:
        drawn = DRAWN_SEED if request.seed is None else request.seed
        seed = drawn if self.repeats else None
        yield SynthesisStarted(RATE, "ada", "en", 0, self.lead, seed, self.name, 0.0)
        chunks = list(self._chunks(request, drawn if self.repeats else ord(self.name)))
        if self.sound_at_the_end:
            last = chunks.pop()
            yield from chunks
            yield AudioChunk(last.pcm, RATE, last.first_sample, last.piece, end=True)
        else:
            yield from chunks
            said = chunks[-1].next_sample if chunks else 0
            yield AudioChunk(b"", RATE, said, len(request.text.split()), end=True)

    def _chunks(self, request: SynthesisRequest, variant: int) -> Iterator[AudioChunk]:
        said, cuts = 0, cycle(self.cuts)
        sentences = list(enumerate(map(int, request.text.split())))
        for piece, samples in sentences[request.first_piece :]:
            pcm = rendition(piece, samples, variant)
            start = 0
            while start < samples:
                cut = pcm[start : start + next(cuts)]
                start += len(cut)
                piece_end = self.marks and start == samples
                yield AudioChunk(cut.tobytes(), RATE, said, piece, piece_end)
                said += len(cut)


class GrowingUtterance:
    """Says each text as soon as it has it."""

    def __init__(
        self, replica: Replica, stream: Stream, request: SynthesisRequest, seed: int, g: Growth
    ) -> None:
        self.stream, self._replica, self._seed = stream, replica, seed
        self._first = request.first_piece
        self._pieces = self._said = self._texts = 0
        self._say(request.text)
        self.known = 0
        self.add(0, g)

    def add(self, first: int, growth: Growth) -> int:
        if self.known >= first:
            for text in growth.texts[self.known - first :]:
                self._say(text)
                self.known += 1
        if growth.complete:
            self.end()
        return self.known

    def end(self) -> None:
        # As an engine does that has said nothing.
        last = max(self._first, self._pieces - 1)
        if not self.stream.over:
            chunk = AudioChunk(b"", RATE, self._said, last, texts=self._texts, end=True)
            self.stream.put(chunk)
            self.stream.put(None)

    def _say(self, text: str) -> None:
        numbers = list(map(int, text.split()))
        for place, samples in enumerate(numbers, 1):
            piece, self._pieces = self._pieces, self._pieces + 1
            if piece < self._first:
                continue
            pcm = rendition(piece, samples, self._seed)
            for start in range(0, samples, 100):
                cut = pcm[start : start + 100]
                ends = start + len(cut) == samples
                texts = self._texts + (ends and place == len(numbers))
                chunk = AudioChunk(cut.tobytes(), RATE, self._said, piece, ends, texts)
                self.stream.put(chunk)
                self._said += len(cut)
        self._texts += 1


class FakeTts(FakeDeployment[Replica]):
    """The deployment."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock, Replica)
        self.streams: list[Stream] = []
        self.failure: SpeechError | None = None  # of reports and added texts

    def stream(
        self,
        method: str,
        protocol: int,
        stream_id: str,
        request: SynthesisRequest,
        resumed: bool,
        growth: Growth | None,
    ) -> Stream:
        assert method == "synthesize"
        stream = Stream()
        self.streams.append(stream)
        replica = self._choose(resumed)
        if replica is not None and growth is not None:
            replica.grow(stream_id, stream, request, growth)
        elif replica is not None:
            replica.open(stream, request)
        return stream

    async def call(self, method: str, stream_id: str, *args: Any, replica: str) -> int | None:
        if method == "extend":
            await asyncio.sleep(0)  # others have their turn while it is on its way
        if self.failure is not None:
            raise self.failure
        if method == "extend":
            utterance = self[replica].growing.get(stream_id)
            if utterance is None:
                return -1
            known = utterance.add(*args)
            if args[1].complete:
                del self[replica].growing[stream_id]
            return known
        assert method == "advance"
        self[replica].reports.append(*args)
        return None


class Fixture:
    """Replicas ``a`` and ``b``, and what they say."""

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.tts = FakeTts(time.monotonic)
        self.settings = Settings(takeover_timeout_s=10, answer_timeout_s=4)

    def say(self, text: str, **options: Any) -> SynthesisStream:
        request = SynthesisRequest(text, **options)
        return SynthesisStream(self.tts, request, self.settings)  # type: ignore[arg-type]

    def begin(self, text: str, **options: Any) -> SynthesisStream:
        """An utterance that grows."""
        request = SynthesisRequest(text, **options)
        return SynthesisStream(self.tts, request, self.settings, growing=True)  # type: ignore[arg-type]


async def read(stream: SynthesisStream) -> list[AudioChunk]:
    """All chunks; checks that they follow each other, and that one is the end."""
    chunks = [chunk async for chunk in stream]
    position = 0
    for chunk in chunks:
        assert chunk.first_sample == position
        assert chunk.samples or chunk.end
        position = chunk.next_sample
    assert [chunk.end for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    pieces = [chunk.piece for chunk in chunks]
    assert pieces == sorted(pieces)
    return chunks


async def hear(stream: SynthesisStream, texts: int) -> list[AudioChunk]:
    """Chunks until so many texts have been said."""
    chunks = []
    async for chunk in stream:
        chunks.append(chunk)
        if chunk.texts >= texts:
            break
    return chunks


def audio(chunks: list[AudioChunk]) -> bytes:
    return b"".join(chunk.pcm for chunk in chunks)


def play(script: Callable[[Fixture], Coroutine[Any, Any, None]]) -> None:
    """Run a script in virtual time; afterwards no stream may be left and no task."""

    async def main(time: VirtualTime) -> None:
        fixture = Fixture(time)
        await script(fixture)
        await asyncio.sleep(0.1)
        assert all(stream.over for stream in fixture.tts.streams)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtually(main, "runtime.client.recovery")
