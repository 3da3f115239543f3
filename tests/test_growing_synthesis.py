"""Utterances whose text grows: all that was given is said, once and in order, whatever happens."""

from __future__ import annotations

import asyncio
import random

import pytest
from fake_tts import DRAWN_SEED, Fixture, audio, hear, play, undisturbed
from virtual_time import VirtualTime, run_virtually

from deployments.growing import Growing
from runtime.client.synthesis import SynthesisStream
from runtime.errors import NothingToSpeak, SessionClosed, TextTooLong
from runtime.growing import TextCount, pieces_of
from runtime.speech import AudioChunk, SynthesisRequest
from runtime.tally import SpokenTally


def texts_in(chunks: list[AudioChunk]) -> list[int]:
    """What the chunks say of how many texts are over, each figure once."""
    return list(dict.fromkeys(chunk.texts for chunk in chunks))


async def rest_of(stream: SynthesisStream) -> list[AudioChunk]:
    return [chunk async for chunk in stream]


def check(chunks: list[AudioChunk], text: str) -> None:
    """They are contiguous, say the text, and end once."""
    position = 0
    for chunk in chunks:
        assert chunk.first_sample == position
        position = chunk.next_sample
    assert audio(chunks) == undisturbed(text)
    assert [chunk.end for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    counts = [chunk.texts for chunk in chunks]
    assert counts == sorted(counts)


def test_texts_are_said_in_one_utterance_as_they_come() -> None:
    async def script(f: Fixture) -> None:
        stream = f.begin("150 220")
        chunks = await hear(stream, 1)
        waiting = asyncio.create_task(hear(stream, 2))
        await asyncio.sleep(1)
        assert not waiting.done(), "nothing more to say"
        stream.extend("300")
        chunks += await waiting
        stream.extend("80")
        stream.extend("90 100")
        stream.finish()
        chunks += await rest_of(stream)
        check(chunks, "150 220 300 80 90 100")
        assert texts_in(chunks) == [0, 1, 2, 3, 4]
        assert [chunk.piece for chunk in chunks if chunk.piece_end] == [0, 1, 2, 3, 4, 5]
        assert f.tts.opened == ["a"]
        with pytest.raises(SessionClosed, match="begin another"):
            stream.extend("100")

    play(script)


def test_texts_given_before_the_first_is_asked_for_go_with_the_call() -> None:
    async def script(f: Fixture) -> None:
        stream = f.begin("150")
        stream.extend("70")
        stream.finish()
        chunks = await rest_of(stream)
        check(chunks, "150 70")
        assert texts_in(chunks) == [0, 1, 2]

    play(script)


def test_a_replica_that_was_given_nothing_for_long_is_left_and_another_call_goes_on() -> None:
    async def script(f: Fixture) -> None:
        stream = f.begin("150 220")
        chunks = await hear(stream, 1)
        f.tts["a"].run_dry()
        waiting = asyncio.create_task(hear(stream, 2))
        await asyncio.sleep(60)
        assert not waiting.done()
        assert all(call.over for call in f.tts.streams), "no slot is held"
        stream.extend("300")
        chunks += await waiting
        stream.finish()
        chunks += await rest_of(stream)
        check(chunks, "150 220 300")
        assert f.tts["a"].requests[1].first_piece == 2
        assert f.tts["a"].requests[1].seed == DRAWN_SEED
        assert f.tts.resumed == [False, False]
        assert stream.takeovers == 0, "no replica was lost"

    play(script)


def test_an_utterance_that_is_finished_with_nothing_left_to_say_just_ends() -> None:
    async def script(f: Fixture) -> None:
        for dry in (False, True):
            stream = f.begin("150")
            chunks = await hear(stream, 1)
            if dry:
                f.tts["a"].run_dry()
                waiting = asyncio.create_task(rest_of(stream))
                await asyncio.sleep(1)
                stream.finish()
                chunks += await waiting
            else:
                stream.finish()
                chunks += await rest_of(stream)
            check(chunks, "150")
        assert f.tts.opened == ["a", "a"]

    play(script)


def test_a_replica_lost_between_texts_or_within_one_is_made_good_by_another() -> None:
    async def script(f: Fixture) -> None:
        stream = f.begin("150 220")
        chunks = await hear(stream, 1)
        stream.extend("300 400")
        chunks += [await anext(stream) for _ in range(5)]  # of 7
        f.tts["a"].lose()
        f.tts.serve("b")
        chunks += await hear(stream, 2)
        f.tts["b"].lose()
        f.tts.serve("c")
        stream.extend("50")
        stream.finish()
        chunks += await rest_of(stream)
        check(chunks, "150 220 300 400 50")
        assert stream.takeovers == 2

    play(script)


def test_a_text_whose_call_was_lost_is_said_nevertheless() -> None:
    async def script(f: Fixture) -> None:
        from runtime.errors import EngineFailed

        stream = f.begin("150")
        chunks = await hear(stream, 1)
        f.tts.failure = EngineFailed("The call failed.")
        stream.extend("220")
        waiting = asyncio.create_task(hear(stream, 2))
        await asyncio.sleep(1)
        f.tts.failure = None
        f.tts["a"].run_dry()  # it has heard of no text
        chunks += await waiting
        stream.finish()
        chunks += await rest_of(stream)
        check(chunks, "150 220")

    play(script)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_all_texts_are_said_once_and_in_order(seed: int) -> None:
    chance = random.Random(seed)

    async def script(f: Fixture) -> None:
        stream = f.begin("150")
        given, chunks = ["150"], []
        names = iter("cdefghijklmnopqrstuvwxyz")
        reading = asyncio.create_task(rest_of(stream))
        for _ in range(chance.randrange(4, 12)):
            match chance.randrange(5):
                case 0:
                    f.tts[chance.choice(sorted(f.tts.serving))].lose()
                    alive = "".join(name for name in f.tts.serving if f.tts[name].alive)
                    f.tts.serve(alive + next(names))
                case 1:
                    for replica in f.tts:
                        replica.run_dry()
                case _:
                    numbers = [str(chance.randrange(40, 250)) for _ in range(chance.choice((1, 3)))]
                    given += numbers
                    stream.extend(" ".join(numbers))
            if chance.random() < 0.5:
                await asyncio.sleep(chance.choice((0, 0.05, 3)))
        stream.finish()
        chunks += await reading
        check(chunks, " ".join(given))

    play(script)


def test_a_replica_lost_while_there_is_nothing_to_say_is_not_missed() -> None:
    async def script(f: Fixture) -> None:
        stream = f.begin("150 220")
        chunks = await hear(stream, 1)
        waiting = asyncio.create_task(hear(stream, 2))
        await asyncio.sleep(1)
        f.tts["a"].lose()
        f.tts.serve("")
        await asyncio.sleep(60)
        assert not waiting.done()
        assert f.tts.opened == ["a"], "nobody is asked before there is something to say"
        f.tts.serve("b")
        stream.extend("300")
        chunks += await waiting
        f.tts["b"].lose()
        f.tts.serve("")
        stream.finish()  # all has been said: no replica is needed for the end
        chunks += await rest_of(stream)
        check(chunks, "150 220 300")

    play(script)


def test_the_end_is_told_though_the_replica_ran_dry_just_before() -> None:
    async def script(f: Fixture) -> None:
        stream = f.begin("150")
        chunks = await hear(stream, 1)
        f.tts["a"].run_dry()
        chunks.append(await anext(stream))  # which is the end of what it had
        assert not chunks[-1].end
        stream.finish()
        chunks += await rest_of(stream)
        check(chunks, "150")

    play(script)


def test_a_call_that_was_refused_at_first_is_no_takeover() -> None:
    async def script(f: Fixture) -> None:
        from runtime.errors import Overloaded

        stream = f.begin("150")
        chunks = await hear(stream, 1)
        f.tts["a"].run_dry()
        waiting = asyncio.create_task(hear(stream, 2))
        await asyncio.sleep(1)
        for name in "ab":
            f.tts[name].refusal = Overloaded("All slots are taken.", 0.2)
        stream.extend("220")
        await asyncio.sleep(0.5)
        for name in "ab":
            f.tts[name].refusal = None
        chunks += await waiting
        stream.finish()
        check(chunks + await rest_of(stream), "150 220")
        assert stream.takeovers == 0
        assert not any(f.tts.resumed)

    play(script)


def test_an_utterance_that_is_left_holds_nothing() -> None:
    async def script(f: Fixture) -> None:
        for _ in range(3):
            stream = f.begin("150")
            await hear(stream, 1)
            stream.extend("220")
            await stream.aclose()
            assert await rest_of(stream) == []
            with pytest.raises(SessionClosed):
                stream.extend("220")

    play(script)


def test_who_waits_for_a_text_is_told_when_the_utterance_is_closed() -> None:
    async def script(f: Fixture) -> None:
        stream = f.begin("150")
        await hear(stream, 1)
        f.tts["a"].run_dry()
        waiting = asyncio.create_task(rest_of(stream))
        await asyncio.sleep(1)
        await stream.aclose()
        (last,) = await waiting  # that the replica has run dry
        assert not last.end

    play(script)


def test_what_cannot_be_added_is_refused_at_once() -> None:
    async def script(f: Fixture) -> None:
        with pytest.raises(SessionClosed):
            f.say("150").extend("220")
        stream = f.begin("150")
        for empty in ("", "  ", "🙂!"):
            with pytest.raises(NothingToSpeak):
                stream.extend(empty)
        with pytest.raises(TextTooLong, match=r"3,000,00\d bytes"):
            stream.extend("1" * 2_999_998)
        stream.extend("220")
        stream.finish()
        check(await rest_of(stream), "150 220")

    play(script)


# --- in the replica ----------------------------------------------------------


def growing(timeout_s: float = 5.0) -> tuple[Growing, SpokenTally]:
    tally = SpokenTally("one", resumed=False)
    tally.resolved(SynthesisRequest("First."), 0)
    return Growing(timeout_s, tally), tally


def test_a_replica_gives_texts_in_order_and_ends_with_the_last() -> None:
    async def main(time: VirtualTime) -> None:
        texts, tally = growing()
        texts.add(["Two.", "Three."], 1, complete=False)
        reading = asyncio.create_task(_all(texts))
        await asyncio.sleep(60)
        assert not texts.over, "something is still being said"
        texts.add(["Four."], 0, complete=True)
        assert texts.over
        assert await reading == ["Two.", "Three.", "Four."]
        assert texts.count == 3
        assert tally.removed == 1
        assert tally.line(words=True)["text"] == "First. Two. Three. Four."

    run_virtually(main, "runtime.tally")


@pytest.mark.parametrize("hurried", [False, True])
def test_a_replica_waits_for_a_text_so_long_and_not_at_all_once_it_stops(hurried: bool) -> None:
    async def main(time: VirtualTime) -> None:
        texts, _ = growing(timeout_s=5.0)
        texts.add(["Two."], 0, complete=False)
        reading = asyncio.create_task(_all(texts))
        await asyncio.sleep(20)
        texts.spoken(2)
        started = time.monotonic()
        if hurried:
            await asyncio.sleep(1)
            texts.hurry()
        assert await reading == ["Two."]
        assert time.monotonic() - started == pytest.approx(1.0 if hurried else 5.0)
        assert texts.over

    run_virtually(main, "runtime.tally")


async def _all(texts: Growing) -> list[str]:
    return [text async for text in texts]


# --- pieces ------------------------------------------------------------------


async def cut(texts: list[str], first_piece: int) -> list[tuple[int, str, int]]:
    async def more() -> object:
        for text in texts[1:]:
            yield text

    request = SynthesisRequest(texts[0], first_piece=first_piece)
    return [(p.index, p.text, p.texts) async for p in pieces_of(request, more(), 40)]  # type: ignore[arg-type]


def test_pieces_are_counted_across_texts_and_never_reach_into_the_next() -> None:
    texts = ["One. Two is a bit", "longer, and three.", "Four! Five! Six"]
    whole = asyncio.run(cut(texts, 0))
    assert whole == [
        (0, "One.", 0),
        (1, "Two is a bit", 1),
        (2, "longer, and three.", 2),
        (3, "Four!", 2),
        (4, "Five!", 2),
        (5, "Six", 3),
    ]
    for first in range(8):
        assert asyncio.run(cut(texts, first)) == whole[first:]


def test_texts_are_over_when_their_last_piece_with_a_sound_is() -> None:
    count = TextCount(first_piece=0)
    assert count.texts == 0
    count.planned(1)
    count.planned(None)  # while the first is being said
    assert count.texts == 0
    count.spoken(0)
    assert count.texts == 0
    count.spoken(1)
    assert count.texts == 2
    count.planned(None)
    assert count.texts == 3
    count.planned(4)
    assert count.texts == 3
    later = TextCount(first_piece=2)
    later.planned(1)
    later.planned(2)
    assert later.texts == 1
