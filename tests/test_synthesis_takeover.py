"""An utterance whose replica is lost: another goes on with it, and no sample is missing.

Replicas are simple and in this process; time passes only where the event loop waits for
it, so that no test waits.
"""

from __future__ import annotations

import asyncio
import gc

import pytest
from fake_tts import DRAWN_SEED, Fixture, audio, play, read, rendition, undisturbed
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import DaemonUnavailable, EngineFailed, Overloaded, ReplicaLost

TEXT = "300 250 400"


def full(replica: str, waited_s: float = 0.0) -> Overloaded:
    return Overloaded("All slots are taken.", 0.5, waited_s=waited_s, replica=replica)


# --- engines that repeat their audio -----------------------------------------


@pytest.mark.parametrize("seed", [None, 5])
def test_the_next_replica_goes_on_at_the_first_sample_that_was_not_delivered(
    seed: int | None,
) -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 1 + 3 + 2
        f.tts["b"].cuts = [70, 35]
        stream = f.say(TEXT, seed=seed)
        chunks = await read(stream)
        used = DRAWN_SEED if seed is None else seed
        assert audio(chunks) == undisturbed(TEXT, used)
        assert (f.tts["b"].requests[0].first_piece, f.tts["b"].requests[0].seed) == (1, used)
        assert stream.takeovers == 1
        assert stream.started is not None
        assert stream.started.replica == "b"
        assert f.tts.resumed == [False, True]

    play(script)


def test_the_rest_of_the_request_stays_as_it_was() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 3
        await read(f.say(TEXT, voice="bo", language="zh", speed=1.5, normalise=False))
        first, second = f.tts["a"].requests[0], f.tts["b"].requests[0]
        assert (second.text, second.voice, second.language) == (TEXT, "bo", "zh")
        assert (second.speed, second.normalise) == (first.speed, first.normalise)

    play(script)


@pytest.mark.parametrize(("marks", "piece"), [(True, 1), (False, 0)])
def test_a_sentence_that_is_known_to_be_over_is_not_said_again(marks: bool, piece: int) -> None:
    async def script(f: Fixture) -> None:
        for replica in f.tts:
            replica.marks = marks
        f.tts["a"].lives_for = 1 + 3
        assert audio(await read(f.say(TEXT))) == undisturbed(TEXT)
        assert f.tts["b"].requests[0].first_piece == piece

    play(script)


@pytest.mark.parametrize("lives_for", [1, 2, 4, 6, 7])
def test_an_utterance_that_began_within_the_text_goes_on_there(lives_for: int) -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = lives_for
        assert audio(await read(f.say(TEXT, first_piece=1))) == undisturbed(TEXT, first_piece=1)

    play(script)


def test_several_replicas_may_be_lost_within_one_sentence() -> None:
    async def script(f: Fixture) -> None:
        f.tts.serve("abcde")
        for replica in f.tts:
            replica.lives_for = 1 + {"a": 2, "b": 1, "c": 2, "d": 3}.get(replica.name, 99)
        f.tts["e"].lives_for = None
        stream = f.say("400")
        assert audio(await read(stream)) == undisturbed("400")
        assert stream.takeovers == 4
        assert {replica.requests[0].first_piece for replica in f.tts} == {0}

    play(script)


def test_the_end_of_the_utterance_may_carry_sound() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 1 + 1
        f.tts["b"].cuts, f.tts["b"].sound_at_the_end = [1_000], True
        assert audio(await read(f.say("300"))) == undisturbed("300")

    play(script)


# --- engines that do not -----------------------------------------------------


def test_an_engine_without_seeds_says_the_sentence_again() -> None:
    async def script(f: Fixture) -> None:
        for replica in f.tts:
            replica.repeats = False
        f.tts["a"].lives_for = 1 + 3 + 2
        chunks = await read(f.say(TEXT))
        assert (f.tts["b"].requests[0].first_piece, f.tts["b"].requests[0].seed) == (1, None)
        pcm = audio(chunks)
        first, again = rendition(0, 300, ord("a")), rendition(1, 250, ord("a"))
        assert pcm[: 2 * 500] == first.tobytes() + again[:200].tobytes()
        new = rendition(1, 250, ord("b"))
        seam = int.from_bytes(pcm[2 * 500 : 2 * 501], "little", signed=True)
        fade = 40  # samples: 5 ms
        assert abs(seam - int(new[0]) - int(again[199]) * fade / (fade + 1)) <= 1, (
            "there is no click"
        )
        rest = new[fade:].tobytes()
        assert pcm[2 * (500 + fade) :] == rest + rendition(2, 400, ord("b")).tobytes()

    play(script)


