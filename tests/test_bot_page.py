"""A person's way to the bot: `make bot`, its page in a real browser, a voice at the microphone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from browser import CHROMIUM, Page, addresses_reached, browser
from daemons import place

from runtime.daemon import is_alive

pytest.importorskip("pipecat", reason="needs the extra bots")
import ifaddr

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        CHROMIUM is None and "CI" not in os.environ,  # CI has one, or fails
        reason="needs Chromium: apt-get install chromium",
    ),
]

ROOT = Path(__file__).parents[1]
RATE = 48_000  # Hz, of Chromium's microphone
CONNECTED = "document.body.dataset.state === 'connected'"
BOT_LEVEL = "+getComputedStyle(document.getElementById('bot-meter')).getPropertyValue('--level')"
CLIP_IS_OVER = """new Promise((resolve) => {
    const style = getComputedStyle(document.getElementById("your-meter"));
    let heard = false, since = performance.now();
    const timer = setInterval(() => {
        if (+style.getPropertyValue("--level") > 0) [heard, since] = [true, performance.now()];
        if (!heard || performance.now() - since < 1200) return;
        clearInterval(timer);
        resolve();
    }, 20);
})"""


@pytest.fixture(scope="module")
def address(daemon, tmp_path_factory) -> Iterator[str]:
    """Where `make bot` serves its page, beside the daemon of the tests."""
    shell = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    # A replacement is loaded while callers wait, as there is one replica each.
    options = {"BOT_PORT": "0", "SPEECH_TAKEOVER_TIMEOUT_S": "60"}
    printed = tmp_path_factory.mktemp("bot") / "printed"
    # As installed already: this interpreter's environment stands for .venv.
    make = ["make", f"VENV={sys.prefix}", f"--assume-old={sys.prefix}/.bot", "bot"]
    with (
        printed.open("wb") as output,
        subprocess.Popen(
            make,
            cwd=ROOT,
            env=shell | place(daemon) | options,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            while not (url := re.search(r"http://127.0.0.1:\d+", printed.read_text())):
                assert process.poll() is None, printed.read_text()
                time.sleep(0.05)
            yield url[0]
        finally:
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C, as a terminal sends it
            process.wait(timeout=30)
    assert "Traceback" not in printed.read_text()


def recording(path: Path, *parts: float | Path) -> Path:
    """A microphone's WAV file: seconds of silence, and clips."""
    samples = []
    for part in parts:
        if isinstance(part, Path):
            clip, rate = soundfile.read(part, dtype="float32")
            samples.append(soxr.resample(clip, rate, RATE))
        else:
            samples.append(np.zeros(round(part * RATE), np.float32))
    soundfile.write(path, np.concatenate(samples), RATE, subtype="PCM_16")
    return path


