"""Every language spoken, and English heard again: what an engine says must be words."""

from __future__ import annotations

import time

import numpy as np

from runtime.accept.section import Section
from runtime.audio import pcm16_to_float32
from runtime.bench.asr import Clip
from runtime.bench.wer import word_errors
from runtime.client import SpeechClient
from runtime.engines.trials.line import Line, skipped
from runtime.errors import SpeechError
from runtime.speech import RecognitionMode, Samples, Voice

SENTENCES = {
    "en": "Please confirm your appointment for next Tuesday.",
    "es": "Por favor, confirme su cita para el próximo martes.",
    "de": "Bitte bestätigen Sie Ihren Termin für nächsten Dienstag.",
    "fr": "Veuillez confirmer votre rendez-vous pour mardi prochain.",
    "vi": "Vui lòng xác nhận cuộc hẹn của bạn vào thứ Ba tới.",
    "it": "Si prega di confermare il suo appuntamento per martedì prossimo.",
    "pt": "Por favor, confirme a sua consulta para a próxima terça-feira.",
    "zh": "请确认您下周二的预约。",
    "hi": "कृपया अगले मंगलवार के लिए अपनी नियुक्ति की पुष्टि करें।",
    "ja": "来週の火曜日のご予約を確認してください。",
    "ko": "다음 주 화요일 예약을 확인해 주세요.",
    "ar": "يرجى تأكيد موعدك يوم الثلاثاء القادم.",
}
"""The same sentence in each language."""

_SHORTEST_S = 0.3
_LONGEST_S_PER_CHARACTER = 0.6  # a slow speaker of Chinese takes half of it
_SILENT = 0.003  # root mean square of samples in [-1, 1]: -50 dB


async def every_language(client: SpeechClient) -> Section:
    """Say a sentence in each language that a voice speaks, with its first such voice."""
    section = Section("Languages", about="one sentence each; nobody has listened to it here")
    rows = []
    for language, voice in _voices(await client.voices()).items():
        text = SENTENCES.get(language)
        if text is None:
            why = "there is no sentence in this language here"
            section.lines.append(skipped(language, "spoken", why))
            continue
        started = time.perf_counter()
        try:
            samples, rate = await _said(client, text, voice, language)
        except SpeechError as error:
            found = f"{type(error).__name__}: {error}"
            section.lines.append(Line(language, "spoken", "fail", found))
            continue
        took = time.perf_counter() - started
        line = judged(language, voice, samples, rate, len(text), took)
        section.lines.append(line)
        rows.append(
            {
                "language": language,
                "voice": voice,
                "characters": len(text),
                "audio_s": round(len(samples) / rate, 2),
                "rtf": round(took * rate / max(1, len(samples)), 3),
            }
        )
    section.tables["Spoken"] = rows
    return section


def _voices(voices: tuple[Voice, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for voice in voices:
        for language in voice.languages:
            found.setdefault(language, voice.name)
    return found


async def _said(client: SpeechClient, text: str, voice: str, language: str) -> tuple[Samples, int]:
    parts = []
    async with client.synthesize(text, voice=voice, language=language) as stream:
        async for chunk in stream:
            parts.append(chunk.pcm)
    return pcm16_to_float32(b"".join(parts)), chunk.sample_rate


def judged(
    language: str, voice: str, samples: Samples, rate: int, characters: int, took_s: float
) -> Line:
    """Whether audio can be the text: long enough, not silent, and with an end."""
    seconds = len(samples) / rate
    found = f"{seconds:.2f} s of audio with {voice}"
    if seconds < _SHORTEST_S:
        return Line(language, "spoken", "fail", f"{found}: too short to be it", seconds=took_s)
    if float(np.sqrt(np.mean(np.square(samples)))) < _SILENT:
        return Line(language, "spoken", "fail", f"{found}: silent", seconds=took_s)
    if seconds > _LONGEST_S_PER_CHARACTER * characters:
        mend = "listen to it: the model does not find its end"
        return Line(language, "spoken", "warn", f"{found}: runs on", mend, took_s)
    return Line(language, "spoken", "pass", found, seconds=took_s)


async def round_trip(
    client: SpeechClient, clips: list[Clip], modes: list[RecognitionMode], max_wer: float
) -> Section:
    """Recognise what the daemon's own voice has said, in each mode there is.

    Args:
        client: Of the daemon.
        clips: What it has said, with the texts.
        modes: Of recognition.
        max_wer: The most word errors per word that pass.
    """
    section = Section(
        "English, there and back",
        about="synthesised and recognised again: the errors of both count; texts are compared "
        "with the rules of Whisper's normaliser",
    )
    misheard = []
    for mode in modes:
        wrong = words = 0
        started = time.perf_counter()
        for clip in clips:
            heard = (await client.transcribe(clip.pcm, sample_rate=16_000, mode=mode)).text
            errors, spoken = word_errors(clip.text, heard)
            wrong, words = wrong + errors, words + spoken
            if errors:
                misheard.append({"mode": mode, "errors": errors, "said": clip.text, "heard": heard})
        wer = wrong / max(1, words)
        found = f"WER {100 * wer:.1f} %: {wrong} of {words} words, {len(clips)} sentences"
        took = time.perf_counter() - started
        if wer > max_wer:
            mend = f"at most {100 * max_wer:.0f} % pass; see what was misheard"
            section.lines.append(Line(mode, "word error rate", "fail", found, mend, took))
        else:
            section.lines.append(Line(mode, "word error rate", "pass", found, seconds=took))
    if misheard:
        section.tables["Misheard"] = misheard
    return section
