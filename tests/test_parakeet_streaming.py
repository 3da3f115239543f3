"""Live recognition says what NeMo's own streaming pipeline says: alone, in a crowd, at any time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

import torch

from runtime.bench.babble import babble
from runtime.bench.nemo_pipeline import NemoPipeline
from runtime.engines.parakeet.checkpoint import inspect, load
from runtime.engines.parakeet.chunks import Said
from runtime.engines.parakeet.scheduler import Lane, Scheduler, Work
from runtime.engines.parakeet.step import StreamingModel
from runtime.engines.parakeet.streaming import StreamingParakeetRecognizer
from runtime.errors import CheckpointError, ConfigError, UnknownLanguage
from runtime.requests import resolve_recognition
from runtime.speech import (
    FinalTranscript,
    PartialTranscript,
    RecognitionEvent,
    RecognitionOptions,
    Samples,
)

TURN = RecognitionOptions(endpoint_ms=None, partials=False)
CLIPS = [babble(seconds, 50 + seed) for seed, seconds in enumerate((2.0, 1.17, 1.333, 0.64, 0.5))]
SHORT = (1, 2, 4)
SLOTS = 6


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from a second one, and wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tiny_parakeet: Callable[..., Path]) -> Path:
    return tiny_parakeet(streaming=True)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> StreamingModel:
    return StreamingModel(load(inspect(checkpoint)), SLOTS, 1)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> NemoPipeline:
    return NemoPipeline(checkpoint, 1)


@pytest.fixture(scope="module")
def expected(reference: NemoPipeline) -> list[list[int]]:
    """NeMo's tokens of each clip, heard on its own."""
    return [reference.hear([clip])[0][0] for clip in CLIPS]


class Callers:
    """Streams of clips over a model, stepped by hand; a tail of silence is not added."""

    def __init__(self, model: StreamingModel) -> None:
        self.model = model
        self.scheduler = Scheduler(SLOTS, model.chunk_samples, 0, model.hop)
        self.said: dict[Lane, list[int]] = {}

    def open(self) -> Lane:
        lane = self.scheduler.open(None)
        self.said[lane] = []
        return lane

    def step(self) -> list[Work]:
        works = self.scheduler.take(SLOTS)
        said: Iterator[Said] = iter(())
        if chunks := [work.chunk for work in works if work.chunk is not None]:
            said = iter(self.model.step(chunks))
        for work in works:
            if work.chunk is not None:
                self.said[work.lane] += next(said).tokens
        self.scheduler.done(works)
        return works

    def run_dry(self) -> None:
        while self.scheduler.waiting:
            self.step()


LONG = babble(13.0, 60)  # more than twice the 5.6 s of the past that the encoder keeps


def heard_alone(model: StreamingModel, clip: Samples) -> list[int]:
    callers = Callers(model)
    lane = callers.open()
    callers.scheduler.push(lane, clip)
    callers.scheduler.end(lane, 1)
    callers.run_dry()
    return callers.said[lane]


# --- tokens ------------------------------------------------------------------


def test_tokens_are_nemos_long_after_the_past_that_is_kept_has_filled_up(
    model: StreamingModel, reference: NemoPipeline
) -> None:
    assert len(LONG) > 2 * model.hop * 8 * 70
    expected = reference.hear([LONG])[0][0]
    assert len(expected) > 10
    assert heard_alone(model, LONG) == expected


@pytest.mark.parametrize("right_context", [0, 1, 6, 13])
def test_tokens_are_nemos_at_every_lookahead(checkpoint: Path, right_context: int) -> None:
    pipeline = NemoPipeline(checkpoint, right_context)
    model = StreamingModel(load(inspect(checkpoint)), SLOTS, right_context)
    assert model.chunk_samples == pipeline.chunk
    theirs, _ = pipeline.hear(CLIPS)
    assert [heard_alone(model, clip) for clip in CLIPS] == theirs
    distinct = {token for tokens in theirs for token in tokens}
    assert len(distinct) > 5, "a model that says one thing proves nothing"


def test_tokens_are_nemos_in_a_crowd_that_changes_with_every_step(
    model: StreamingModel, expected: list[list[int]]
) -> None:
    """A hundred schedules of streams that begin, pause, end and drop when they like."""
    for seed in range(100):
        chance, callers = random.Random(seed), Callers(model)
        waiting = [chance.choices(SHORT, k=chance.randint(1, 2)) for _ in range(3)]
        live: dict[Lane, tuple[list[int], Samples]] = {}
        ended: list[tuple[Lane, list[int]]] = []
        while waiting or live:
            if waiting and chance.random() < 0.6:
                clips = waiting.pop()
                live[callers.open()] = (clips, CLIPS[clips[0]])
            for lane, (clips, rest) in list(live.items()):
                size = chance.choice((0, 2_560, 6_000, 20_000))
                callers.scheduler.push(lane, rest[:size])
                live[lane] = (clips, rest[size:])
                if len(rest) > size:
                    if chance.random() < 0.02:
                        callers.scheduler.close(lane)
                        del live[lane]
                elif len(clips) > 1:  # its next utterance
                    callers.scheduler.end(lane, 1)
                    live[lane] = (clips[1:], CLIPS[clips[1]])
                    ended.append((lane, expected[clips[0]]))
                else:
                    callers.scheduler.end(lane, 2)
                    ended.append((lane, expected[clips[0]]))
                    del live[lane]
            callers.step()
        callers.run_dry()
        for lane in {lane for lane, _ in ended} - live.keys():
            if not lane._closed:
                whole = [t for other, tokens in ended if other is lane for t in tokens]
                assert callers.said[lane] == whole, f"schedule {seed}"
                callers.scheduler.close(lane)
        assert callers.scheduler.taken == 0


