"""Our own Magpie engine on a tiny model: NeMo's audio as it is made, whatever the neighbours do."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from magpie_speaking import BUILT, ONE, THREE, pcm, speak

from runtime.engines.magpie.engine import MagpieSynthesizer
from runtime.engines.magpie.reference import MagpieReference
from runtime.errors import ConfigError, EngineFailed, NothingToSpeak, Overloaded
from runtime.requests import resolve_synthesis
from runtime.speech import AudioChunk, SynthesisRequest

SLOTS = 4


@pytest.fixture(scope="module")
def engine(tiny_magpie: Callable[..., Path], tiny_codec: Path) -> Iterator[MagpieSynthesizer]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine = MagpieSynthesizer(**options(tiny_magpie, tiny_codec))
    asyncio.run(engine.load())
    yield engine
    asyncio.run(engine.close())
    torch.set_num_threads(threads)


def options(tiny_magpie: Callable[..., Path], tiny_codec: Path, **more: Any) -> dict[str, Any]:
    return {
        "weights": str(tiny_magpie(stacking=2, **BUILT)),
        "codec": str(tiny_codec),
        "device": "cpu",
        "normalizer": "off",
        "temperature": 0.0,
        "slots": SLOTS,
        "carry": 2,
        **more,
    }


def samples(audio: bytes) -> Any:
    return np.frombuffer(audio, dtype="<i2").astype(np.int32)


def assert_same(found: bytes, wanted: bytes) -> None:
    """The same codes: of another one's audio no sample in ten would be so near."""
    assert len(found) == len(wanted)
    assert int(np.abs(samples(found) - samples(wanted)).max(initial=0)) <= 1


def request_of(engine: MagpieSynthesizer, text: str, **fields: Any) -> SynthesisRequest:
    return resolve_synthesis(SynthesisRequest(text, **fields), engine.capabilities)[0]


async def read(engine: MagpieSynthesizer, text: str, **fields: Any) -> list[AudioChunk]:
    return [chunk async for chunk in engine.synthesize(request_of(engine, text, **fields))]


async def settled(engine: MagpieSynthesizer) -> None:
    """Return once there is nothing left to do on the model's thread."""
    while await engine._worker.run(engine._turn):
        pass


@pytest.mark.parametrize("fields", [{}, {"voice": "leo"}, {"voice": "aria:0.6+leo:0.4"}])
def test_its_audio_is_that_of_the_reference_engine(
    engine: MagpieSynthesizer, magpie_engine: Callable[..., MagpieReference], fields: dict[str, Any]
) -> None:
    text = THREE  # the last of which is a group of its own
    reference = magpie_engine(2, temperature=0.0, carry=2)
    found, wanted = speak(engine, text, seed=1, **fields), speak(reference, text, seed=1, **fields)
    assert_same(pcm(found), pcm(wanted))
    assert np.abs(samples(pcm(found))).max() > 100
    pieces = [chunk.piece for chunk in found]
    assert pieces == sorted(pieces)
    assert [c.piece for c in found if c.piece_end] == [c.piece for c in wanted if c.piece_end]
    assert [chunk.end for chunk in found] == [False] * (len(found) - 1) + [True]
    assert all(a.next_sample == b.first_sample for a, b in pairwise(found))
    assert len([chunk for chunk in found if chunk.piece == 0]) > 2  # before its piece is over


def test_callers_at_once_hear_what_each_would_hear_alone(engine: MagpieSynthesizer) -> None:
    asked = [
        {"text": THREE, "voice": "aria"},
        {"text": ONE, "language": "es"},
        {"text": THREE, "voice": "sofia", "language": "de"},
        {"text": "To the text.", "voice": "leo"},
        {"text": ONE, "voice": "aria:0.5+leo:0.5"},
        {"text": THREE, "first_piece": 1},
    ]
    alone = [pcm(speak(engine, **fields, seed=2)) for fields in asked]
    engine.take_steps()

    async def together() -> list[list[AudioChunk]]:
        return await asyncio.gather(*(read(engine, **fields, seed=2) for fields in asked))

    for found, wanted in zip(asyncio.run(together()), alone, strict=True):
        assert_same(pcm(found), wanted)
    steps = engine.take_steps()
    assert {step.stage for step in steps} == {"prefill", "step", "codec"}
    assert max(step.batch for step in steps if step.stage == "step") == SLOTS