def test_an_engine_without_seeds_goes_on_with_the_next_sentence_where_it_can() -> None:
    async def script(f: Fixture) -> None:
        for replica in f.tts:
            replica.repeats = False
        f.tts["a"].lives_for = 1 + 3
        pcm = audio(await read(f.say(TEXT)))
        others = rendition(1, 250, ord("b")).tobytes() + rendition(2, 400, ord("b")).tobytes()
        assert pcm == rendition(0, 300, ord("a")).tobytes() + others, "nothing is faded"

    play(script)


# --- before the beginning, and at the end ------------------------------------


def test_an_utterance_that_every_replica_refuses_does_not_begin() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].refusal, f.tts["b"].refusal = full("a"), full("b")
        with pytest.raises(Overloaded) as caught:
            await anext(f.say(TEXT))
        assert caught.value is f.tts["b"].refusal
        assert f.tts.opened == ["a", "b"]
        assert f.time.now == 1_000.0

    play(script)


def test_an_utterance_that_waited_in_a_queue_in_vain_does_not_begin() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].refusal = full("a", waited_s=3.0)
        with pytest.raises(Overloaded):
            await anext(f.say(TEXT))
        assert f.tts.opened == ["a"]

    play(script)


def test_a_replica_lost_before_the_beginning_is_not_noticed() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 0
        stream = f.say(TEXT)
        assert audio(await read(stream)) == undisturbed(TEXT)
        assert stream.takeovers == 0
        assert not any(f.tts.resumed)
        assert f.tts["b"].requests[0].seed is None, "nothing was promised"

    play(script)


@pytest.mark.parametrize("serving", ["ab", ""])
def test_an_utterance_that_no_replica_begins_fails_in_time(serving: str) -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].silent = f.tts["b"].silent = True
        f.tts.serve(serving)
        with pytest.raises(DaemonUnavailable, match="No replica answered for 10 s"):
            await anext(f.say(TEXT))
        assert f.time.now == pytest.approx(1_010.0, abs=0.1)

    play(script)


def test_a_replica_lost_after_the_end_is_not_noticed() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 1 + 3 + 3 + 4 + 1
        stream = f.say(TEXT)
        assert audio(await read(stream)) == undisturbed(TEXT)
        assert stream.takeovers == 0
        assert f.tts.opened == ["a"]
        assert [chunk async for chunk in stream] == []

    play(script)


def test_a_replica_lost_before_the_end_was_told_is_asked_for_nothing_but_the_end() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 1 + 3 + 3 + 4
        chunks = await read(f.say(TEXT))
        assert audio(chunks) == undisturbed(TEXT)
        assert f.tts["b"].requests[0].first_piece == 3

    play(script)


# --- looking for another replica ---------------------------------------------


def test_an_utterance_under_way_tries_again_where_it_is_refused() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 3
        f.tts["b"].refusal = full("b", waited_s=1.0)
        asyncio.get_running_loop().call_later(9.0, setattr, f.tts["b"], "refusal", None)
        assert audio(await read(f.say(TEXT))) == undisturbed(TEXT)
        assert 1_009.0 <= f.time.now <= 1_009.6
        assert all(f.tts.resumed[1:])

    play(script)


def test_each_replica_that_is_lost_is_another_reason_to_be_patient() -> None:
    async def script(f: Fixture) -> None:
        f.tts.serve("abc")
        f.tts["a"].lives_for, f.tts["b"].lives_for = 1 + 2, 1 + 3
        f.tts["c"].refusal = full("c")
        stream = f.say(TEXT)
        chunks = [await anext(stream) for _ in range(3)]
        assert stream.takeovers == 1
        await asyncio.sleep(20.0)
        asyncio.get_running_loop().call_later(9.0, setattr, f.tts["c"], "refusal", None)
        chunks += [chunk async for chunk in stream]
        assert audio(chunks) == undisturbed(TEXT)

    play(script)


@pytest.mark.parametrize("refuses", [True, False])
def test_an_utterance_under_way_gives_up_in_time(refuses: bool) -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 3
        f.tts["b"].refusal = full("b") if refuses else None
        f.tts["b"].silent = True
        expected = Overloaded if refuses else DaemonUnavailable
        with pytest.raises(expected) as caught:
            await read(f.say(TEXT))
        assert type(caught.value) is expected
        assert f.time.now == pytest.approx(1_010.0, abs=0.1)

    play(script)


