"""The numbers of an utterance: what is measured, and what of it is written down."""

from __future__ import annotations

import json

import pytest

from runtime.speech import AudioChunk, FinalTranscript, PartialTranscript, SynthesisRequest
from runtime.tally import HeardTally, SpokenTally

RATE = 1000


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def chunk(first: int, samples: int, piece: int = 0, *, end: bool = False) -> AudioChunk:
    return AudioChunk(bytes(2 * samples), RATE, first, piece, end=end)


def spoken(clock: Clock) -> SpokenTally:
    tally = SpokenTally("s1", resumed=False, clock=clock)
    tally.resolved(SynthesisRequest("My secret is 42.", "Aria", "en"), 3)
    clock.now += 0.2
    tally.began(0.2)
    return tally


def test_an_utterance_is_timed_from_its_arrival_and_its_engine_from_its_slot() -> None:
    clock = Clock()
    tally = spoken(clock)
    clock.now += 0.1
    tally.made(chunk(0, 500))
    tally.read()
    clock.now += 0.1
    tally.made(chunk(500, 500, 1))
    tally.made(chunk(1000, 0, 1, end=True))
    tally.outcome = "done"
    line = tally.line(words=False)
    assert line["queued_ms"] == 200
    assert line["first_audio_ms"] == pytest.approx(300)
    assert (line["audio_s"], line["rtf"], line["pieces"]) == (1.0, 0.2, 2)
    assert (line["characters"], line["removed_characters"]) == (16, 3)
    assert (line["underruns"], line["underrun_s"]) == (0, 0.0)


def test_the_time_in_which_there_is_no_text_is_not_the_engines() -> None:
    clock = Clock()
    tally = spoken(clock)
    clock.now += 0.1
    tally.made(AudioChunk(bytes(1000), RATE, 0, 0, True, texts=1))
    tally.read()
    clock.now += 60  # an LLM thinks
    tally.grew(["And so on."], 1)
    clock.now += 0.1
    tally.made(AudioChunk(bytes(1000), RATE, 500, 1, texts=1))
    tally.read()
    clock.now += 0.05
    tally.grew(["Come early."], 0)  # while the one before is still being said
    clock.now += 0.15
    tally.made(AudioChunk(bytes(1000), RATE, 1000, 1, True, texts=2))
    line = tally.line(words=True)
    assert line["rtf"] == pytest.approx(0.4 / 1.5, abs=1e-4)
    assert (line["underruns"], line["texts"], line["removed_characters"]) == (0, 3, 4)
    assert line["text"] == "My secret is 42. And so on. Come early."


def test_silence_that_the_engine_makes_is_an_underrun_and_a_slow_reader_is_none() -> None:
    clock = Clock()
    tally = spoken(clock)
    tally.made(chunk(0, 500))
    clock.now += 30  # the reader takes its time
    tally.read()
    clock.now += 0.75  # and the engine more than there was to play
    tally.made(chunk(500, 500))
    assert tally.playback.underruns == 1
    assert tally.playback.underrun_s == pytest.approx(0.25)
    assert tally.rtf == pytest.approx(0.75)


def test_words_are_written_down_only_when_asked_for() -> None:
    tally = spoken(Clock())
    assert "secret" not in json.dumps(tally.line(words=False))
    assert tally.line(words=True)["text"] == "My secret is 42."
    heard = HeardTally("s2", "live", resumed=False, clock=Clock())
    final = FinalTranscript("my secret", 0, 0.0, 1.0)
    assert "secret" not in json.dumps(heard.final_line(final, None, words=False))
    assert heard.final_line(final, None, words=True)["text"] == "my secret"


def test_a_request_refused_at_once_has_a_line_too() -> None:
    tally = SpokenTally("s1", resumed=False, clock=Clock())
    tally.outcome = "UnknownVoice"
    line = tally.line(words=True)
    assert line["outcome"] == "UnknownVoice"
    assert line["queued_ms"] is line["rtf"] is line["first_audio_ms"] is None


def test_a_final_is_timed_from_the_request_that_it_answers() -> None:
    clock = Clock()
    heard = HeardTally("s2", "live", resumed=False, clock=clock)
    heard.began(0.0, "en")
    assert heard.heard(PartialTranscript("one", 0, 0.0, 0.5)) is None
    heard.asked()
    clock.now += 0.3
    # The stream ended an utterance by itself meanwhile: no answer to anything.
    own = FinalTranscript("one", 0, 0.0, 0.5)
    assert heard.heard(own) is None
    line = heard.final_line(own, None, words=False)
    assert (line["partials"], line["asked_for"], line["final_ms"]) == (1, False, None)
    asked = FinalTranscript("two words", 1, 0.5, 1.0, request=1)
    assert heard.heard(asked) == pytest.approx(0.3)
    assert heard.final_line(asked, 0.3, words=False)["words"] == 2
    assert heard.session_line()["utterances"] == 2
