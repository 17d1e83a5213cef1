"""What every answer has, and bodies as clients send them: gzipped, in parts of forms that differ."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import socket
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imgcls_ray.serve.admission import proxy
from imgcls_ray.serve.admission.proxy import ProxyAdmission
from imgcls_ray.serve.admission.room import Room
from tests.serve.conftest import chunks, exchange, in_base64, picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Scope, Send

    from tests.serve.conftest import Answer, Live

IMAGE = picture(0)
KIND = (b"content-type", b"image/jpeg")
KEY = "a key of more than sixteen characters"


# --- every answer ----------------------------------------------------------------------------------------------------

EVERY = [
    ("GET", "/", {}),
    ("GET", "/nothing", {}),
    ("GET", "/v1/classify", {}),
    ("POST", "/v1/classify", {}),
    ("POST", "/v1/classify", {"content-type": "image/jpeg"}),
    ("POST", "/v1/classify", {"content-type": "image/jpeg", "content-encoding": "br"}),
    ("POST", "/v1/classify", {"content-type": "image/jpeg", "content-length": "999999999999"}),
    ("POST", "/v2/models/small/infer", {"content-type": "application/json"}),
    ("POST", "/image-classification", {"content-type": "application/json"}),
    ("GET", "/assets/page.js", {}),
    ("GET", "/assets/page.js", {"range": "bytes=0-9"}),
    ("GET", "/assets/page.js", {"range": "bytes=99999999-"}),
    ("GET", "/assets/page.js", {"range": "lines=1-2"}),
    ("GET", "/assets/nothing.js", {}),
    ("POST", "/assets/page.js", {}),
    ("GET", "/v1/model", {"serve-multiplexed-model-id": "\xff"}),
    ("HEAD", "/healthz", {}),
    ("HEAD", "/v1/classify", {}),
    ("OPTIONS", "/v1/model", {}),
]


@pytest.mark.parametrize(("method", "path", "headers"), EVERY)
@pytest.mark.parametrize("through_proxy", [True, False])
def test_every_answer_has_an_id_and_tells_browsers_to_be_careful(
    method: str, path: str, headers: dict[str, str], through_proxy: bool, live: Live
) -> None:
    app = ProxyAdmission(live.app, 1_000_000) if through_proxy else live.app
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = live.run(exchange(app, method, path, [*raw, (b"x-request-id", b"mine-1")], chunks(b"")))
    assert answer.header("x-request-id") == "mine-1"
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("referrer-policy") == "no-referrer"
    assert "default-src 'none'" in str(answer.header("content-security-policy"))
    if method == "HEAD":
        assert answer.body == b""
    elif answer.status >= 400:
        assert answer.header("content-type") == "application/json"
        assert "mine-1" in answer.body.decode()


def test_a_request_that_is_refused_in_the_proxy_keeps_its_callers_id(monkeypatch: pytest.MonkeyPatch) -> None:
    local_replica = proxy.LocalReplica()
    local_replica.room = Room(max_images=0, max_bytes=1, max_request_bytes=1, num_images=lambda: 0)
    monkeypatch.setattr(proxy, "LOCAL_REPLICA", local_replica)

    async def inside(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pytest.fail("it was let in")

    answer = asyncio.run(exchange(ProxyAdmission(inside, 5), headers=[KIND, (b"x-request-id", b"mine-1")]))
    assert (answer.status, answer.header("x-request-id")) == (503, "mine-1")
    assert answer.json()["error"]["request_id"] == "mine-1"
    answer = asyncio.run(exchange(ProxyAdmission(inside, 5), headers=[KIND, (b"x-request-id", b"\xff")]))
    assert answer.json()["error"]["request_id"] == answer.header("x-request-id")


@pytest.mark.parametrize("name", ["serve-multiplexed-model-id", "serve_multiplexed_model_id", "x-session-id",
                                  "x_session_id", "x-request-timeout-seconds"])  # fmt: skip
def test_a_header_that_serve_would_fail_on_is_refused(name: str, live: Live) -> None:
    app = ProxyAdmission(live.app, 1_000_000)
    answer = live.run(exchange(app, headers=[KIND, (name.encode(), b"\xff")], receive=chunks(IMAGE)))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_request")
    assert answer.json()["error"]["message"] == f"the header {name} is not UTF-8"
    assert live.run(exchange(app, headers=[KIND, (name.encode(), b"1")], receive=chunks(IMAGE))).status == 200


@pytest.mark.parametrize("name", [b"serve-multiplexed-model-id", b"serve_multiplexed_model_id", b"x_session_id"])
def test_headers_that_steer_serve_do_not_get_through_however_they_are_written(name: bytes) -> None:
    seen: list[Any] = []

    async def inside(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    asyncio.run(exchange(ProxyAdmission(inside, 5), headers=[(name, b"1")]))
    assert name not in dict(seen)


def test_a_failure_of_serve_itself_is_answered_in_json() -> None:
    sent: list[Any] = []

    async def inside(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v1/model", "headers": [], "query_string": b""}
    with pytest.raises(UnicodeDecodeError):
        asyncio.run(ProxyAdmission(inside, 5)(scope, chunks(b""), send))
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["code"] == "internal"
    assert b"secret" not in sent[1]["body"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/v2", "/v2/health/live", "/v2/health/ready",
                                  "/", "/docs", "/openapi.json", "/assets/page.css"])  # fmt: skip
def test_a_head_of_what_is_open_is_answered(path: str, start: Callable[..., Live]) -> None:
    live = start(keys=[KEY])
    answer = live.run(exchange(live.app, "HEAD", path, []))
    assert (answer.status, answer.body) == (200, b"")


def test_trailers_are_no_headers(start: Callable[..., Live]) -> None:
    """They come behind the body, in one piece with everything else."""
    live = start(keys=[KEY])
    live.app = ProxyAdmission(live.app, 1_000_000)  # type: ignore[assignment]
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: image/jpeg\r\n"
    body = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(IMAGE), IMAGE)
    key = b"X-API-Key: %b\r\n" % KEY.encode()
    address = live.listen()

    def ask(request: bytes) -> bytes:
        with socket.create_connection(address) as connection:
            connection.settimeout(30)
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65_536), b""))

    assert ask(head + key + body + b"\r\n").startswith(b"HTTP/1.1 200 ")
    assert ask(head + body + key + b"\r\n").startswith(b"HTTP/1.1 401 ")
    assert ask(head + key + body + b"Content-Type: text/plain\r\nContent-Encoding: br\r\n\r\n").startswith(
        b"HTTP/1.1 200 "
    )


# --- ranges ----------------------------------------------------------------------------------------------------------


def test_a_range_of_a_file_is_answered(live: Live) -> None:
    whole = live.ask("GET", "/assets/page.js")
    size = len(whole.content)
    for asked, start, end in [("0-9", 0, 10), ("5-", 5, size), ("-7", size - 7, size), ("0-99999999", 0, size)]:
        part = live.ask("GET", "/assets/page.js", headers={"range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, whole.content[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    stale = live.ask("GET", "/assets/page.js", headers={"range": "bytes=0-9", "if-range": '"old"'})
    assert (stale.status_code, len(stale.content)) == (200, size)


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ("bytes=99999999-", 416, "range_not_satisfiable"),
        ("bytes=-0", 416, "range_not_satisfiable"),
        ("bytes=9-5", 400, "bad_request"),
        ("bytes=-", 400, "bad_request"),
        ("bytes=0-1,5-6", 400, "bad_request"),
        ("bytes=a-b", 400, "bad_request"),
        ("lines=0-5", 400, "bad_request"),
        ("bytes=" + "9" * 5000 + "-", 400, "bad_request"),
        ("", 400, "bad_request"),
    ],
)
def test_a_range_that_is_none_is_refused(asked: str, status: int, code: str, live: Live) -> None:
    response = live.ask("GET", "/assets/page.js", headers={"range": asked})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert ("content-range" in response.headers) == (status == 416)


def test_a_file_that_the_caller_has_is_not_sent_again(live: Live) -> None:
    first = live.ask("GET", "/assets/page.js")
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = live.ask("GET", "/assets/page.js", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
    assert live.ask("GET", "/assets/page.js", headers={"if-none-match": '"other"'}).status_code == 200


# --- gzip ------------------------------------------------------------------------------------------------------------


def packed(body: bytes, live: Live, kind: str = "image/jpeg", coding: str = "gzip", **more: Any) -> Answer:
    headers = [(b"content-type", kind.encode()), (b"content-encoding", coding.encode("latin-1"))]
    size = more.get("chunk", len(body) or 1)
    parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    path = more.get("path", "/v1/classify")
    return live.run(exchange(live.app, path=path, headers=headers, receive=chunks(*parts)))


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", " gzip "])
@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_a_gzipped_image_is_labelled(coding: str, chunk: int, live: Live) -> None:
    answer = packed(gzip.compress(IMAGE), live, coding=coding, chunk=chunk)
    plain = live.classify(IMAGE).json()["results"]
    assert (answer.status, answer.json()["results"]) == (200, plain)


def test_every_kind_of_body_may_be_gzipped(live: Live) -> None:
    texts = {"images": [{"base64": in_base64(IMAGE)}]}
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [in_base64(IMAGE)]}
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n%b\r\n--x--\r\n' % IMAGE
    json_body = "application/json"
    for path, kind, body in [
        ("/v1/classify", json_body, json.dumps(texts).encode()),
        ("/v1/classify", "multipart/form-data; boundary=x", form),
        ("/image-classification", json_body, json.dumps({"image": in_base64(IMAGE)}).encode()),
        ("/v2/models/small/infer", json_body, json.dumps({"inputs": [tensor]}).encode()),
    ]:
        assert packed(gzip.compress(body), live, kind, path=path).status == 200


def test_a_body_is_as_large_as_it_is_unpacked(start: Callable[..., Live]) -> None:
    live = start(max_request_bytes=3_000_000)
    padded = IMAGE + bytes(3_000_000 - len(IMAGE))
    assert packed(gzip.compress(padded), live).status == 200
    answer = packed(gzip.compress(padded + b"\0"), live)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "payload_too_large")
    live.wait_until_empty()


def test_a_bomb_ends_at_the_limit(start: Callable[..., Live]) -> None:
    live = start(max_request_bytes=1_000_000, max_queued_bytes=4_000_000)
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    most = 0
    check_bytes = live.app.room.check_bytes

    def check(*num_bytes: int) -> None:
        nonlocal most
        most = max(most, live.app.room.num_bytes)
        check_bytes(*num_bytes)

    live.app.room.check_bytes = check  # type: ignore[method-assign, assignment]
    assert packed(bomb, live).status == 413
    assert most < 4_000_000
    live.wait_until_empty()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body ends before its gzip data does"),
        (IMAGE, "the body is not readable as gzip"),
        (gzip.compress(IMAGE)[:-1], "the body ends before its gzip data does"),
        (gzip.compress(IMAGE)[:20], "the body ends before its gzip data does"),
        (gzip.compress(IMAGE) + b"\0", "the body goes on after the end of its gzip data"),
        (gzip.compress(IMAGE) + gzip.compress(b"") * 1000, "the body goes on after the end of its gzip data"),
        (gzip.compress(IMAGE) + gzip.compress(IMAGE)[:-1], "the body ends before its gzip data does"),
        (gzip.compress(IMAGE)[:-8] + bytes(8), "the body is not readable as gzip"),
        (zlib.compress(IMAGE), "the body is not readable as gzip"),
    ],
    ids=["nothing", "an-image", "cut", "cut-early", "more", "thousands", "second-cut", "wrong-sum", "zlib"],
)
@pytest.mark.parametrize("chunk", [7, 10**6])
def test_what_is_not_gzip_is_refused(body: bytes, message: str, chunk: int, live: Live) -> None:
    answer = packed(body, live, chunk=chunk)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_request")
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
def test_gzip_of_several_members_is_read(chunk: int, live: Live) -> None:
    members = [gzip.compress(part) for part in (b"", IMAGE[:100], b"", IMAGE[100:], b"")]
    answer = packed(b"".join(members), live, chunk=chunk)
    assert (answer.status, answer.json()["results"]) == (200, live.classify(IMAGE).json()["results"])


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"\x1f\x8b\x08\x08\0\0\0\0\0\xff", b"a" * 1000),
        (b"\x1f\x8b\x08\x00\0\0\0\0\0\xff", b"\0\0\0\xff\xff" * 200),
    ],
    ids=["a-file-name", "empty-blocks"],
)
def test_gzip_that_never_becomes_a_byte_ends_at_the_limit(
    begin: bytes, more: bytes, start: Callable[..., Live]
) -> None:
    live = start(max_request_bytes=100_000)
    num_sent = 0

    async def receive() -> Message:
        nonlocal num_sent
        chunk = more if num_sent else begin
        num_sent += len(chunk)
        assert num_sent < 200_000
        return {"type": "http.request", "body": chunk, "more_body": True}

    headers = [(b"content-type", b"image/jpeg"), (b"content-encoding", b"gzip")]
    answer = live.run(exchange(live.app, path="/v1/classify", headers=headers, receive=receive))
    assert (answer.status, answer.json()["error"]["code"]) == (413, "payload_too_large")
    live.wait_until_empty()


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "compress", "\xff", "x" * 5000])
@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", "multipart/form-data; boundary=x"])
def test_another_coding_is_refused_by_its_name(coding: str, kind: str, live: Live) -> None:
    answer = packed(IMAGE, live, kind, coding)
    assert (answer.status, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    message = answer.json()["error"]["message"]
    assert message.startswith(f"Content-Encoding {coding[:60]!a} is not read")
    assert message.endswith("send the body as it is, or gzip")
    assert answer.header("accept-encoding") == "gzip"
    assert len(answer.body) < 500


def test_identity_is_no_coding(live: Live) -> None:
    assert packed(IMAGE, live, coding="identity").status == 200


# --- forms -----------------------------------------------------------------------------------------------------------


def names_of(live: Live, *heads: bytes, content: bytes = IMAGE) -> list[str | None]:
    parts = b"".join(b"--x\r\n%b\r\n\r\n%b\r\n" % (head, content) for head in heads)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = live.ask("POST", "/v1/classify", content=parts + b"--x--\r\n", headers=headers)
    assert response.status_code == 200, response.text
    assert [result["status"] for result in response.json()["results"]] == ["ok"] * len(heads)
    return [result.get("name") for result in response.json()["results"]]


DISPOSITION = b"Content-Disposition: form-data; "


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b'name="files"; filename="a.jpg"', "a.jpg"),
        (b'name="anything"; filename="a.jpg"', "a.jpg"),
        (b'name=files; filename=a.jpg', "a.jpg"),
        (b'filename="a.jpg"; name="files"', "a.jpg"),
        (b'NAME="files"; FileName="a.jpg"', "a.jpg"),
        (b'name="files"; filename=""', None),
        (b'name="files"', None),
        (b'name="image"', None),
        (b"name=\"a\"; filename*=UTF-8''na%C3%AFve%20%22x%22.jpg", 'naïve "x".jpg'),
        (b"name=\"a\"; filename*=utf-8'en'a.jpg", "a.jpg"),
        (b"name=\"a\"; filename*=ISO-8859-1''na%EFve.jpg", "naïve.jpg"),
        (b"name=\"a\"; filename=\"plain.jpg\"; filename*=UTF-8''b.jpg", "b.jpg"),
        (b"name=\"a\"; filename=\"plain.jpg\"; filename*=UTF-8''%FF", "plain.jpg"),
        (b"name=\"a\"; filename*=UTF-8''%FF", None),
        (b"name=\"a\"; filename*=nonsense", None),
        (b"name=\"a\"; filename*=utf-7''a", None),
        ('name="a"; filename="käse.jpg"'.encode(), "käse.jpg"),
        ('name="a"; filename="käse.jpg"'.encode("latin-1"), "käse.jpg"),
        (b'name="a"; filename="a;b=c.jpg"', "a;b=c.jpg"),
        (b'name="a"; filename="C:\\new\\a.jpg"', "a.jpg"),
        (b'name="a"; filename="\\\\\\\\host\\new\\a.jpg"', "a.jpg"),
        (b'name="a"; filename="C:\\new\\"', None),
        (b'name="a"; filename="a\\"b.jpg"', 'a"b.jpg'),
        (b'name="a"; filename="%b"' % (b"x" * 300), "x" * 255),
    ],
)  # fmt: skip
def test_an_image_of_a_form_is_taken_whatever_its_name(head: bytes, name: str | None, live: Live) -> None:
    assert names_of(live, DISPOSITION + head) == [name]


@pytest.mark.parametrize("kind", [b"image/jpeg", b"IMAGE/PNG", b"application/octet-stream"])
def test_a_part_that_says_it_is_an_image_is_one(kind: bytes, live: Live) -> None:
    assert names_of(live, DISPOSITION + b'name="a"\r\nContent-Type: ' + kind) == [None]


def test_a_form_is_cut_at_its_boundaries_alone(live: Live) -> None:
    """What looks nearly like one, an image may hold."""
    odd = IMAGE + b"\r\n--\r\n-x--\r\n--X--\r\n\r\n\n--x\r\n--xy\r\n--x -\r\n--x\t-\r\r\n--x-\r\n"
    assert names_of(live, DISPOSITION + b"name=files", DISPOSITION + b"name=files", content=odd) == [None, None]


def test_a_form_full_of_what_looks_like_its_boundary_is_refused(live: Live) -> None:
    body = b"--x\r\n" + DISPOSITION + b"name=files\r\n\r\n" + b"\r\n--xy" * 500_000 + b"\r\n--x--"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = live.ask("POST", "/v1/classify", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("kind", [b"image/jpeg", b"application/octet-stream", b"text/plain"])
def test_top_k_is_a_field_whatever_its_kind(kind: bytes, live: Live) -> None:
    field = DISPOSITION + b'name="top_k"\r\nContent-Type: ' + kind + b"\r\n\r\n2\r\n"
    body = b"--x\r\n" + field + b"--x\r\n" + DISPOSITION + b"name=files\r\n\r\n" + IMAGE + b"\r\n--x--"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    [result] = live.ask("POST", "/v1/classify", content=body, headers=headers).json()["results"]
    assert len(result["predictions"]) == 2


def test_a_field_that_is_too_large_says_what_to_do(live: Live) -> None:
    body = b"--x\r\n" + DISPOSITION + b'name="photo"\r\n\r\n' + bytes(5000) + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = live.ask("POST", "/v1/classify", content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["message"].endswith("give an image a file name, or call it files")


@pytest.mark.parametrize(
    ("before", "boundary"),
    [
        (b"", b"x"),
        (b"a preamble\r\n", b"x"),
        (b"\r\n", b"x"),
        (b"", b'"a boundary"'),
        (b"", b"----WebKitFormBoundary7MA4YWxk"),
    ],
)
def test_a_form_may_begin_with_something_else(before: bytes, boundary: bytes, live: Live) -> None:
    line = b"--" + boundary.strip(b'"')
    body = before + line + b"\r\n" + DISPOSITION + b"name=files\r\n\r\n" + IMAGE + b"\r\n" + line + b"--"
    headers = {"content-type": b"multipart/form-data; boundary=" + boundary}
    assert live.ask("POST", "/v1/classify", content=body, headers=headers).status_code == 200


# --- large JSON ------------------------------------------------------------------------------------------------------


def large(text: str, live: Live, **more: Any) -> Any:
    """An image in a body that is too large for the event loop, behind one that is small."""
    images = [{"base64": in_base64(IMAGE), "name": "small"}, {"base64": text, "name": "large"}]
    response = live.ask_in_json({"images": images, **more})
    assert response.status_code == 200, response.text
    small, found = response.json()["results"]
    assert (small["name"], small["status"], found["name"]) == ("small", "ok", "large")
    return found


PADDED = IMAGE + bytes(3 * 2**20 - len(IMAGE) % 3)  # in base64 without padding


@pytest.mark.parametrize(
    "text",
    [
        in_base64(PADDED),
        in_base64(PADDED + b"\0"),
        in_base64(PADDED + b"\0\0"),
        base64.encodebytes(PADDED).decode().replace("\n", "\r\n"),
        "data:image/jpeg;base64," + in_base64(PADDED),
    ],
    ids=["whole", "one-more", "two-more", "lines", "data-address"],
)
def test_a_large_image_in_json_is_labelled_as_a_small_one(text: str, live: Live) -> None:
    [small] = live.ask_in_json({"images": [{"base64": in_base64(IMAGE), "name": "large"}]}).json()["results"]
    assert {**large(text, live), "index": 0} == small


@pytest.mark.parametrize(
    "text",
    [
        in_base64(PADDED)[:-1] + "é",
        in_base64(PADDED)[:-1] + "😀",
        in_base64(PADDED)[:-1] + "!",
        in_base64(PADDED)[:-1],
        in_base64(PADDED) + "=",
        "=" + in_base64(PADDED),
        in_base64(PADDED + b"\0") + in_base64(PADDED),
        in_base64(PADDED + b"\0") + "\n" * 2**21 + "QUJD",
        in_base64(PADDED)[: 2**20] + "\\" + in_base64(PADDED)[2**20 :],
        "\\" * 400_000,
        "\\u0041" * 400_000,
    ],
    ids=["letter", "emoji", "mark", "short", "padded", "padded-before", "padded-within", "padded-and-more", "backslash",
         "backslashes", "escapes"],
)  # fmt: skip
def test_a_large_text_that_is_no_base64_is_one_bad_image(text: str, live: Live) -> None:
    found = large(text, live)
    assert (found["status"], "not base64" in found["message"]) == ("corrupt", True)


def test_escapes_in_a_large_text_are_read_wherever_they_stand(live: Live) -> None:
    """Also across the places where it is cut into pieces."""
    for shift in range(7):
        escaped = b"A" * shift + b"\\u0041" * 400_000 + b"\\/" * 4 + b"A" * ((4 - shift) % 4)
        body = b'{"images":[{"base64":"%b"},{"base64":"%b"}]}' % (in_base64(IMAGE).encode(), escaped)
        good, odd = live.ask_in_json(body).json()["results"]
        assert (good["status"], odd["status"]) == ("ok", "unsupported_format")


def test_what_is_wrong_with_a_large_body_is_told_by_its_key(live: Live) -> None:
    text = in_base64(PADDED)
    for content, message in [
        ({"images": [{"base64": text, "name": "x" * 5000}]}, "images.0.name: "),
        ({"images": [{"base64": text, "url": "http://a/"}]}, "images.0: give base64 or url"),
        ({"images": [{"base64": text}], "more": text}, "more: "),
        ({"images": [{"url": "http://a/" + text}]}, "images.0.url: "),
        ({"images": [{"base64": text}], "top_k": text}, "top_k: "),
    ]:
        response = live.ask_in_json(content)
        assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid")
        assert response.json()["error"]["message"].startswith(message)
        assert len(response.text) < 700
    broken = live.ask_in_json(json.dumps({"images": [{"base64": text}]}).encode()[:-1])
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "bad_request")
    assert "column" not in broken.json()["error"]["message"]


@pytest.mark.parametrize("num_letters", [100, 400_000, 2**20 - 7, 2**20 - 4, 2**20 - 1, 2**20])
@pytest.mark.parametrize(
    "wrong",
    [
        b"\n",
        b"\x01",
        b"\\q",
        b"\\ud800",
        b"\\ud83d\\ud83d\\ude00",
        b"\\ude00",
        b"\\u00x",
        b"\xff",
        b"\xc3",
        b"\x80" * 4,
    ],
    ids=["line", "control", "escape", "half", "half-before", "second-half", "short", "byte", "cut", "bytes"],
)
def test_a_large_text_that_is_no_json_is_refused_as_a_small_one(wrong: bytes, num_letters: int, live: Live) -> None:
    """Under every key, also where nobody looks at it."""
    text = b"A" * num_letters + wrong + b"A" * 400_000
    for url, body in [
        ("/v1/classify", b'{"images":[{"base64":"%b"}]}'),
        ("/image-classification", b'{"image":"QUJD","junk":"%b"}'),
        ("/image-classification", b'{"image":"QUJD","junk":"%b"}' % b"%b\\u0041"),
    ]:
        response = live.ask_in_json(body % text, url)
        assert response.status_code == 400, response.text
        assert "Invalid JSON: " in response.text


@pytest.mark.parametrize("character", ["é".encode(), "😀".encode(), b"\\ud83d\\ude00", b"\\u00e9", b"\\n", b"\\\\"])
def test_a_large_text_is_json_wherever_it_is_cut(character: bytes, live: Live) -> None:
    for shift in range(13):
        text = b"A" * shift + character * (2**21 // len(character))
        response = live.ask_in_json(
            b'{"image":"%b","junk":"%b"}' % (in_base64(IMAGE).encode(), text), "/image-classification"
        )
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("letter", ["\\u0061", "\\/", "a", "\\ud83d\\ude00"])
def test_an_address_is_as_long_as_its_characters(letter: str, live: Live) -> None:
    """However they are written, and however large the body is."""
    num_letters = 4096 - len("http://a/")
    for more, code in [(0, "urls_not_allowed"), (1, "invalid")]:
        letters = letter * (num_letters + more)
        image = f'{{"url":"http:\\/\\/a/{letters}"}}'
        for other in ("QUJD", in_base64(PADDED)):
            body = f'{{"images":[{image},{{"base64":"{other}"}}]}}'
            assert live.ask_in_json(body.encode()).json()["error"]["code"] == code
            paddlex = f'{{"image":"http://a/{letters}","junk":"{other}"}}'
            answer = live.ask_in_json(paddlex.encode(), "/image-classification").json()
            assert answer["errorMsg"].startswith(code)


def test_a_key_that_is_too_long_is_told_as_it_came(live: Live) -> None:
    key = "an unknown key " * 20_000
    for blanks in ("", " " * 100, "\n" * 3_000_000):
        body = f'{{"images":[{{"base64":"QUJD"}}],"{key}"{blanks}:1}}'
        message = live.ask_in_json(body.encode()).json()["error"]["message"]
        assert message.startswith(key[:200])


# --- pixels ----------------------------------------------------------------------------------------------------------


def sevens(count: int, between: str = ",") -> str:
    return between.join(["7"] * count)


@pytest.mark.parametrize(
    "data",
    [
        f"[{sevens(12_287)}]",
        f"[{sevens(12_289)}]",
        f"[{sevens(12_288)},]",
        f"[,{sevens(12_288)}]",
        f"[{sevens(6_145, ',,')}]",
        f"[{sevens(12_288, ' ')}]",
        f"[[{sevens(12_288)}]",
        f"[{sevens(12_288)}]]",
        f"[[{sevens(12_287)}],7]",
        f"[{sevens(12_287)},[7]]",
        f"[{sevens(12_288)} 7]",
        f"[[{sevens(12_288)}]7]",
        f"[{sevens(12_287)},07]",
        f"[{sevens(12_287)},7.0]",
        f"[{sevens(12_287)},1e2]",
        f"[{sevens(12_287)},-1]",
        f"[{sevens(12_287)},256]",
        f"[{sevens(12_287)},true]",
        f"{'[' * 9}{sevens(12_288)}{']' * 9}",
        f"[[{sevens(6_143)}],[{sevens(6_145)}]]",
        f"[[[{sevens(6_144)}]],[{sevens(6_144)}]]",
    ],
    ids=range(21),
)
def test_numbers_that_are_no_pixels_are_refused(data: str, live: Live) -> None:
    tensor = f'"name":"pixels","shape":[1,64,64,3],"datatype":"UINT8","data":{data}'
    response = live.ask_in_json(b'{"inputs":[{%b}]}' % tensor.encode(), "/v2/models/small/infer")
    assert response.status_code in (400, 422)
    assert live.num_images == 0


def ask_tensor(live: Live, tensor: str, before: str = "") -> Any:
    return live.ask_in_json(b'{%b"inputs":[{%b}]}' % (before.encode(), tensor.encode()), "/v2/models/small/infer")


PIXELS = '"name":"pixels","shape":[1,64,64,3],"datatype":"UINT8","data":'


def test_a_text_of_numbers_is_no_list(live: Live) -> None:
    for text in (f"[{sevens(12_288)}]", f"[{sevens(12_288)}]".replace(",", " " * 20 + ",")):
        assert ask_tensor(live, f'{PIXELS}["{text}"]').status_code == 422
    assert live.num_images == 0


def test_numbers_are_no_encoded_images(live: Live) -> None:
    for shape in (1, 12_288):
        tensor = f'"name":"image","shape":[{shape}],"datatype":"BYTES","data":[{sevens(12_288)}]'
        assert ask_tensor(live, tensor).status_code == 422
    assert live.num_images == 0


def test_true_is_no_pixel_in_a_small_list_either(live: Live) -> None:
    tensor = '"name":"pixels","shape":[1,64,64,3],"datatype":"UINT8","data":'
    for data in ("[true]", "[[true,7]]", "[false,7,7]"):
        response = ask_tensor(live, tensor + data)
        assert "must be as many numbers" in response.json()["error"]
    body = {"name": "pixels", "shape": [1, 64, 64, 3], "datatype": "UINT8", "data": [True] + [7] * 12_287}
    assert ask_tensor(live, json.dumps(body)[1:-1]).status_code == 422


def test_a_short_list_called_data_may_stand_before_the_pixels(live: Live) -> None:
    for before in ('"parameters":{"data":[1]},', '"parameters":{"data":"data"},', '"a":{"data":[]},"b":{"data":[{}]},'):
        assert ask_tensor(live, f"{PIXELS}[{sevens(12_288)}]", before).status_code == 200


@pytest.mark.parametrize(
    "between",
    [",".ljust(200_000), " " * 200_000 + ",", "," + "[" * 200_000, "," + "0" * 200_000, "]" * 200_000 + ","],
    ids=["blanks", "blanks-before", "lists", "zeros", "ends"],
)
def test_numbers_do_not_lie_far_apart(between: str, live: Live) -> None:
    assert ask_tensor(live, f"{PIXELS}[{sevens(12_287)}{between}7]").status_code == 422


@pytest.mark.parametrize(
    "shape", [[12288], [1, 12288], [64, 192], [64, 64, 3], [1, 64, 64, 3], [1, 1, 4096, 3], [12288, 1]]
)
def test_pixels_may_stand_in_lists_of_one_length(shape: list[int], live: Live) -> None:
    pixels = np.frombuffer(np.random.default_rng(0).bytes(12_288), np.uint8)
    found = []
    for data, indent in [(pixels.tolist(), None), (pixels.reshape(shape).tolist(), None), (pixels.tolist(), 1)]:
        tensor = {"name": "pixels", "shape": [1, 64, 64, 3], "datatype": "UINT8", "data": data}
        body = json.dumps({"inputs": [tensor]}, indent=indent).encode()
        found.append(live.ask_in_json(body, "/v2/models/small/infer").json()["outputs"])
    assert found[0] == found[1] == found[2]


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_credentials_are_in_no_log_and_in_no_answer(
    start: Callable[..., Live], caplog: pytest.LogCaptureFixture
) -> None:
    """Keys, users in addresses and signed addresses, wherever a caller puts them, right or wrong."""
    caplog.set_level(logging.DEBUG)
    secrets = [KEY, "a wrong key that someone typed", "password-of-a-user", "signature-of-an-address"]
    live = start(keys=[KEY], url_hosts=["127.0.0.1"], fetch_timeout_s=1)
    app = ProxyAdmission(live.app, 1_000_000)
    urls = [
        "http://user:password-of-a-user@127.0.0.1/a.jpg",
        "http://127.0.0.1/a.jpg?X-Amz-Signature=signature-of-an-address",
        "http://other.example/a.jpg?sig=signature-of-an-address",
        "http://127.0.0.1:1/a.jpg?token=password-of-a-user#signature-of-an-address",
    ]
    answers = []
    for header in (b"x-api-key", b"authorization"):
        for key in secrets[:2]:
            shown = (b"Bearer " if header == b"authorization" else b"") + key.encode()
            for path, body in [
                *(("/v1/classify", {"images": [{"url": url}]}) for url in urls),
                *(("/image-classification", {"image": url}) for url in urls),
                ("/v1/classify", {"images": [{"base64": url} for url in urls]}),
                ("/v1/classify", {urls[0]: urls[1]}),
                ("/v2/models/small/infer", {"inputs": urls}),
                (f"/v1/{'x' * 10}", {}),
            ]:
                headers = [(header, shown), (b"content-type", b"application/json")]
                receive = chunks(json.dumps(body).encode())
                answers.append(live.run(exchange(app, path=path, headers=headers, receive=receive)))
    assert {answer.status for answer in answers} >= {200, 401, 404, 422}
    told = [record.getMessage() + str(vars(record)) for record in caplog.records]
    told += [answer.body.decode() + str(answer.headers) for answer in answers]
    assert len(told) > len(answers)
    for secret in secrets:
        # A key of JSON that is not known is named in the error to the one who sent it, and nowhere else.
        assert not [text for text in told if secret in text and urls[0] not in text]
