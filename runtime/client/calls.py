"""Calls over Serve handles: one transport, and this project's errors instead of Ray's.

This module imports Ray: import it only after ``runtime.daemon.adopt_environment``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from grpc import StatusCode
from grpc.aio import AioRpcError
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)
from ray.serve.handle import (
    DeploymentHandle,
    DeploymentResponse,
    DeploymentResponseGenerator,
)

from runtime.client.connection import Attachment
from runtime.client.pusher import Pusher
from runtime.client.recovery import Patience
from runtime.client.replicas import Replicas, replicas_of
from runtime.errors import (
    DaemonUnavailable,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    ReplicaLost,
    SpeechError,
)

_RETRY_AFTER_S = 1.0
_KEPT_ADDRESSES = 256


class DeploymentCalls:
    """Unary and streaming calls to one deployment, or to one of its replicas.

    gRPC instead of the object store (``_by_reference=False``): half the latency, and
    a call whose caller dies is cancelled.

    Attributes:
        replicas: What is known of the deployment's replicas.
    """

    def __init__(self, handle: DeploymentHandle, attachment: Attachment) -> None:
        """Wrap a handle; calls need a running event loop, always the same one."""
        self._attachment = attachment
        self.replicas: Replicas = replicas_of(handle.app_name, handle.deployment_name)
        self._unary = handle.options(_by_reference=False)
        self._streaming = handle.options(_by_reference=False, stream=True)
        self._addressed: dict[str, tuple[DeploymentHandle, Pusher]] = {}

    async def call(self, method: str, *args: Any, replica: str | None = None) -> Any:
        """Call a method and return its result.

        Args:
            method: Of the deployment.
            *args: Its arguments.
            replica: The replica to call, by its id; None takes any.

        Raises:
            ReplicaLost: The replica is gone, before or during the call.
            SpeechError: What the method raised, or what became of the call.
        """
        self._check_alive()
        handle = self._unary if replica is None else self._at(replica)[0]
        response = getattr(handle, method).remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            _cancel(response)
            raise
        except Exception as error:
            translated = translate(error)
            if isinstance(translated, ReplicaLost) and replica is not None:
                self.replicas.lost(replica)
            raise translated from error

    def stream(self, method: str, *args: Any) -> CallStream:
        """Start a streaming call, on any replica.

        Raises:
            DaemonUnavailable: The daemon is gone.
        """
        self._check_alive()
        return CallStream(getattr(self._streaming, method).remote(*args))

    def patience(self, limit_s: float) -> Patience:
        """For a call that looks for another replica for ``limit_s`` seconds at the most."""
        return Patience(limit_s, self.replicas, self._check_alive)

    def _check_alive(self) -> None:
        if not self._attachment.alive:
            raise DaemonUnavailable(
                "The daemon is gone: its process has ended. Start it again with `speech up`, then "
                "connect again."
            )

    def pusher(self, replica: str) -> Pusher:
        """What all sessions on a replica push through."""
        return self._at(replica)[1]

    def push_calls(self) -> dict[str, int]:
        """How many calls have carried audio, by the replica they went to."""
        return {replica: pusher.calls for replica, (_, pusher) in self._addressed.items()}

    def _at(self, replica: str) -> tuple[DeploymentHandle, Pusher]:
        if replica not in self._addressed:
            while len(self._addressed) >= _KEPT_ADDRESSES:
                del self._addressed[next(iter(self._addressed))]
            handle = self._unary.options(session_id=replica)
            self._addressed[replica] = (handle, Pusher(self, replica))
        return self._addressed[replica]


class CallStream:
    """The items of a streaming call; nothing but ``cancel`` stops one that has not ended."""

    def __init__(self, generator: DeploymentResponseGenerator) -> None:
        """Takes over the generator."""
        self._generator = generator
        self._over = False

    def __aiter__(self) -> CallStream:
        return self

    async def __anext__(self) -> Any:
        if self._over:
            raise StopAsyncIteration
        try:
            return await anext(self._generator)
        except StopAsyncIteration:
            self._over = True
            raise
        except RequestCancelledError:
            if self._over:  # by us: nobody waits for an answer
                raise StopAsyncIteration from None
            self._over = True
            raise ReplicaLost("The replica cancelled the call: it is being stopped.") from None
        except asyncio.CancelledError:
            self.cancel()
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # Ray's doing, not our caller's
                raise ReplicaLost("The connection to the replica was closed.") from None
            raise
        except Exception as error:
            self._over = True
            raise translate(error) from error

    async def first(self, within_s: float) -> Any:
        """The first item; None if the stream ends without one.

        Raises:
            ReplicaLost: It did not come within ``within_s`` seconds.
            SpeechError: What the method raised, or what became of the call.
        """
        try:
            async with asyncio.timeout(within_s):
                return await anext(self, None)
        except TimeoutError:
            raise ReplicaLost(f"No replica began the call within {within_s:g} s.") from None
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop the replica's generator; harmless when called again or after the end."""
        if not self._over:
            self._over = True
            _cancel(self._generator)


def _cancel(response: DeploymentResponse | DeploymentResponseGenerator) -> None:
    """Cancel a call at any stage.

    Ray's own ``cancel`` forgets a call that has been assigned to a replica while nobody
    has asked for its first result yet: it would run to its end for nobody.
    """
    response.cancel()
    assigned = response._replica_result_future
    if assigned.done() and not assigned.cancelled() and assigned.exception() is None:
        assigned.result().cancel()


def translate(error: Exception) -> SpeechError:
    """The error of ours that tells a caller what an error of Ray's means."""
    if isinstance(error, SpeechError):
        return error
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, SpeechError):
            return cause
        return EngineFailed(f"The replica failed: {type(cause).__name__}: {cause}")
    if isinstance(error, BackPressureError):
        return Overloaded(
            "All places and the queue of the deployment are taken; ask again later.", _RETRY_AFTER_S
        )
    if isinstance(error, (RayError, RequestCancelledError)):
        return ReplicaLost(f"The replica went away ({type(error).__name__}).")
    if isinstance(error, AioRpcError):
        return _translate_rpc(error)
    if isinstance(error, DeploymentUnavailableError):
        return DaemonUnavailable("The deployment does not run; see `speech status`.")
    if isinstance(error, RayServeException):
        return DaemonUnavailable(f"The daemon does not answer: {error}")
    return EngineFailed(f"The replica failed: {type(error).__name__}: {error}")


def _translate_rpc(error: AioRpcError) -> SpeechError:
    if error.code() in (StatusCode.CANCELLED, StatusCode.UNAVAILABLE, StatusCode.INTERNAL):
        return ReplicaLost(f"The connection to the replica broke ({error.code().name}).")
    if error.code() is StatusCode.RESOURCE_EXHAUSTED:
        return InvalidRequest(f"More than one call can carry: {error.details()}")
    return EngineFailed(f"The call failed: {error.code().name}: {error.details()}")
