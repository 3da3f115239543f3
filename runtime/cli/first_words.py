"""The first exchange of a fresh daemon: a sentence is spoken, and heard again.

A process of its own (``python -m runtime.cli.first_words FILE``), as every client is:
handles are tied to an event loop, and the daemon's process has none.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from runtime.audio import WavWriter
from runtime.bench.wer import plain_words
from runtime.cli.output import console, quieten_ray
from runtime.client import SpeechClient
from runtime.errors import SpeechError

SENTENCE = "Hello! I can speak, and I can hear every word that you say."


def exchange(target: Path) -> None:
    """Speak a sentence into a WAV file, recognise it, and print both.

    Raises:
        SpeechError: It went wrong; the process has printed how.
    """
    command = [sys.executable, "-m", "runtime.cli.first_words", str(target)]
    if subprocess.run(command).returncode:
        raise SpeechError("The first exchange failed.")


def _main(target: Path) -> None:
    quieten_ray()
    heard = asyncio.run(_exchange(target))
    if plain_words(heard) != plain_words(SENTENCE):
        sys.exit(f"The daemon said {SENTENCE!r} but heard {heard!r}.")


async def _exchange(target: Path) -> str:
    # Closed before its event loop is: Ray would complain of a loop that stands still.
    async with await SpeechClient.connect() as client:
        return await _say_and_hear(client, target)


async def _say_and_hear(client: SpeechClient, target: Path) -> str:
    asked = time.perf_counter()
    first_audio_ms = 0.0
    async with client.synthesize(SENTENCE, seed=0) as stream:
        chunk = await anext(stream)
        first_audio_ms = (time.perf_counter() - asked) * 1e3
        with WavWriter(target, chunk.sample_rate) as wav:
            wav.write(chunk.pcm)
            async for chunk in stream:
                wav.write(chunk.pcm)
    voice = stream.started.voice if stream.started else ""
    console.print(
        f"[bold]said [/]  {SENTENCE}\n"
        f"        [dim]{voice}, {chunk.next_sample / chunk.sample_rate:.1f} s, first audio after "
        f"{first_audio_ms:.0f} ms: play {target}[/]"
    )
    asked = time.perf_counter()
    transcript = await client.transcribe(target)
    heard_ms = (time.perf_counter() - asked) * 1e3
    console.print(f"[bold]heard[/]  {transcript.text}\n        [dim]after {heard_ms:.0f} ms[/]")
    return transcript.text


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
