"""The contract: what a request is turned into, and what is refused and how."""

from __future__ import annotations

import math
import pickle

import pytest

import runtime.errors
from runtime.errors import (
    InvalidRequest,
    NothingToSpeak,
    Overloaded,
    SpeechError,
    TextTooLong,
    UnknownLanguage,
    UnknownVoice,
    UnsupportedOption,
)
from runtime.requests import MAX_TEXT_BYTES, resolve_recognition, resolve_synthesis
from runtime.speech import (
    AudioChunk,
    FinalTranscript,
    RecognitionOptions,
    RecognizerCapabilities,
    SynthesisRequest,
    SynthesizerCapabilities,
    Transcript,
    Voice,
    Word,
)

VOICES = (Voice("Ada", ("en", "de")), Voice("Béla", ("hu",)), Voice("Chloé", ("fr", "en")))
PLAIN = SynthesizerCapabilities(voices=VOICES, sample_rate=24_000, streaming=False)
ABLE = SynthesizerCapabilities(
    voices=VOICES, sample_rate=24_000, streaming=True, speed=(0.5, 2.0), seed=True, raw_text=True
)


def spoken(text: str = "Hello.", **fields: object) -> SynthesisRequest:
    resolved, _ = resolve_synthesis(SynthesisRequest(text, **fields), ABLE)  # type: ignore[arg-type]
    return resolved


# --- synthesis: defaults, voices, languages ----------------------------------


def test_the_first_voice_and_its_first_language_are_the_default() -> None:
    resolved, removed = resolve_synthesis(SynthesisRequest("Hello."), PLAIN)
    assert resolved == SynthesisRequest("Hello.", voice="Ada", language="en")
    assert removed == 0


@pytest.mark.parametrize("name", ["Chloé", "chloé", "CHLOÉ"])
def test_a_voice_is_found_in_any_case_and_gets_its_exact_name(name: str) -> None:
    assert spoken(voice=name).voice == "Chloé"


def test_a_voice_alone_chooses_its_own_first_language() -> None:
    assert spoken(voice="chloé").language == "fr"


@pytest.mark.parametrize(("tag", "voice"), [("en", "Ada"), ("de", "Ada"), ("fr", "Chloé")])
def test_a_language_alone_chooses_the_first_voice_that_speaks_it(tag: str, voice: str) -> None:
    assert (spoken(language=tag).voice, spoken(language=tag).language) == (voice, tag)


@pytest.mark.parametrize("tag", ["en-US", "en_GB", "EN", "En-latn-US"])
def test_only_the_primary_subtag_of_a_language_counts(tag: str) -> None:
    assert spoken(language=tag).language == "en"


def test_an_unknown_voice_is_refused_with_the_voices_there_are() -> None:
    with pytest.raises(
        UnknownVoice, match=r"no voice 'Dora'; voices: Ada, Béla, Chloé\."
    ) as caught:
        spoken(voice="Dora")
    assert isinstance(caught.value, InvalidRequest)


def test_an_empty_voice_is_an_unknown_one() -> None:
    with pytest.raises(UnknownVoice, match="no voice ''"):
        spoken(voice="")


def test_an_unknown_language_is_refused_with_the_languages_there_are() -> None:
    with pytest.raises(UnknownLanguage, match=r"'xx-YY'; languages: en, de, hu, fr\."):
        spoken(language="xx-YY")


def test_an_unknown_language_is_refused_though_the_voice_is_known() -> None:
    with pytest.raises(UnknownLanguage):
        spoken(voice="Ada", language="xx")


def test_a_voice_that_does_not_speak_the_language_is_refused_with_those_it_speaks() -> None:
    with pytest.raises(UnknownVoice, match=r"'Ada' does not speak 'hu'; it speaks: en, de\."):
        spoken(voice="ada", language="hu-HU")


def test_each_language_of_the_voices_is_listed_once() -> None:
    assert PLAIN.languages == ("en", "de", "hu", "fr")


# --- synthesis: options ------------------------------------------------------


@pytest.mark.parametrize("speed", [0.5, 0.75, 1.0, 2.0])
def test_a_pace_within_the_range_is_kept(speed: float) -> None:
    assert spoken(speed=speed).speed == speed


