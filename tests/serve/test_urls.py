"""Addresses in requests: none unless the operator names hosts, then those alone, and nothing of what is found is told.

What a reader of addresses must withstand is tested with it (``tests/storage``); here it is what a service makes of it.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.config import ServeConfig, make_config
from imgcls_ray.errors import ConfigError, ImageError, ImageErrorCode
from imgcls_ray.storage import network
from tests.serve.conftest import check_labels, in_base64, picture
from tests.timing import TRIES, assert_within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from imgcls_ray.models.api import Model
    from tests.serve.conftest import Live

IMAGE = picture(3)
PUBLIC = "93.184.215.14"
connect = socket.create_connection
NAMES = {"images.example": PUBLIC, "cdn.images.example": PUBLIC, "other.example": PUBLIC}


class Web(ThreadingHTTPServer):
    """Every public host, played by one server on loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {"/a.jpg": (200, {}, IMAGE)}
        self.requests: list[tuple[str, str]] = []
        self.delay_s = 0.0
        super().__init__(("127.0.0.1", 0), _Handler)

    def redirect(self, path: str, location: str) -> None:
        self.pages[path] = (302, {"Location": location}, b"")

    def handle_error(self, request: object, client_address: object) -> None:
        """Readers that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        self.server.requests.append((self.headers["Host"], self.path))
        time.sleep(self.server.delay_s)
        status, headers, body = self.server.pages.get(self.path, (404, {}, b"a secret of the network"))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@functools.cache
def certificates(load: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> ssl.SSLContext:
    return load()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Names lead to public addresses, and those to this server; nothing leaves the machine."""
    monkeypatch.setattr(ssl, "create_default_context", certificates)
    network.connection_pool.cache_clear()

    with Web() as web:

        def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
            if host not in NAMES and not host.replace(".", "").isdigit():
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES.get(host, host), port))]

        def create_connection(address: tuple[str, int], *args: Any, **options: Any) -> socket.socket:
            assert address[0] == PUBLIC, f"a connection to {address}"
            return connect(("127.0.0.1", web.server_port), *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(socket, "create_connection", create_connection)
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        yield web
        web.shutdown()
    network.connection_pool.cache_clear()


def ask(live: Live, *urls: str) -> httpx.Response:
    return live.ask_in_json({"images": [{"url": url} for url in urls]})


def result(live: Live, url: str) -> dict[str, Any]:
    response = ask(live, url)
    assert response.status_code == 200
    [found] = response.json()["results"]
    assert "secret" not in response.text
    return dict(found)


@pytest.fixture
def open_live(start: Callable[..., Live]) -> Live:
    return start(url_hosts=["images.example", "*.images.example"], fetch_timeout_s=2)


# --- which hosts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://images.example/a.jpg", "http://127.0.0.1/", "file:///etc/passwd", ""])
def test_addresses_are_refused_unless_hosts_are_named(url: str, live: Live, web: Web) -> None:
    for response in (ask(live, url), live.ask_in_json({"images": [{"base64": in_base64(IMAGE)}, {"url": url}]})):
        assert (response.status_code, response.json()["error"]["code"]) == (422, "urls_not_allowed")
    assert web.requests == []


def test_paddlex_clients_are_refused_too(live: Live, web: Web) -> None:
    for url in ("http://images.example/a.jpg", "HTTPS://images.example/a.jpg"):
        response = live.ask_in_json({"image": url}, "/image-classification")
        assert (response.status_code, response.json()["errorCode"]) == (422, 422)
        assert response.json()["errorMsg"].startswith("urls_not_allowed: ")
    assert web.requests == []


@pytest.mark.parametrize(
    "url",
    ["http://images.example/a.jpg", "http://IMAGES.example/a.jpg", "http://images.example./a.jpg",
     "http://images.example:80/a.jpg", "http://cdn.images.example/a.jpg", "HTTP://images.example/a.jpg#x"],
)  # fmt: skip
def test_an_image_of_a_host_that_is_named_is_labelled(
    url: str, open_live: Live, web: Web, python_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMES, "images.example.", PUBLIC)
    [expected] = python_model.predict(IMAGE, top_k=7)
    check_labels(result(open_live, url), expected)


def test_paddlex_clients_may_send_an_address(open_live: Live, web: Web, python_model: Model) -> None:
    body = {"image": "http://images.example/a.jpg", "topk": 1, "visualize": False}
    response = open_live.ask_in_json(body, "/image-classification")
    [category] = response.json()["result"]["categories"]
    [expected] = python_model.predict(IMAGE)
    assert category["name"] == expected.label


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a.jpg",
        "http://example/a.jpg",
        "http://images.example.other.example/a.jpg",
        "http://otherimages.example/a.jpg",
        "http://xn--mages-5bb.example/a.jpg",
        "http://іmages.example/a.jpg",  # a Cyrillic letter
        "http://images.example\u3002other.example/a.jpg",
        "http://images.example@other.example/a.jpg",
        "http://user@images.example/a.jpg",
        "http://images.example:x@images.example/a.jpg",
        "http://other.example/images.example/a.jpg",
        "http://other.example#@images.example/a.jpg",
        "http://other.example?@images.example/a.jpg",
        "http://other.example\\@images.example/a.jpg",
        "http://images.example\\.other.example/a.jpg",
        "//images.example/a.jpg",
        "http:images.example/a.jpg",
        "images.example/a.jpg",
        "http://images.example%2eother.example/a.jpg",
        "http://images.example\r\n.other.example/a.jpg",
        "http://images.example/a.jpg\r\nX-Injected: 1",
        "file:///etc/passwd",
        "file://images.example/etc/passwd",
        "gopher://images.example/a",
        "ftp://images.example/a.jpg",
        "dict://images.example:11211/",
        "data:image/jpeg;base64,QUJD",
        "javascript:alert(1)",
        "s3://images.example/a.jpg",
        "/etc/passwd",
        "",
        "http://",
        "http://[",
        "http://images.example:99999/a.jpg",
        "http://127.0.0.1/a.jpg",
        "http://2130706433/a.jpg",
        "http://0x7f000001/a.jpg",
        "http://0177.0.0.1/a.jpg",
        "http://[::1]/a.jpg",
        "http://localhost/a.jpg",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
    ],
    ids=ascii,
)
def test_no_other_address_is_asked(url: str, open_live: Live, web: Web) -> None:
    found = result(open_live, url)
    assert found["status"] in ("access_denied", "not_found")
    assert found["message"] in (
        "reading it is not allowed (its host is not allowed)",
        "there is no such file or object",
    )
    assert web.requests == []


