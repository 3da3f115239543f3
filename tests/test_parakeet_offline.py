"""The offline Parakeet: NeMo's own words, alone and in a crowd, short and long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from tiny_parakeet import babble, restore

from runtime.audio import resample
from runtime.engines import make_recognizer
from runtime.engines.parakeet.boosting import MAX_PHRASES, Boost
from runtime.engines.parakeet.checkpoint import inspect, load
from runtime.engines.parakeet.offline import ParakeetRecognizer
from runtime.engines.parakeet.offline_model import OfflineModel
from runtime.engines.parakeet.words import Tokens, Vocabulary, sentences, utterance
from runtime.errors import (
    CheckpointError,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    UnknownLanguage,
    UnsupportedOption,
)
from runtime.requests import resolve_recognition
from runtime.speech import FinalTranscript, RecognitionOptions, Samples, Transcript, Word

Run = Callable[[Coroutine[Any, Any, Any]], Any]

FILE = RecognitionOptions(mode="file", language="en", partials=False, words=True)
RATE = 16_000
ROWS, WINDOW_S = 4, 4.0
SHORT = (0.02, 0.3, 0.99, 1.0, 3.3, 4.0)  # seconds; NeMo pads what is shorter than one
WHOLE = 9.0  # longer than a window, and still taken in one piece


@pytest.fixture(scope="module")
def weights(tiny_parakeet: Callable[..., Path]) -> Path:
    return tiny_parakeet(streaming=False)


@pytest.fixture(scope="module")
def nemo(weights: Path) -> Any:
    return restore(weights)


@pytest.fixture(scope="module")
def engine(weights: Path, run: Run) -> Iterator[ParakeetRecognizer]:
    options = {"weights": str(weights), "device": "cpu", "slots": ROWS, "window_s": WINDOW_S}
    made = make_recognizer("parakeet", options)
    assert isinstance(made, ParakeetRecognizer)
    run(made.load())
    run(made.exercise())
    yield made
    run(made.close())


class Watched:
    """The engine's model, and the shapes of the batches that it is given."""

    def __init__(self, recognize: Callable[..., list[Tokens]]) -> None:
        self.recognize = recognize
        self.batches: list[list[int]] = []
        self.failing = 0  # length of the recordings that it fails of

    def __call__(self, batch: list[Samples], boosts: Any = None) -> list[Tokens]:
        self.batches.append([len(samples) for samples in batch])
        if self.failing in self.batches[-1]:
            raise ValueError("this one")
        return self.recognize(batch, boosts)


@pytest.fixture
def watched(engine: ParakeetRecognizer, monkeypatch: pytest.MonkeyPatch) -> Watched:
    model = engine._model
    assert model is not None
    watched = Watched(model.recognize)
    monkeypatch.setattr(model, "recognize", watched)
    return watched