def test_a_slot_remembers_nothing_of_who_had_it_before(
    model: StreamingModel, expected: list[list[int]]
) -> None:
    for clip, tokens in zip(CLIPS, expected, strict=True):
        assert heard_alone(model, clip) == tokens


def test_the_state_of_a_stream_is_what_its_estimate_counts(checkpoint: Path) -> None:
    from runtime.engines.models import ParakeetModel
    from runtime.engines.parakeet.footprint import state_bytes

    parakeet = load(inspect(checkpoint))
    geometry = parakeet.files.geometry
    model = StreamingModel(parakeet, 3, 1)
    table = ParakeetModel(
        parameters=0,
        cached_frames=geometry.left_context,
        layers=geometry.layers,
        d=geometry.d,
        heads=geometry.heads,
        kernel=geometry.kernel,
        mels=geometry.mels,
        subsampling_channels=geometry.subsampling_channels,
        prediction_layers=geometry.prediction_layers,
        prediction_d=geometry.prediction_d,
    )
    assert model.state_bytes / 4 == pytest.approx(state_bytes(table, 4), rel=0.02)


# --- the engine --------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[StreamingParakeetRecognizer]:
    """With as much of a tail as NeMo has: none."""
    options = {"dtype": "float32", "device": "cpu", "slots": 64, "tail_ms": 0}
    engine = StreamingParakeetRecognizer(weights=str(checkpoint), **options)
    asyncio.run(engine.load())
    asyncio.run(engine.exercise())
    yield engine
    assert engine.counts["failed_steps"] == engine.counts["graph_fallbacks"] == 0
    assert engine._loop.taken == 0
    asyncio.run(engine.close())


async def said(
    engine: StreamingParakeetRecognizer,
    clip: Samples,
    blocks: Sequence[int],
    options: RecognitionOptions = TURN,
) -> list[RecognitionEvent]:
    """Events of a clip that is pushed in blocks that end at these samples."""
    stream = engine.open(options)
    try:
        start = 0
        for end in (*blocks, len(clip)):
            await stream.push(clip[start:end])
            await asyncio.sleep(0)
            start = end
        await stream.finalize()
        await stream.finish()
        return [event async for event in stream.events()]
    finally:
        await stream.close()


def texts(events: Sequence[RecognitionEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, FinalTranscript)]


def test_no_more_streams_are_promised_than_steps_were_seen_to_keep_up_with(
    model: StreamingModel,
) -> None:
    """Full steps of 512 in 63 ms are 1,300 streams of 160 ms; 1,000 were too many (H100)."""
    model.slots, before = 1000, model.slots
    try:
        assert model.sustained({512: 63.0, 448: 56.0}) == int(0.6 * 512 / 63.0 * 160)
    finally:
        model.slots = before
    assert model.sustained({8: 1.0}) == model.slots
    assert model.sustained({8: 1e9}) == 1


def test_text_is_nemos(engine: StreamingParakeetRecognizer, reference: NemoPipeline) -> None:
    _, theirs = reference.hear(CLIPS)

    async def main() -> None:
        for clip, text in zip(CLIPS, theirs, strict=True):
            assert texts(await said(engine, clip, [])) == [" ".join(text.split())]

    asyncio.run(main())


def test_text_does_not_depend_on_how_the_samples_arrive(
    engine: StreamingParakeetRecognizer,
) -> None:
    """Blocks of 20 to 500 ms, their boundaries moved by 0 to 70 ms: as one push."""
    clip = CLIPS[0]

    async def main() -> None:
        whole = texts(await said(engine, clip, []))
        assert whole[0]
        cuts = [
            range(offset * 16 or block * 16, len(clip), block * 16)
            for block in (20, 50, 80, 160, 230, 500)
            for offset in range(0, 80, 10)
        ]
        found = await asyncio.gather(*(said(engine, clip, cut) for cut in cuts))
        assert [texts(events) for events in found] == [whole] * len(cuts)

    asyncio.run(main())


