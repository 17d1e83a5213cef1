"""Addresses from anyone: what servers may do to a reader, and where no address may lead.

Nothing leaves the machine: the servers are on loopback, and elsewhere connecting or resolving is replaced.
"""

from __future__ import annotations

import functools
import gzip
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.storage import FetchLimits, fetch, http, network
from imgcls_ray.storage.http import fetch_url
from tests.timing import assert_within

PUBLIC = "93.184.215.14"

Page = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers each path with its page, and keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[str] = []
        self.num_connections = 0
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def get_request(self) -> tuple[Any, Any]:
        self.num_connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        """Readers that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.pages[self.path](self)

    def log_message(self, *_: object) -> None:
        pass


@functools.cache
def certificates(load: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> ssl.SSLContext:
    return load()


@pytest.fixture(autouse=True)
def own_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a pool of its own; certificates are loaded once, which takes longer than most of these tests."""
    monkeypatch.setattr(ssl, "create_default_context", certificates)
    network.connection_pool.cache_clear()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Attempts follow at once; the pauses that were asked for are kept."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Where connections would have gone; each is refused."""
    addresses: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        addresses.append(address)
        raise ConnectionRefusedError("refused by the test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    return addresses


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let each look-up give the next answer, and the last one for ever. Returns the names that were looked up."""
    names: list[str] = []

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
        names.append(host)
        found = answers[min(len(names), len(answers)) - 1]
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, 1, 6, "", (ip, port)) for ip in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


def reply(body: bytes = b"", status: int = 200, **headers: str) -> Page:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            if value:
                handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = "content_length" in headers

    return page


def drip(before: bytes, each: bytes = b"x", *, every_s: float = 0.05, times: int = 200) -> Page:
    """Send raw bytes, then a few more for ever (ten seconds)."""

    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(before)
        for _ in range(times):
            handler.wfile.write(each)
            threading.Event().wait(every_s)

    return page


def get(url: str, *, max_bytes: int = 1000, timeout_s: float = 10.0, allow_private: bool = True) -> bytes:
    return fetch(url, None, FetchLimits(max_bytes, timeout_s, allow_private_urls=allow_private))


def error_of(url: str, *, max_bytes: int = 1000, timeout_s: float = 10.0, allow_private: bool = True) -> ImageError:
    with pytest.raises(ImageError) as caught:
        get(url, max_bytes=max_bytes, timeout_s=timeout_s, allow_private=allow_private)
    return caught.value


# --- what comes back -------------------------------------------------------------------------------------------------


def test_a_body_comes_back_whole(server: Server) -> None:
    server.pages["/a.jpg"] = reply(b"\xff\xd8" * 500)
    assert get(f"{server.url}/a.jpg") == b"\xff\xd8" * 500
    assert get(f"{server.url}/a.jpg#fragment") == b"\xff\xd8" * 500
    assert server.requests == ["/a.jpg", "/a.jpg"]


def test_a_scheme_may_be_in_capitals(server: Server) -> None:
    server.pages["/"] = reply(b"x")
    assert get(server.url.replace("http", "HTTP")) == b"x"


def test_one_host_is_connected_to_once(server: Server) -> None:
    server.pages["/a.jpg"] = reply(b"x")
    for _ in range(5):
        get(f"{server.url}/a.jpg")
    assert server.num_connections == 1


def test_what_is_not_ascii_travels_percent_encoded(server: Server) -> None:
    server.pages["/%C3%A9%20%F0%9F%90%88.jpg?q=%C3%BC%20&r=1+2%2B"] = reply(b"x")
    assert get(f"{server.url}/é 🐈.jpg?q=ü &r=1+2%2B") == b"x"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "access_denied"),
        (403, "access_denied"),
        (404, "not_found"),
        (410, "not_found"),
        (204, "fetch_failed"),
        (304, "fetch_failed"),
        (400, "fetch_failed"),
        (416, "fetch_failed"),
    ],
)
def test_a_status_has_its_code_and_is_asked_once(status: int, code: str, server: Server) -> None:
    server.pages["/"] = reply(status=status)
    error = error_of(server.url)
    assert (error.code, error.detail) == (code, f"HTTP {status}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_asked_three_times(status: int, server: Server, no_pauses: list[float]) -> None:
    server.pages["/"] = reply(status=status)
    error = error_of(server.url)
    assert (error.code, error.detail) == (ImageErrorCode.FETCH_FAILED, f"HTTP {status}")
    assert len(server.requests) == 3
    assert no_pauses == [0.5, 1.0]


def test_an_attempt_that_succeeds_is_the_last(server: Server, no_pauses: list[float]) -> None:
    replies = iter([reply(status=503), reply(b"x")])
    server.pages["/"] = lambda handler: next(replies)(handler)
    assert get(server.url) == b"x"
    assert len(server.requests) == 2


def test_no_attempt_starts_after_the_deadline(server: Server, no_pauses: list[float]) -> None:
    server.pages["/"] = reply(status=503)
    assert error_of(server.url, timeout_s=0.3).code is ImageErrorCode.FETCH_FAILED
    assert len(server.requests) == 1


def test_a_host_that_refuses_connections_is_fetch_failed(connected: list[object], no_pauses: list[float]) -> None:
    assert error_of("http://127.0.0.1:9/a.jpg").code is ImageErrorCode.FETCH_FAILED
    assert connected == [("127.0.0.1", 9)] * 3


def test_a_name_that_does_not_resolve_is_fetch_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = error_of("http://nowhere.example/a.jpg", allow_private=False)
    assert (error.code, error.detail) == (
        ImageErrorCode.FETCH_FAILED,
        "nowhere.example: the name does not resolve",
    )


def test_a_second_address_of_a_host_is_tried(monkeypatch: pytest.MonkeyPatch, connected: list[Any]) -> None:
    resolve_to(monkeypatch, [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
    monkeypatch.setattr(http, "_NUM_ATTEMPTS", 1)
    error_of("http://example.com/", allow_private=False)
    assert connected == [(PUBLIC, 80), ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", 80)]


# --- redirects -------------------------------------------------------------------------------------------------------


def chain(server: Server, length: int) -> str:
    for i in range(length):
        server.pages[f"/{i}"] = reply(status=(301, 302, 303, 307, 308)[i], location=f"/{i + 1}")
    server.pages[f"/{length}"] = reply(b"end")
    return f"{server.url}/0"


def test_three_redirects_are_followed(server: Server) -> None:
    assert get(chain(server, 3)) == b"end"


def test_a_fourth_redirect_is_not(server: Server) -> None:
    error = error_of(chain(server, 4))
    assert (error.code, error.detail) == (ImageErrorCode.FETCH_FAILED, "more than 3 redirects")
    assert server.requests == ["/0", "/1", "/2", "/3"]


@pytest.mark.parametrize("location", ["/", "", "#x"])
def test_a_redirect_in_a_circle_ends(location: str, server: Server) -> None:
    server.pages["/"] = reply(status=302, location=location)
    assert error_of(server.url).detail == "more than 3 redirects"
    assert len(server.requests) == 4


@pytest.mark.parametrize("location", ["http://[", "http://[::1", "http://host:port/", "//[x]/", "http://a..b/"])
def test_a_redirect_to_no_address_fails_alone(location: str, server: Server) -> None:
    server.pages["/"] = reply(status=302, location=location)
    assert error_of(server.url).code is ImageErrorCode.NOT_FOUND


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/a", "gopher://host/", "data:,x"])
def test_a_redirect_to_another_scheme_is_refused(location: str, server: Server) -> None:
    server.pages["/"] = reply(status=302, location=location)
    error = error_of(server.url)
    assert (error.code, error.detail) == (
        ImageErrorCode.ACCESS_DENIED,
        "only http and https addresses are read",
    )


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_a_body_of_the_limit_is_read(server: Server) -> None:
    server.pages["/"] = reply(b"x" * 1000)
    assert len(get(server.url)) == 1000


def test_a_body_that_says_it_is_too_large_is_not_read(server: Server) -> None:
    server.pages["/"] = reply(b"", content_length=str(10**12))
    error = error_of(server.url)
    assert (error.code, error.detail) == (ImageErrorCode.TOO_MANY_BYTES, "1,000,000,000,000 of at most 1,000")


def test_a_body_without_length_is_cut_off_at_the_limit(server: Server) -> None:
    server.pages["/"] = drip(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x" * 300, every_s=0.001)
    error = error_of(server.url)
    assert (error.code, error.detail) == (ImageErrorCode.TOO_MANY_BYTES, "more than 1,000")


def test_an_endless_chunked_body_is_cut_off_at_the_limit(server: Server) -> None:
    server.pages["/"] = drip(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"64\r\n" + b"x" * 100 + b"\r\n", every_s=0.001
    )
    assert error_of(server.url).code is ImageErrorCode.TOO_MANY_BYTES


def test_a_compressed_body_is_not_inflated(server: Server) -> None:
    bomb = gzip.compress(bytes(10**6))
    asked = []

    def page(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers["Accept-Encoding"])
        reply(bomb, content_encoding="gzip")(handler)

    server.pages["/"] = page
    assert get(server.url, max_bytes=2000) == bomb
    assert asked == ["identity"]


@pytest.mark.parametrize(
    ("before", "each"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    ],
    ids=["silence", "headers", "continues", "body", "chunk-size"],
)
def test_a_server_that_drips_meets_the_deadline(before: bytes, each: bytes, server: Server) -> None:
    server.pages["/"] = drip(before, each)

    def ask() -> None:
        assert error_of(server.url, timeout_s=0.4).code is ImageErrorCode.FETCH_FAILED

    assert_within(1.5, ask)


def test_redirects_share_one_deadline(server: Server) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        threading.Event().wait(0.3)
        reply(status=302, location="/")(handler)

    server.pages["/"] = slow

    def ask() -> None:
        assert error_of(server.url, timeout_s=0.5).code is ImageErrorCode.FETCH_FAILED

    assert_within(1, ask)


def test_addresses_of_a_host_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, [f"203.0.112.{i}" for i in range(20)])
    timeouts = []

    def stall(_: object, timeout: float, **__: object) -> socket.socket:
        timeouts.append(timeout)
        threading.Event().wait(min(timeout, 0.1))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", stall)
    assert error_of("http://many.example/", timeout_s=0.5, allow_private=False).code is ImageErrorCode.FETCH_FAILED
    assert len(timeouts) < 8
    assert timeouts == sorted(timeouts, reverse=True)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX-Huge: " + b"x" * 200_000,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ],
    ids=["cut", "cut-chunk", "negative-length", "two-lengths", "huge-header", "not-http", "nothing"],
)
def test_a_broken_reply_is_fetch_failed(raw: bytes, server: Server, no_pauses: list[float]) -> None:
    server.pages["/"] = drip(raw, times=0)
    assert error_of(server.url).code is ImageErrorCode.FETCH_FAILED
    assert len(server.requests) == 3


def test_a_reset_in_mid_body_is_fetch_failed(server: Server, no_pauses: list[float]) -> None:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nhalf")
        handler.close_connection = True
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    server.pages["/"] = page
    assert error_of(server.url).code is ImageErrorCode.FETCH_FAILED
    assert len(server.requests) == 3


def test_failures_leave_no_connection_taken(
    server: Server, no_pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server.pages["/large"] = reply(b"", content_length=str(10**12))
    server.pages["/gone"] = reply(status=404)
    server.pages["/good"] = reply(b"x")
    bad = [f"{server.url}/large", f"{server.url}/gone", "http://nowhere.example/", f"http://u@{server.url[7:]}/"]
    with ThreadPoolExecutor(16) as executor:
        list(executor.map(error_of, bad * 40))
        assert list(executor.map(get, [f"{server.url}/good"] * 100)) == [b"x"] * 100


# --- where no address may lead ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "0",
    ],
)
def test_an_address_of_no_public_network_is_refused(host: str, server: Server, connected: list[object]) -> None:
    error = error_of(f"http://{host}:{server.server_port}/", allow_private=False)
    assert error.code is ImageErrorCode.ACCESS_DENIED
    assert error.detail.endswith("is on a private network")
    assert connected == []
    assert server.num_connections == 0


@pytest.mark.parametrize("name", ["localhost", "localhost.", "LOCALHOST", "ip6-localhost", "metadata.internal"])
def test_a_name_of_a_private_host_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, connected: list[object]
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1", "::1"])
    assert error_of(f"http://{name}/", allow_private=False).code is ImageErrorCode.ACCESS_DENIED
    assert connected == []


def test_one_private_address_among_public_ones_is_enough(
    monkeypatch: pytest.MonkeyPatch, connected: list[object]
) -> None:
    resolve_to(monkeypatch, [PUBLIC, "10.0.0.1"])
    assert error_of("http://mixed.example/", allow_private=False).code is ImageErrorCode.ACCESS_DENIED
    assert connected == []


def test_the_address_that_was_checked_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch, connected: list[object]
) -> None:
    """DNS rebinding: the second look-up would lead inside."""
    names = resolve_to(monkeypatch, [PUBLIC], ["127.0.0.1"])
    monkeypatch.setattr(http, "_NUM_ATTEMPTS", 1)
    error_of("http://rebinding.example/", allow_private=False)
    assert names == ["rebinding.example"]
    assert connected == [(PUBLIC, 80)]


def test_a_name_that_turns_private_is_refused_on_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch, connected: list[object], no_pauses: list[float]
) -> None:
    resolve_to(monkeypatch, [PUBLIC], ["127.0.0.1"])
    assert error_of("http://rebinding.example/", allow_private=False).code is ImageErrorCode.ACCESS_DENIED
    assert connected == [(PUBLIC, 80)]


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/secret", "//10.0.0.1/", "http://rebinding.example/secret"])
def test_a_redirect_from_a_public_host_inside_is_refused(
    target: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public host is played by the loopback server."""
    server.pages["/"] = reply(status=302, location=target.format(port=server.server_port))
    server.pages["/secret"] = reply(b"secret")
    played = {PUBLIC: ("127.0.0.1", server.server_port)}
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda address, *a, **k: connect(played[address[0]], *a, **k))

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
        ip = {"public.example": PUBLIC, "rebinding.example": "192.168.0.1"}.get(host, host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert error_of("http://public.example/", allow_private=False).code is ImageErrorCode.ACCESS_DENIED
    assert server.requests == ["/"]


@pytest.mark.parametrize(
    "url",
    ["http://user@example.com/", "http://user:password@example.com/", "http://example.com@127.0.0.1/", "https://@h/"],
)
def test_an_address_with_a_user_is_refused(url: str, monkeypatch: pytest.MonkeyPatch, connected: list[object]) -> None:
    names = resolve_to(monkeypatch, [PUBLIC])
    error = error_of(url, allow_private=False)
    assert (error.code, error.detail) == (
        ImageErrorCode.ACCESS_DENIED,
        "addresses with a user name are not read",
    )
    assert names == connected == []


@pytest.mark.parametrize("url", ["gopher://127.0.0.1/", "ftp://127.0.0.1/a.jpg", "dict://127.0.0.1:11211/", "data:,x"])
def test_other_schemes_reach_no_host(url: str, monkeypatch: pytest.MonkeyPatch, connected: list[object]) -> None:
    names = resolve_to(monkeypatch, [PUBLIC])
    error_of(url, allow_private=False)
    assert names == connected == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a\r\nHost: 127.0.0.1\r\n\r\n",
        "http://example.com/a\nb",
        "http://example.com\t.evil/",
        "http://exam\rple.com/",
        "http://example.com/\0",
        "http://[::1/",
        "http://[host]/",
        "http://example.com:port/",
        "http://example.com:99999/",
        "http://a..b/",
        "http://" + "a" * 64 + ".com/",
        "http://example.com/\udcff",
    ],
    ids=ascii,
)
def test_what_is_not_an_address_reaches_no_host(
    url: str, monkeypatch: pytest.MonkeyPatch, connected: list[object]
) -> None:
    names = resolve_to(monkeypatch, [PUBLIC])
    error = error_of(url, allow_private=False)
    assert (error.code, error.detail) == (ImageErrorCode.NOT_FOUND, "not an address")
    assert names == connected == []


