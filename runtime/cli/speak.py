"""``speech say`` and ``voices``."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import typer
from rich.table import Table

from runtime.audio import WavWriter
from runtime.cli.output import console, notes, print_json, working
from runtime.client import SpeechClient
from runtime.errors import InvalidRequest
from runtime.speech import SynthesisRequest


def say(
    text: str = typer.Argument(help="What to say; - reads it from standard input."),
    voice: str | None = typer.Option(None, "--voice", "-v", help="See `speech voices`."),
    language: str | None = typer.Option(None, "--language", "-l", help="Such as en."),
    speed: float = typer.Option(1.0, help="1.0 is the voice's own pace."),
    seed: int | None = typer.Option(None, help="Makes the audio repeatable."),
    sample_rate: int | None = typer.Option(None, help="Hz; the engine's own by default."),
    output: str = typer.Option(
        "speech.wav", "--output", "-o", help="WAV file; - writes to standard output."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Speak a text into a WAV file, through the daemon."""
    if output == "-" and as_json:
        raise InvalidRequest("Both -o - and --json want standard output; give -o a file.")
    words = sys.stdin.read() if text == "-" else text
    request = SynthesisRequest(words, voice, language, seed=seed, speed=speed)
    if output == "-":
        # A WAV header holds the length, which is known last: gather on disk, then copy.
        with tempfile.TemporaryFile() as gathered:
            result = asyncio.run(_say(request, sample_rate, gathered, as_json))
            gathered.seek(0)
            shutil.copyfileobj(gathered, sys.stdout.buffer)
    else:
        result = asyncio.run(_say(request, sample_rate, Path(output), as_json))
    result["path"] = output
    if as_json:
        print_json(result)
    else:
        notes.print(
            f"[green]said[/]  {output}: {result['audio_s']:.2f} s of audio, first after "
            f"{result['first_audio_ms']:.0f} ms, RTF {result['rtf']:.3f}"
        )


async def _say(
    request: SynthesisRequest, sample_rate: int | None, target: Path | IO[bytes], quiet: bool
) -> dict[str, Any]:
    with working("connecting ...", quiet=quiet):
        client = await SpeechClient.connect()
    try:
        with working("speaking ...", quiet=quiet):
            return await _speak_into(client, request, sample_rate, target)
    finally:
        await client.aclose()


async def _speak_into(
    client: SpeechClient,
    request: SynthesisRequest,
    sample_rate: int | None,
    target: Path | IO[bytes],
) -> dict[str, Any]:
    asked = time.perf_counter()
    async with client.synthesize(request, sample_rate=sample_rate) as stream:
        chunk = await anext(stream)  # an invalid request fails here, before a file is made
        first_audio_ms = (time.perf_counter() - asked) * 1e3
        with WavWriter(target, chunk.sample_rate) as wav:
            wav.write(chunk.pcm)
            async for chunk in stream:
                wav.write(chunk.pcm)
    seconds = time.perf_counter() - asked
    if stream.started is not None and stream.started.removed:
        notes.print(
            f"[yellow]cannot be spoken and left out: {stream.started.removed} characters[/]"
        )
    audio_s = chunk.next_sample / chunk.sample_rate
    return {
        "path": "",
        "sample_rate": chunk.sample_rate,
        "audio_s": round(audio_s, 3),
        "first_audio_ms": round(first_audio_ms, 1),
        "rtf": round(seconds / audio_s, 4),
    }


def voices(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """List who can speak."""
    rows, sample_rate = asyncio.run(_voices(as_json))
    if as_json:
        print_json({"sample_rate": sample_rate, "voices": rows})
        return
    table = Table("voice", "languages", "sample rate", "", box=None)
    for row in rows:
        note = f"{row['description']} (default)" if row["default"] else row["description"]
        table.add_row(row["name"], ", ".join(row["languages"]), f"{sample_rate} Hz", note)
    console.print(table)


async def _voices(quiet: bool) -> tuple[list[dict[str, Any]], int]:
    with working("connecting ...", quiet=quiet):
        client = await SpeechClient.connect()
    try:
        capabilities = await client.synthesis_capabilities()
        rows = [
            {
                "name": voice.name,
                "languages": list(voice.languages),
                "description": voice.description,
                "default": index == 0,
            }
            for index, voice in enumerate(capabilities.voices)
        ]
        return rows, capabilities.sample_rate
    finally:
        await client.aclose()