@pytest.mark.parametrize("speed", [0.49, 2.01, 0.0, -1.0, math.inf, -math.inf, math.nan])
def test_a_pace_out_of_range_is_refused_with_the_range(speed: float) -> None:
    with pytest.raises(UnsupportedOption, match=rf"Speed {speed} is out of range.*0\.5 to 2\.0"):
        spoken(speed=speed)


@pytest.mark.parametrize("speed", [0.99, math.nan])
def test_any_pace_but_its_own_is_refused_where_an_engine_has_one(speed: float) -> None:
    with pytest.raises(UnsupportedOption, match="one pace"):
        resolve_synthesis(SynthesisRequest("Hello.", speed=speed), PLAIN)


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_a_seed_is_kept(seed: int) -> None:
    assert spoken(seed=seed).seed == seed


def test_a_seed_below_zero_is_refused() -> None:
    with pytest.raises(UnsupportedOption, match="-1 is not"):
        spoken(seed=-1)


@pytest.mark.parametrize("seed", [0, 7, -1])
def test_a_seed_is_refused_where_audio_cannot_be_repeated(seed: int) -> None:
    with pytest.raises(UnsupportedOption, match="leave seed unset"):
        resolve_synthesis(SynthesisRequest("Hello.", seed=seed), PLAIN)


def test_raw_text_is_refused_where_an_engine_always_normalises() -> None:
    with pytest.raises(UnsupportedOption, match="leave normalise on"):
        resolve_synthesis(SynthesisRequest("Hello.", normalise=False), PLAIN)


def test_raw_text_is_handed_on_where_an_engine_takes_it() -> None:
    assert spoken(normalise=False).normalise is False


# --- synthesis: text ---------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000\r\n"])
def test_no_text_is_nothing_to_speak(text: str) -> None:
    with pytest.raises(NothingToSpeak, match="empty or whitespace"):
        spoken(text)


@pytest.mark.parametrize("text", ["👋🎉", "... !?", "<br/>", "\u200b\u200d"])
def test_text_without_a_letter_or_number_is_nothing_to_speak_and_is_quoted(text: str) -> None:
    with pytest.raises(NothingToSpeak, match="can be spoken; give a letter or a digit") as caught:
        spoken(text)
    assert repr(text) in str(caught.value)


def test_a_long_text_is_quoted_in_part() -> None:
    with pytest.raises(NothingToSpeak) as caught:
        spoken("!" * 10_000)
    assert len(str(caught.value)) < 200


def test_what_cannot_be_spoken_is_removed_and_counted() -> None:
    resolved, removed = resolve_synthesis(SynthesisRequest("Well done 🎉🎉 you!"), PLAIN)
    assert resolved.text == "Well done you!"
    assert removed == 2