def test_an_address_without_host_is_refused(connected: list[object]) -> None:
    for url in ("http://", "http:///a.jpg", "https://:443/a.jpg"):
        assert error_of(url, allow_private=False).code is ImageErrorCode.ACCESS_DENIED
    assert connected == []


def test_private_networks_are_refused_unless_allowed(server: Server) -> None:
    server.pages["/"] = reply(b"x")
    with pytest.raises(ImageError):
        fetch(server.url, None, FetchLimits())
    assert get(server.url, allow_private=True) == b"x"


@pytest.mark.parametrize("port", [22, 25, 3306, 6379, 9200])
def test_a_public_host_is_asked_on_the_webs_ports_only(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("93.184.216.34", port))])
    with network.deadline_of_requests(time.monotonic() + 60):
        with pytest.raises(ImageError, match=f"port {port} is none of the web's") as caught:
            network.checked_addresses("example.org", port, allow_private=False)
        assert caught.value.code is ImageErrorCode.ACCESS_DENIED
        assert network.checked_addresses("example.org", 443, allow_private=False) == ["93.184.216.34"]


@pytest.fixture
def silent_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """One that answers nothing until the test ends."""
    ends = threading.Event()
    names: list[str] = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[Any]:
        names.append(host)
        ends.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield names
    ends.set()


def test_a_resolver_that_does_not_answer_is_waited_for_until_the_deadline(silent_resolver: list[str]) -> None:
    started = time.monotonic()
    with pytest.raises(ImageError) as caught:
        fetch_url("http://slow.example/a.jpg", max_bytes=1000, timeout_s=0.3, allow_private=False)
    assert caught.value.code is ImageErrorCode.FETCH_FAILED
    assert time.monotonic() - started < 20
    assert set(silent_resolver) == {"slow.example"}


def test_a_resolver_that_does_not_answer_has_a_bounded_number_of_threads(
    silent_resolver: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_resolving", threading.BoundedSemaphore(2))
    for i in range(5):
        with pytest.raises(ImageError) as caught:
            fetch_url(f"http://slow{i}.example/a.jpg", max_bytes=1000, timeout_s=0.05, allow_private=False)
        assert caught.value.code is ImageErrorCode.FETCH_FAILED
    assert len(silent_resolver) == 2
