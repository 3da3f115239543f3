"""The daemon with NVIDIA's engines side by side, as on a GPU: tiny checkpoints, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("nemo", reason="needs the extra `nemo`")

from daemons import place
from tiny_tongues import LANGUAGES, SENTENCES

from runtime.bench.private import private_daemon
from runtime.config import find_config
from runtime.settings import Settings

pytestmark = [pytest.mark.cluster, pytest.mark.apart]

# A process of its own: one process can be a driver of only one daemon.
LISTEN = """
import asyncio, json, sys
from runtime.client import SpeechClient
from runtime.speech import SynthesisRequest

async def main():
    client = await SpeechClient.connect()
    heard = {}
    asked = [("Sofia", language, text) for language, text in json.load(sys.stdin).items()]
    asked += [(voice.name, "en", "Hello.") for voice in await client.voices()]
    for voice, language, text in asked:
        async with client.synthesize(SynthesisRequest(text, voice, language, seed=1)) as stream:
            heard[f"{voice} {language}"] = sum([chunk.samples async for chunk in stream])
    await client.aclose()
    print(json.dumps(heard))

asyncio.run(main())
"""


# The tiny tokeniser of Chinese knows the words of its own sentence only.
ACCEPT = f"""
import asyncio, json
from runtime.accept.speaking import SENTENCES, every_language
from runtime.client import SpeechClient

SENTENCES["zh"] = {SENTENCES["zh"]!r}

async def main():
    async with await SpeechClient.connect() as client:
        print(json.dumps((await every_language(client)).as_json()))

asyncio.run(main())
"""


BOTH = """
import asyncio, json, sys
from dataclasses import asdict
from runtime.audio import AudioFile
from runtime.client import SpeechClient

async def main():
    client = await SpeechClient.connect()

    async def say(voice):
        async with client.synthesize("Hello there.", voice=voice, seed=1) as stream:
            return sum([chunk.samples async for chunk in stream])

    async def hear(path):
        heard = await client.transcribe(path, words=True)
        return {"text": heard.text, "seconds": heard.seconds, "words": len(heard.words)}

    async def follow(path):
        async with client.open_recognition(endpoint_ms=None) as session:
            for block in AudioFile.open(path).blocks():
                await session.push(block)
            return (await session.finalize()).text

    short, long = sys.argv[1:]
    answers = await asyncio.gather(
        say("Aria"), hear(long), hear(short), say("Leo"), hear(short), follow(short)
    )
    await client.aclose()
    print(json.dumps(answers))

