"""Connecting: from inside the cluster, without an event loop, and where it cannot work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.bench.wer import plain_words
from runtime.settings import Settings

pytestmark = pytest.mark.cluster


@pytest.fixture
def run_script(
    daemon: Settings, tmp_path: Path, shell: dict[str, str]
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a program in a process of its own, which can find the daemon."""

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script],
            env=shell | {"SPEECH_STATE_DIR": str(daemon.state_dir)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_a_worker_of_the_cluster_is_a_client_too(client: Any) -> None:
    import ray

    @ray.remote(num_cpus=0.1)
    def speak_in_a_worker() -> int:
        import asyncio

        from runtime.client import SpeechClient

        async def speak() -> int:
            async with (
                await SpeechClient.connect() as inner,
                inner.synthesize("From inside the cluster.") as stream,
            ):
                return sum([chunk.samples async for chunk in stream])

        return asyncio.run(speak())

    assert ray.get(speak_in_a_worker.remote(), timeout=60) > 12_000


def test_a_script_without_an_event_loop_speaks_and_listens(run_script) -> None:
    done = run_script(
        """
from runtime.client import BlockingSpeechClient
with BlockingSpeechClient.connect() as client:
    chunks = list(client.synthesize("There are white clouds over the river.", seed=3))
    audio = b"".join(chunk.pcm for chunk in chunks)
    print(client.transcribe(audio, sample_rate=chunks[0].sample_rate).text)
    print(client.voices()[0].name, sorted(client.info()))
    unfinished = client.synthesize("Nobody waits for the end of this.")
    next(unfinished)
    unfinished.close()
    while client.info()["TTS"].engines[0].active:
        pass
    abandoned = client.synthesize("Nor for the end of this, though it is never closed.")
    next(abandoned)
"""
    )
    assert done.returncode == 0, done.stderr
    text, voices = done.stdout.splitlines()
    assert plain_words(text) == plain_words("There are white clouds over the river.")
    assert voices == "heart ['ASR', 'TTS']"
    assert done.stderr == ""


def test_ray_imported_earlier_under_other_settings_is_an_error_with_the_mend(run_script) -> None:
    done = run_script(
        """
import asyncio, ray
from runtime.client import SpeechClient
from runtime.errors import DaemonUnavailable
try:
    asyncio.run(SpeechClient.connect())
except DaemonUnavailable as error:
    print(error)
"""
    )
    assert "Import ray later" in done.stdout
    assert "RAY_AUTH_TOKEN_PATH=" in done.stdout


def test_a_second_event_loop_is_an_error_that_says_why(run_script) -> None:
    done = run_script(
        """
import asyncio
from runtime.client import SpeechClient
from runtime.errors import SpeechError

async def main():
    await SpeechClient.connect()

asyncio.run(main())
try:
    asyncio.run(main())
except SpeechError as error:
    print(error)
"""
    )
    assert "one loop" in done.stdout, done.stderr


def test_news_of_replicas_that_come_while_the_cluster_is_left_are_not_acted_on(run_script) -> None:
    done = run_script(
        """
import asyncio
from runtime.client import SpeechClient

async def main():
    client = await SpeechClient.connect()
    import ray
    from ray.serve._private.long_poll import LongPollClient

    act, leave, late = LongPollClient._process_update, ray.shutdown, []

    def leave_and_hear():
        leave()
        print(len(late))
        while late:
            act(*late.pop())

    LongPollClient._process_update = lambda *news: late.append(news)
    ray.shutdown = leave_and_hear
    asking = asyncio.create_task(client.info())
    while len(late) < 2:
        await asyncio.sleep(0)
    asking.cancel()
    await client.aclose()
    await asyncio.sleep(0)  # what was heard is acted on
    await asyncio.sleep(0)  # and asked for again

asyncio.run(main())
print("ended")
"""
    )
    assert done.stderr == ""
    heard, ended = done.stdout.split()
    assert (int(heard) >= 2, ended) == (True, "ended")
