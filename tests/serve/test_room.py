"""What a request takes up of a replica's room is asked for once, and given back once, whatever ends the request."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.serve.admission import proxy, room
from imgcls_ray.serve.admission.proxy import ProxyAdmission
from imgcls_ray.serve.admission.replica import ReplicaAdmission
from imgcls_ray.serve.admission.request import CONTEXT_KEY, context_of
from imgcls_ray.serve.admission.room import Reservation, Room
from imgcls_ray.serve.errors import ApiError
from imgcls_ray.serve.keys import ApiKeys
from imgcls_ray.serve.metrics import NoMetrics
from tests.serve.conftest import chunks, exchange, picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tests.serve.conftest import Live

KEY = "a key of more than sixteen characters"
CHUNK = bytes(65_536)


@pytest.fixture
def local_replica(monkeypatch: pytest.MonkeyPatch) -> proxy.LocalReplica:
    """As in a process in which a replica answers."""
    local_replica = proxy.LocalReplica()
    monkeypatch.setattr(proxy, "LOCAL_REPLICA", local_replica)
    return local_replica


@pytest.fixture
def _slots_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that is not given back is there for ever."""
    monkeypatch.setattr(room, "_SLOT_S", 1e9)


def room_for(max_images: int, *, num_images: int = 0) -> Room:
    return Room(max_images, max_bytes=1000, max_request_bytes=600, num_images=lambda: num_images)


# --- how long a full room stays full ---------------------------------------------------------------------------------


def test_a_full_room_says_how_long_nobody_need_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    now, num_done = 100.0, 0
    monkeypatch.setattr("time.monotonic", lambda: now)
    full = Room(64, max_bytes=1, max_request_bytes=1, num_images=lambda: 64, num_done=lambda: num_done)
    # How fast images leave, nobody knows yet.
    assert full.pause_s() == 0
    now, num_done = 100.5, 80
    # 160 in a second: a quarter of 64 leaves in so long.
    assert full.pause_s() == pytest.approx(16 / 160)
    now, num_done = 101.0, 81
    assert full.pause_s() == 0.25
    # Long after, it is not known any more.
    now, num_done = 160.0, 10_000
    assert full.pause_s() == 0


def test_a_room_that_nothing_leaves_makes_nobody_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    full = room_for(64, num_images=64)
    full.pause_s()
    now = 100.5
    assert full.pause_s() == 0


# --- one reservation -------------------------------------------------------------------------------------------------


def test_a_request_that_asks_twice_has_one_slot() -> None:
    for_two = room_for(2)
    request = Reservation(for_two)
    assert request.ask()
    assert request.ask()
    assert not for_two.is_full()


@pytest.mark.usefixtures("_slots_stay")
def test_who_finds_no_room_takes_none_up() -> None:
    for_one = room_for(1)
    first = Reservation(for_one)
    assert first.ask()
    for _ in range(3):
        assert not Reservation(for_one).ask()
    first.give_back()
    assert Reservation(for_one).ask()


@pytest.mark.usefixtures("_slots_stay")
def test_heads_without_bodies_do_not_fill_the_room() -> None:
    for_four = room_for(4)
    for _ in range(20):
        assert Reservation(for_four).ask()
    assert room_for(4, num_images=4).is_full()


@pytest.mark.usefixtures("_slots_stay")
def test_what_is_given_back_twice_counts_once() -> None:
    for_one = room_for(1)
    first, second = Reservation(for_one), Reservation(for_one)
    assert first.ask()
    first.add_bytes(100)
    second.add_bytes(50)
    assert for_one.num_bytes == 150
    first.give_back()
    assert second.ask()
    first.give_back()
    assert for_one.num_bytes == 50
    assert for_one.is_full()
    second.give_back()
    assert (for_one.num_bytes, for_one.is_full()) == (0, False)
    assert (first.num_bytes, second.num_bytes) == (100, 50)  # what the log tells


def test_bytes_that_come_after_the_end_take_up_no_room() -> None:
    for_one = room_for(1)
    request = Reservation(for_one)
    request.give_back()
    request.add_bytes(100)
    assert (request.num_bytes, for_one.num_bytes) == (100, 0)


def test_bytes_of_one_request_and_of_all_together_are_bounded() -> None:
    for_many = room_for(9)
    first, second = Reservation(for_many), Reservation(for_many)
    first.check_announced(600)
    with pytest.raises(ApiError, match="larger than the limit of 600 bytes"):
        first.check_announced(601)
    assert for_many.num_bytes == 0  # announced is not read
    first.add_bytes(600)
    with pytest.raises(ApiError, match="larger than the limit of 600 bytes"):
        first.add_bytes(1)
    second.check_announced(399)
    with pytest.raises(ApiError, match="too many bytes wait already"):
        second.check_announced(400)
    second.add_bytes(399)
    with pytest.raises(ApiError, match="too many bytes wait already"):
        second.add_bytes(1)
    # What is refused was read all the same, until the request has ended.
    assert for_many.num_bytes == 1001
    second.give_back()
    first.give_back()
    assert for_many.num_bytes == 0


# --- one context for proxy, replica and routes -----------------------------------------------------------------------