def test_a_star_stands_for_what_is_under_a_name_and_not_for_the_name(start: Callable[..., Live], web: Web) -> None:
    live = start(url_hosts=["*.images.example"])
    assert result(live, "http://cdn.images.example/a.jpg")["status"] == "ok"
    assert result(live, "http://images.example/a.jpg")["status"] == "access_denied"


@pytest.mark.parametrize("host", ["*", "*.", "", "http://a.example", "a.example:80", "a.*.example", "a/b", "**.a"])
def test_what_is_no_host_is_no_configuration(host: str) -> None:
    with pytest.raises(ConfigError, match="url_hosts"):
        make_config(ServeConfig, {"model": "m", "url_hosts": [host]})


# --- where they lead -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "http://other.example/a.jpg",
        "//other.example/a.jpg",
        "http://127.0.0.1/a.jpg",
        "http://169.254.169.254/",
        "http://user@images.example/a.jpg",
        "file:///etc/passwd",
        "gopher://images.example/",
        "data:image/jpeg;base64,QUJD",
    ],
)
def test_a_redirect_leads_to_no_host_that_is_not_named(location: str, open_live: Live, web: Web) -> None:
    web.redirect("/r", location)
    assert result(open_live, "http://images.example/r")["status"] == "access_denied"
    assert web.requests == [("images.example", "/r")]


def test_a_redirect_among_hosts_that_are_named_is_followed(open_live: Live, web: Web) -> None:
    web.redirect("/r", "http://cdn.images.example/a.jpg")
    assert result(open_live, "http://images.example/r")["status"] == "ok"


def test_a_fourth_redirect_is_not_followed(open_live: Live, web: Web) -> None:
    web.redirect("/r", "/r")
    assert result(open_live, "http://images.example/r")["status"] == "fetch_failed"
    assert len(web.requests) == 4


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.0.1", "100.64.0.1"])
def test_a_name_that_is_allowed_but_leads_inside_is_refused(
    address: str, open_live: Live, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMES, "images.example", address)
    found = result(open_live, "http://images.example/a.jpg")
    assert (found["status"], found["message"]) == (
        "access_denied",
        "reading it is not allowed (its host is not allowed)",
    )


