"""Every error a caller can meet, in one small hierarchy.

Each message names what was asked, what the limit is and what to do. Errors
cross process boundaries: their only positional argument is the message, extra
facts are attributes, so that they survive pickling as they are.
"""

from __future__ import annotations


class SpeechError(Exception):
    """Base of all errors raised on purpose by this project.

    Attributes:
        exit_code: What the command line exits with when it meets the error.
    """

    exit_code = 1


class InvalidRequest(SpeechError, ValueError):
    """The caller asked for something that can never work as asked."""

    exit_code = 2


class NothingToSpeak(InvalidRequest):
    """The text is empty, or holds nothing that can be spoken (only emoji, say)."""


class TextTooLong(InvalidRequest):
    """The text is larger than one request may carry."""


class UnknownVoice(InvalidRequest):
    """The engine has no such voice; the message lists those it has."""


class UnknownLanguage(InvalidRequest):
    """The engine does not speak or understand the language; the message lists those it does."""


class UnsupportedOption(InvalidRequest):
    """The engine cannot honour an option, and ignoring it silently would be a lie."""


class AudioFormatError(InvalidRequest):
    """Bytes, samples or a file that cannot be read as the audio they are said to be."""


class ProtocolMismatch(InvalidRequest):
    """Client and daemon are of releases that do not understand each other."""


class ConfigError(InvalidRequest):
    """A configuration that does not validate; the message names the key."""


class UnknownEngine(ConfigError):
    """No engine has this name, or its package is not installed."""


class SessionClosed(InvalidRequest):
    """The recognition session has ended, or this replica never had it."""


class Overloaded(SpeechError):
    """Every slot is taken; nothing is wrong with the request.

    Attributes:
        retry_after_s: When it is sensible to ask again, in seconds.
        waited_s: Seconds spent in the queue.
        replica: The replica that refused; empty where Serve did before asking one.
    """

    def __init__(
        self,
        message: str,
        retry_after_s: float = 1.0,
        *,
        waited_s: float = 0.0,
        replica: str = "",
    ) -> None:
        """Keep the message, when to come back, and who refused."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.waited_s = waited_s
        self.replica = replica


class CheckpointError(SpeechError):
    """A model's files are missing, damaged, or not what this release can run.

    The message names the file, what was expected, and the mend.
    """


class HubError(SpeechError):
    """A model hub cannot be reached, or refuses; the message says what to do about it."""


class DoesNotFit(SpeechError):
    """More memory is asked for than there is; the message says by how much."""

    exit_code = 3


class MemoryUnknown(SpeechError):
    """How much memory there is cannot be known, and nothing is decided on a guess."""


class LedgerUnavailable(SpeechError):
    """The memory ledger does not answer; nothing is loaded without a lease."""


class LeaseExceeded(SpeechError):
    """A replica measured more memory than it had claimed; the message gives both."""


class StreamStalled(SpeechError):
    """The other side of a stream stopped reading or pushing for longer than allowed."""


class DeadlineMissed(SpeechError):
    """A recording was not recognised by the time its caller had set."""


class EngineFailed(SpeechError):
    """An engine failed on a request that was valid; the replica goes on serving."""


class OutOfMemory(EngineFailed):
    """A request needed more memory than its replica's lease allows; the replica goes on."""


class DaemonUnavailable(SpeechError):
    """There is no daemon to talk to; the message says how to start or reach one."""

    exit_code = 4


class ReplicaLost(DaemonUnavailable):
    """The replica that served a call is gone; another can take it over.

    Attributes:
        replica: One that is there, and says itself that it can begin nothing; else empty.
    """

    replica: str = ""


class DaemonRunning(InvalidRequest):
    """A daemon already runs where a second one was asked for."""
