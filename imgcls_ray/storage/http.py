"""Read images from untrusted http(s) addresses.

``network`` makes every connection, also for redirects, so that an address in a list cannot make a worker connect to
loopback, private or link-local networks (SSRF). Bytes and time are limited while the body streams.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from imgcls_ray.errors import ImageError, ImageErrorCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpcore2

NOT_PUBLIC = ("is on a private network", "is none of the web's")
"""Ends of the details of errors that ``allow_private`` avoids."""
_MAX_REDIRECTS = 3
_NUM_ATTEMPTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED = frozenset({429, 500, 502, 503, 504})
_CODE_OF_STATUS = {
    401: ImageErrorCode.ACCESS_DENIED,
    403: ImageErrorCode.ACCESS_DENIED,
    404: ImageErrorCode.NOT_FOUND,
    410: ImageErrorCode.NOT_FOUND,
}


class _RetriableError(Exception):
    """A failure that may not occur in another attempt."""


def is_url(uri: str) -> bool:
    return uri[:7].lower() == "http://" or uri[:8].lower() == "https://"


def fetch_url(
    url: str, *, max_bytes: int, timeout_s: float, allow_private: bool, hosts: Sequence[str] | None = None
) -> bytes:
    """Read one address whole, with up to three attempts and three redirects.

    Args:
        url: http(s) address.
        max_bytes: of the body.
        timeout_s: deadline of all attempts together.
        allow_private: whether it may lead to loopback, private or link-local hosts.
        hosts: the only allowed hosts, also of redirects; ``*.NAME`` allows all subdomains of a name.

    Raises:
        ImageError: not_found, access_denied (also for a host that may not be reached), too_many_bytes or fetch_failed.
    """
    deadline = time.monotonic() + timeout_s
    for attempt in range(1, _NUM_ATTEMPTS + 1):
        try:
            return _fetch_following(
                url, max_bytes=max_bytes, deadline=deadline, allow_private=allow_private, hosts=hosts
            )
        except _RetriableError as error:
            pause = 0.25 * 2**attempt
            if attempt == _NUM_ATTEMPTS or time.monotonic() + pause > deadline:
                raise ImageError(ImageErrorCode.FETCH_FAILED, str(error)) from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def _fetch_following(
    url: str, *, max_bytes: int, deadline: float, allow_private: bool, hosts: Sequence[str] | None
) -> bytes:
    url = _checked_url(url, hosts=hosts)
    for _ in range(_MAX_REDIRECTS + 1):
        body = _get(url, max_bytes=max_bytes, deadline=deadline, allow_private=allow_private)
        if isinstance(body, bytes):
            return body
        url = _checked_url(body, base=url, hosts=hosts)
    raise ImageError(ImageErrorCode.FETCH_FAILED, f"more than {_MAX_REDIRECTS} redirects")


def _checked_url(url: str, base: str = "", hosts: Sequence[str] | None = None) -> str:
    # urlsplit takes out line breaks and tabs without a word; another address than the one given would be asked.
    if any(character < " " or character == "\x7f" for character in url):
        raise ImageError(ImageErrorCode.NOT_FOUND, "not an address")
    try:
        url = urljoin(base, url)
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ImageError(ImageErrorCode.NOT_FOUND, "not an address") from error
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ImageError(ImageErrorCode.ACCESS_DENIED, "only http and https addresses are read")
    if parts.username is not None or parts.password is not None:
        raise ImageError(ImageErrorCode.ACCESS_DENIED, "addresses with a user name are not read")
    if hosts is not None and not _is_among(parts.hostname, hosts):
        raise ImageError(ImageErrorCode.ACCESS_DENIED, "its host is not allowed")
    return url.partition("#")[0]


def _is_among(host: str, allowed: Sequence[str]) -> bool:
    # As it will be asked for: look-alikes in other scripts are other names.
    try:
        name = host.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return False
    return any(
        name.endswith(entry[1:].lower()) if entry.startswith("*.") else name == entry.lower() for entry in allowed
    )


def _get(url: str, *, max_bytes: int, deadline: float, allow_private: bool) -> bytes | str:
    """One exchange: the body, or the address of a redirect."""
    import httpcore2

    from imgcls_ray.storage.network import connection_pool, deadline_of_requests

    left = deadline - time.monotonic()
    if left <= 0:
        raise ImageError(ImageErrorCode.FETCH_FAILED, "took too long")
    # Identity: a compressed body could unfold to any size, and images gain nothing.
    headers = [("User-Agent", "imgcls-ray"), ("Accept", "image/*, */*;q=0.5"), ("Accept-Encoding", "identity")]
    pool = connection_pool(allow_private=allow_private)
    try:
        with (
            deadline_of_requests(deadline),
            pool.stream("GET", _ascii(url), headers=headers, extensions={"timeout": {"pool": left}}) as reply,
        ):
            if reply.status in _REDIRECTS:
                return _header(reply, b"location")
            if reply.status in _RETRIED:
                raise _RetriableError(f"HTTP {reply.status}")
            if reply.status != 200:
                raise ImageError(_CODE_OF_STATUS.get(reply.status, ImageErrorCode.FETCH_FAILED), f"HTTP {reply.status}")
            return _read_body(reply, max_bytes=max_bytes)
    except (httpcore2.UnsupportedProtocol, httpcore2.LocalProtocolError, UnicodeError, ValueError) as error:
        raise ImageError(ImageErrorCode.NOT_FOUND, "not an address") from error
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise _RetriableError(str(error) or type(error).__name__) from error


def _read_body(reply: httpcore2.Response, *, max_bytes: int) -> bytes:
    length = _header(reply, b"content-length")
    if length.isdecimal() and int(length) > max_bytes:
        raise ImageError(ImageErrorCode.TOO_MANY_BYTES, f"{int(length):,} of at most {max_bytes:,}")
    body = bytearray()
    for part in reply.iter_stream():
        body += part
        if len(body) > max_bytes:
            raise ImageError(ImageErrorCode.TOO_MANY_BYTES, f"more than {max_bytes:,}")
    return bytes(body)


def _header(reply: httpcore2.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in reply.headers if key.lower() == name), "")


def _ascii(url: str) -> bytes:
    """The address as it travels: host in IDNA, the rest percent-encoded where it is not ASCII."""
    from urllib.parse import quote

    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    port = f":{parts.port}" if parts.port is not None else ""
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else ""
    return f"{parts.scheme.lower()}://{host}{port}{target}{query}".encode("ascii")
