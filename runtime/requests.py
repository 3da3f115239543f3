"""Requests against what an engine can do: validated once, at the edge, defaults filled in.

Errors name what was asked and what there is instead; engines trust what passed here.
"""

from __future__ import annotations

import math
from dataclasses import replace

from runtime.errors import (
    InvalidRequest,
    NothingToSpeak,
    TextTooLong,
    UnknownLanguage,
    UnknownVoice,
    UnsupportedOption,
)
from runtime.speakable import has_speech, speakable
from runtime.speech import (
    RecognitionOptions,
    RecognizerCapabilities,
    SynthesisRequest,
    SynthesizerCapabilities,
    Voice,
)
from runtime.text import primary_language
from runtime.voices import find_voice, is_blend, parse_blend

MAX_TEXT_BYTES = 3_000_000
"""Longest text of one request, in UTF-8: a handle call carries at most 4 MiB (gRPC's default)."""

MAX_PHRASE_CHARS = 200
MAX_BOOST = 10.0


def resolve_synthesis(
    request: SynthesisRequest, capabilities: SynthesizerCapabilities
) -> tuple[SynthesisRequest, int]:
    """Validate a request against an engine and fill in its defaults.

    Returns:
        The request with speakable text, an exact voice name and a primary language
        subtag, as engines expect it; and the number of characters removed from the text.

    Raises:
        NothingToSpeak: The text holds no letter and no number.
        TextTooLong: More than ``MAX_TEXT_BYTES`` of text.
        UnknownVoice: No such voice, or it does not speak the language asked for.
        UnknownLanguage: No voice speaks the language.
        UnsupportedOption: Pace, seed or raw text that the engine cannot honour.
        InvalidRequest: A first piece below 0.
    """
    check_text_length(request.text)
    voice = _pick_voice(request, capabilities)
    language = primary_language(request.language) if request.language else voice.languages[0]
    _check_options(request, capabilities)
    text, removed = resolve_text(request.text)
    return replace(request, text=text, voice=voice.name, language=language), removed


def resolve_text(text: str) -> tuple[str, int]:
    """A text as engines take it, and the number of characters removed from it.

    Raises:
        NothingToSpeak: It holds no letter and no number.
    """
    clean = speakable(text)
    if not has_speech(clean.text):
        raise NothingToSpeak(
            "The text is empty or whitespace; give at least one word."
            if not text.strip()
            else f"Nothing in {text[:40]!r} can be spoken; give a letter or a digit."
        )
    return clean.text, clean.removed


def check_text_length(text: str, before: int = 0) -> None:
    """Refuse a text that one call cannot carry; callers do so before they send it.

    Args:
        text: That is to be sent.
        before: Bytes of what goes with it.

    Raises:
        TextTooLong: More than ``MAX_TEXT_BYTES``.
    """
    if before + 4 * len(text) <= MAX_TEXT_BYTES:  # four bytes a character at the most
        return
    size = before + len(text.encode("utf-8", errors="surrogatepass"))
    if size > MAX_TEXT_BYTES:
        raise TextTooLong(
            f"The text has {size:,} bytes in UTF-8; one request carries at most "
            f"{MAX_TEXT_BYTES:,}. Send it in parts."
        )


def _pick_voice(request: SynthesisRequest, capabilities: SynthesizerCapabilities) -> Voice:
    language = primary_language(request.language) if request.language else None
    if language is not None and language not in capabilities.languages:
        raise UnknownLanguage(
            f"No voice speaks {request.language!r}; languages: {', '.join(capabilities.languages)}."
        )
    if request.voice is None:
        speaking = (v for v in capabilities.voices if language is None or language in v.languages)
        return next(speaking)
    voice = _find_voice(request.voice, capabilities)
    if language is not None and language not in voice.languages:
        raise UnknownVoice(
            f"Voice {voice.name!r} does not speak {language!r}; it speaks: "
            f"{', '.join(voice.languages)}."
        )
    return voice


