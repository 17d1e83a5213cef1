"""Callers who keep a request waiting do not keep others out."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.serve.admission.slow_callers import SlowCallers

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Message, Receive, Scope, Send


class Caller:
    """One request, whose body comes and whose answer is taken when the test says so."""

    def __init__(self, service: SlowCallers) -> None:
        self.body: asyncio.Queue[Message] = asyncio.Queue()
        self.takes = asyncio.Event()
        self.takes.set()
        self.sent: list[Message] = []
        scope: Scope = {"type": "http", "method": "POST", "path": "/v1/classify", "headers": []}
        self.task = asyncio.create_task(self._ask(service, scope))

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    def send_body(self, body: bytes, *, more: bool = False) -> None:
        self.body.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def _ask(self, service: SlowCallers, scope: Scope) -> None:
        await service(scope, self.body.get, self._take)

    async def _take(self, message: Message) -> None:
        self.sent.append(message)
        await self.takes.wait()


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(test)


def test_who_stands_still_for_longest_ends_and_not_who_has_sent_for_longest() -> None:
    async def test() -> None:
        service = SlowCallers(echo, max_waiting=2)
        steady = Caller(service)
        await settle()
        silent = Caller(service)
        await settle()
        for _ in range(20):
            steady.send_body(b"x" * 5000, more=True)
            await settle()
            newcomer = Caller(service)
            await settle()
            assert silent.status == 503
            silent = newcomer
        steady.send_body(b"the end")
        await steady.task
        assert steady.status == 200
        silent.send_body(b"")
        await silent.task

    run(test())


def test_an_answer_that_took_the_service_long_is_not_its_callers_slowness() -> None:
    async def test() -> None:
        is_done = asyncio.Event()

        async def think(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await is_done.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"told"})

        service = SlowCallers(think, max_waiting=2)
        asks = Caller(service)
        asks.send_body(b"all")
        await settle()
        silent = [Caller(service) for _ in range(2)]
        await settle()
        is_done.set()
        await asks.task
        assert (asks.status, len(asks.sent)) == (200, 2)
        assert silent[0].status == 503
        silent[1].send_body(b"")
        await silent[1].task

    run(test())


def test_the_oldest_of_too_many_slow_bodies_is_told_so_and_ends() -> None:
    async def test() -> None:
        service = SlowCallers(echo, max_waiting=2)
        callers = [Caller(service) for _ in range(2)]
        await settle()
        # That one more byte came does not make it a younger one.
        callers[0].send_body(b"x", more=True)
        await settle()
        callers.append(Caller(service))
        await settle()
        assert [caller.task.done() for caller in callers] == [True, False, False]
        assert callers[0].status == 503
        assert json.loads(callers[0].sent[1]["body"])["error"]["code"] == "overloaded"
        for caller in callers[1:]:
            caller.send_body(b"all")
            await caller.task
            assert (caller.status, caller.sent[1]["body"]) == (200, b"all")

    run(test())


def test_the_oldest_of_too_many_slow_readers_ends() -> None:
    async def test() -> None:
        service = SlowCallers(echo, max_waiting=2)
        callers = []
        for _ in range(3):
            caller = Caller(service)
            caller.takes.clear()
            caller.send_body(b"all")
            await settle()
            callers.append(caller)
        assert [caller.task.done() for caller in callers] == [True, False, False]
        assert len(callers[0].sent) == 1  # it has begun to be answered: nothing else can be said
        for caller in callers[1:]:
            caller.takes.set()
            await caller.task
            assert caller.sent[1]["body"] == b"all"

    run(test())


def test_requests_in_work_are_no_slow_callers() -> None:
    is_done = asyncio.Event()

    async def work(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        gone = asyncio.ensure_future(receive())  # as Ray Serve watches for callers that go away
        await is_done.wait()
        gone.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def test() -> None:
        service = SlowCallers(work, max_waiting=1)
        callers = []
        for _ in range(5):
            callers.append(Caller(service))
            callers[-1].send_body(b"all")
            await settle()
        is_done.set()
        for caller in callers:
            await caller.task
            assert caller.status == 200

    run(test())


def test_who_is_cancelled_for_another_reason_stays_cancelled() -> None:
    async def test() -> None:
        service = SlowCallers(echo, max_waiting=1)
        caller = Caller(service)
        await settle()
        caller.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller.task
        other = Caller(service)
        other.send_body(b"all")
        await other.task
        assert other.status == 200

    run(test())
