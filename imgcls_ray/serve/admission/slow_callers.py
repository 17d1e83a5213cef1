"""A bound on requests that wait for their callers.

Ray Serve lets a replica have so many requests at a time, and answers all others with 503. A caller who sends a body
byte by byte, or takes an answer so, keeps one of them until the deadline, at no cost to himself: a few hundred of his
kind would keep everybody else out.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from imgcls_ray.serve.admission.request import headers_of, request_id_of, send_error
from imgcls_ray.serve.errors import ErrorCode, refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Half of the requests that Ray Serve lets a replica have (max_ongoing_requests of the deployment). A body that comes as
# fast as a network brings it waits for some milliseconds only.
_MAX_WAITING = 256
# What has to come for a request to have moved on; a byte now and then does not count.
_STEP_BYTES = 4096


class SlowCallers:
    """ASGI middleware: of too many requests that wait for their callers, the one that stands still for longest ends."""

    def __init__(self, app: ASGIApp, max_waiting: int = _MAX_WAITING) -> None:
        self._app = app
        self._max_waiting = max_waiting
        self._requests: dict[_Request, None] = {}  # oldest first
        self._num_waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through."""
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return
        request = _Request(self, task, receive, send)
        self._requests[request] = None
        try:
            await self._app(scope, request.receive, request.send)
        except asyncio.CancelledError:
            if not request.is_cut:
                raise
            task.uncancel()
            if not request.is_answered:
                error = refuse(ErrorCode.OVERLOADED, "too many callers are as slow as this one; try again later")
                await send_error(send, error, scope["path"], request_id_of(headers_of(scope)))
        finally:
            del self._requests[request]

    def wait(self) -> None:
        """Count one more, and make room if there are too many."""
        self._num_waiting += 1
        if self._num_waiting > self._max_waiting:
            waiting = (request for request in self._requests if request.is_waiting and not request.is_cut)
            # Not the oldest: those who come and send nothing would end who sends a large picture over a slow line.
            min(waiting, key=lambda request: request.moved_at).cut()

    def go_on(self) -> None:
        """Count one less."""
        self._num_waiting -= 1


class _Request:
    """One request, which knows whether its caller is what it waits for."""

    def __init__(self, callers: SlowCallers, task: asyncio.Task[None], receive: Receive, send: Send) -> None:
        self.is_waiting = False
        self.is_cut = False
        self.is_answered = False
        self._callers, self._task = callers, task
        self._receive, self._send = receive, send
        self._has_body = False
        self.moved_at = time.monotonic()
        """When its caller last sent a few kilobytes, or was last given something to take."""
        self._num_bytes = 0

    def cut(self) -> None:
        self.is_cut = True
        self._leave()
        self._task.cancel()

    async def receive(self) -> Message:
        if self._has_body:
            return await self._receive()  # for the end of the connection, while the request is in work
        self._enter()
        try:
            message = await self._receive()
        finally:
            self._leave()
        self._has_body = not message.get("more_body", False)
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes >= _STEP_BYTES:
            self._num_bytes = 0
            self.moved_at = time.monotonic()
        return message

    async def send(self, message: Message) -> None:
        self.is_answered = True
        # Until now it was the service that took its time; and what was sent before has been taken.
        self.moved_at = time.monotonic()
        self._enter()
        try:
            await self._send(message)
        finally:
            self._leave()

    def _enter(self) -> None:
        if not self.is_waiting and not self.is_cut:
            self.is_waiting = True
            self._callers.wait()

    def _leave(self) -> None:
        if self.is_waiting:
            self.is_waiting = False
            self._callers.go_on()
