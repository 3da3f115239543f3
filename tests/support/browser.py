"""A headless Chromium with a recording for a microphone, driven by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium")
_SWITCHES = [
    "--headless=new",
    "--no-sandbox",  # CI is root, which Chromium's sandbox refuses
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
    "--disable-dev-shm-usage",  # containers have little of it
    "--window-size=900,1100",
    # Its own calls home, of which the page knows nothing.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


class Page:
    """One tab. Calls wait for their answer; events that came meanwhile are in ``events``."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._calls = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol, and its result."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._calls:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def open(self, url: str) -> None:
        """Go to a page and wait until its scripts have run."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression on the page, awaited if it is a promise."""
        result = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, within_s: float = 60.0) -> Any:
        """Wait until an expression is true; its value."""
        deadline = time.monotonic() + within_s
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"{script}\n{self.run('document.body.innerText')}"
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        """What an element shows."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def screenshot(self, path: Path) -> None:
        """A picture of the page, as large as the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    @property
    def requests(self) -> set[str]:
        """The addresses that the page has asked for so far."""
        return {
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        }

    @property
    def complaints(self) -> list[str]:
        """What went wrong in its scripts, or was refused by its security policy."""
        return [
            json.dumps(event["params"])
            for event in self.events
            if event["method"] == "Runtime.exceptionThrown"
            or (
                event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error"
            )
        ]


@contextmanager
def browser(folder: Path, microphone: Path | None = None, *, allow: bool = True) -> Iterator[Page]:
    """A browser with one empty tab while the context lasts.

    Args:
        folder: Made for its profile.
        microphone: A 48 kHz mono PCM16 WAV file that the microphone hears, once.
        allow: Whether pages get the microphone when they ask for it.
    """
    assert CHROMIUM is not None, "apt-get install chromium"
    folder.mkdir()
    switches = [*_SWITCHES, f"--user-data-dir={folder}", f"--log-net-log={folder / 'net.json'}"]
    if microphone is not None:
        switches.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    if allow:
        switches.append("--use-fake-ui-for-media-stream")
    else:
        switches.append("--deny-permission-prompts")
    with open(folder / "browser.log", "wb") as log:
        process = subprocess.Popen([CHROMIUM, *switches, "about:blank"], stdout=log, stderr=log)
    try:
        with connect(_tab(folder, process), max_size=None) as socket:
            page = Page(socket)
            yield page
            page.call("Browser.close")  # unlike a signal, lets it write its log to the end
            process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()


def _tab(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Where its first tab listens."""
    deadline = time.monotonic() + 30
    port_file = folder / "DevToolsActivePort"
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "browser.log").read_text()
        if port_file.exists() and (lines := port_file.read_text().split()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                for tab in json.load(answer):
                    if tab["type"] == "page":
                        return str(tab["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError((folder / "browser.log").read_text())


def addresses_reached(folder: Path) -> tuple[set[str], set[str]]:
    """The hosts that a browser, which has ended, connected to by TCP, and sent UDP packets to."""
    log = json.loads((folder / "net.json").read_text())
    names = {number: name for name, number in log["constants"]["logEventTypes"].items()}
    reached: dict[str, set[str]] = {"TCP_CONNECT_ATTEMPT": set(), "UDP_BYTES_SENT": set()}
    for event in log["events"]:
        address = event.get("params", {}).get("address")
        if address and names[event["type"]] in reached:
            reached[names[event["type"]]].add(address.rpartition(":")[0].strip("[]"))
    return reached["TCP_CONNECT_ATTEMPT"], reached["UDP_BYTES_SENT"]
