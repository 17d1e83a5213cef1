"""HTTP/1.1 as it goes over the wire: just enough to ask a server cheaply and to read its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


def make_request(
    path: str, body: bytes, content_type: str, *, method: str = "POST", headers: Sequence[str] = ()
) -> bytes:
    """A request as it goes over the wire."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Answer(NamedTuple):
    """One answer, read to its end."""

    status: int
    body: bytes
    is_last: bool
    """The server takes no other request on this connection."""


def read_answer(received: bytes, *, is_end: bool = False) -> Answer | None:
    """Read an answer from what has been received; None if there is more to come.

    Args:
        is_end: the connection is closed, which ends a body of unknown length.

    Raises:
        ValueError: it is no HTTP.
    """
    end_of_head = received.find(b"\r\n\r\n")
    if end_of_head < 0:
        if received[:5] != b"HTTP/"[: len(received)]:
            raise ValueError("not HTTP")
        return None
    head, start = received[:end_of_head].lower(), end_of_head + 4
    status = int(head[9:12])
    if status < 200:  # 100 Continue, before the answer proper
        return read_answer(received[start:], is_end=is_end)
    is_last = b"\r\nconnection: close" in head
    length = _header(head, b"\r\ncontent-length:")
    if length is not None:
        body = received[start : start + int(length)]
        return Answer(status, body, is_last) if len(body) == int(length) else None
    if _header(head, b"\r\ntransfer-encoding:") == b"chunked":
        chunks = _read_chunks(received, start)
        return None if chunks is None else Answer(status, chunks, is_last)
    if status in (204, 304):
        return Answer(status, b"", is_last)
    return Answer(status, received[start:], True) if is_end else None


def _header(head: bytes, name: bytes) -> bytes | None:
    at = head.find(name)
    if at < 0:
        return None
    end = head.find(b"\r\n", at + 2)
    return head[at + len(name) : end if end >= 0 else len(head)].strip()


def _read_chunks(received: bytes, at: int) -> bytes | None:
    """The body whose chunks begin there; None if it is not all there."""
    chunks: list[bytes] = []
    while (end_of_line := received.find(b"\r\n", at)) >= 0:
        size = int(received[at:end_of_line].partition(b";")[0], 16)
        at = end_of_line + 2
        if size == 0:
            # Trailers, if there are any, end with an empty line as a head does.
            is_whole = received[at : at + 2] == b"\r\n" or received.find(b"\r\n\r\n", at) >= 0
            return b"".join(chunks) if is_whole else None
        chunks.append(received[at : at + size])
        at += size + 2
    return None
