"""Word error rate on recordings with known text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.audio import AudioFile
from runtime.bench.wer import word_errors
from runtime.client import SpeechClient
from runtime.errors import ConfigError
from runtime.speech import RecognitionMode


def read_manifest(path: Path) -> list[tuple[AudioFile, str]]:
    """Recordings and what is said in them, from a JSON list of ``{"file", "text"}``.

    Raises:
        ConfigError: Not such a list.
        AudioFormatError: A recording that cannot be read.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(path.parent / entry["file"], str(entry["text"])) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f'{path} is no JSON list of {{"file", "text"}} ({error!r}).') from error
    return [(AudioFile.open(recording), text) for recording, text in pairs]


async def score(client: SpeechClient, manifest: Path) -> list[dict[str, Any]]:
    """A row for each mode of the daemon's recognizer."""
    recordings = read_manifest(manifest)
    modes: tuple[RecognitionMode, ...] = ("file", "live")
    rows = []
    for mode in modes:
        errors = words = 0
        for recording, text in recordings:
            transcript = await client.transcribe(recording, mode=mode)
            wrong, spoken = word_errors(text, transcript.text)
            errors, words = errors + wrong, words + spoken
        rows.append(
            {
                "mode": mode,
                "recordings": len(recordings),
                "seconds": round(sum(recording.seconds for recording, _ in recordings), 1),
                "words": words,
                "errors": errors,
                "wer": round(errors / max(1, words), 4),
            }
        )
    return rows