def test_a_request_goes_on_from_within_a_group(engine: MagpieSynthesizer) -> None:
    whole = speak(engine, THREE, seed=4)
    rest = speak(engine, THREE, seed=4, first_piece=1)  # which the one before carries over to
    assert rest[0].first_sample == 0
    assert_same(pcm(rest), pcm(whole, since=1))


async def one_by_one(
    engine: MagpieSynthesizer, texts: list[str], wait: bool, **fields: Any
) -> list[AudioChunk]:
    """The chunks of texts of which each comes once the one before has been said, or all at once."""
    said, news = [0], asyncio.Event()

    async def more() -> AsyncIterator[str]:
        for number, text in enumerate(texts[1:], 1):
            while wait and said[0] < number:
                news.clear()
                await news.wait()
            yield text

    chunks = []
    request = request_of(engine, texts[0], **fields)
    async for chunk in engine.synthesize(request, more()):
        chunks.append(chunk)
        said[0] = chunk.texts
        news.set()
    return chunks


def test_a_text_that_grows_is_said_with_what_was_said_before_it(
    engine: MagpieSynthesizer, magpie_engine: Callable[..., MagpieReference]
) -> None:
    texts = ["To the text. Of a name.", "And so on.", "To the end. Of it."]  # groups: 0 1, 2 3, 4
    known = asyncio.run(one_by_one(engine, texts, wait=False, seed=5))
    assert [chunk.piece for chunk in known if chunk.piece_end] == [0, 1, 2, 3, 4]
    over = [(chunk.piece, chunk.texts) for chunk in known if chunk.piece_end]
    assert over == [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3)]
    assert known[-1].end
    assert known[-1].texts == 3
    found = asyncio.run(one_by_one(engine, texts, wait=True, seed=5))
    assert_same(pcm(found), pcm(known))
    reference = magpie_engine(2, temperature=0.0, carry=2)
    assert_same(pcm(asyncio.run(one_by_one(reference, texts, wait=True, seed=5))), pcm(known))  # type: ignore[arg-type]
    alone = speak(engine, texts[2], seed=5)
    assert pcm(alone, since=0) != pcm(known, since=3), "its first piece follows another one"
    for first in (1, 3):  # within a group of which another text has the first piece
        rest = asyncio.run(one_by_one(engine, texts, wait=False, seed=5, first_piece=first))
        assert_same(pcm(rest), pcm(known, since=first))


def test_a_text_without_a_sound_counts_as_said_in_its_place(engine: MagpieSynthesizer) -> None:
    texts = ["To the text.", "你好", "Of a name."]
    for wait in (True, False):
        chunks = asyncio.run(one_by_one(engine, texts, wait=wait, seed=5))
        over = list(dict.fromkeys((chunk.piece, chunk.texts) for chunk in chunks))
        assert over == [(0, 0), *([(0, 1)] if wait else []), (0, 2), (2, 2), (2, 3)]
        assert [chunk.piece for chunk in chunks if chunk.piece_end] == [0, 2]


def test_a_caller_that_leaves_frees_its_slot_at_once(engine: MagpieSynthesizer) -> None:
    async def leave() -> int:
        async with aclosing(engine.synthesize(request_of(engine, THREE * 4))) as chunks:
            await anext(chunks)
            assert engine._scheduler is not None
            assert engine._scheduler.free == SLOTS - 1
        await settled(engine)
        return engine._scheduler.free

    assert asyncio.run(leave()) == SLOTS


