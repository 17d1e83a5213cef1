"""Before Ray Serve: bodies are bounded, callers' headers steer nothing, and Serve's own errors look like ours."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from imgcls_ray.serve.admission import proxy, room
from imgcls_ray.serve.admission.proxy import MAX_BYTES_VARIABLE, SERVE_ENVIRONMENT, ProxyAdmission, middlewares
from imgcls_ray.serve.admission.room import Reservation, Room
from imgcls_ray.serve.admission.slow_callers import SlowCallers
from tests.serve.conftest import Answer, chunks, exchange, picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tests.serve.conftest import Live

ROOT = Path(__file__).parents[2]
KIND = (b"content-type", b"image/jpeg")
CHUNK = bytes(65_536)


def ask(app: ASGIApp, *, max_bytes: int = 1_000_000, **request: Any) -> Answer:
    return asyncio.run(exchange(ProxyAdmission(app, max_bytes), **request))


class Inside:
    """What is behind the proxy: reads everything and says how much it was."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.num_bytes = 0
        self.is_gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.is_gone = True
                return
            self.num_bytes += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"of-serve")]})
        await send({"type": "http.response.body", "body": str(self.num_bytes).encode()})

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.scopes[-1]["headers"])


# --- size ------------------------------------------------------------------------------------------------------------


async def nothing_may_be_read() -> Message:
    pytest.fail("the body was read")


@pytest.mark.parametrize("length", [b"1000001", b"9" * 30, b"9" * 5000])
def test_a_body_that_says_it_is_too_large_goes_no_further(length: bytes) -> None:
    inside = Inside()
    answer = ask(inside, headers=[KIND, (b"content-length", length)], receive=nothing_may_be_read)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert answer.json()["error"]["message"] == "the request is larger than the limit of 1,000,000 bytes"
    assert answer.header("connection") == "close"
    assert inside.scopes == []


def test_of_a_body_without_end_no_more_than_the_limit_gets_through() -> None:
    inside = Inside()
    num_read = 0

    async def receive() -> Message:
        nonlocal num_read
        num_read += len(CHUNK)
        return {"type": "http.request", "body": CHUNK, "more_body": True}

    answer = ask(inside, headers=[KIND], receive=receive)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert inside.is_gone
    assert inside.num_bytes <= 1_000_000
    assert num_read <= 1_000_000 + len(CHUNK)


def test_a_length_that_is_a_lie_does_not_help() -> None:
    inside = Inside()
    headers = [KIND, (b"content-length", b"0" * 50 + b"5")]
    answer = ask(inside, headers=headers, receive=chunks(*[CHUNK] * 20))
    assert answer.status == 413
    assert inside.num_bytes <= 1_000_000


@pytest.mark.parametrize("length", [b"", b"-1", b"abc", b"\xb2", b"1e9"])
def test_a_length_that_is_none_is_survived(length: bytes) -> None:
    answer = ask(Inside(), headers=[KIND, (b"content-length", length)], receive=chunks(b"12", b"345"))
    assert (answer.status, answer.body) == (200, b"5")


def test_a_body_of_the_limit_gets_through() -> None:
    assert ask(Inside(), max_bytes=131_072, receive=chunks(CHUNK, CHUNK)).body == b"131072"
    assert ask(Inside(), max_bytes=131_071, receive=chunks(CHUNK, CHUNK)).status == 413


