"""A reverse proxy in front of an S3 server that makes it slow, busy, broken or forgetful, in a process of its own.

Requests go on as they came, the ``Host`` header too: their signatures stay valid. To use it by hand::

    python -m tests.s3.proxy UPSTREAM_URL --get-delay-s 0.05
    curl ENDPOINT/__proxy__/counts
    curl -X PUT -d '{"rules": [{"kind": "slow_down", "rate": 0.1}]}' ENDPOINT/__proxy__/faults
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qsl, unquote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

Operation = Literal["get", "head", "put", "upload", "delete", "list", "other"]
"""Of objects, except ``list``; ``upload`` is any step of a multipart upload."""

Kind = Literal[
    "slow_down",
    "internal_error",
    "bad_gateway",
    "not_implemented",
    "denied",
    "archived",
    "missing",
    "no_bucket",
    "reset",
    "reset_midway",
    "stall",
    "stall_midway",
    "truncate",
    "lose_answer",
    "repeat_page",
]
"""What happens to a request.

- ``slow_down``, ``internal_error``, ``not_implemented``, ``denied``, ``archived``, ``missing``, ``no_bucket``: S3's
  answers of that meaning; ``bad_gateway`` is a page of HTML. The server is not asked.
- ``reset``: the connection is reset before the server is asked; ``reset_midway``: in the middle of the answer's body.
- ``stall``: there is never an answer; ``stall_midway``: it stops in the middle of its body.
- ``truncate``: the head announces the whole body, the connection is closed half-way.
- ``lose_answer``: the server does what it is asked, and the connection is closed without an answer.
- ``repeat_page``: a listing answers with the page before the one asked for; its first page stays as it is.
"""

_ANSWERS: dict[str, tuple[int, str]] = {
    "slow_down": (503, "SlowDown"),
    "internal_error": (500, "InternalError"),
    "not_implemented": (501, "NotImplemented"),
    "denied": (403, "AccessDenied"),
    "archived": (403, "InvalidObjectState"),
    "missing": (404, "NoSuchKey"),
    "no_bucket": (404, "NoSuchBucket"),
    "bad_gateway": (502, ""),
}
_MIDWAY = frozenset({"reset_midway", "stall_midway", "truncate"})
_CONTROL = "/__proxy__/"
_BUFFER_BYTES = 2**18
# The gateway closes what was silent for 65 s; a request that met that moment would be lost.
_IDLE_S = 20.0
_PAGES_KEPT = 1000


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    kind: Kind
    operations: tuple[Operation, ...] = ()
    """Whose requests; default: all."""
    rate: float = 1.0
    """Of the requests it applies to. The seed decides which: the same ones, in whatever order they come."""
    after: int = 0
    """So many requests it applies to go well first."""
    count: int | None = None
    """It happens so many times at most; default: for ever."""
    key: str = ""
    """Only requests whose path, percent-encoded as it travels, contains this."""


@dataclass(frozen=True)
class Faults:
    """Everything that goes wrong; of several rules that apply to a request, the first one that happens."""

    rules: tuple[Fault, ...] = ()
    get_delay_s: float = 0.0
    """Before the answer of every GET of an object; any number wait at once."""
    list_delay_s: float = 0.0
    """Before every page of a listing."""
    seed: int = 0


@dataclass(frozen=True)
class Counts:
    """What came and what was done to it, since the faults were last set."""

    requests: dict[str, int] = field(default_factory=dict)
    """By operation; attempts that were made to fail count too."""
    faults: dict[str, int] = field(default_factory=dict)
    """By kind."""
    most_at_once: dict[str, int] = field(default_factory=dict)
    """By operation."""
    body_bytes: int = 0
    """Of the answers to the client."""

    @property
    def num_requests(self) -> int:
        return sum(self.requests.values())

    @property
    def num_faults(self) -> int:
        return sum(self.faults.values())


@dataclass(frozen=True)
class S3Proxy:
    """A running proxy."""

    endpoint_url: str

    def counts(self) -> Counts:
        return Counts(**json.loads(self._control("GET", "counts")))

    def set_faults(self, faults: Faults) -> None:
        """Let these go wrong from now on, and count anew."""
        self._control("PUT", "faults", json.dumps(asdict(faults)))

    def _control(self, method: str, name: str, body: str = "") -> bytes:
        connection = http.client.HTTPConnection(urlsplit(self.endpoint_url).netloc, timeout=30)
        try:
            connection.request(method, _CONTROL + name, body.encode())
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(content.decode())
        return content


@contextmanager
def s3_proxy(upstream: str, faults: Faults | None = None) -> Iterator[S3Proxy]:
    """Run a proxy in a process of its own, whose work slows nothing down in this one; it ends with the block."""
    command = [sys.executable, __file__, upstream, "--until-stdin-ends"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            endpoint_url = process.stdout.readline().strip()
            if not endpoint_url:
                raise RuntimeError(f"the proxy does not start: exit code {process.wait(10)}")
            proxy = S3Proxy(endpoint_url)
            if faults is not None:
                proxy.set_faults(faults)
            yield proxy
        finally:
            process.kill()


class _Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    operation: Operation
    head: bytes
    """As it goes on to the server."""
    body: bytes
    """As it came, with its framing."""
    keep_alive: bool


class _Answer(NamedTuple):
    status: int
    head: bytes
    length: int | None
    """Of the body; ``None`` if it comes in chunks."""
    keep_alive: bool


class _HangUpError(Exception):
    """The client's connection is over."""


