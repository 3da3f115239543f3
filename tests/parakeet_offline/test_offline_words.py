"""The offline Parakeet says NeMo's own words, and sooner what it is told to expect."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the extra `nemo`")
from offline_parakeet import FILE, WINDOW_S, Run
from tiny_parakeet import babble, restore

from runtime.engines.parakeet.boosting import MAX_PHRASES, Boost
from runtime.engines.parakeet.checkpoint import inspect, load
from runtime.engines.parakeet.offline import ParakeetRecognizer
from runtime.engines.parakeet.offline_model import OfflineModel
from runtime.engines.parakeet.words import Tokens, Vocabulary, sentences, utterance
from runtime.errors import (
    InvalidRequest,
    UnknownLanguage,
    UnsupportedOption,
)
from runtime.requests import resolve_recognition
from runtime.speech import RecognitionOptions, Transcript, Word

SHORT = (0.02, 0.3, 0.99, 1.0, 3.3, 4.0)  # seconds; NeMo pads what is shorter than one
WHOLE = 9.0  # longer than a window, and still taken in one piece


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