def test_what_is_made_ahead_of_the_reader_is_bounded(
    tiny_magpie: Callable[..., Path], tiny_codec: Path
) -> None:
    engine = MagpieSynthesizer(**options(tiny_magpie, tiny_codec, lead_s=0.5, slots=1))

    async def dawdle() -> int:
        await engine.load()
        made = 0
        async with aclosing(engine.synthesize(request_of(engine, THREE * 4))) as chunks:
            await anext(chunks)
            await settled(engine)
            assert engine._scheduler is not None
            (utterance,) = engine._scheduler._speaking
            made = utterance.delivered
        await engine.close()
        return made

    assert 0.5 <= asyncio.run(dawdle()) / 22_050 < 0.5 + 8 * 1024 / 22_050


def test_more_requests_than_may_wait_are_refused(engine: MagpieSynthesizer) -> None:
    async def crowd() -> list[Any]:
        callers = [read(engine, "To the text.") for _ in range(4 * SLOTS)]
        return await asyncio.gather(*callers, return_exceptions=True)

    answers = asyncio.run(crowd())
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert refused
    assert all(isinstance(answer, list) for answer in answers if answer not in refused)


def test_text_without_any_sound_is_told(engine: MagpieSynthesizer) -> None:
    with pytest.raises(NothingToSpeak):
        speak(engine, "你好", language="en")
    assert engine._scheduler is not None
    assert engine._scheduler.free == SLOTS