@pytest.mark.parametrize("through_proxy", [True, False])
def test_a_request_has_one_context_and_no_other_key_in_its_scope(
    through_proxy: bool, local_replica: proxy.LocalReplica
) -> None:
    seen: list[Scope] = []
    taken: list[tuple[bool, int]] = []
    for_one = room_for(1)

    async def routes(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        taken.append((for_one.is_full(), for_one.num_bytes))
        await receive()
        context_of(scope).reservation.add_bytes(7)
        taken.append((for_one.is_full(), for_one.num_bytes))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app: ASGIApp = ReplicaAdmission(routes, keys=ApiKeys([]), room=for_one, request_timeout_s=60, metrics=NoMetrics())
    if through_proxy:
        local_replica.room = for_one
        app = ProxyAdmission(app, 1_000_000)

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": "/models"}, receive, send)

    headers = [(b"x-request-id", b"mine-1")]
    answer = asyncio.run(exchange(mounted, path="/models/v1/classify", headers=headers, receive=chunks(b"12345")))
    assert answer.status == 200  # in a room for one image: the replica did not ask for what the proxy had got
    [scope] = seen
    assert [key for key in scope if key.startswith("imgcls")] == [CONTEXT_KEY]
    context = context_of(scope)
    assert (context.request_id, context.path, context.error_code) == ("mine-1", "/v1/classify", "")
    assert context.reservation.num_bytes == 12
    # A slot until the body is there; bytes until the request has ended.
    assert taken == [(True, 0), (False, 12)]
    assert (for_one.num_bytes, for_one.is_full()) == (0, False)


# --- every end -------------------------------------------------------------------------------------------------------


def reach(live: Live, local_replica: proxy.LocalReplica, *, through_proxy: bool) -> ASGIApp:
    if not through_proxy:
        return live.app
    local_replica.room = live.app.room
    return ProxyAdmission(live.app, 1_000_000)


@pytest.mark.usefixtures("_slots_stay")
@pytest.mark.parametrize("through_proxy", [True, False])
def test_every_end_of_a_request_gives_its_room_back(
    through_proxy: bool, local_replica: proxy.LocalReplica, start: Callable[..., Live]
) -> None:
    live = start(max_queued_images=4, max_images_per_request=4)
    app = reach(live, local_replica, through_proxy=through_proxy)

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def fails() -> Message:
        raise OSError("the connection is lost")

    bodies: list[Callable[[], Receive]] = [
        lambda: chunks(picture(0)),
        lambda: chunks(b"no picture"),
        lambda: chunks(b""),
        lambda: chunks(*[CHUNK] * 20),
        lambda: gone,
        lambda: fails,
    ]
    for body in bodies:
        for _ in range(5):
            with suppress(AssertionError):  # those that are gone get no answer
                assert live.run(exchange(app, receive=body())).status != 503
        live.wait_until_empty()
    for _ in range(5):
        assert live.run(exchange(app, path="/v1/nothing", receive=chunks(b"1"))).status == 404
    live.wait_until_empty()
    assert live.run(exchange(app, receive=chunks(picture(0)))).status == 200


@pytest.mark.usefixtures("_slots_stay")
def test_who_is_refused_between_proxy_and_replica_gives_the_room_back(local_replica: proxy.LocalReplica) -> None:
    """By the proxy itself, or by Ray Serve."""
    local_replica.room = room_for(1)

    async def serve(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"not found"})

    app = ProxyAdmission(serve, 5)
    for _ in range(3):
        assert asyncio.run(exchange(app, headers=[(b"content-length", b"6")])).status == 413
        assert asyncio.run(exchange(app, headers=[(b"a", b"b")] * 201)).status == 400
        assert asyncio.run(exchange(app)).status == 404


@pytest.mark.usefixtures("_slots_stay")
@pytest.mark.parametrize("through_proxy", [True, False])
def test_a_refused_key_gives_the_room_back(
    through_proxy: bool, local_replica: proxy.LocalReplica, start: Callable[..., Live]
) -> None:
    live = start(max_queued_images=1, max_images_per_request=1, keys=[KEY])
    app = reach(live, local_replica, through_proxy=through_proxy)
    kind = (b"content-type", b"image/jpeg")
    for _ in range(3):
        assert live.run(exchange(app, headers=[kind], receive=chunks(picture(0)))).status == 401
    key = (b"x-api-key", KEY.encode())
    assert live.run(exchange(app, headers=[kind, key], receive=chunks(picture(0)))).status == 200


def stalls() -> Receive:
    """A body whose end never comes."""
    first = True

    async def receive() -> Message:
        nonlocal first
        if not first:
            await asyncio.Event().wait()
        first = False
        return {"type": "http.request", "body": CHUNK, "more_body": True}

    return receive


@pytest.mark.usefixtures("_slots_stay")
@pytest.mark.parametrize("through_proxy", [True, False])
def test_the_deadline_gives_the_room_back(
    through_proxy: bool, local_replica: proxy.LocalReplica, start: Callable[..., Live]
) -> None:
    live = start(max_queued_images=1, max_images_per_request=1, request_timeout_s=0.2)
    app = reach(live, local_replica, through_proxy=through_proxy)
    for _ in range(3):
        answer = live.run(exchange(app, receive=stalls()))
        assert (answer.status, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert live.num_bytes == 0


@pytest.mark.usefixtures("_slots_stay")
@pytest.mark.parametrize("through_proxy", [True, False])
def test_a_request_that_is_cancelled_gives_the_room_back(
    through_proxy: bool, local_replica: proxy.LocalReplica, start: Callable[..., Live]
) -> None:
    """As Ray Serve does with that of a caller who has gone."""
    live = start(max_queued_images=1, max_images_per_request=1)
    app = reach(live, local_replica, through_proxy=through_proxy)

    async def cancel() -> int:
        asked = asyncio.create_task(exchange(app, receive=stalls()))
        while not live.num_bytes:
            await asyncio.sleep(0.005)
        refused = await exchange(app, receive=chunks(picture(0)))
        asked.cancel()
        with suppress(asyncio.CancelledError):
            await asked
        return refused.status

    for _ in range(3):
        assert live.run(cancel()) == 503
        assert live.num_bytes == 0
    assert live.run(exchange(app, receive=chunks(picture(0)))).status == 200