def test_takeovers_are_those_that_succeeded() -> None:
    async def script(f: Fixture) -> None:
        f.tts.serve("abcd")
        f.tts["a"].lives_for = 3
        f.tts["b"].lives_for = f.tts["c"].lives_for = 0
        stream = f.say(TEXT)
        assert audio(await read(stream)) == undisturbed(TEXT)
        assert stream.takeovers == 1

    play(script)


def test_what_the_engine_failed_of_is_raised_and_not_tried_again() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for, f.tts["a"].failure = 3, EngineFailed("The model failed.")
        stream = f.say(TEXT)
        with pytest.raises(EngineFailed):
            await read(stream)
        assert f.tts.opened == ["a"]
        assert [chunk async for chunk in stream] == []

    play(script)


# --- reports, and leaving ----------------------------------------------------


def test_reports_count_the_samples_of_the_replica_they_go_to() -> None:
    async def script(f: Fixture) -> None:
        for replica in f.tts:
            replica.lead = 800  # a report each 200 samples
        f.tts["a"].lives_for = 1 + 3 + 2
        await read(f.say(TEXT))
        await asyncio.sleep(0)
        assert f.tts["a"].reports == [200, 400]
        assert f.tts["b"].reports == [200, 450, 650], "with the 200 that were left out"

    play(script)


def test_a_report_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lead = 0
        f.tts.failure = ReplicaLost("The connection broke.")
        assert audio(await read(f.say(TEXT))) == undisturbed(TEXT)
        await asyncio.sleep(0.1)
        gc.collect()
        assert caplog.records == []

    play(script)


def test_an_utterance_that_is_closed_is_not_taken_over() -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 2
        async with f.say(TEXT) as stream:
            await anext(stream)
        assert [chunk async for chunk in stream] == []
        assert f.tts.opened == ["a"]

    play(script)


@pytest.mark.parametrize("how", ["close", "cancel", "drop"])
def test_who_leaves_while_a_replica_is_looked_for_leaves_no_call_behind(how: str) -> None:
    async def script(f: Fixture) -> None:
        f.tts["a"].lives_for = 2
        f.tts["b"].silent = True
        stream = f.say(TEXT)
        await anext(stream)
        reading = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(2.0)
        if how == "close":
            await stream.aclose()
            assert await reading is None
        else:
            reading.cancel()
            await asyncio.wait({reading})
            assert how == "drop" or [chunk async for chunk in stream] == []
        del stream, reading
        gc.collect()
        assert f.tts.opened == ["a", "b"]

    play(script)


# --- whatever happens --------------------------------------------------------

texts = st.lists(st.integers(1, 400), min_size=1, max_size=5).map(lambda n: " ".join(map(str, n)))
lives = st.lists(
    st.tuples(st.integers(0, 12), st.lists(st.integers(1, 300), min_size=1, max_size=4)),
    max_size=8,
)


def nine_replicas(
    f: Fixture, lost: list[tuple[int, list[int]]], *, marks: bool, repeats: bool = True
) -> None:
    """Replicas of which the first are lost, each at its own time; all mark or repeat, or none."""
    f.tts.serve("abcdefghi")
    for replica, (lives_for, cuts) in zip(f.tts, lost, strict=False):
        replica.lives_for, replica.cuts = lives_for, cuts
    for replica in f.tts:
        replica.marks, replica.repeats = marks, repeats


@settings(deadline=None)
@given(texts, lives, st.booleans())
def test_an_engine_that_repeats_is_heard_as_if_no_replica_had_been_lost(
    text: str, lost: list[tuple[int, list[int]]], marks: bool
) -> None:
    async def script(f: Fixture) -> None:
        nine_replicas(f, lost, marks=marks)
        assert audio(await read(f.say(text))) == undisturbed(text)

    play(script)


@settings(deadline=None)
@given(texts, lives, st.booleans())
def test_an_engine_that_does_not_repeat_says_every_sentence_to_its_end(
    text: str, lost: list[tuple[int, list[int]]], marks: bool
) -> None:
    async def script(f: Fixture) -> None:
        nine_replicas(f, lost, marks=marks, repeats=False)
        chunks = await read(f.say(text))
        said = [0] * len(text.split())
        for chunk in chunks:
            said[chunk.piece if chunk.samples else -1] += chunk.samples
        assert all(a >= int(b) for a, b in zip(said, text.split(), strict=True))

    play(script)
