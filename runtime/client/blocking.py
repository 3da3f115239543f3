"""The client without async, for scripts and notebooks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from runtime.client.client import SpeechClient
from runtime.errors import InvalidRequest
from runtime.replica import ReplicaInfo
from runtime.settings import Settings
from runtime.speech import AudioChunk, Samples, SynthesisRequest, Transcript, Voice

T = TypeVar("T")

_thread_lock = threading.Lock()
_thread_loop: asyncio.AbstractEventLoop | None = None


def _background_loop() -> asyncio.AbstractEventLoop:
    """The one loop on which this process's blocking clients live."""
    global _thread_loop
    with _thread_lock:
        if _thread_loop is None:
            _thread_loop = asyncio.new_event_loop()
            threading.Thread(
                target=_thread_loop.run_forever, name="speech-client", daemon=True
            ).start()
        return _thread_loop


class BlockingSpeechClient:
    """``SpeechClient`` for code without an event loop; same arguments, same errors."""

    def __init__(self, client: SpeechClient) -> None:
        """Used by ``connect``."""
        self._client = client

    @classmethod
    def connect(
        cls, *, address: str | None = None, settings: Settings | None = None
    ) -> BlockingSpeechClient:
        """See ``SpeechClient.connect``."""
        return cls(_wait(SpeechClient.connect(address=address, settings=settings)))

    def synthesize(self, request: SynthesisRequest | str, **options: Any) -> Iterator[AudioChunk]:
        """Speak; closing the iterator stops the synthesis.

        Raises:
            InvalidRequest: With ``growing``, as nobody could add to it while it is read.
        """
        if options.get("growing"):
            raise InvalidRequest("A text can grow through SpeechClient only.")
        stream = self._client.synthesize(request, **options)
        try:
            while (chunk := _wait(anext(stream, None))) is not None:
                yield chunk
        finally:
            # Not waited for: a generator may be closed while the interpreter goes down.
            _background_loop().call_soon_threadsafe(stream.cancel)

    def transcribe(self, audio: str | Path | bytes | Samples, **options: Any) -> Transcript:
        """Recognise a recording; see ``SpeechClient.transcribe``."""
        return _wait(self._client.transcribe(audio, **options))

    def voices(self) -> tuple[Voice, ...]:
        """The voices that can be asked for; the first is the default."""
        return _wait(self._client.voices())

    def info(self) -> dict[str, ReplicaInfo]:
        """One replica of each deployment, by the deployment's name."""
        return _wait(self._client.info())

    def close(self) -> None:
        """Disconnect this process from the cluster."""
        _wait(self._client.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _wait(work: Awaitable[T]) -> T:
    return asyncio.run_coroutine_threadsafe(_run(work), _background_loop()).result()


async def _run(work: Awaitable[T]) -> T:
    return await work