class _Planner:
    """Decides what happens to each request, and counts."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.requests: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.body_bytes = 0
        self._num_seen = [0] * len(faults.rules)
        self._num_happened = [0] * len(faults.rules)
        self._times_asked: Counter[tuple[int, str, str]] = Counter()

    def counts(self) -> Counts:
        return Counts(dict(self.requests), dict(self.happened), dict(self.most_at_once), self.body_bytes)

    def plan(self, request: _Request, target: str, *, has_page_before: bool) -> Kind | None:
        for i, fault in enumerate(self.faults.rules):
            if fault.operations and request.operation not in fault.operations:
                continue
            if fault.key not in request.path or (fault.kind == "repeat_page" and not has_page_before):
                continue
            self._num_seen[i] += 1
            if self._num_seen[i] <= fault.after or self._num_happened[i] == fault.count:
                continue
            if fault.rate < 1 and self._chance(i, request.method, target) >= fault.rate:
                continue
            self._num_happened[i] += 1
            self.happened[fault.kind] += 1
            return fault.kind
        return None

    def _chance(self, rule: int, method: str, target: str) -> float:
        # Of the request and of how often it came, not of its turn: that is another one in every run.
        asked = (rule, method, target)
        self._times_asked[asked] += 1
        text = f"{self.faults.seed} {rule} {method} {target} {self._times_asked[asked]}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


class _Server:
    """Serves clients on any number of connections, over pooled connections to the server behind."""

    def __init__(self, upstream: str, faults: Faults) -> None:
        parts = urlsplit(upstream)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{upstream}: not an http:// address")
        self._upstream = (parts.hostname, parts.port or 80)
        self._planner = _Planner(faults)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []
        # By bucket, prefix and the place a listing has got to: the page that led there.
        self._pages: dict[tuple[str, str, str], bytes] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.LimitOverrunError, _HangUpError):
            while request := await _read_request(reader, writer):
                if request.path.startswith(_CONTROL):
                    self._answer_control(request, writer)
                else:
                    await self._answer(request, reader, writer)
                await writer.drain()
                if not request.keep_alive:
                    break
        writer.close()

    def _answer_control(self, request: _Request, writer: asyncio.StreamWriter) -> None:
        try:
            if request.path == _CONTROL + "faults" and request.method == "PUT":
                self._planner = _Planner(_faults_from_json(request.body))
                self._pages.clear()
            elif request.path != _CONTROL + "counts":
                raise ValueError("there are only GET counts and PUT faults")
            status, content = 200, json.dumps(asdict(self._planner.counts()))
        except (TypeError, ValueError, KeyError) as error:
            status, content = 400, f"{type(error).__name__}: {error}"
        writer.write(_whole_answer(status, "application/json", f"{content}\n".encode()))

    async def _answer(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        planner = self._planner
        planner.requests[request.operation] += 1
        target = request.path + "?" + "&".join(f"{name}={value}" for name, value in sorted(request.query.items()))
        page_before = self._pages.get(_place(request)) if request.operation == "list" else None
        kind = planner.plan(request, target, has_page_before=page_before is not None)
        operation = request.operation
        planner.at_once[operation] += 1
        planner.most_at_once[operation] = max(planner.most_at_once[operation], planner.at_once[operation])
        try:
            if operation == "get" and planner.faults.get_delay_s:
                await asyncio.sleep(planner.faults.get_delay_s)
            elif operation == "list" and planner.faults.list_delay_s:
                await asyncio.sleep(planner.faults.list_delay_s)
            if kind == "repeat_page" and page_before is not None:
                planner.body_bytes += len(page_before)
                writer.write(_whole_answer(200, "application/xml", page_before))
            elif kind in _ANSWERS:
                status, code = _ANSWERS[kind]
                writer.write(_error_answer(request, status, code))
            elif kind == "reset":
                _reset(writer)
            elif kind == "stall":
                await reader.read()
                raise _HangUpError
            else:
                await self._forward(request, kind, reader, writer)
        finally:
            planner.at_once[operation] -= 1

    async def _forward(
        self, request: _Request, kind: Kind | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answer, upstream, upstream_writer = await self._ask(request)
        is_over = False
        try:
            if request.operation == "list" or kind == "lose_answer" or answer.length is None:
                body = await _read_framed(upstream, answer.length)
                is_over = answer.keep_alive
                if kind == "lose_answer":
                    raise _HangUpError
                if request.operation == "list" and answer.status == 200:
                    self._remember(request, body if answer.length is not None else _without_framing(body))
                await self._write_body(answer, body, kind, reader, writer)
            else:
                await self._pass_on(answer, kind, upstream, reader, writer)
                is_over = answer.keep_alive
        finally:
            if is_over:
                self._idle.append((upstream, upstream_writer, time.monotonic()))
            else:
                upstream_writer.close()

    async def _write_body(
        self,
        answer: _Answer,
        body: bytes,
        kind: Kind | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        half = body[: len(body) // 2] if kind in _MIDWAY else body
        self._planner.body_bytes += len(half)
        writer.write(answer.head + half)
        await writer.drain()
        if kind in _MIDWAY:
            await _end_midway(kind, reader, writer)

    async def _pass_on(
        self,
        answer: _Answer,
        kind: Kind | None,
        upstream: asyncio.StreamReader,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        assert answer.length is not None
        left = answer.length // 2 if kind in _MIDWAY else answer.length
        before = answer.head
        while left:
            chunk = await upstream.read(min(left, _BUFFER_BYTES))
            if not chunk:
                raise EOFError
            left -= len(chunk)
            self._planner.body_bytes += len(chunk)
            writer.write(before + chunk if before else chunk)
            before = b""
            await writer.drain()
        if before:
            writer.write(before)
        if kind in _MIDWAY:
            await writer.drain()
            await _end_midway(kind, reader, writer)

    async def _ask(self, request: _Request) -> tuple[_Answer, asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            was_idle, upstream, writer = await self._connection()
            try:
                writer.write(request.head + request.body)
                await writer.drain()
                return await _read_answer(request, upstream), upstream, writer
            except (OSError, EOFError):
                writer.close()
                # The server had just closed it: another connection, as browsers do.
                if not was_idle:
                    raise
            except BaseException:
                writer.close()
                raise

    async def _connection(self) -> tuple[bool, asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer, since = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing() and time.monotonic() - since < _IDLE_S:
                return True, reader, writer
            writer.close()
        return False, *await asyncio.open_connection(*self._upstream, limit=_BUFFER_BYTES)

    def _remember(self, request: _Request, body: bytes) -> None:
        if not any(fault.kind == "repeat_page" for fault in self._planner.faults.rules):
            return
        bucket, prefix, _ = _place(request)
        for pattern in (rb"<NextContinuationToken>(.*?)</", rb"\A.*<Key>(.*?)</", rb"<NextMarker>(.+?)</"):
            if match := re.search(pattern, body, re.DOTALL):
                self._pages[bucket, prefix, unquote_plus(match.group(1).decode())] = body
        while len(self._pages) > _PAGES_KEPT:
            del self._pages[next(iter(self._pages))]


def _place(request: _Request) -> tuple[str, str, str]:
    query = request.query
    marker = query.get("continuation-token") or query.get("start-after") or query.get("marker", "")
    return request.path, f"{query.get('prefix', '')} {query.get('delimiter', '')}", marker


async def _end_midway(kind: Kind | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if kind == "reset_midway":
        # What was just written must be on its way: a reset throws away what waits to be sent or read.
        await asyncio.sleep(0.05)
        _reset(writer)
    elif kind == "stall_midway":
        await reader.read()
    raise _HangUpError


def _reset(writer: asyncio.StreamWriter) -> None:
    # Closing a socket that lingers for no time sends RST.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise _HangUpError


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Request | None:
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = first.decode("latin-1").split(" ", 2)
    headers = dict(_header(line) for line in lines if line)
    # The answer to Expect comes from here, and it is no part of a signature.
    passed_on = [line for line in lines if not line.lower().startswith(b"expect:")]
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    body = await _read_framed(reader, None if is_chunked else int(headers.get("content-length", "0")))
    path, _, text = target.partition("?")
    query = dict(parse_qsl(text, keep_blank_values=True))
    return _Request(
        method,
        path,
        query,
        _operation(method, path, query),
        b"\r\n".join((first, *passed_on)),
        body,
        headers.get("connection", "").lower() != "close",
    )


async def _read_answer(request: _Request, upstream: asyncio.StreamReader) -> _Answer:
    head = await upstream.readuntil(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    status = int(first.split(b" ", 2)[1])
    headers = dict(_header(line) for line in lines if line)
    length: int | None = int(headers.get("content-length", "0"))
    if request.method == "HEAD" or status in (204, 304):
        length = 0
    elif "chunked" in headers.get("transfer-encoding", "").lower():
        length = None
    return _Answer(status, head, length, headers.get("connection", "").lower() != "close")


async def _read_framed(reader: asyncio.StreamReader, length: int | None) -> bytes:
    """A body of a length, or one in chunks, with their sizes as they came."""
    if length is not None:
        return await reader.readexactly(length) if length else b""
    parts = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        parts.append(line)
        if not size:
            break
        parts.append(await reader.readexactly(size + 2))
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        parts.append(line)
    return b"".join((*parts, line))


def _without_framing(body: bytes) -> bytes:
    parts: list[bytes] = []
    start = 0
    while True:
        end = body.index(b"\r\n", start)
        size = int(body[start:end].partition(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        start = end + 2 + size + 2


def _header(line: bytes) -> tuple[str, str]:
    name, _, value = line.decode("latin-1").partition(":")
    return name.lower(), value.strip()


def _operation(method: str, path: str, query: dict[str, str]) -> Operation:
    if "comp" in query:  # Azure's
        of_parts: dict[str, Operation] = {"block": "upload", "blocklist": "upload", "list": "list", "batch": "delete"}
        return of_parts.get(query["comp"], "other")
    if not path.strip("/").partition("/")[2]:
        is_listing = method == "GET" and ("list-type" in query or "prefix" in query or "marker" in query or not query)
        return "list" if is_listing and path != "/" else "other"
    if "uploadId" in query or "uploads" in query:
        return "upload"
    of_objects: dict[str, Operation] = {"GET": "get", "HEAD": "head", "PUT": "put", "DELETE": "delete"}
    return of_objects.get(method, "other")


def _error_answer(request: _Request, status: int, code: str) -> bytes:
    if request.method == "HEAD":
        return _whole_answer(status, "application/xml", b"")
    if not code:
        return _whole_answer(status, "text/html", b"<html><body><h1>Bad Gateway</h1><hr></body></html>")
    content = f"<Error><Code>{code}</Code><Message>by the proxy</Message><RequestId>0</RequestId></Error>"
    return _whole_answer(status, "application/xml", f'<?xml version="1.0" encoding="UTF-8"?>{content}'.encode())


def _whole_answer(status: int, content_type: str, content: bytes) -> bytes:
    reason = http.client.responses[status]
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _faults_from_json(text: bytes) -> Faults:
    fields: dict[str, Any] = json.loads(text)
    rules = tuple(
        Fault(**{**rule, "operations": tuple(rule.get("operations", ()))}) for rule in fields.pop("rules", ())
    )
    for known, given in (
        (get_args(Kind), [rule.kind for rule in rules]),
        (get_args(Operation), [name for rule in rules for name in rule.operations]),
    ):
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return Faults(rules, **fields)


async def _run(upstream: str, port: int, faults: Faults, *, until_stdin_ends: bool) -> None:
    proxy = _Server(upstream, faults)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port, limit=_BUFFER_BYTES, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if until_stdin_ends:
        loop.add_reader(sys.stdin, ended.set)
    await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.s3.proxy", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("upstream", metavar="UPSTREAM_URL", help="the S3 server, e.g. http://127.0.0.1:7480")
    parser.add_argument("--port", type=int, default=0, help="to listen on; default: a free one")
    parser.add_argument("--get-delay-s", type=float, default=0.0, help="before the answer of every GET of an object")
    parser.add_argument("--list-delay-s", type=float, default=0.0, help="before every page of a listing")
    parser.add_argument("--faults", default="{}", help='JSON: {"rules": [{"kind": "slow_down", "rate": 0.1}]}')
    parser.add_argument("--until-stdin-ends", action="store_true", help="end with the process that started this one")
    options = parser.parse_args()
    given = {"get_delay_s": options.get_delay_s, "list_delay_s": options.list_delay_s}
    try:
        faults = _faults_from_json(json.dumps({**given, **json.loads(options.faults)}).encode())
        work = _run(options.upstream, options.port, faults, until_stdin_ends=options.until_stdin_ends)
        asyncio.run(work)
    except (TypeError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
