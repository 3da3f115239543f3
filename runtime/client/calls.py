"""Calls over Serve handles: one transport, and this project's errors instead of Ray's.

This module imports Ray: import it only after ``runtime.daemon.adopt_environment``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from runtime.errors import DaemonUnavailable, EngineFailed, Overloaded, SpeechError

_RETRY_AFTER_S = 1.0


class DeploymentCalls:
    """Unary and streaming calls to one deployment.

    gRPC instead of the object store (``_by_reference=False``): half the latency, and
    a call whose caller dies is cancelled.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        """Wrap a handle; calls need a running event loop, always the same one."""
        self._unary = handle.options(_by_reference=False)
        self._streaming = handle.options(_by_reference=False, stream=True)

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method and return its result.

        Raises:
            SpeechError: What the method raised, or what became of the call.
        """
        response = getattr(self._unary, method).remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            raise translate(error) from error

    def stream(self, method: str, *args: Any) -> CallStream:
        """Start a streaming call."""
        return CallStream(getattr(self._streaming, method).remote(*args))


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
            raise DaemonUnavailable(
                "The daemon cancelled the call: it is stopping, or its replica was replaced."
            ) from None
        except asyncio.CancelledError:
            self.cancel()
            raise
        except Exception as error:
            self._over = True
            raise translate(error) from error

    def cancel(self) -> None:
        """Stop the replica's generator; harmless when called again or after the end."""
        if not self._over:
            self._over = True
            self._generator.cancel()


def translate(error: Exception) -> Exception:
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
    if isinstance(error, (RayError, DeploymentUnavailableError)):
        return DaemonUnavailable(
            f"The daemon's replica went away ({type(error).__name__}); see `speech status`."
        )
    if isinstance(error, RayServeException):
        return DaemonUnavailable(f"The daemon does not answer: {error}")
    return EngineFailed(f"The replica failed: {type(error).__name__}: {error}")