def test_a_text_of_the_greatest_length_is_taken() -> None:
    text = ("word " * (MAX_TEXT_BYTES // 5))[: MAX_TEXT_BYTES - 1] + "s"
    assert len(text) == MAX_TEXT_BYTES
    assert spoken(text).text == text


def test_a_longer_text_is_refused_with_both_lengths() -> None:
    with pytest.raises(TextTooLong, match=r"3,000,001 bytes.*at most 3,000,000"):
        spoken("a" * (MAX_TEXT_BYTES + 1))


# --- audio chunks ------------------------------------------------------------


def test_a_chunk_knows_where_the_next_begins() -> None:
    chunk = AudioChunk(bytes(200), 24_000, first_sample=1_000)
    assert (chunk.samples, chunk.next_sample) == (100, 1_100)


def test_a_last_chunk_may_be_empty() -> None:
    assert AudioChunk(b"", 24_000, first_sample=1_000, end=True).next_sample == 1_000


# --- recognition -------------------------------------------------------------

DEAF_TO_TIME = RecognizerCapabilities(
    languages=("en", "de"), sample_rate=16_000, streaming=True, words=False, slots=1
)
HEARS_ALL = RecognizerCapabilities(
    languages=("en", "de"), sample_rate=16_000, streaming=True, words=True, slots=1
)


def test_the_first_language_is_the_default_and_nothing_else_changes() -> None:
    resolved = resolve_recognition(RecognitionOptions(sample_rate=8_000), DEAF_TO_TIME)
    assert resolved == RecognitionOptions(sample_rate=8_000, language="en")


@pytest.mark.parametrize("tag", ["de", "de-AT", "DE_ch"])
def test_a_language_to_recognise_is_reduced_to_its_primary_subtag(tag: str) -> None:
    assert resolve_recognition(RecognitionOptions(language=tag), DEAF_TO_TIME).language == "de"


def test_a_language_that_is_not_understood_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnknownLanguage, match=r"'fr-FR'; languages: en, de\."):
        resolve_recognition(RecognitionOptions(language="fr-FR"), DEAF_TO_TIME)


def test_times_of_words_are_refused_where_an_engine_knows_none() -> None:
    with pytest.raises(UnsupportedOption, match="no times of words"):
        resolve_recognition(RecognitionOptions(words=True), DEAF_TO_TIME)


def test_times_of_words_are_kept_where_an_engine_knows_them() -> None:
    assert resolve_recognition(RecognitionOptions(words=True), HEARS_ALL).words


@pytest.mark.parametrize("endpoint", [-1, 0, 99])
def test_an_endpoint_shorter_than_silences_within_words_is_refused(endpoint: int) -> None:
    with pytest.raises(UnsupportedOption, match=f"endpoint_ms is {endpoint}"):
        resolve_recognition(RecognitionOptions(endpoint_ms=endpoint), DEAF_TO_TIME)


@pytest.mark.parametrize("endpoint", [None, 100, 5_000])
def test_an_endpoint_or_none_is_kept(endpoint: int | None) -> None:
    options = RecognitionOptions(endpoint_ms=endpoint)
    assert resolve_recognition(options, DEAF_TO_TIME).endpoint_ms == endpoint


@pytest.mark.parametrize("mode", ["", "Live", "batch"])
def test_a_mode_there_is_not_is_refused_with_those_there_are(mode: str) -> None:
    with pytest.raises(InvalidRequest, match=f"mode '{mode}'; use live or file"):
        resolve_recognition(RecognitionOptions(mode=mode), DEAF_TO_TIME)  # type: ignore[arg-type]


# --- transcripts -------------------------------------------------------------


def test_a_transcript_joins_its_finals_and_their_words() -> None:
    hello, world = Word("hello", 0.1, 0.4), Word("world", 1.1, 1.4)
    first = FinalTranscript("hello", 0, 0.0, 0.5, (hello,))
    second = FinalTranscript("world", 1, 1.0, 1.5, (world,), request=2)
    assert Transcript.of([first, second], 2.0) == Transcript(
        "hello world", 2.0, (hello, world), (first, second)
    )


def test_finals_without_text_leave_no_trace_in_a_transcript() -> None:
    silent = FinalTranscript("", 0, 0.0, 0.0, request=1)
    spoken_one = FinalTranscript("yes", 1, 1.0, 1.5)
    whole = Transcript.of([silent, spoken_one, silent], 3.0)
    assert (whole.text, whole.utterances) == ("yes", (spoken_one,))


def test_a_recording_without_speech_has_an_empty_transcript() -> None:
    assert Transcript.of([], 4.0) == Transcript("", 4.0)


# --- errors ------------------------------------------------------------------


def subclasses(base: type[SpeechError]) -> list[type[SpeechError]]:
    own = [c for c in base.__subclasses__() if c.__module__ == runtime.errors.__name__]
    return [base, *(found for child in own for found in subclasses(child))]


ERRORS = sorted(set(subclasses(SpeechError)), key=lambda error: error.__name__)


def test_every_error_of_the_module_is_in_the_hierarchy() -> None:
    defined = [e for e in vars(runtime.errors).values() if isinstance(e, type)]
    assert set(defined) == set(ERRORS)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_survives_pickling_with_its_message_and_attributes(
    kind: type[SpeechError], protocol: int
) -> None:
    error = kind("Slot 7 is taken; ask again.")
    error.add_note("seen by replica 3")
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is kind
    assert str(copy) == "Slot 7 is taken; ask again."
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert copy.exit_code == error.exit_code


def test_when_to_come_back_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(Overloaded("All slots are taken.", retry_after_s=2.5)))
    assert copy.retry_after_s == 2.5


@pytest.mark.parametrize("kind", [e for e in ERRORS if issubclass(e, InvalidRequest)])
def test_a_request_that_cannot_work_is_a_value_error_and_exits_with_2(
    kind: type[SpeechError],
) -> None:
    assert issubclass(kind, ValueError)
    assert kind.exit_code == 2
