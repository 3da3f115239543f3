"""The way from this process to the daemon, shared by the services of all its calls.

It is kept between calls: joining a cluster takes Ray a second or two. After the daemon has
been restarted the next service that asks connects again.
"""

from __future__ import annotations

import asyncio

from pipecat.utils.errors import ErrorCategory

from runtime.client import SpeechClient
from runtime.config import APPLICATION
from runtime.errors import (
    DaemonUnavailable,
    InvalidRequest,
    NothingToSpeak,
    Overloaded,
    SessionClosed,
    SpeechError,
    TextTooLong,
)
from runtime.settings import Settings


class Line:
    """One application of one daemon; ``client()`` gives a client that is connected."""

    def __init__(self, settings: Settings, address: str | None, application: str) -> None:
        """Used by ``line_to``."""
        self._settings = settings
        self._address = address
        self._application = application
        self._client: SpeechClient | None = None
        self._connecting = asyncio.Lock()

    async def client(self) -> SpeechClient:
        """The client, connected anew if the daemon has been restarted since.

        Raises:
            DaemonUnavailable: There is no daemon to talk to; the message says what to do.
        """
        async with self._connecting:
            if self._client is not None and not self._client.connected:
                await self._drop()
            if self._client is None:
                self._client = await SpeechClient.connect(
                    address=self._address, application=self._application, settings=self._settings
                )
            return self._client

    async def aclose(self) -> None:
        """End all that goes over it."""
        async with self._connecting:
            await self._drop()

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


_lines: dict[tuple[str, str | None, str], Line] = {}


def line_to(
    settings: Settings | None = None, address: str | None = None, application: str | None = None
) -> Line:
    """The line that all services with the same arguments share; nothing is connected yet."""
    settings, application = settings or Settings(), application or APPLICATION
    key = (settings.model_dump_json(), address, application)
    if key not in _lines:
        _lines[key] = Line(settings, address, application)
    return _lines[key]


async def connect(
    *,
    settings: Settings | None = None,
    address: str | None = None,
    application: str | None = None,
) -> None:
    """Connect this process now, so that its first call need not wait for it.

    Args:
        settings: By default read from the environment.
        address: As for ``SpeechClient.connect``.
        application: The speech application; services name it as their ``model``.

    Raises:
        DaemonUnavailable: There is no daemon to talk to; the message says what to do.
    """
    await line_to(settings, address, application).client()


async def engine_name(client: SpeechClient, deployment: str) -> str:
    """The engine that serves a bot's calls, for its metrics."""
    engines = (await client.info())[deployment].engines
    return next((e.name for e in engines if e.role == "live"), engines[0].name)


async def disconnect() -> None:
    """Leave all daemons; services that go on connect again."""
    for line in tuple(_lines.values()):
        await line.aclose()


def category(error: SpeechError) -> ErrorCategory:
    """What an error means to Pipecat.

    A request that can never work as asked is permanent there: the service gets no more work
    until its settings are changed. A text that cannot be spoken says nothing of the next one.
    """
    if isinstance(error, (NothingToSpeak, TextTooLong)):
        return ErrorCategory.APPLICATION
    if isinstance(error, SessionClosed):
        return ErrorCategory.CONNECTIVITY
    if isinstance(error, InvalidRequest):
        return ErrorCategory.INVALID_REQUEST
    if isinstance(error, Overloaded):
        return ErrorCategory.RATE_LIMIT
    if isinstance(error, DaemonUnavailable):
        return ErrorCategory.CONNECTIVITY
    return ErrorCategory.SERVER
