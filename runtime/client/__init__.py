"""The way into the daemon: handles in, async iterators out.

Needs Ray on a host with a raylet of the daemon's cluster, and nothing heavier: no
engine, no torch, no NeMo.
"""

from runtime.client.blocking import BlockingSpeechClient
from runtime.client.client import SpeechClient
from runtime.client.recognition import RecognitionSession
from runtime.client.synthesis import SynthesisStream

__all__ = ["BlockingSpeechClient", "RecognitionSession", "SpeechClient", "SynthesisStream"]