def test_turns_of_one_stream_are_as_streams_of_their_own(
    engine: StreamingParakeetRecognizer,
) -> None:
    async def main() -> None:
        alone = [texts(await said(engine, clip, []))[0] for clip in CLIPS]
        stream = engine.open(TURN)
        for clip in CLIPS:
            await stream.push(clip)
            await stream.finalize()
        await stream.finish()
        finals = [e async for e in stream.events() if isinstance(e, FinalTranscript)]
        assert [final.text for final in finals] == alone
        assert [final.request for final in finals] == [1, 2, 3, 4, 5]
        ends = np.cumsum([len(clip) for clip in CLIPS]) / 16_000
        assert [final.settled_s for final in finals] == pytest.approx(list(ends))

    asyncio.run(main())


def test_the_tail_is_the_silence_that_the_lookahead_asks_for(
    engine: StreamingParakeetRecognizer, checkpoint: Path
) -> None:
    """Without ``tail_ms`` an utterance is heard as if so much silence had followed it."""
    clip = CLIPS[2]
    tail = np.zeros(1280, dtype=np.float32)

    async def main() -> None:
        options = {"dtype": "float32", "device": "cpu", "slots": 2}
        padding = StreamingParakeetRecognizer(weights=str(checkpoint), **options)
        try:
            await padding.load()
            padded = texts(await said(padding, clip, []))
        finally:
            await padding.close()
        assert padded == texts(await said(engine, np.concatenate([clip, tail]), []))

    asyncio.run(main())


def test_partials_and_words_lead_up_to_the_final(engine: StreamingParakeetRecognizer) -> None:
    options = RecognitionOptions(endpoint_ms=None, words=True)

    async def main() -> None:
        *partials, final = await said(engine, CLIPS[0], range(1280, 30_000, 1280), options)
        assert isinstance(final, FinalTranscript)
        for before, after in zip(partials, [*partials[1:], final], strict=True):
            assert isinstance(before, PartialTranscript)
            assert after.text.startswith(before.text[: before.stable])
        assert " ".join(word.text for word in final.words) == final.text
        times = [time for word in final.words for time in (word.start_s, word.end_s)]
        assert 0 <= min(times) <= max(times) <= 2.0
        assert [word.start_s for word in final.words] == sorted(times[::2])

    asyncio.run(main())


def test_silence_in_a_recording_cuts_it_and_loses_no_word(
    engine: StreamingParakeetRecognizer,
) -> None:
    pause = np.zeros(16_000, dtype=np.float32)
    recording = np.concatenate([CLIPS[0], pause, CLIPS[2], pause])

    async def main() -> None:
        whole = await engine.transcribe(recording, TURN)
        cut = await engine.transcribe(recording, RecognitionOptions(endpoint_ms=400))
        assert len(cut.utterances) > 1
        # A token that goes on with a word after a cut stands alone there.
        assert cut.text.replace(" ", "") == whole.text.replace(" ", "")
        assert whole.seconds == cut.seconds == len(recording) / 16_000

    asyncio.run(main())


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(16_000, dtype=np.float32),
        np.full(16_000, 0.5, dtype=np.float32),  # DC
        np.sign(babble(1.0)).astype(np.float32),  # clipped throughout
        (1e-7 * babble(1.0)).astype(np.float32),
        np.full(16_000, -1e30, dtype=np.float32),
    ],
    ids=["silence", "dc", "clipping", "whisper", "beyond"],
)
def test_odd_sounds_get_a_final_and_leave_the_neighbours_alone(
    engine: StreamingParakeetRecognizer, sound: Samples
) -> None:
    clip = CLIPS[2]

    async def main() -> None:
        alone = texts(await said(engine, clip, []))
        odd, near = await asyncio.gather(
            said(engine, sound, []), said(engine, clip, range(2560, 20_000, 2560))
        )
        assert len(texts(odd)) == 1
        assert texts(near) == alone
        assert texts(await said(engine, clip, [])) == alone

    asyncio.run(main())


# --- what cannot be ----------------------------------------------------------


def test_what_cannot_be_is_refused_before_anything_is_loaded(
    checkpoint: Path, tiny_parakeet: Callable[..., Path], tmp_path: Path
) -> None:
    make = StreamingParakeetRecognizer
    with pytest.raises(ConfigError, match=r"cannot stream .* Engine 'parakeet' recognises"):
        make(weights=str(tiny_parakeet(streaming=False)))
    with pytest.raises(CheckpointError, match="there is no"):
        make(weights=str(tmp_path / "none.nemo"))
    with pytest.raises(ConfigError, match=r"tail_ms is -1; .* from 0 to 2000"):
        make(weights=str(checkpoint), tail_ms=-1)
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        make(weights=str(checkpoint), device="tpu")
    engine = make(weights=str(checkpoint))
    assert engine.capabilities.languages == ("en",)
    with pytest.raises(UnknownLanguage, match="does not understand 'fr'"):
        resolve_recognition(RecognitionOptions(language="fr"), engine.capabilities)
    with pytest.raises(RuntimeError, match="before load"):
        engine.open(TURN)
