"""A daemon that is stopped lets utterances finish; one that is killed is missed within bounds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from daemons import SUPPORT, place

from runtime.daemon import running_daemon
from runtime.settings import Settings

pytestmark = [pytest.mark.cluster, pytest.mark.apart]

CONFIG = """
proxy_location: Disabled
applications:
  - name: speech
    route_prefix: null
    import_path: deployments.app:build_app
    args:
      tts: {engine: "scripted_engines:ScriptedSynthesizer"}
      asr: {live: {engine: "scripted_engines:ScriptedRecognizer"}}
    deployments:
      - {name: TTS, user_config: {lead_s: 1}}
"""


@contextmanager
def daemon(own: Settings, shell: dict[str, str]) -> Iterator[dict[str, str]]:
    """Run a daemon; yields the environment in which it is found."""
    config = own.state_dir.parent / "config.yaml"
    config.write_text(CONFIG)
    environment = shell | place(own) | {"PYTHONPATH": SUPPORT}
    up = [sys.executable, "-m", "runtime.cli.main", "up", str(config), "--detach"]
    subprocess.run(up, env=environment, check=True, capture_output=True)
    try:
        yield environment
    finally:
        down(environment)


def down(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.cli.main", "down"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


LISTENER = """
import asyncio, json, sys, time
from runtime.client import SpeechClient
from runtime.errors import SpeechError

TEXT = "It is said slowly. " * 60  # three seconds of work, 90 s of audio: far beyond the lead

async def until_the_end(name, items, told):
    try:
        async for item in items:
            last = item
        told[name] = ["ended", getattr(last, "end", None)]
    except SpeechError as error:
        told[name] = [type(error).__name__, str(error)]
    told[name].append(time.time())

async def main():
    client = await SpeechClient.connect()
    stream = client.synthesize(TEXT)
    await anext(stream)
    told = {}
    async with client.open_recognition(sample_rate=8000) as session:
        await session.push(bytes(16000 * ONE))
        await session.flush()
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(until_the_end("utterance", stream, told))
            group.create_task(until_the_end("session", session, told))
        await until_the_end("call", client.synthesize("And another thing."), told)
    print(json.dumps(told), flush=True)
    await client.aclose()

asyncio.run(main())
"""


@contextmanager
def listener(environment: dict[str, str], audio_s: float) -> Iterator[subprocess.Popen[str]]:
    """A bot with an utterance under way, and a session that has heard ``audio_s`` seconds."""
    code = LISTENER.replace("ONE", str(int(audio_s)))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as bot:
        try:
            assert bot.stdout is not None
            assert bot.stdout.readline() == "ready\n"
            yield bot
        finally:
            bot.kill()


def test_stopping_lets_an_utterance_finish_and_tells_sessions_that_are_between_two(
    own, shell
) -> None:
    with daemon(own, shell) as environment, listener(environment, 0) as bot:
        stopped = down(environment)
        assert stopped.returncode == 0
        told = json.loads(bot.communicate()[0])
    assert told["utterance"][:2] == ["ended", True]
    assert told["session"][:2] == ["DaemonUnavailable", "The daemon is stopping."]
    assert told["call"][0] == "DaemonUnavailable"


def test_stopping_does_not_wait_for_ever_for_one_who_keeps_talking(own, shell) -> None:
    impatient = shell | {"SPEECH_DRAIN_TIMEOUT_S": "1"}
    with daemon(own, impatient) as environment, listener(environment, 2) as bot:
        began = time.monotonic()
        assert down(environment).returncode == 0
        took = time.monotonic() - began
        told = json.loads(bot.communicate()[0])
    assert took < 15
    assert told["session"][:2] == ["DaemonUnavailable", "The daemon is stopping."]
    assert told["utterance"][:2] == ["DaemonUnavailable", "The daemon is stopping."]


@pytest.mark.timed
def test_a_killed_daemon_is_missed_within_seconds_and_nothing_starts_in_its_place(
    own, shell
) -> None:
    with daemon(own, shell) as environment, listener(environment, 1) as bot:
        os.kill(running_daemon(own).pid, signal.SIGKILL)
        killed = time.time()
        told = json.loads(bot.communicate(timeout=50)[0])
        assert bot.returncode == 0
    for name in ("session", "call"):
        error, message, at = told[name]
        assert error == "DaemonUnavailable", told
        assert "`speech up`" in message
        assert at - killed < 20
    # The utterance may have been over before the replicas were.
    assert told["utterance"][0] in ("DaemonUnavailable", "ended")