asyncio.run(main())
"""


@dataclass
class Daemon:
    """A daemon, and the commands that see it."""

    settings: Settings

    def python(self, *arguments: str, said: str = "") -> Any:
        """What a Python of its own prints, as JSON."""
        done = subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | place(self.settings),
            input=said,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def speech(self, *arguments: str) -> Any:
        return self.python("-m", "runtime.cli.main", *arguments, "--json")


@pytest.fixture(scope="module")
def daemon_with_nvidia(
    tiny_magpie: Callable[..., Path], tiny_codec: Path, tiny_parakeet: Callable[..., Path]
) -> Iterator[Daemon]:
    """What is shipped for a DGX Spark, but for weights, device, sizes, and vLLM beside it."""
    document: dict[str, Any] = yaml.safe_load(find_config("dgx-spark").read_text())
    (application,) = document["applications"]
    args = application["args"]
    del args["memory"]
    small = {"device": "cpu", "slots": 2}
    assert args["asr"]["file"]["engine"] == "parakeet"
    args["asr"]["file"]["options"] = small | {
        "weights": str(tiny_parakeet(streaming=False)),
        "window_s": 10,
    }
    assert args["asr"]["live"]["engine"] == "parakeet-streaming"
    args["asr"]["live"]["options"] = small | {
        "weights": str(tiny_parakeet(streaming=True)),
        "dtype": "float32",
    }
    assert args["tts"]["engine"] == "magpie"
    args["tts"]["options"] = small | {
        "weights": str(tiny_magpie(stacking=2, max_decoder_steps=40, eos_bias=-100.0)),
        "codec": str(tiny_codec),
        "normalizer": "rules",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # tiny tensors gain nothing from a second thread
        with private_daemon(document) as settings:
            yield Daemon(settings)


def test_all_voices_and_languages_are_listed(daemon_with_nvidia: Daemon) -> None:
    listed = daemon_with_nvidia.speech("voices")
    assert listed["sample_rate"] == 22_050
    voices = listed["voices"]
    assert [voice["name"] for voice in voices] == ["Aria", "Jason", "John", "Leo", "Sofia"]
    assert [voice["default"] for voice in voices] == [True, False, False, False, False]
    assert all(sorted(voice["languages"]) == sorted(LANGUAGES) for voice in voices)


def test_every_language_and_voice_is_heard(daemon_with_nvidia: Daemon) -> None:
    heard = daemon_with_nvidia.python("-c", LISTEN, said=json.dumps(SENTENCES))
    assert len(heard) == len(LANGUAGES) + 5 - ("Sofia en" in heard)
    assert all(count >= 1024 and count % 1024 == 0 for count in heard.values()), heard


def test_accepting_it_says_each_language(daemon_with_nvidia: Daemon) -> None:
    section = daemon_with_nvidia.python("-c", ACCEPT)
    spoken = [row["language"] for row in section["tables"]["Spoken"]]
    assert sorted(spoken) == sorted(LANGUAGES)
    # The weights are random: what they say has no end, and no meaning.
    assert all(line["verdict"] in ("pass", "warn") for line in section["findings"]), section


def test_what_cannot_be_asked_for_is_refused_by_name(
    daemon_with_nvidia: Daemon, tmp_path: Path
) -> None:
    def say(*options: str) -> Any:
        return daemon_with_nvidia.speech("say", "Hello.", *options, "-o", str(tmp_path / "x.wav"))

    assert say("--language", "sv")["type"] == "UnknownLanguage"
    assert "sum to 1.4" in say("--voice", "aria:0.7+leo:0.7")["error"]
    assert say("--voice", "aria:0.7+leo:0.3")["sample_rate"] == 22_050


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of 3 s, for one call, and of 70 s, for a session."""
    import soundfile
    from tiny_parakeet import babble

    folder = tmp_path_factory.mktemp("recordings")
    paths = []
    for seconds in (3, 70):
        paths.append(str(folder / f"{seconds}.wav"))
        soundfile.write(paths[-1], babble(seconds, seed=seconds), 16_000)
    return paths


def test_it_listens_to_files_and_a_live_caller_while_it_speaks(
    daemon_with_nvidia: Daemon, recordings: list[str]
) -> None:
    aria, long, short, leo, again, live = daemon_with_nvidia.python("-c", BOTH, *recordings)
    assert aria >= 1024
    assert leo >= 1024
    assert short == again
    assert live
    assert short["seconds"] == 3
    assert short["words"] == len(short["text"].split()) > 1
    assert long["seconds"] == 70
    assert long["words"] > 50


def test_what_a_recording_is_expected_to_hold_is_said_on_the_command_line(
    daemon_with_nvidia: Daemon, recordings: list[str], tmp_path: Path
) -> None:
    short, _ = recordings

    def transcribe(*options: str) -> Any:
        return daemon_with_nvidia.speech("transcribe", short, *options)

    (plain,) = transcribe()["files"]
    (boosted,) = transcribe("--phrase", "hello world", "--boost", "5", "--words")["files"]
    assert "hello" not in plain["text"]
    assert "hello" in boosted["text"]
    assert all(0 <= word["confidence"] <= 1 for word in boosted["words"])
    many = tmp_path / "phrases.txt"
    many.write_text("\n".join(f"phrase {number}" for number in range(10_000)))
    assert "10,000 phrases are too many" in transcribe("--phrases", str(many))["error"]
    assert transcribe("--language", "ja")["type"] == "UnknownLanguage"
    assert transcribe("--deadline", "0.0001")["type"] == "DeadlineMissed"


def test_the_normaliser_and_what_it_did_are_among_the_metrics(daemon_with_nvidia: Daemon) -> None:
    url = daemon_with_nvidia.speech("status")["metrics"]
    wanted = ('event="tokens_padded"', 'normalizer="rules')  # "Hello." is short
    deadline = time.monotonic() + 60
    exported = ""
    while not all(part in exported for part in wanted):
        assert time.monotonic() < deadline, exported
        time.sleep(0.2)  # Ray exports every few seconds, and tells nobody
        exported = urllib.request.urlopen(url, timeout=10).read().decode()
