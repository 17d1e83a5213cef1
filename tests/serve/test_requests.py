"""Requests from whoever means harm or knows no better: each has one answer, soon, which says nothing of the inside."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import re
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.serve.conftest import chunks, exchange, fake_model, in_base64, picture, wait_until
from tests.timing import TRIES, assert_within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Message

    from imgcls_ray.models.folder import ModelFolder
    from tests.serve.conftest import Live

IMAGE = picture(0)
JSON = (b"content-type", b"application/json")
CHUNK = 65_536
INTERNALS = re.compile(r"Traceback|File \"|\.py|/(usr|root|home|tmp|work|etc)/|0x[0-9a-f]{6}|Error\b|\bat line \d+, in")


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


def part(name: str, content: bytes, *headers: bytes, filename: str | None = None) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'.encode()
    disposition += f'; filename="{filename}"'.encode() if filename is not None else b""
    return b"\r\n".join([disposition, *headers, b"", content])


FILE = part("files", IMAGE, filename="a.jpg")
FORM = {"content-type": "multipart/form-data; boundary=x"}


def error_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


# --- size and time ---------------------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_not_read(start: Callable[..., Live]) -> None:
    live = start(max_request_bytes=100_000)

    async def receive() -> Message:
        pytest.fail("the body was read")

    headers = [(b"content-type", b"image/jpeg"), (b"content-length", b"100001")]
    answer = live.run(exchange(live.app, headers=headers, receive=receive))
    assert (answer.status, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert answer.json()["error"]["message"] == "the request is larger than the limit of 100,000 bytes"
    assert answer.header("connection") == "close"


@pytest.mark.parametrize("url", ["/v1/classify", "/image-classification", "/v2/models/small/infer"])
@pytest.mark.parametrize("content_type", [b"image/jpeg", b"application/json", b"multipart/form-data; boundary=x"])
def test_a_body_without_end_is_read_up_to_the_limit(url: str, content_type: bytes, start: Callable[..., Live]) -> None:
    live = start(max_request_bytes=1_000_000, max_queued_bytes=1_000_000)
    num_bytes = 0

    async def receive() -> Message:
        nonlocal num_bytes
        body = form(FILE, end=b"") if not num_bytes else bytes(CHUNK)
        num_bytes += len(body)
        return {"type": "http.request", "body": body, "more_body": True}

    answer = live.run(exchange(live.app, path=url, headers=[(b"content-type", content_type)], receive=receive))
    assert answer.status == 413
    assert num_bytes <= 1_000_000 + CHUNK
    assert live.num_bytes == 0


def test_a_body_of_the_limit_is_taken(start: Callable[..., Live]) -> None:
    live = start(max_request_bytes=100_000)
    padded = IMAGE + bytes(100_000 - len(IMAGE))
    assert live.classify(padded).status_code == 200
    assert error_of(live.classify(padded + b"\0")) == (413, "payload_too_large")


def test_an_endless_upload_over_a_socket_is_cut_off(start: Callable[..., Live]) -> None:
    live = start(max_request_bytes=200_000)
    with socket.create_connection(live.listen()) as connection:
        connection.settimeout(30)
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        num_sent = 0
        with suppress(ConnectionError):
            while num_sent < 100 * 2**20:
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                num_sent += 0x10000
    assert num_sent < 20 * 2**20  # what sockets hold on their way is beyond a server's reach
    live.wait_until_empty()


@pytest.mark.parametrize("length", [b"0" * 5000 + b"9", b"9" * 5000, b"-5", b"1e9", b"abc", b"\xb2", b""])
def test_no_length_is_too_absurd_to_be_answered(length: bytes, live: Live) -> None:
    headers = [(b"content-type", b"image/jpeg"), (b"content-length", length)]
    answer = live.run(exchange(live.app, headers=headers, receive=chunks(IMAGE)))
    assert answer.status == (413 if length.startswith(b"99") else 200)


def test_a_body_that_drips_meets_the_deadline(start: Callable[..., Live]) -> None:
    live = start(request_timeout_s=0.4)
    with socket.create_connection(live.listen()) as connection:
        connection.settimeout(30)
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n"
        )
        started = time.monotonic()
        connection.setblocking(False)
        answer = b""
        while time.monotonic() < started + 20:
            try:
                received = connection.recv(CHUNK)
            except BlockingIOError:
                connection.send(b"x")
                time.sleep(0.02)
                continue
            if not received:
                break
            answer += received
        # The connection is closed too: otherwise it could be dripped on for ever.
        assert 0.3 < time.monotonic() - started < 5
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b'"deadline_exceeded"' in answer
    live.wait_until_empty()


def test_an_engine_that_takes_too_long_meets_the_deadline(start: Callable[..., Live], small_model: ModelFolder) -> None:
    def answer(_images: Any) -> Any:
        time.sleep(0.5)
        return []

    live = start(fake_model(small_model, answer), request_timeout_s=0.1)
    assert error_of(live.classify(IMAGE)) == (504, "deadline_exceeded")
    assert live.num_images == 0


def test_a_caller_that_goes_away_in_mid_upload_is_no_failure_of_the_service(
    start: Callable[..., Live], caplog: pytest.LogCaptureFixture
) -> None:
    live = start()
    caplog.set_level(logging.INFO, logger="imgcls_ray.serve")
    with socket.create_connection(live.listen()) as connection:
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\nabc"
        )
        wait_until(lambda: live.num_bytes == 3)
    wait_until(lambda: any(record.name == "imgcls_ray.serve.access" for record in caplog.records))
    records = [record for record in caplog.records if record.name.startswith("imgcls_ray")]
    assert [(record.levelname, getattr(record, "imgcls_status", None)) for record in records] == [("INFO", 499)]
    live.wait_until_empty()


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        pytest.param(form(*[FILE] * 10_000), None, (422, "too_many_images"), id="10000-files"),
        pytest.param(form(*[part("a", b"1")] * 10_000), None, (400, "bad_request"), id="10000-fields"),
        pytest.param(form(FILE), "multipart/form-data", (400, "bad_request"), id="no-boundary"),
        pytest.param(form(FILE), "multipart/form-data; boundary=", (400, "bad_request"), id="empty-boundary"),
        pytest.param(form(FILE), "multipart/form-data; boundary=y", (400, "bad_request"), id="other-boundary"),
        pytest.param(form(FILE), f"multipart/form-data; boundary={'x' * 999}", (400, "bad_request"), id="long"),
        pytest.param(form(FILE), b"multipart/form-data; boundary=\xff\xfe", (400, "bad_request"), id="raw-boundary"),
        pytest.param(form(FILE), "multipart/mixed; boundary=x", (415, "unsupported_media_type"), id="mixed"),
        pytest.param(IMAGE, None, (400, "bad_request"), id="an-image"),
        pytest.param(b"", None, (400, "bad_request"), id="nothing"),
        pytest.param(b"--x--\r\n", None, (422, "invalid"), id="no-parts"),
        pytest.param(form(part("a", b"1")), None, (422, "invalid"), id="no-files"),
        pytest.param(form(FILE, end=b""), None, (400, "bad_request"), id="no-end"),
        pytest.param(form(FILE, FILE, end=b"")[:-200], None, (400, "bad_request"), id="cut"),
        pytest.param(form(FILE)[:20], None, (400, "bad_request"), id="cut-in-a-header"),
        pytest.param(form(b"A" * 100_000), None, (400, "bad_request"), id="huge-header-name"),
        pytest.param(form(part("a", b"", b"A: " + b"b" * 100_000)), None, (400, "bad_request"), id="huge-header"),
        pytest.param(form(part("a", b"", *[b"A: b"] * 1000)), None, (400, "bad_request"), id="1000-headers"),
        pytest.param(form(part("a" * 100_000, b"")), None, (400, "bad_request"), id="huge-name"),
        pytest.param(form(b"A: b\r\n\r\n"), None, (400, "bad_request"), id="no-disposition"),
        pytest.param(form(part("top_k", b"9" * 5000), FILE), None, (400, "bad_request"), id="huge-field"),
        pytest.param(form(part("top_k", b"\xff"), FILE), None, (422, "invalid"), id="field-not-text"),
    ],
)  # fmt: skip
def test_a_form_that_is_none_is_refused(
    content: bytes, content_type: str | bytes | None, expected: tuple[int, str], live: Live
) -> None:
    headers = FORM if content_type is None else {"content-type": content_type}

    def ask() -> None:
        response = live.ask("POST", "/v1/classify", content=content, headers=headers)
        assert error_of(response) == expected
        assert not INTERNALS.search(response.text)

    assert_within(5, ask)


def test_a_form_that_comes_byte_by_byte_is_read(live: Live) -> None:
    body = form(FILE, part("top_k", b"2"))
    receive = chunks(*[body[i : i + 1] for i in range(len(body))])
    answer = live.run(exchange(live.app, headers=[(b"content-type", FORM["content-type"].encode())], receive=receive))
    [result] = answer.json()["results"]
    assert (result["status"], len(result["predictions"])) == ("ok", 2)


def test_what_stands_after_a_forms_end_is_not_looked_at(live: Live) -> None:
    response = live.ask("POST", "/v1/classify", content=form(FILE) + form(FILE), headers=FORM)
    assert len(response.json()["results"]) == 1


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"images": [' * 5000,
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"images": [{"base64": "\xff\xfe"}]}',
        b'{"images": [{"base64": "QUJD", "name": "\\ud800"}]}',
        b'\xef\xbb\xbf{"images": []}',
        json.dumps({"images": [{"base64": "QUJD"}]}).encode("utf-16"),
        b"{'images': []}",
        b'{"images": []} {"images": []}',
        IMAGE,
    ],
    ids=["empty", "open", "nonsense", "open-deep", "deep-lists", "deep-objects", "not-utf8", "lone-surrogate", "bom",
         "utf16", "python", "two", "an-image"],
)  # fmt: skip
@pytest.mark.parametrize("url", ["/v1/classify", "/image-classification", "/v2/models/small/infer"])
def test_what_is_not_json_is_refused(url: str, body: bytes, live: Live) -> None:
    response = live.ask_in_json(body, url)
    assert response.status_code == 400
    assert not INTERNALS.search(response.text)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({}, "images"),
        ([], "Input should be an object"),
        ("images", "Input should be an object"),
        (None, "Input should be an object"),
        ({"images": None}, "images"),
        ({"images": []}, "images"),
        ({"images": {}}, "images"),
        ({"images": ["QUJD"]}, "images.0"),
        ({"images": [{}]}, "images.0: give base64 or url, one of them"),
        ({"images": [{"base64": "QUJD", "url": "http://a/"}]}, "images.0: give base64 or url, one of them"),
        ({"images": [{"base64": 1}]}, "images.0.base64"),
        ({"images": [{"base64": "QUJD", "name": "x" * 256}]}, "images.0.name"),
        ({"images": [{"url": "http://a/" + "x" * 5000}]}, "images.0.url"),
        ({"images": [{"base64": "QUJD", "path": "/etc/passwd"}]}, "images.0.path"),
        ({"images": [{"base64": "QUJD"}], "threshold": 0.5}, "threshold"),
        ({"images": [{"base64": "QUJD"}], "x" * 10_000: 1}, "x" * 100),
    ],
)
def test_json_that_does_not_fit_is_refused_by_its_key(content: Any, where: str, live: Live) -> None:
    response = live.ask_in_json(content)
    assert error_of(response) == (422, "invalid")
    assert response.json()["error"]["message"].startswith(where)
    assert len(response.text) < 1000


@pytest.mark.parametrize("value", ["0", "-1", "1001", "1e9", "1000000000", '"5"', "true", "1.5", "1.0", "[]",
                                   "NaN", "Infinity", "-Infinity", "1" + "0" * 200])  # fmt: skip
def test_no_top_k_is_guessed_in_json(value: str, live: Live) -> None:
    response = live.ask_in_json(b'{"images": [{"base64": "QUJD"}], "top_k": %b}' % value.encode())
    assert error_of(response) == (422, "invalid")
    assert response.json()["error"]["message"].startswith("top_k: ")


@pytest.mark.parametrize("value", ["0", "-1", "1001", "1e9", "1000000000", "true", "1.5", "", " ", "NaN", "5x", "٣"])
def test_no_top_k_is_guessed_in_an_address_or_a_form(value: str, live: Live) -> None:
    for response in (live.classify(IMAGE, params={"top_k": value}), live.classify_files(IMAGE, data={"top_k": value})):
        assert error_of(response) == (422, "invalid")
        assert response.json()["error"]["message"].startswith("top_k: ")


def test_of_a_key_that_comes_twice_the_last_counts(live: Live) -> None:
    image = json.dumps([{"base64": in_base64(IMAGE)}]).encode()
    response = live.ask_in_json(b'{"top_k": 1, "images": [], "images": %b, "top_k": 2}' % image)
    [result] = response.json()["results"]
    assert len(result["predictions"]) == 2


@pytest.mark.parametrize("num_images", [65, 1000])
def test_more_images_than_a_request_may_have_are_refused(num_images: int, live: Live) -> None:
    response = live.ask_in_json({"images": [{"base64": in_base64(IMAGE)}] * num_images})
    assert error_of(response) == (422, "too_many_images")
    assert error_of(live.classify_files(*[IMAGE] * num_images)) == (422, "too_many_images")
    assert live.num_images == 0


@pytest.mark.parametrize(
    "body",
    [
        b'{"images": [' + b"0," * 5_000_000 + b"0]}",
        b'{"images": [' + b'{"base64": "A"},' * 1_000_000 + b"0]}",
        b'{"images": [], ' + b", ".join(b'"%d": 0' % i for i in range(1_000_000)) + b"}",
        b'{"image": [' + b"[]," * 5_000_000 + b"0]}",
        b'{"inputs": [{"name": "pixels", "shape": [1, 64, 64, 3], "datatype": "UINT8", "data": ['
        + b"0," * 5_000_000
        + b"0]}]}",
    ],
    ids=["numbers", "images", "keys", "lists", "pixels"],
)
@pytest.mark.parametrize("url", ["/v1/classify", "/image-classification", "/v2/models/small/infer"])
def test_millions_of_values_hold_nobody_up(url: str, body: bytes, live: Live) -> None:
    """Checked one by one, each with an error of its own, they would take a minute and gigabytes."""

    def ask() -> None:
        assert live.ask_in_json(body, url).status_code == 422

    assert_within(2, ask)


def test_thirty_megabytes_of_base64_do_not_stop_the_event_loop(live: Live) -> None:
    body = json.dumps({"images": [{"base64": "\n".join(["A" * 76] * 380_000)}]}).encode()

    async def longest_gap() -> float:
        gaps = [0.0]

        async def tick() -> None:
            while True:
                start = time.perf_counter()
                await asyncio.sleep(0.002)
                gaps.append(time.perf_counter() - start)

        ticking = asyncio.create_task(tick())
        response = await live.client.post("/v1/classify", content=body, headers={"content-type": "application/json"})
        ticking.cancel()
        assert response.status_code == 200
        return max(gaps)

    assert any(live.run(longest_gap()) < 2 for _ in range(TRIES))


# --- what is asked of what -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "text/html", "application/x-www-form-urlencoded",
                                          "application/jsonx", "image", "application/xml", "; image/jpeg"])  # fmt: skip
def test_a_body_of_an_unknown_kind_is_refused(content_type: str | None, live: Live) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = live.ask("POST", "/v1/classify", content=IMAGE, headers=headers)
    assert error_of(response) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("method", "allowed"), [(m, "POST") for m in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "FOO")]
)
def test_another_method_is_refused(method: str, allowed: str, live: Live) -> None:
    response = live.ask(method, "/v1/classify")
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1",
        "/v1/classify/",
        "/v1/model/",
        "//v1/model",
        "/V1/MODEL",
        "/healthz/",
        "/assets/",
        "/assets/..",
        "/assets/../app.py",
        "/assets/..%2fapp.py",
        "/assets/..%2f..%2f..%2fetc%2fpasswd",
        "/assets/%2e%2e%2fapp.py",
        "/assets/..%5capp.py",
        "/assets/%2fetc%2fpasswd",
        "/assets/page.js%00.css",
        "/assets/page.html",
        "/assets/../v1/model",
        "/%ff%fe",
        "/v1/%00",
        "/%0d%0aX-Injected:%20yes",
        "/docs/oauth2-redirect",
        "/redoc",
        "/metrics",
        "/.env",
    ],
)
def test_nothing_else_is_there(path: str, live: Live) -> None:
    decoded = path.replace("%2f", "/").replace("%2e", ".").replace("%5c", "\\").replace("%20", " ")
    decoded = decoded.replace("%00", "\0").replace("%0d%0a", "\r\n").replace("%ff%fe", "\ufffd\ufffd")
    answer = live.run(exchange(live.app, "GET", decoded, []))
    assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")
    assert answer.json()["error"]["message"] == "there is no such page"
    assert {name for name, _ in answer.headers} <= {
        b"content-type", b"content-length", b"x-request-id", b"x-content-type-options", b"referrer-policy",
        b"content-security-policy",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["..", "../../etc/passwd", "%2e%2e", "a/b", "small\0", "SMALL", "", "x" * 5000])
def test_a_models_name_leads_nowhere(name: str, live: Live) -> None:
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/infer"):
        answer = live.run(exchange(live.app, "POST" if path.endswith("infer") else "GET", path, [JSON], chunks(b"{}")))
        assert (answer.status, answer.json()["code"]) == (404, "not_found")
        assert len(answer.body) < 300


def test_the_host_that_a_request_names_is_not_believed(live: Live) -> None:
    for path in ("/v1/classify/", "/assets", "/v1/classify", "/", "/docs"):
        response = live.ask("GET", path, headers={"host": "evil.example", "x-forwarded-host": "evil.example"})
        assert "location" not in response.headers
        assert "evil" not in response.text


def test_websockets_are_closed(live: Live) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    live.run(live.app({"type": "websocket", "path": "/v1/classify", "headers": []}, chunks(), send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


# --- what comes back -------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, str, Any]] = [
    ("GET", "/nothing", None),
    ("GET", "/v1/classify", None),
    ("POST", "/v1/classify", b"{"),
    ("POST", "/v1/classify", b"{}"),
    ("POST", "/v1/classify", b'{"images": [{"url": "http://169.254.169.254/"}]}'),
    ("POST", "/v1/classify?top_k=0", b"{}"),
    ("GET", "/image-classification", None),
    ("POST", "/image-classification", b"{"),
    ("POST", "/image-classification", b"{}"),
    ("POST", "/image-classification", b'{"image": "QUJD"}'),
    ("POST", "/image-classification", b'{"image": "http://169.254.169.254/"}'),
    ("POST", "/health", b"{}"),
    ("GET", "/v2/models/other", None),
    ("GET", "/v2/nothing", None),
    ("POST", "/v2/models/small/infer", b"{"),
    ("POST", "/v2/models/small/infer", b"{}"),
    ("POST", "/v2/models/small/versions/1/infer", b"{}"),
]


@pytest.mark.parametrize(("method", "url", "body"), REFUSED)
def test_every_error_has_the_form_of_its_protocol(method: str, url: str, body: bytes | None, live: Live) -> None:
    headers = {"content-type": "application/json", "x-request-id": "mine-1"}
    response = live.ask(method, url, content=body, headers=headers)
    assert response.status_code >= 400
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    if url.startswith(("/image-classification", "/health")):
        assert set(content) == {"logId", "errorCode", "errorMsg"}
        assert (content["logId"], content["errorCode"]) == ("mine-1", response.status_code)
    elif url.startswith("/v2"):
        assert set(content) == {"error", "code", "request_id"}
        assert content["request_id"] == "mine-1"
    else:
        assert set(content) == {"error"}
        assert set(content["error"]) == {"code", "message", "request_id"}
        assert content["error"]["request_id"] == "mine-1"
    assert not INTERNALS.search(response.text)


@pytest.mark.parametrize(("url", "body"), [("/v1/classify", {"images": [{"base64": in_base64(IMAGE)}]}),
                                           ("/image-classification", {"image": in_base64(IMAGE)}),
                                           ("/v2/models/small/infer",
                                            {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES",
                                                         "data": [in_base64(IMAGE)]}]})])  # fmt: skip
def test_a_failure_inside_says_nothing_of_the_inside(
    url: str,
    body: dict[str, Any],
    start: Callable[..., Live],
    small_model: ModelFolder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_images: Any) -> Any:
        raise RuntimeError("the secret of /etc/passwd")

    response = start(fake_model(small_model, fail)).ask_in_json(body, url)
    assert (response.status_code, response.headers["content-type"]) == (500, "application/json")
    assert "the service failed; its log has the reason" in response.text
    assert response.headers["x-request-id"] in response.text
    assert not INTERNALS.search(response.text)
    assert "secret" not in response.text
    assert "the secret of /etc/passwd" in caplog.text


def test_a_failure_is_logged_once_for_a_request_of_many_images(
    start: Callable[..., Live], small_model: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_images: Any) -> Any:
        raise RuntimeError("broken")

    live = start(fake_model(small_model, fail))
    assert live.classify_files(*[IMAGE] * 6).status_code == 500
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]
    assert caplog.messages.count("a request failed") == 1


@pytest.mark.parametrize("url", ["/", "/docs", "/openapi.json", "/assets/page.js", "/healthz", "/v1/model", "/nothing"])
def test_no_other_site_may_use_it_and_browsers_are_told_to_be_careful(url: str, live: Live) -> None:
    origin = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for method in ("GET", "OPTIONS", "HEAD"):
        response = live.ask(method, url, headers=origin)
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_a_preflight_of_another_site_is_refused(live: Live) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    response = live.ask("OPTIONS", "/v1/classify", headers=headers)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("given", [b"a", b"Request-1.2:3_4", b"x" * 128])
def test_a_request_keeps_its_callers_id(given: bytes, live: Live) -> None:
    headers = [(b"content-type", b"image/jpeg"), (b"x-request-id", given)]
    answer = live.run(exchange(live.app, headers=headers, receive=chunks(IMAGE)))
    assert answer.header("x-request-id") == answer.json()["request_id"] == given.decode()


@pytest.mark.parametrize(
    "given",
    [b"", b" ", b"x" * 129, b"x" * 100_000, b"a b", b"a\r\nSet-Cookie: b=c", b"a\nb", b"a\0", b"\xff", b"\x1b[31m",
     b"<b>", b'"', "käse".encode(), b"${jndi:ldap://evil}"],
)  # fmt: skip
def test_an_id_that_could_do_harm_is_replaced(given: bytes, live: Live) -> None:
    headers = [(b"content-type", b"image/jpeg"), (b"x-request-id", given)]
    answer = live.run(exchange(live.app, headers=headers, receive=chunks(IMAGE)))
    assert re.fullmatch("[0-9a-f]{32}", answer.header("x-request-id") or "")
    assert answer.json()["request_id"] == answer.header("x-request-id")
    assert {name for name, _ in answer.headers} & {b"set-cookie"} == set()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/a\nINFO forged line"),
        ("GET", "/a\r\n\r\nforged"),
        ("GET", "/\x1b[31mred\x1b]0;title\x07"),
        ("GET", "/\u2028\u202eevil"),
        ("GET", '/" 200 "'),
        ("GET\nforged", "/"),
        ("POST", "/v1/classify/" + "x" * 100_000),
    ],
    ids=ascii,
)
def test_nothing_of_a_request_reaches_a_log_line_raw(
    method: str, path: str, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="imgcls_ray.serve.access")
    live.run(exchange(live.app, method, path, [(b"x-request-id", b"a\nforged"), (b"user-agent", b"\x1b[31m")]))
    [record] = [record for record in caplog.records if record.name == "imgcls_ray.serve.access"]
    fields = [value for key, value in vars(record).items() if key.startswith("imgcls_")]
    line = record.getMessage()
    assert line.isascii()
    assert line.isprintable()
    assert '" ' not in line.replace('\\"', "")
    assert len(line) < 2000
    assert all(str(value).isprintable() for value in fields)


def test_a_request_leaves_one_line_that_says_what_became_of_it(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="imgcls_ray.serve.access")
    response = live.classify_files(IMAGE, b"", b"no image", params={"top_k": "3"})
    [record] = [record for record in caplog.records if record.name == "imgcls_ray.serve.access"]
    assert re.fullmatch(r"POST /v1/classify 200 \d+\.\d ms", record.getMessage())
    fields = vars(record)
    assert fields["imgcls_request_id"] == response.headers["x-request-id"]
    assert (fields["imgcls_endpoint"], fields["imgcls_status"]) == ("/v1/classify", 200)
    assert (fields["imgcls_images"], fields["imgcls_image_errors"]) == (3, ["empty", "unsupported_format"])
    assert fields["imgcls_model"] == response.json()["model"]["fingerprint"][:12]


@pytest.mark.parametrize(
    ("content", "code"), [(b"no image", "unsupported_format"), (b"\xff\xd8\xff", "truncated"), (b"", "empty")]
)
def test_the_line_of_a_refused_request_has_its_code(
    content: bytes, code: str, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="imgcls_ray.serve.access")
    live.classify(content)
    [record] = [record for record in caplog.records if record.name == "imgcls_ray.serve.access"]
    assert vars(record)["imgcls_code"] == code


def test_questions_of_health_leave_no_lines(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="imgcls_ray.serve.access")
    for path in ("/healthz", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"):
        assert live.ask("GET", path).status_code == 200
    assert not caplog.records


def sent_raw(address: tuple[str, int], *parts: bytes) -> bytes:
    with socket.create_connection(address) as connection:
        connection.settimeout(30)
        for one in parts:
            connection.sendall(one)
        return b"".join(iter(lambda: connection.recv(CHUNK), b""))


@pytest.mark.parametrize(
    "head",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Content-Length: 5", b"Content-Length: 7"],
        [b"Content-Length: " + b"0" * 5000 + b"5"],
        [b"X-Huge: " + b"x" * 200_000],
        [b"A%d: b" % i for i in range(20_000)],
        [b"Transfer-Encoding: gzip"],
    ],
    ids=["length-and-chunked", "two-lengths", "long-length", "huge-header", "20000-headers", "gzip"],
)
def test_a_head_that_makes_no_sense_is_survived(head: Sequence[bytes], start: Callable[..., Live]) -> None:
    live = start(request_timeout_s=1)
    address = live.listen()
    lines = [b"POST /v1/classify HTTP/1.1", b"Host: x", b"Connection: close", b"Content-Type: image/jpeg", *head]
    try:
        answer = sent_raw(address, b"\r\n".join(lines) + b"\r\n\r\nhello")
    except ConnectionError:
        answer = b""
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    body = b"Connection: close\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(IMAGE)
    good = sent_raw(address, b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n" + body, IMAGE)
    assert good.startswith(b"HTTP/1.1 200 ")


def test_what_is_refused_in_base64_is_not_repeated(live: Live) -> None:
    """Megabytes of someone's picture have no place in an error."""
    secret = base64.b64encode(b"secret" * 1000).decode()
    for content in ({"images": [{"base64": secret, "more": secret}]}, {"images": secret}, {secret[:300]: secret}):
        response = live.ask_in_json(content)
        assert response.status_code == 422
        assert len(response.text) < 700
    assert secret[-100:] not in response.text
