"""The latency table: from load to a turn, with one stream and with many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runtime.accept.section import Section
from runtime.bench import asr, tts, turn
from runtime.bench.corpus import SENTENCES
from runtime.bench.report import distribution
from runtime.client import SpeechClient
from runtime.engines.trials.line import Line, skipped
from runtime.replica import EngineInfo

Show = Callable[[str], None]


async def latency_table(
    client: SpeechClient, streams: Sequence[int], utterances: int, show: Show
) -> Section:
    """Measure as ``speech bench`` does, from the caller's side of the handle.

    Args:
        client: Of the daemon.
        streams: Streams at once, a row for each.
        utterances: Of each row.
        show: Told which part is done.
    """
    section = Section(
        "Latency",
        about="times start at the caller, so the handle's hop is inside them; distributions in ms",
    )
    infos = await client.info()
    engines = {engine.role: engine for info in infos.values() for engine in info.engines}
    section.tables["Start"] = [_start(engine) for engine in engines.values()]

    def on_row(what: str) -> Callable[[dict[str, Any]], None]:
        return lambda row: show(f"{what}, {row['streams']} at once")

    if "tts" in engines:
        one_by_one = await _one_by_one(client, utterances)
        section.tables["Synthesis, whole utterances one by one"] = [one_by_one]
        rows = await tts.sweep(client, streams, utterances, None, on_row("synthesis"))
        section.tables["Synthesis"] = rows
        section.lines += [_keeps_up(row) for row in rows if row["pacing"] != "off"]
    if engines.keys() >= {"tts", "live", "file"}:
        rows = await asr.sweep(client, streams, utterances, on_row("recognition"))
        section.tables["Recognition"] = rows
        clips = await asr.spoken_clips(client)
        rows = await turn.sweep(client, clips, streams, utterances, on_row("turns"))
        section.tables["Turns, without a language model"] = rows
    else:
        why = "it takes a synthesizer and recognizers for live and for file"
        section.lines.append(skipped("recognition and turns", "measured", why))
    return section


def _start(engine: EngineInfo) -> dict[str, Any]:
    return {
        "role": engine.role,
        "engine": engine.name,
        "load_s": round(engine.load.seconds, 2),
        "warmup_ms": round(engine.load.warmup_ms, 1),
        "slots": engine.capabilities.slots,
        **engine.load.details,
    }


async def _one_by_one(client: SpeechClient, utterances: int) -> dict[str, Any]:
    """Latency of whole utterances, as a system without streaming would have it."""
    tally = tts.Tally()
    for index in range(utterances):
        async with client.synthesize(SENTENCES[index % len(SENTENCES)]) as stream:
            await tally.listen(stream)
    return {
        "utterance_ms": distribution(tally.utterance_ms),
        "first_audio_ms": distribution(tally.first_audio_ms),
        "rtf": round(sum(tally.rtf) / len(tally.rtf), 4),
        "audio_s": round(tally.audio_s, 1),
    }


def _keeps_up(row: dict[str, Any]) -> Line:
    what = "audio in time"
    subject = f"synthesis, {row['streams']} at once"
    found = f"{row['underruns']} underruns, {row['underrun_s']:g} s of silence within utterances"
    if not row["underruns"]:
        return Line(subject, what, "pass", found)
    return Line(subject, what, "warn", found, "fewer slots, or a faster engine")