def test_a_device_that_is_lost_fails_callers_and_the_health_check(
    tiny_magpie: Callable[..., Path], tiny_codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MagpieSynthesizer(**options(tiny_magpie, tiny_codec, slots=2))

    async def lose() -> float:
        await engine.load()
        engine.check()
        assert engine._machine is not None

        def lost(*_: object) -> list[int]:
            raise RuntimeError("CUDA error: unspecified launch failure")

        async with aclosing(engine.synthesize(request_of(engine, THREE * 4))) as chunks:
            await anext(chunks)
            monkeypatch.setattr(engine._machine, "step", lost)
            began = time.monotonic()
            with pytest.raises(EngineFailed, match="launch failure"):
                async for _ in chunks:
                    pass
        with pytest.raises(EngineFailed, match="launch failure"):
            engine.check()
        with pytest.raises(EngineFailed, match="launch failure"):
            await read(engine, ONE)
        took = time.monotonic() - began
        await engine.close()
        return took

    assert asyncio.run(lose()) < 2


def test_a_gpu_that_does_not_answer_is_found_by_the_health_check(
    tiny_magpie: Callable[..., Path], tiny_codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MagpieSynthesizer(**options(tiny_magpie, tiny_codec, slots=2))
    entered, let_go = threading.Event(), threading.Event()

    async def hang() -> None:
        await engine.load()
        assert engine._machine is not None
        step = engine._machine.step

        def hung(slots: Sequence[int]) -> list[int]:
            entered.set()
            assert let_go.wait(60)
            return step(slots)

        async with aclosing(engine.synthesize(request_of(engine, ONE))) as chunks:
            monkeypatch.setattr(engine._machine, "step", hung)
            speaking = asyncio.ensure_future(anext(chunks))
            await asyncio.to_thread(entered.wait, 60)
            engine.check()  # on a CPU, work may take its time
            monkeypatch.setattr(engine, "_hung_s", 0.0)
            with pytest.raises(EngineFailed, match="has not answered"):
                engine.check()
            let_go.set()
            await speaking
        await engine.close()

    asyncio.run(hang())


def test_closing_fails_who_is_speaking_and_frees_the_model(
    tiny_magpie: Callable[..., Path], tiny_codec: Path
) -> None:
    engine = MagpieSynthesizer(**options(tiny_magpie, tiny_codec, slots=1))

    async def close() -> None:
        await engine.load()
        async with aclosing(engine.synthesize(request_of(engine, THREE * 4))) as chunks:
            await anext(chunks)
            await engine.close()
            with pytest.raises(EngineFailed, match="closed"):
                async for _ in chunks:
                    pass

    asyncio.run(close())
    assert engine._machine is None


def test_options_that_cannot_be_are_refused(
    tiny_magpie: Callable[..., Path], tiny_codec: Path
) -> None:
    for wrong in (
        {"cuda_graphs": "maybe"},
        {"kernels": "fast"},
        {"lead_s": -1.0},
        {"slots": 0},
        {"speed": 2},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            MagpieSynthesizer(**{**options(tiny_magpie, tiny_codec), **wrong})


def test_the_load_report_says_what_was_made(
    tiny_magpie: Callable[..., Path], tiny_codec: Path
) -> None:
    engine = MagpieSynthesizer(**options(tiny_magpie, tiny_codec, slots=2, cuda_graphs=False))

    async def load() -> Any:
        report = await engine.load()
        await engine.exercise()
        await engine.close()
        return report

    report = asyncio.run(load())
    assert report.warmup_ms > 0
    assert report.details["graphs"] == "0 captured, 0 eager instead"
    assert set(report.details) >= {"slots", "steps", "dtype", "normalizer", "languages"}


# --- the scheduler over the real machine ----------------------------------------------------------


@dataclass
class Heard:
    """An utterance of some parts, and what it was given."""

    parts: list[Any]
    given: list[Any] = field(default_factory=list)

    def submit(self, scheduler: Any) -> Any:
        from runtime.engines.magpie.scheduler import Utterance

        utterance = Utterance(self.given.append)
        utterance.parts.extend(self.parts)
        utterance.complete = True
        scheduler.submit(utterance)
        return utterance

    @property
    def audio(self) -> bytes:
        return b"".join(getattr(item, "pcm", b"") for item in self.given)


def parts_of(engine: MagpieSynthesizer, seed: int) -> list[Any]:
    from runtime.engines.magpie.prefill import Chunk
    from runtime.engines.magpie.scheduler import Part

    assert engine._planner is not None
    end = engine._planner.shortest[-1]
    chance = random.Random(seed)
    voice = engine._voices[chance.choice(sorted(engine._contexts))]
    count = chance.randint(1, 2)
    return [
        Part(
            Chunk(
                (*(chance.randint(0, 40) for _ in range(chance.randint(5, 30))), end),
                voice,
                temperature=0.0,
                last=index == count - 1,
            ),
            piece=index,
            carries=index > 0,
            ends_piece=True,
        )
        for index in range(count)
    ]


def test_a_hundred_random_schedules_on_the_tiny_model(
    tiny_magpie: Callable[..., Path], tiny_codec: Path
) -> None:
    from runtime.engines.magpie.scheduler import Scheduler

    engine = MagpieSynthesizer(
        **options(tiny_magpie, tiny_codec, max_utterance_s=0.5, cuda_graphs=False)
    )
    asyncio.run(engine.load())
    engine._worker.close()
    asyncio.run(engine._worker.finished())
    machine = engine._machine

    def scheduler() -> Any:
        counts = {"chunks_cut_short": 0, "requests_broken": 0}
        return Scheduler(machine, SLOTS, lead_s=60.0, clock=time.monotonic, counts=counts)

    def alone(seed: int) -> bytes:
        heard, one = Heard(parts_of(engine, seed)), scheduler()
        heard.submit(one)
        while one.turn():
            pass
        return heard.audio

    wanted = {seed: alone(seed) for seed in range(12)}
    assert len(set(wanted.values())) == len(wanted)
    for schedule in range(100):
        chance, all_of_it = random.Random(schedule), scheduler()
        under_way: dict[int, tuple[Heard, Any]] = {}
        for seed in chance.sample(sorted(wanted), chance.randint(2, 5)):
            heard = Heard(parts_of(engine, seed))
            under_way[seed] = heard, heard.submit(all_of_it)
            for _ in range(chance.randint(0, 3)):
                all_of_it.turn()
            if chance.random() < 0.2:
                chance.choice(list(under_way.values()))[1].cancelled = True
        while all_of_it.turn():
            pass
        assert all_of_it.free == SLOTS
        for seed, (heard, utterance) in under_way.items():
            assert_same(
                heard.audio,
                wanted[seed][: len(heard.audio)] if utterance.cancelled else wanted[seed],
            )
    asyncio.run(engine.close())