def _find_voice(name: str, capabilities: SynthesizerCapabilities) -> Voice:
    names = tuple(voice.name for voice in capabilities.voices)
    if not (capabilities.blends and is_blend(name)):
        return capabilities.voices[names.index(find_voice(name, names))]
    blend = parse_blend(name, names)
    parts = [capabilities.voices[names.index(part)] for part, _ in blend.parts]
    spoken = [tag for tag in parts[0].languages if all(tag in part.languages for part in parts)]
    if not spoken:
        raise UnknownVoice(f"Voices in {str(blend)!r} have no language in common.")
    return Voice(str(blend), tuple(spoken), "blend")


def _check_options(request: SynthesisRequest, capabilities: SynthesizerCapabilities) -> None:
    if request.speed != 1.0:
        if capabilities.speed is None:
            raise UnsupportedOption("This engine speaks at one pace; leave speed at 1.0.")
        slowest, fastest = capabilities.speed
        if not slowest <= request.speed <= fastest:  # also refuses NaN
            raise UnsupportedOption(
                f"Speed {request.speed} is out of range; this engine takes {slowest} to {fastest}."
            )
    if request.seed is not None and not capabilities.seed:
        raise UnsupportedOption("This engine cannot repeat its audio; leave seed unset.")
    if request.seed is not None and request.seed < 0:
        raise UnsupportedOption(f"A seed is a whole number from 0; {request.seed} is not.")
    if request.first_piece < 0:
        raise InvalidRequest(f"Pieces are counted from 0; {request.first_piece} is none.")
    if not request.normalise and not capabilities.raw_text:
        raise UnsupportedOption("This engine always normalises its text; leave normalise on.")


def resolve_recognition(
    options: RecognitionOptions, capabilities: RecognizerCapabilities
) -> RecognitionOptions:
    """Validate options against an engine and fill in its default language.

    Raises:
        UnknownLanguage: The engine does not understand the language.
        UnsupportedOption: Word times or phrases from an engine without, too many phrases, or a
            senseless endpoint.
        InvalidRequest: A mode or a deadline that cannot be, or phrases that are none.
    """
    if options.mode not in ("live", "file"):
        raise InvalidRequest(f"There is no recognition mode {options.mode!r}; use live or file.")
    language = primary_language(options.language) if options.language else None
    if language is not None and language not in capabilities.languages:
        raise UnknownLanguage(
            f"The recognizer does not understand {options.language!r}; languages: "
            f"{', '.join(capabilities.languages)}."
        )
    if options.words and not capabilities.words:
        raise UnsupportedOption(
            "This engine knows no times of words; ask for words=False, or for mode='file' "
            "if that engine knows them."
        )
    if options.endpoint_ms is not None and options.endpoint_ms < 100:
        raise UnsupportedOption(
            f"endpoint_ms is {options.endpoint_ms}; silences inside words last up to 100 ms."
        )
    _check_phrases(options, capabilities.phrases)
    check_deadline(options.deadline_s)
    return replace(options, language=language or capabilities.languages[0])


def check_deadline(deadline_s: float | None) -> None:
    """Check a deadline as options have it.

    Raises:
        InvalidRequest: It is no time above 0.
    """
    if deadline_s is not None and not 0 < deadline_s < math.inf:  # also refuses NaN
        raise InvalidRequest(f"deadline_s is {deadline_s}; give seconds above 0, or none.")


def _check_phrases(options: RecognitionOptions, most: int) -> None:
    phrases = options.phrases
    if not phrases:
        return
    if not most:
        raise UnsupportedOption("This engine cannot be told what to expect; leave out phrases.")
    if len(phrases) > most:
        raise UnsupportedOption(
            f"{len(phrases):,} phrases are too many: this engine expects up to {most:,}. Give "
            "those that matter for this recording."
        )
    for phrase in phrases:
        if not has_speech(phrase) or len(phrase) > MAX_PHRASE_CHARS:
            raise InvalidRequest(
                f"{phrase[:40]!r} is no phrase to expect: give words as they should read, up to "
                f"{MAX_PHRASE_CHARS} characters."
            )
    if not 0 < options.boost <= MAX_BOOST:  # also refuses NaN
        raise UnsupportedOption(f"boost is {options.boost}; it is above 0 and up to {MAX_BOOST:g}.")