def own_addresses() -> set[str]:
    """All addresses of this host's interfaces."""
    addresses = (ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    return {ip if isinstance(ip, str) else ip[0] for ip in addresses}


def call(page: Page) -> None:
    """Start talking, without what the browser would do to the recording."""
    page.run("document.getElementById('processing').checked = false")
    page.run("document.getElementById('call').click()")
    page.wait(CONNECTED)


def wait_for_text(page: Page, selector: str, text: str, within_s: float = 60.0) -> None:
    """Wait until one of the elements shows a text, whatever its case."""
    page.wait(
        f"[...document.querySelectorAll({selector!r})]"
        f".some((element) => element.innerText.toLowerCase().includes({text!r}))",
        within_s,
    )


def test_a_conversation_in_the_browser_with_an_interruption(address, clips, tmp_path) -> None:
    by_name = {clip.path.stem: clip.path for clip in clips}
    long, short = by_name["librivox_0870"], by_name["goforward"]
    # The mute button decides which of the short clips is heard.
    microphone = recording(tmp_path / "voice.wav", 3.0, long, *[5.0, short] * 20)
    profile = tmp_path / "profile"
    with browser(profile, microphone) as page:
        page.open(address)
        call(page)
        page.wait("document.querySelector('.you .partial')?.innerText")
        page.run(CLIP_IS_OVER)
        page.run("document.getElementById('mute').click()")
        wait_for_text(page, ".you .bubble", "how much there might be")
        wait_for_text(page, ".bot .bubble", "you said")
        page.wait(f"{BOT_LEVEL} > 0.3")
        before = page.run("document.querySelectorAll('.note').length")
        page.run("document.getElementById('mute').click()")
        page.wait(f"document.querySelectorAll('.note').length > {before}")
        page.wait(f"{BOT_LEVEL} === 0", within_s=3.0)  # of the five and more that are left
        page.run(CLIP_IS_OVER)
        page.run("document.getElementById('mute').click()")
        wait_for_text(page, ".you .bubble", "ten meters")
        wait_for_text(page, ".bot .bubble", "ten meters")
        page.wait(f"{BOT_LEVEL} > 0.3")
        page.wait("document.querySelectorAll('.latency').length >= 1")
        assert re.match(r"\d+\.\d\d s to answer", page.text("#summary"))
        page.screenshot(tmp_path / "page.png")
        page.run("document.getElementById('call').click()")
        page.wait("document.body.dataset.state === 'ended'")
        assert page.complaints == []
        assert {url.removeprefix(address).split("/")[0] for url in page.requests} == {""}
    connected, sent_to = addresses_reached(profile)
    assert connected == {"127.0.0.1"}
    assert sent_to  # the media, which WebRTC does not send over loopback
    assert sent_to <= own_addresses()


@pytest.mark.timed
def test_a_call_is_connected_within_a_second_of_the_click(address, tmp_path) -> None:
    with browser(tmp_path / "profile", recording(tmp_path / "voice.wav", 3.0)) as page:
        page.open(address)
        call(page)
        marks = "'connected', 'call clicked', 'call connected'"
        took = page.run(f"performance.measure({marks}).duration")
        page.run("document.getElementById('call').click()")
        page.wait("document.body.dataset.state === 'ended'")
    assert 0 < took < 1000


def test_without_a_microphone_one_can_type_and_a_third_caller_is_refused(address, tmp_path) -> None:
    with browser(tmp_path / "profile", allow=False) as page:
        page.open(address)
        page.run("document.getElementById('call').click()")
        wait_for_text(page, "#problem", "the microphone was refused")
        page.run("document.getElementById('without-microphone').click()")
        page.wait(CONNECTED)
        page.run("document.getElementById('text').value = 'How are you?'")
        page.run("document.querySelector('#typing button').click()")
        wait_for_text(page, ".bot .bubble", "you said: how are you?")
        page.wait(f"{BOT_LEVEL} > 0.3")
        wait_for_text(page, ".bot .bubble", "that was 3 words.")
        others = """(async () => {
            const { Call } = await import("./call.js");
            window.others = [new Call([]), new Call([])];
            const outcomes = await Promise.allSettled(others.map((other) => other.start(null)));
            return outcomes.map(({ reason }) => reason?.title ?? "").sort();
        })()"""
        assert page.run(others) == ["", "The line is busy"]
        # Whoever hangs up makes room.
        page.run("others.forEach((other) => other.end())")
        page.run("document.getElementById('call').click()")
        page.wait(
            """(() => {
                const { state } = document.body.dataset;
                if (state === "ended") document.getElementById("without-microphone").click();
                return state === "connected";
            })()"""
        )
        page.run("document.getElementById('call').click()")


def test_a_call_goes_on_when_both_replicas_are_killed(
    address, clips, client, run, tmp_path
) -> None:
    (clip,) = (clip.path for clip in clips if clip.path.stem == "librivox_0870")
    # Said again and again, as a person would on a machine whose replacements take a minute.
    microphone = recording(tmp_path / "voice.wav", 3.0, *[clip, 8.0] * 15)

    async def pids() -> list[int]:
        return [r.pid for name in ("ASR", "TTS") for r in await client.replicas(name)]

    with browser(tmp_path / "profile", microphone) as page:
        page.open(address)
        call(page)
        page.wait("document.querySelector('.you .partial')?.innerText")
        killed = run(pids())
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_for_text(page, ".you .bubble", "how much there might be", 150.0)
        wait_for_text(page, ".bot .bubble", "how much there might be", 150.0)
        page.wait(f"{BOT_LEVEL} > 0.3", within_s=150.0)
        assert not any(map(is_alive, killed))