def test_a_private_host_is_read_where_that_is_allowed(start: Callable[..., Live], web: Web) -> None:
    """Nothing is played here: the server is on loopback, and so is its address."""
    live = start(url_hosts=["127.0.0.1"], allow_private_urls=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", connect)
        found = result(live, f"http://127.0.0.1:{web.server_port}/a.jpg")
    assert found["status"] == "ok"


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "status"),
    [
        ((404, {}, b"a secret"), "not_found"),
        ((403, {}, b"a secret"), "access_denied"),
        ((418, {"X-Secret": "a secret"}, b"a secret"), "fetch_failed"),
        ((200, {}, b""), "empty"),
        ((200, {"Content-Type": "image/jpeg"}, b"a secret in a text"), "unsupported_format"),
        ((200, {"Content-Length": "-1"}, b"a secret"), "fetch_failed"),
    ],
)
def test_what_is_found_is_not_told(
    page: tuple[int, dict[str, str], bytes], status: str, open_live: Live, web: Web
) -> None:
    web.pages["/x"] = page
    found = result(open_live, "http://images.example/x")
    assert found["status"] == status
    for told in ("HTTP", "418", "images.example", PUBLIC, "httpcore"):
        assert told not in found["message"]


@pytest.mark.parametrize(
    "body", [b"<!-- an internal page -->", IMAGE[:300], b"\x89PNG\r\n\x1a\n" + b"secret", b"BM" + bytes(60)]
)
def test_an_error_tells_nothing_of_the_content_behind_an_address(body: bytes, open_live: Live, web: Web) -> None:
    """Its first bytes, or its size. What a caller sends himself he may know."""
    web.pages["/x"] = (200, {}, body)
    url = "http://images.example/x"
    found = result(open_live, url)
    assert found["message"] == str(ImageError(ImageErrorCode(found["status"])))
    paddlex = open_live.ask_in_json({"image": url}, "/image-classification").json()
    assert paddlex["errorMsg"] == f"{found['status']}: {found['message']}"
    [sent] = open_live.ask_in_json({"images": [{"base64": in_base64(body)}]}).json()["results"]
    assert sent["status"] == found["status"]
    assert len(sent["message"]) > len(found["message"])


def test_a_name_that_leads_nowhere_and_one_that_answers_nothing_look_the_same(
    open_live: Live, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    nowhere = result(open_live, "http://nowhere.images.example/a.jpg")

    def refuse(*_: object, **__: object) -> socket.socket:
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    closed = result(open_live, "http://cdn.images.example/a.jpg")
    assert (nowhere["status"], nowhere["message"]) == (closed["status"], closed["message"])
    assert nowhere["status"] == "fetch_failed"


def test_an_image_that_cannot_be_fetched_costs_itself_alone(open_live: Live, web: Web, python_model: Model) -> None:
    images = [{"base64": in_base64(IMAGE)}, {"url": "http://other.example/"}, {"url": "http://images.example/a.jpg"}]
    results = open_live.ask_in_json({"images": images}).json()["results"]
    assert [one["status"] for one in results] == ["ok", "access_denied", "ok"]
    [expected] = python_model.predict(IMAGE, top_k=7)
    check_labels(results[0], expected)
    check_labels(results[2], expected)


def test_an_image_of_too_many_bytes_is_not_read(start: Callable[..., Live], web: Web) -> None:
    live = start(url_hosts=["images.example"], max_image_bytes=10_000)
    web.pages["/large"] = (200, {}, bytes(10_001))
    assert result(live, "http://images.example/large")["status"] == "too_many_bytes"


def test_what_is_fetched_counts_as_if_it_had_been_sent(start: Callable[..., Live], web: Web) -> None:
    """Otherwise four kilobytes of addresses would bring gigabytes."""
    live = start(url_hosts=["images.example"], max_request_bytes=100_000)
    web.pages["/large"] = (200, {}, IMAGE + bytes(40_000))
    assert ask(live, *["http://images.example/large"] * 2).status_code == 200
    response = ask(live, *["http://images.example/large"] * 64)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "payload_too_large")
    assert len(web.requests) <= 5
    live.wait_until_empty()


def test_a_host_that_takes_too_long_is_given_up(start: Callable[..., Live], web: Web) -> None:
    live = start(url_hosts=["images.example"], fetch_timeout_s=0.3)
    web.delay_s = 2

    def ask() -> None:
        assert result(live, "http://images.example/a.jpg")["status"] == "fetch_failed"

    assert_within(1.5, ask)


def test_slow_hosts_delay_no_one_who_sends_the_image_itself(start: Callable[..., Live], web: Web) -> None:
    live = start(url_hosts=["images.example"], fetch_timeout_s=3)
    web.delay_s = 1

    async def ask_both() -> float:
        images = {"images": [{"url": "http://images.example/a.jpg"}]}
        asked = [asyncio.create_task(live.client.post("/v1/classify", json=images)) for _ in range(12)]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        for _ in range(10):
            assert (await live.classifying(IMAGE)).status_code == 200
        seconds = time.monotonic() - started
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return seconds

    assert any(live.run(ask_both()) < 0.9 for _ in range(TRIES))
