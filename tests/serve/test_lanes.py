"""Whose turn it is among images that wait for decoder processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.serve.decoders import Decoding
from imgcls_ray.serve.lanes import Lane, Work

if TYPE_CHECKING:
    from tests.serve.conftest import EventLoop


def test_a_shadow_is_decoded_when_nothing_else_waits_and_delays_nobody(events: EventLoop) -> None:
    lane = Lane(1, 1)
    lane.mean_s = 5.0

    async def fill() -> list[Work]:
        loop = asyncio.get_running_loop()
        return [Work(bytes(9), Decoding(Preprocess()), loop.create_future(), name) for name in "sab"]

    shadow, *others = events.run(fill())
    shadow.is_shadow = True
    lane.add(shadow)
    assert (len(lane), lane.num_bytes(), lane.expected_wait_s("a")) == (0, 0, 0.0)
    for work in others:
        lane.add(work)
    assert [lane.take(), lane.take(), lane.take(), lane.take()] == [*others, shadow, None]


def test_requests_take_turns(events: EventLoop) -> None:
    lane = Lane(1, 1)

    async def fill() -> list[Work]:
        loop = asyncio.get_running_loop()
        return [Work(b"", Decoding(Preprocess()), loop.create_future(), name) for name in "aaaabbc"]

    works = events.run(fill())
    for work in works:
        lane.add(work)
    lane.remove(works[1])
    order_of_turns = []
    while (turn := lane.take()) is not None:
        order_of_turns.append(turn.request)
    assert order_of_turns == ["a", "b", "c", "a", "b", "a"]


def test_a_request_that_would_wait_too_long_is_told_so_at_once(events: EventLoop) -> None:
    lane = Lane(2, 1)

    async def work(request: str) -> Work:
        return Work(b"", Decoding(Preprocess()), asyncio.get_running_loop().create_future(), request)

    for request in ("a", "b", "c", "c"):
        lane.add(events.run(work(request)))
    lane.take()
    lane.mean_s = 4.0
    assert lane.expected_wait_s("d") == 6.0  # one that runs and two requests, in two processes
    assert lane.expected_wait_s("c") == 0.0  # its turn comes anyway
