"""Pipecat services over the daemon: ears and a mouth for a bot, in two classes.

Needs the extra ``bots`` (Pipecat), and what ``runtime.client`` needs: Ray, on a host with a
raylet of the daemon's cluster. No engine, no torch, no NeMo.
"""

try:
    import pipecat  # noqa: F401
except ModuleNotFoundError as missing:
    raise ImportError(
        'runtime.bots needs Pipecat: pip install "speech-runtime[bots]".'
    ) from missing

from runtime.bots.line import connect, disconnect
from runtime.bots.stt import ServeSTTService, ServeSTTSettings
from runtime.bots.tts import ServeTTSService, ServeTTSSettings

__all__ = [
    "ServeSTTService",
    "ServeSTTSettings",
    "ServeTTSService",
    "ServeTTSSettings",
    "connect",
    "disconnect",
]