def test_one_who_answers_although_the_body_is_too_large_is_not_heard() -> None:
    """What stands inside takes the caller for gone, and may still say something."""

    async def inside(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all is well"})

    answer = ask(inside, max_bytes=100_000, receive=chunks(*[CHUNK] * 5))
    assert (answer.status, answer.json()["error"]["code"]) == (413, "payload_too_large")


def test_one_whom_serve_gives_up_because_the_body_is_too_large_is_answered_for() -> None:
    """Serve takes him for gone, and raises what it raises for those."""

    async def give_up(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise asyncio.CancelledError

    answer = ask(give_up, max_bytes=100_000, receive=chunks(*[CHUNK] * 5))
    assert (answer.status, answer.json()["error"]["code"]) == (413, "payload_too_large")


def test_one_who_fails_because_the_body_is_too_large_is_answered_for() -> None:
    async def inside(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise RuntimeError("the caller has gone")

    async def ask() -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/v1/classify", "headers": [KIND]}
        with pytest.raises(RuntimeError, match="the caller has gone"):
            await ProxyAdmission(inside, 100_000)(scope, chunks(*[CHUNK] * 5), send)
        return sent

    start, body = asyncio.run(ask())
    assert start["status"] == 413
    assert json.loads(body["body"])["error"]["code"] == "payload_too_large"


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve_multiplexed_model_id", b"x-session-id"],
)
def test_headers_that_steer_serve_do_not_get_through(name: bytes) -> None:
    inside = Inside()
    ask(inside, headers=[KIND, (name, b"1"), (b"authorization", b"Bearer key")], receive=chunks(b""))
    assert name not in dict(inside.headers)
    assert dict(inside.headers)[b"authorization"] == b"Bearer key"


def test_a_callers_id_gets_through() -> None:
    inside = Inside()
    ask(inside, headers=[(b"x-request-id", b"mine-1")], receive=chunks(b""))
    assert inside.headers == [(b"x-request-id", b"mine-1")]


@pytest.mark.parametrize("given", [b"", b"a b", b"a\r\nb: c", b"x" * 129, b"\xff", b"\x1b[31m"])
def test_an_id_that_could_do_harm_is_replaced(given: bytes) -> None:
    inside = Inside()
    ask(inside, headers=[(b"x-request-id", given)], receive=chunks(b""))
    [(_, value)] = inside.headers
    assert re.fullmatch(rb"[0-9a-f]{32}", value)


def test_of_several_ids_the_first_counts_and_one_is_left() -> None:
    inside = Inside()
    ask(inside, headers=[(b"x-request-id", b"one"), (b"x-request-id", b"two")], receive=chunks(b""))
    assert inside.headers == [(b"x-request-id", b"one")]


def test_an_answer_has_one_id() -> None:
    """Serve adds its own to the one that is there."""

    async def inside(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"x-request-id", b"ours"), (b"a", b"1"), (b"X-Request-ID", b"of-serve"), (b"a", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    headers = ask(inside).headers
    assert [(name, value) for name, value in headers if name in (b"x-request-id", b"a")] == [
        (b"x-request-id", b"ours"),
        (b"a", b"1"),
        (b"a", b"2"),
    ]
    assert b"X-Request-ID" not in dict(headers)


# --- what Serve says -------------------------------------------------------------------------------------------------


def says(status: int, *parts: bytes, kind: bytes = b"text/plain; charset=utf-8") -> ASGIApp:
    async def inside(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        for i, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": i + 1 < len(parts)})

    return inside


@pytest.mark.parametrize(
    ("status", "becomes", "code"),
    [
        (404, 404, "not_found"),
        (408, 504, "deadline_exceeded"),
        (429, 503, "overloaded"),
        (503, 503, "overloaded"),
        (500, 500, "internal"),
        (502, 500, "internal"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/classify", "/image-classification", "/v2/models/small/infer"])
def test_serves_own_errors_take_the_form_of_the_protocol(status: int, becomes: int, code: str, path: str) -> None:
    inside = says(status, b"Traceback (most recent call last):\n", b'  File "/usr/lib/python3/ray.py"')
    answer = ask(inside, path=path, headers=[(b"x-request-id", b"mine-1")])
    assert (answer.status, answer.header("content-type")) == (becomes, "application/json")
    content = answer.json()
    match path:
        case "/v1/classify":
            assert (content["error"]["code"], content["error"]["request_id"]) == (code, "mine-1")
        case "/image-classification":
            assert (content["errorCode"], content["logId"]) == (becomes, "mine-1")
            assert content["errorMsg"].startswith(f"{code}: ")
        case _:
            assert (content["code"], content["request_id"]) == (code, "mine-1")
    assert b"Traceback" not in answer.body
    assert b"/usr" not in answer.body
    if becomes == 503:
        assert answer.header("retry-after") == "1"


def test_our_own_errors_and_good_answers_stay_as_they_are() -> None:
    ours = ask(says(503, b'{"error": ', b"{}}", kind=b"application/json"))
    assert (ours.status, ours.body) == (503, b'{"error": {}}')
    text = ask(says(200, b"plain ", b"text"))
    assert (text.status, text.body) == (200, b"plain text")


def test_what_serve_says_of_its_health_stays_as_it_is_and_takes_no_large_bodies() -> None:
    answer = ask(says(503, b"draining"), path="/-/healthz")
    assert (answer.status, answer.body) == (503, b"draining")
    assert ask(Inside(), path="/-/healthz", receive=chunks(CHUNK), max_bytes=5).status == 413


def test_other_messages_go_through_untouched() -> None:
    seen: list[str] = []

    async def lifespan(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    async def drop(_message: Message) -> None: ...

    asyncio.run(ProxyAdmission(lifespan, 5)({"type": "lifespan"}, chunks(), drop))
    assert seen == ["lifespan"]


def test_a_service_behind_the_proxy_answers_as_without(live: Live) -> None:
    image = picture(0)
    answer = live.run(
        exchange(ProxyAdmission(live.app, 1_000_000), headers=[KIND], receive=chunks(image[:500], image[500:]))
    )
    assert answer.status == 200
    assert answer.json()["request_id"] == answer.header("x-request-id")
    refused = live.run(
        exchange(ProxyAdmission(live.app, 500), headers=[KIND], receive=chunks(image[:500], image[500:]))
    )
    assert (refused.status, refused.json()["error"]["code"]) == (413, "payload_too_large")


# --- how Serve finds it ----------------------------------------------------------------------------------------------


def test_serve_finds_it_by_its_name_in_the_environment() -> None:
    module, _, name = SERVE_ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")
    find: Callable[[], Any] = getattr(importlib.import_module(module), name)
    assert find is middlewares
    assert (module, name) == (proxy.__name__, "middlewares")


@pytest.mark.skipif(sys.platform != "linux", reason="serve_config.yaml is for Linux, which HAProxy comes for")
def test_the_configuration_for_a_cluster_names_what_a_local_service_does() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    [application] = config["applications"]
    for runtime_env in (config["controller_options"]["runtime_env"], application["runtime_env"]):
        named = {key: value for key, value in runtime_env["env_vars"].items() if key in SERVE_ENVIRONMENT}
        assert named == SERVE_ENVIRONMENT


@pytest.mark.parametrize(("value", "limit"), [(None, 32 * 2**20), ("1000", 1000)])
def test_its_limit_is_in_the_environment(value: str | None, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MAX_BYTES_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(MAX_BYTES_VARIABLE, value)
    found = middlewares()
    assert [str(middleware.cls) for middleware in found] == [str(ProxyAdmission), str(SlowCallers)]
    assert found[0].kwargs == {"max_bytes": limit}


# --- what there is no room for ---------------------------------------------------------------------------------------


@pytest.fixture
def local_replica(monkeypatch: pytest.MonkeyPatch) -> proxy.LocalReplica:
    """As in a process in which a replica answers."""
    local_replica = proxy.LocalReplica()
    monkeypatch.setattr(proxy, "LOCAL_REPLICA", local_replica)
    return local_replica


def room_for(max_images: int, *, num_images: int = 0) -> Room:
    return Room(max_images, max_bytes=1_000_000, max_request_bytes=1_000_000, num_images=lambda: num_images)


def test_what_there_is_no_room_for_is_refused_unread(local_replica: proxy.LocalReplica) -> None:
    local_replica.room = room_for(5, num_images=5)
    inside = Inside()
    answer = ask(inside, receive=nothing_may_be_read)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.header("retry-after") == "1"
    assert inside.scopes == []
    assert local_replica.num_refused == 1
    assert ask(inside, method="GET", receive=chunks(b"")).status == 200


def test_a_refusal_says_for_how_long_haproxy_refuses(
    local_replica: proxy.LocalReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_replica.room = room_for(5, num_images=5)
    monkeypatch.setattr(local_replica.room, "pause_s", lambda: 0.0254)
    assert ask(Inside(), receive=nothing_may_be_read).header("x-imgcls-pause-ms") == "25"
    monkeypatch.setattr(local_replica.room, "pause_s", lambda: 0.0)
    assert ask(Inside(), receive=nothing_may_be_read).header("x-imgcls-pause-ms") is None


@pytest.mark.parametrize(("told", "counted"), [(b"12", 12), (b"1e3", 0), (b"-1", 0), (b"9" * 5000, 0)])
def test_what_haproxy_refused_is_counted_and_goes_no_further(
    told: bytes, counted: int, local_replica: proxy.LocalReplica
) -> None:
    local_replica.room = room_for(5)
    inside = Inside()
    ask(inside, headers=[(b"x-imgcls-refused", told)], receive=chunks(b"1"))
    assert local_replica.num_refused == counted
    assert b"x-imgcls-refused" not in dict(inside.headers)
    local_replica.room = room_for(5, num_images=5)
    ask(inside, headers=[(b"x-imgcls-refused", told)], receive=nothing_may_be_read)
    assert local_replica.num_refused == 2 * counted + 1


def test_a_body_on_its_way_has_a_slot_that_nobody_else_gets(local_replica: proxy.LocalReplica) -> None:
    local_replica.room = room_for(1)

    async def ask_two() -> tuple[int, int, int]:
        rest = asyncio.Event()
        parts = iter([{"type": "http.request", "body": b"1", "more_body": True}])

        async def slowly() -> Message:
            if (part := next(parts, None)) is not None:
                return part
            await rest.wait()
            return {"type": "http.request", "body": b"2", "more_body": False}

        first = asyncio.create_task(exchange(ProxyAdmission(Inside(), 100), receive=slowly))
        await asyncio.sleep(0.01)
        second = await exchange(ProxyAdmission(Inside(), 100), receive=chunks(b"12"))
        rest.set()
        return (
            (await first).status,
            second.status,
            (await exchange(ProxyAdmission(Inside(), 100), receive=chunks(b"1"))).status,
        )

    assert asyncio.run(ask_two()) == (200, 503, 200)


def test_a_slow_body_does_not_keep_its_slot(local_replica: proxy.LocalReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_SLOT_S", 0.05)
    local_replica.room = room_for(1)
    assert Reservation(local_replica.room).ask()
    assert ask(Inside(), receive=chunks(b"1")).status == 503
    time.sleep(0.06)
    assert ask(Inside(), receive=chunks(b"1")).status == 200


def test_a_copy_of_the_replicas_class_reaches_the_proxy_of_its_process() -> None:
    """Ray sends the class by value: a replica that told a copy of its room would have nobody refused."""
    from ray import cloudpickle

    from imgcls_ray.serve.deployment import Classifier

    deployment: Any = Classifier
    code = """if True:
        import sys
        from ray import cloudpickle
        copy = cloudpickle.loads(sys.stdin.buffer.read())
        from imgcls_ray.serve.admission import proxy
        [method] = [vars(kind)["check_health"] for kind in copy.__mro__ if "check_health" in vars(kind)]
        assert method.__globals__["proxy"].LOCAL_REPLICA is proxy.LOCAL_REPLICA
        """
    sent = cloudpickle.dumps(deployment.func_or_class)  # type: ignore[no-untyped-call]
    subprocess.run([sys.executable, "-c", code], input=sent, check=True, timeout=60)
