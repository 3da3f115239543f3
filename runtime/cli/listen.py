"""``speech transcribe``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from runtime.audio import AudioFile, Framer, float32_to_pcm16
from runtime.cli.output import console, notes, print_json, working
from runtime.client import RecognitionSession, SpeechClient
from runtime.errors import InvalidRequest
from runtime.speech import FinalTranscript, RecognitionOptions, Transcript

_BLOCK_MS = 80  # what a bot's transport pushes at a time


def transcribe(
    files: list[Path] = typer.Argument(help="Recordings: WAV, FLAC, Ogg or MP3."),
    stream: bool = typer.Option(
        False, "--stream", help="Push the audio as a microphone would and show live partials."
    ),
    pace: float = typer.Option(
        1.0, help="With --stream: 1 is real time, 0 as fast as it is recognised."
    ),
    words: bool = typer.Option(False, "--words", help="Show the time of each word."),
    language: str | None = typer.Option(None, help="What is spoken: en, de-AT, ..."),
    phrase: list[str] = typer.Option(
        [], help="A name or term to expect, as it should read; may be repeated."
    ),
    phrases: Path | None = typer.Option(None, help="A file of such phrases, one a line."),
    boost: float = typer.Option(1.0, help="How much they are preferred, up to 10."),
    deadline: float | None = typer.Option(
        None, help="Seconds within which each recording must be recognised."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Recognise recordings, through the daemon."""
    if pace < 0:
        raise InvalidRequest(f"A pace of {pace} is senseless; 1 is real time, 0 unpaced.")
    if stream and deadline is not None:
        raise InvalidRequest("--deadline is for recordings; with --stream they last as they do.")
    options = RecognitionOptions(
        mode="live" if stream else "file",
        partials=stream,
        language=language,
        words=words,
        phrases=(*phrase, *_lines(phrases)),
        boost=boost,
        deadline_s=deadline,
    )
    recordings = [AudioFile.open(path) for path in files]  # all must be readable before any work
    results = asyncio.run(_transcribe_all(recordings, options, pace, as_json))
    for recording in recordings:
        if recording.invalid_samples:
            notes.print(
                f"[yellow]{recording.path}: {recording.invalid_samples} samples are not numbers; "
                "read as silence[/]"
            )
    if as_json:
        print_json({"files": results})
        return
    for result in results:
        label = f"[dim]{result['path']}[/]  " if len(results) > 1 else ""
        console.print(label, end="")
        console.print(result["text"] or "[dim](no speech)[/]", soft_wrap=True)
        for word in result.get("words", ()):
            console.print(f"  {word['start_s']:8.2f}  {word['end_s']:8.2f}  {word['text']}")


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--phrases {path} cannot be read as text: {error}.") from error
    return [line.strip() for line in lines if line.strip()]


async def _transcribe_all(
    recordings: list[AudioFile], options: RecognitionOptions, pace: float, quiet: bool
) -> list[dict[str, Any]]:
    with working("connecting ...", quiet=quiet):
        client = await SpeechClient.connect()
    try:
        results = []
        for recording in recordings:
            if options.mode == "live":
                transcript = await _stream(client, recording, options, pace, quiet)
            else:
                transcript = await _whole(client, recording, options, quiet)
            result: dict[str, Any] = {
                "path": str(recording.path),
                "text": transcript.text,
                "seconds": round(transcript.seconds, 3),
            }
            if options.words:
                result["words"] = [asdict(word) for word in transcript.words]
            results.append(result)
        return results
    finally:
        await client.aclose()


async def _whole(
    client: SpeechClient, recording: AudioFile, options: RecognitionOptions, quiet: bool
) -> Transcript:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=notes,
        transient=True,
        disable=quiet or not notes.is_terminal,
    )
    with progress:
        task = progress.add_task(recording.path.name, total=recording.seconds)

        def on_utterance(final: FinalTranscript) -> None:
            progress.update(task, completed=final.end_s)

        return await client.transcribe(recording, options=options, on_utterance=on_utterance)


async def _stream(
    client: SpeechClient,
    recording: AudioFile,
    options: RecognitionOptions,
    pace: float,
    quiet: bool,
) -> Transcript:
    finals: list[FinalTranscript] = []
    options = replace(options, sample_rate=recording.sample_rate)
    with Live(console=notes, auto_refresh=False, transient=True) as live:

        def show(text: str) -> None:
            if not quiet:
                live.update(Text(text[-4 * notes.width :], style="dim"), refresh=True)

        async with client.open_recognition(options) as session:
            pushing = asyncio.create_task(_push_paced(session, recording, pace))
            try:
                async for event in session:
                    show(" ".join([*(final.text for final in finals), event.text]))
                    if isinstance(event, FinalTranscript):
                        finals.append(event)
                await pushing
            finally:
                pushing.cancel()
    return Transcript.of(finals, recording.seconds)


async def _push_paced(session: RecognitionSession, recording: AudioFile, pace: float) -> None:
    """Push blocks no earlier than a microphone at ``pace`` times real time would have them."""
    size = recording.sample_rate * _BLOCK_MS // 1000
    framer = Framer(size)
    start = time.monotonic()
    pushed = 0
    for samples in recording.blocks():
        for frame in framer.push(samples):
            pushed += size
            if pace:
                due = start + pushed / recording.sample_rate / pace
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await session.push(float32_to_pcm16(frame))
    await session.push(float32_to_pcm16(framer.rest))
    await session.finish()