async def until(condition: Callable[[], bool]) -> None:
    """Return once the model's thread, which sets no event, has got so far."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def together(engine: ParakeetRecognizer, *sounds: Samples) -> list[Transcript]:
    return await asyncio.gather(*(engine.transcribe(sound, FILE) for sound in sounds))


# --- NeMo's own words --------------------------------------------------------


@pytest.mark.parametrize("seconds", [*SHORT, WHOLE])
def test_text_words_and_confidence_are_those_of_transcribe(
    engine: ParakeetRecognizer, nemo: Any, run: Run, seconds: float
) -> None:
    sound = babble(seconds, seed=round(seconds * 100))
    (told,) = nemo.transcribe([sound], batch_size=1, timestamps=True, verbose=False)
    heard = run(engine.transcribe(sound, FILE))
    assert heard.text == told.text
    assert heard.seconds == pytest.approx(seconds)
    before_s = max(0.0, 1.0 - seconds) / 2  # of silence, which NeMo counts and nobody said
    named = [word for word in told.timestamp["word"] if word["word"]]
    assert [word.text for word in heard.words] == [word["word"] for word in named]
    for word, its in zip(heard.words, named, strict=True):
        times = (its["start"] - before_s, its["end"] - before_s)
        assert (word.start_s, word.end_s) == pytest.approx(np.clip(times, 0, seconds), abs=1e-3)
        assert 0 <= word.confidence <= 1
    assert seconds < 3 or len(heard.words) > 3  # the model does say something


def test_confidence_is_nemos_of_the_least_certain_token(
    engine: ParakeetRecognizer, weights: Path, run: Run
) -> None:
    from omegaconf import open_dict

    model = restore(weights)
    config = model.cfg.decoding
    with open_dict(config):
        config.confidence_cfg = {"preserve_token_confidence": True, "exclude_blank": True}
    model.change_decoding_strategy(config, verbose=False)
    sound = babble(4.0, seed=3)
    (told,) = model.transcribe([sound], batch_size=1, return_hypotheses=True, verbose=False)
    model = engine._model
    assert model is not None
    (tokens,) = model.recognize([sound])
    assert tokens.ids == told.y_sequence.tolist()
    assert tokens.confidence == pytest.approx(told.token_confidence, abs=1e-6)
    words = model.vocabulary.words(tokens, 0.08)
    assert min(word.confidence or 0 for word in words) == pytest.approx(min(tokens.confidence))


def test_words_are_put_together_as_nemo_does_whatever_the_tokens(
    engine: ParakeetRecognizer, nemo: Any
) -> None:
    from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis

    draw = random.Random(0)
    pieces = ["▁a", "b", "▁", ".", "▁.", "?", ",", "cd", "▁ef", "<0xC3>", " ", "é"]

    class Decoding:
        """A vocabulary with all that a word can begin or end with."""

        supported_punctuation = frozenset(".?,")
        word_seperator = " "
        segment_seperators = (".", "?", "!")
        segment_gap_threshold = None
        tokenizer_type = "bpe"
        blank_id = len(pieces)
        _compute_offsets = staticmethod(type(nemo.decoding)._compute_offsets_tdt)
        _refine_timestamps = staticmethod(type(nemo.decoding)._refine_timestamps_tdt)
        compute_rnnt_timestamps = type(nemo.decoding).compute_rnnt_timestamps

        def decode_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [pieces[i] for i in ids]

        def decode_ids_to_str(self, ids: list[int]) -> str:
            return self.decode_tokens_to_str(self.decode_ids_to_tokens(ids))

        def decode_tokens_to_str(self, tokens: list[str]) -> str:
            if tokens == [" "]:
                return " "
            return "".join(t.replace("<0xC3>", "�") for t in tokens).replace("▁", " ").strip(" ")

    decoding = Decoding()
    vocabulary = Vocabulary(decoding, len(pieces))
    for _ in range(2000):
        count = draw.randint(1, 12)
        ids = draw.choices(range(len(pieces)), k=count)
        durations = draw.choices(range(5), k=count)
        starts = [sum(durations[:i]) for i in range(count)]
        hypothesis = Hypothesis(
            score=0.0, y_sequence=ids, timestamp=list(starts), token_duration=list(durations)
        )
        timestamps = decoding.compute_rnnt_timestamps(hypothesis).timestamp
        told = timestamps["word"]
        words = vocabulary.words(Tokens(ids, starts, durations, [1.0] * count), 1.0)
        named = [
            Word(word["word"], word["start_offset"], word["end_offset"], 1.0)
            for word in told
            if word["word"]
        ]
        # NeMo gives the first word the time of the first token, though that is an empty one.
        assert [(w.text, w.end_s) for w in words] == [(w.text, w.end_s) for w in named], ids
        assert [w.start_s for w in words[1:]] == [w.start_s for w in named[1:]], ids
        segments = [one for one in timestamps["segment"] if one["segment"].strip()]
        ours = [utterance(sentence, 0, False) for sentence in sentences(words)]
        # An empty word leaves a space too many there, or is where a segment begins or ends.
        texts = [" ".join(segment["segment"].split()) for segment in segments]
        assert [" ".join(one.text.split()) for one in ours] == texts, ids
        if len(named) == len(told):
            assert [one.end_s for one in ours] == [one["end_offset"] for one in segments], ids
            starts = [one["start_offset"] for one in segments[1:]]
            assert [one.start_s for one in ours[1:]] == starts, ids


def test_the_longest_piece_has_positions_and_none_are_made_later(weights: Path, nemo: Any) -> None:
    model = OfflineModel(load(inspect(weights)), 1, 1, WINDOW_S, longest_s=600.0)
    encoder = model.parakeet.model.encoder
    there = encoder.pos_enc.pe
    assert there.shape[1] >= 2 * 600.0 / 0.08 - 1  # NeMo makes 5,000 frames to each side
    sound = babble(55.0, seed=55)  # at 50 s NeMo would make new ones
    (told,) = nemo.transcribe([sound], batch_size=1, verbose=False)
    (tokens,) = model.recognize([sound])
    assert model.vocabulary.text(tokens.ids) == told.text
    assert encoder.pos_enc.pe is there


# --- in a crowd --------------------------------------------------------------


def test_in_a_crowd_each_hears_what_it_hears_alone(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    sounds = [babble(0.5 + 0.4 * n, seed=n) for n in range(2 * ROWS)]
    alone = [run(engine.transcribe(sound, FILE)) for sound in sounds]
    watched.batches.clear()
    crowd = run(together(engine, *sounds))
    assert [heard.text for heard in crowd] == [heard.text for heard in alone]
    for one, other in zip(crowd, alone, strict=True):
        assert [w.start_s for w in one.words] == [w.start_s for w in other.words]
    assert len(watched.batches) < len(sounds)
    assert max(map(len, watched.batches)) <= ROWS


def test_beyond_the_slots_a_caller_is_told_to_come_again(
    engine: ParakeetRecognizer, run: Run
) -> None:
    async def main() -> list[Any]:
        many = [
            engine.transcribe(babble(1.0, seed=1), FILE)
            for _ in range(engine.capabilities.slots + 1)
        ]
        return await asyncio.gather(*many, return_exceptions=True)

    answers = run(main())
    assert [type(answer) for answer in answers].count(Overloaded) == 1
    assert run(engine.transcribe(babble(1.0), FILE)).seconds == 1.0


def test_a_caller_who_leaves_is_not_recognised_and_frees_its_slot(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    async def main() -> None:
        first = asyncio.create_task(engine.transcribe(babble(3.0), FILE))
        await until(lambda: bool(watched.batches))
        leaving = [
            asyncio.create_task(engine.transcribe(babble(2.0, seed=n), FILE)) for n in range(3)
        ]
        await until(lambda: len(engine._waiting) == 3)
        for task in leaving:
            task.cancel()
        await asyncio.gather(first, *leaving, return_exceptions=True)
        assert engine._whole == 0
        await engine.transcribe(babble(1.0), FILE)

    run(main())
    assert watched.batches == [[3 * RATE], [RATE]]


def test_the_one_that_is_due_goes_before_those_that_came_first(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    async def main() -> None:
        running = asyncio.create_task(engine.transcribe(babble(3.0), FILE))
        await until(lambda: bool(watched.batches))
        due = RecognitionOptions(mode="file", language="en", deadline_s=1.0)
        calls = [engine.transcribe(babble(4.0, seed=n), FILE) for n in range(ROWS)]
        await asyncio.gather(running, *calls, engine.transcribe(babble(2.0), due))

    run(main())
    assert 2 * RATE in watched.batches[1]


def test_one_that_the_model_fails_of_fails_alone(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    watched.failing = round(1.7 * RATE)
    sounds = [babble(1.7, seed=0), *(babble(1.6, seed=n) for n in range(1, 4))]

    async def main() -> list[Any]:
        calls = [engine.transcribe(sound, FILE) for sound in sounds]
        return await asyncio.gather(*calls, return_exceptions=True)

    bad, *good = run(main())
    assert isinstance(bad, EngineFailed)
    assert "this one" in str(bad)
    watched.failing = 0
    assert [one.text for one in good] == [
        run(engine.transcribe(sound, FILE)).text for sound in sounds[1:]
    ]


# --- phrases -----------------------------------------------------------------


def test_a_phrase_is_found_by_whom_it_is_expected_and_by_nobody_else(
    engine: ParakeetRecognizer, run: Run
) -> None:
    sound = babble(3.0, seed=30)
    plain = run(engine.transcribe(sound, FILE)).text
    expecting = RecognitionOptions(mode="file", language="en", phrases=("hello world",), boost=5.0)

    async def main() -> list[Transcript]:
        return await asyncio.gather(
            engine.transcribe(sound, FILE),
            engine.transcribe(sound, expecting),
            engine.transcribe(sound, FILE),
        )

    before, boosted, after = run(main())
    assert before.text == after.text == plain
    assert "hello" not in plain
    assert "hello" in boosted.text


def test_trees_make_room_for_those_that_are_asked_for_now(
    engine: ParakeetRecognizer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine._model
    assert model is not None
    trees = model.trees
    boosts = [Boost((phrase,), 1.0) for phrase in ("hello", "world", "test")]
    made = [trees.tree(boost) for boost in boosts]
    assert trees.tree(boosts[0]) is made[0]
    multi_model = trees._multi_model
    monkeypatch.setattr(
        multi_model, "num_arcs_extended_reserved", 2 * made[0].model.num_arcs_extended + 10
    )
    sound = babble(2.0, seed=2)
    first = model.recognize([sound], [made[0]])
    for tree in made[1:]:
        model.recognize([sound], [tree])
    assert len(trees._shown) == 2
    assert model.recognize([sound], [made[0]]) == first
    with pytest.raises(InvalidRequest, match="too many to hold at once"):
        model.recognize([sound] * 3, made)


def test_more_phrases_than_it_takes_are_refused_with_their_number(
    engine: ParakeetRecognizer,
) -> None:
    def resolve(**options: Any) -> RecognitionOptions:
        return resolve_recognition(RecognitionOptions(**options), engine.capabilities)

    many = tuple(f"phrase {n}" for n in range(10_000))
    with pytest.raises(UnsupportedOption, match=r"10,000 phrases are too many: .* up to 1,000"):
        resolve(phrases=many)
    assert resolve(phrases=many[:MAX_PHRASES]).phrases == many[:MAX_PHRASES]
    with pytest.raises(InvalidRequest, match=r"'!\?' is no phrase"):
        resolve(phrases=("hello", "!?"))
    for boost in (0.0, -1.0, 11.0, float("nan")):
        with pytest.raises(UnsupportedOption, match="boost is"):
            resolve(phrases=("hello",), boost=boost)
    with pytest.raises(UnknownLanguage, match="languages: en"):
        resolve(language="ja")
    for deadline in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="deadline_s is"):
            resolve(deadline_s=deadline)


# --- long recordings ---------------------------------------------------------


def test_a_minute_is_recognised_in_windows_and_holds_up_nobody(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    async def main() -> tuple[Transcript, bool]:
        long = asyncio.create_task(engine.transcribe(babble(60.0, seed=7), FILE))
        await until(lambda: bool(watched.batches))
        await together(engine, babble(1.0), babble(2.0))
        first = not long.done()
        return await long, first

    heard, short_ones_were_first = run(main())
    assert short_ones_were_first
    assert heard.seconds == 60.0
    assert len(heard.words) > 60
    assert max(length for batch in watched.batches for length in batch) <= WINDOW_S * RATE
    assert max(map(len, watched.batches)) <= ROWS
    # Windows overlap by half at this size; no sample is recognised more often than that.
    assert sum(map(sum, watched.batches)) < 1.7 * 63 * RATE
    assert all(one.start_s <= other.start_s for one, other in pairwise(heard.words))
    assert all(0 <= word.start_s <= word.end_s <= 60.0 for word in heard.words)
    assert heard.text == " ".join(word.text for word in heard.words)


def test_a_recording_that_arrives_in_pieces_has_the_words_of_one_that_is_there(
    engine: ParakeetRecognizer, run: Run
) -> None:
    sound = babble(20.0, seed=8)

    async def main() -> tuple[Transcript, list[FinalTranscript]]:
        whole = await engine.transcribe(sound, FILE)
        stream = engine.open(FILE)
        for at in range(0, len(sound), 33_333):
            await stream.push(sound[at : at + 33_333])
        await stream.finish()
        finals = [event async for event in stream.events()]
        await stream.close()
        return whole, [event for event in finals if isinstance(event, FinalTranscript)]

    whole, finals = run(main())
    pieces = [word for final in finals for word in final.words]
    assert [word.text for word in pieces] == [word.text for word in whole.words]
    assert not engine._streams


def test_an_hour_of_silence_costs_nothing_and_says_nothing(
    engine: ParakeetRecognizer, watched: Watched, run: Run
) -> None:
    minute = np.zeros(60 * RATE, dtype=np.float32)

    async def main() -> list[Any]:
        stream = engine.open(FILE)
        for _ in range(60):
            await stream.push(minute)
        await stream.finish()
        events = [event async for event in stream.events()]
        await stream.close()
        return events

    assert run(main()) == []
    assert watched.batches == []


# --- bad input ---------------------------------------------------------------


def test_what_is_no_sound_is_read_as_silence_and_the_rest_heard(
    engine: ParakeetRecognizer, run: Run
) -> None:
    sound = babble(3.0, seed=11)
    broken = sound.copy()
    broken[1000:1003] = (np.nan, np.inf, -np.inf)
    mended = sound.copy()
    mended[1000:1003] = 0
    one, other, bystander = run(together(engine, broken, mended, sound))
    assert one == other
    assert bystander.text == run(engine.transcribe(sound, FILE)).text
    nothing = run(engine.transcribe(np.full(RATE, np.nan, dtype=np.float32), FILE))
    assert (nothing.text, nothing.seconds) == ("", 1.0)
    assert run(engine.transcribe(np.zeros(0, dtype=np.float32), FILE)) == Transcript("", 0.0)


def telephone(sound: Samples) -> Samples:
    """300 to 3,400 Hz, at 8 kHz and in eight bits with mu-law (ITU-T G.711)."""
    spectrum = np.fft.rfft(sound)
    pitch = np.fft.rfftfreq(len(sound), 1 / RATE)
    spectrum[(pitch < 300) | (pitch > 3400)] = 0
    narrow = np.fft.irfft(spectrum, len(sound))[::2]
    coded = np.sign(narrow) * np.log1p(255 * np.abs(np.clip(narrow, -1, 1))) / np.log(256)
    coded = np.round(coded * 127) / 127
    heard = np.sign(coded) * (np.power(256, np.abs(coded)) - 1) / 255
    return resample(heard.astype(np.float32), RATE // 2, RATE)


@pytest.mark.parametrize(
    "sound",
    [
        np.full(2 * RATE, 0.5, dtype=np.float32),  # nothing but DC
        np.clip(30 * babble(2.0), -1, 1),
        5.0 * babble(2.0),  # beyond full scale
        1e30 * babble(2.0),
        np.frombuffer(babble(2.0).tobytes(), dtype=np.float32),  # that cannot be written to
        babble(4.0)[::2],
        telephone(babble(2.0)),
    ],
    ids=["dc", "clipped", "loud", "huge", "read-only", "strided", "telephone"],
)
def test_odd_sound_is_recognised_as_what_it_is(
    engine: ParakeetRecognizer, nemo: Any, run: Run, sound: Samples
) -> None:
    heard = run(engine.transcribe(sound, FILE))
    (told,) = nemo.transcribe([np.array(sound)], batch_size=1, verbose=False)
    assert heard.text == told.text
    assert heard.seconds == len(sound) / RATE


def test_a_checkpoint_of_another_kind_is_refused_with_what_runs_it(
    tiny_parakeet: Callable[..., Path], tiny_codec: Path
) -> None:
    streaming = str(tiny_parakeet(streaming=True))
    with pytest.raises(CheckpointError, match="`parakeet-streaming` runs it"):
        make_recognizer("parakeet", {"weights": streaming})
    with pytest.raises(CheckpointError, match="is no Parakeet: it is a AudioCodecModel"):
        make_recognizer("parakeet", {"weights": str(tiny_codec)})


# --- live, and the end -------------------------------------------------------


def test_a_live_stream_is_cut_by_what_is_spoken(
    engine: ParakeetRecognizer, clips: list[Any], run: Run
) -> None:
    from runtime.audio import AudioFile, resample

    file = AudioFile.open(clips[0].path)
    spoken = resample(np.concatenate(list(file.blocks())), file.sample_rate, RATE)

    async def main() -> list[Any]:
        options = RecognitionOptions(language="en", endpoint_ms=None, words=True)
        stream = engine.open(options)
        await stream.push(spoken)
        assert await stream.finalize() == 1
        await stream.push(np.zeros(RATE, dtype=np.float32))
        assert await stream.finalize() == 2
        await stream.finish()
        events = [event async for event in stream.events()]
        await stream.close()
        return events

    said, silence = run(main())
    assert (said.request, silence.request) == (1, 2)
    assert said.text
    assert said.words
    assert silence.text == ""
    assert not engine._streams


def test_what_waits_when_the_engine_is_closed_is_told(
    weights: Path, engine: ParakeetRecognizer, run: Run
) -> None:
    other = make_recognizer("parakeet", {"weights": str(weights), "device": "cpu", "slots": 2})
    assert isinstance(other, ParakeetRecognizer)
    other._model = engine._model  # loaded once is enough

    async def main() -> list[Any]:
        calls = [asyncio.create_task(other.transcribe(babble(3.0), FILE)) for _ in range(3)]
        await until(lambda: other._serving is not None)
        await other.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = run(main())
    assert {type(answer) for answer in answers} == {EngineFailed}
    with pytest.raises(EngineFailed, match="has been closed"):
        run(other.transcribe(babble(1.0), FILE))
