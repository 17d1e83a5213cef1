"""Connections to untrusted hosts: every address is checked, and every step ends by the deadline.

A host is resolved once, every one of its addresses is checked, and the connection goes to a checked address. So no name
can lead to loopback, private or link-local networks, not even by DNS rebinding.
"""

from __future__ import annotations

import functools
import ipaddress
import queue
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import httpcore2

from imgcls_ray.errors import ImageError, ImageErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Behind any other port of a public host is a mail server, a database, a shell: nobody's pictures.
_WEB_PORTS = frozenset({80, 443, 8080, 8443})
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # neither IPv4-mapped nor NAT64 addresses are in it
# Addresses that carry an IPv4 address inside: what is behind them cannot be told from outside.
_TRANSLATED = tuple(ipaddress.ip_network(net) for net in ("2002::/16", "2001::/32"))

# As many as there are connections. A name that is asked for while all wait has until its own deadline.
_MAX_RESOLVING = 64
_resolving = threading.BoundedSemaphore(_MAX_RESOLVING)

_deadline: ContextVar[float] = ContextVar("_deadline")


@contextmanager
def deadline_of_requests(deadline: float) -> Iterator[None]:
    """Set the deadline of all requests within the block, by ``time.monotonic``."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


@functools.cache
def connection_pool(*, allow_private: bool) -> httpcore2.ConnectionPool:
    """One pool of connections per process: lists often name one host a million times."""
    return httpcore2.ConnectionPool(
        ssl_context=ssl.create_default_context(),
        network_backend=_CheckedBackend(allow_private=allow_private),
        max_connections=64,
        max_keepalive_connections=64,
        keepalive_expiry=30,
    )


class _CheckedBackend(httpcore2.SyncBackend):
    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: Exception = httpcore2.ConnectError(f"{host}: no address")
        for address in checked_addresses(host, port, allow_private=self._allow_private):
            try:
                stream = super().connect_tcp(address, port, _seconds_left(), local_address, socket_options)
                return _BoundedStream(stream)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


class _BoundedStream(httpcore2.NetworkStream):
    """A connection on which every step ends by the deadline of the request that makes it.

    httpcore2 limits each read separately: a server that sends one byte a minute would block the reader for hours.
    """

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _seconds_left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _seconds_left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, _seconds_left()))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _seconds_left() -> float:
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("took too long")
    return left


def checked_addresses(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Resolve a host once; every one of its addresses must be public and the port a web server's, unless private
    ones are allowed.

    Raises:
        ImageError: access_denied, or fetch_failed if the name does not resolve.
    """
    try:
        found = _resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise ImageError(ImageErrorCode.FETCH_FAILED, f"{host}: the name does not resolve") from error
    addresses = list(dict.fromkeys(found))
    if not allow_private and not all(_is_public(address) for address in addresses):
        raise ImageError(ImageErrorCode.ACCESS_DENIED, f"{host} is on a private network")
    if not allow_private and port not in _WEB_PORTS:
        raise ImageError(ImageErrorCode.ACCESS_DENIED, f"port {port} is none of the web's")
    return addresses


def _resolve(host: str, port: int) -> list[str]:
    """The addresses that ``getaddrinfo`` finds, by the deadline of the request, which it knows nothing of: it waits for
    a resolver that does not answer for half a minute and more.

    It cannot be ended either, so it has a thread of its own, of which there is a bounded number.
    """
    room = _resolving
    if not room.acquire(timeout=_seconds_left()):
        raise httpcore2.ConnectTimeout("too many names wait to be resolved")
    answers: queue.SimpleQueue[list[str] | BaseException] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(entry[4][0]) for entry in found])
        except BaseException as error:
            answers.put(error)
        finally:
            room.release()

    threading.Thread(target=resolve, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=_seconds_left())
    except queue.Empty as error:
        raise httpcore2.ConnectTimeout("the name was not resolved in time") from error
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    # Python calls site-local (fec0::/10) and IPv4-compatible (::127.0.0.1) addresses global.
    if ip.version == 6 and (ip not in _GLOBAL_UNICAST or any(ip in network for network in _TRANSLATED)):
        return False
    return ip.is_global and not ip.is_multicast
