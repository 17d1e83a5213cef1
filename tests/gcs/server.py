"""A strict fake of Google Cloud Storage's XML interface, as far as it is used: what it does not know, it refuses.

No emulator that could be installed from a package serves this interface's writes. What is imitated is in Google's
reference of the XML API: conditions on generations, ETags, ranges, pages of listings, uploads in parts.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from tests.fake_server import fake_server

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

TOKEN = "token-of-tests"
_PAGE_KEYS = 100
_KNOWN_QUERIES = frozenset(
    {"list-type", "prefix", "delimiter", "start-after", "continuation-token", "max-keys", "uploads", "uploadId"}
    | {"partNumber"}
)


class _Stored(NamedTuple):
    data: bytes
    etag: str
    generation: int
    when: datetime
    metadata: dict[str, str]


class GcsServer:
    """A running server; its state is in this process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.buckets: dict[str, dict[str, _Stored]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()
        self.num_stored = 0
        self.payers: list[str | None] = []
        """``x-goog-user-project`` of each request."""

    def store(self, bucket: str, key: str, data: bytes, metadata: dict[str, str]) -> _Stored:
        self.num_stored += 1
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        generation = 1_700_000_000_000_000 + self.num_stored
        stored = _Stored(data, etag, generation, datetime.now(UTC).replace(microsecond=0), metadata)
        self.buckets[bucket][key] = stored
        return stored


class _RefusedError(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: GcsServer
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path, _, text = self.path.partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        bucket, _, key = unquote(path[1:]).partition("/")
        try:
            self.state.payers.append(self.headers.get("x-goog-user-project"))
            self._check(query)
            with self.state.lock:
                if bucket not in self.state.buckets:
                    raise _RefusedError(404, "NoSuchBucket")
                if not key:
                    self._list(bucket, query)
                elif "uploads" in query or "uploadId" in query:
                    self._upload(bucket, key, query, body)
                else:
                    self._object(bucket, key, body)
        except _RefusedError as error:
            self._answer_xml(f"<Error><Code>{error.code}</Code><Message>refused</Message></Error>", error.status)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _check(self, query: dict[str, str]) -> None:
        given = self.headers.get("Authorization")
        if given is not None and given != f"Bearer {TOKEN}":
            raise _RefusedError(401, "AuthenticationRequired")
        if given is None and self.headers.get("x-test-anonymous") is None and self.command not in ("GET", "HEAD"):
            raise _RefusedError(403, "AccessDenied")
        if unknown := query.keys() - _KNOWN_QUERIES:
            raise _RefusedError(400, f"InvalidArgument-{sorted(unknown)}")

    def _object(self, bucket: str, key: str, body: bytes) -> None:
        objects = self.state.buckets[bucket]
        stored = objects.get(key)
        if self.command == "PUT":
            wanted = self.headers.get("x-goog-if-generation-match")
            if wanted is not None and int(wanted) != (stored.generation if stored else 0):
                raise _RefusedError(412, "PreconditionFailed")
            metadata = {k.lower(): v for k, v in self.headers.items() if k.lower().startswith("x-goog-meta-")}
            new = self.state.store(bucket, key, body, metadata)
            self._answer(200, b"", {"ETag": new.etag, "x-goog-generation": str(new.generation)})
            return
        if stored is None:
            raise _RefusedError(404, "NoSuchKey")
        if self.command == "DELETE":
            del objects[key]
            self._answer(204, b"", {})
            return
        if self.command not in ("GET", "HEAD"):
            raise _RefusedError(400, "InvalidArgument")
        if (etag := self.headers.get("If-Match")) is not None and etag != stored.etag:
            raise _RefusedError(412, "PreconditionFailed")
        self._send_object(stored)

    def _send_object(self, stored: _Stored) -> None:
        headers = {
            "ETag": stored.etag,
            "x-goog-generation": str(stored.generation),
            "Last-Modified": format_datetime(stored.when, usegmt=True),
            "Content-Type": "application/octet-stream",
            **stored.metadata,
        }
        data, status = stored.data, 200
        if wanted := self.headers.get("Range"):
            match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
            assert match is not None, wanted
            size = len(data)
            start = int(match[1]) if match[1] else max(0, size - int(match[2]))
            stop = min(size, int(match[2]) + 1) if match[1] and match[2] else size
            if start >= size:
                raise _RefusedError(416, "InvalidRange")
            data, status = data[start:stop], 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._answer(status, data, headers)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        if self.command != "GET" or query.get("list-type") != "2":
            raise _RefusedError(400, "InvalidArgument")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        items: dict[str, str] = {}
        for key, stored in sorted(self.state.buckets[bucket].items()):
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key[: end + 1] if end >= 0 else key
            if not key.startswith(prefix) or name <= after or name in items:
                continue
            if len(items) == int(query.get("max-keys", _PAGE_KEYS)):
                last = list(items)[-1]
                token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>"
                items["more"] = f"<IsTruncated>true</IsTruncated>{token}"
                break
            text = f"<Key>{escape(key)}</Key><Size>{len(stored.data)}</Size><ETag>{escape(stored.etag)}</ETag>"
            text += f"<LastModified>{stored.when:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            folder = f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            items[name] = folder if end >= 0 else f"<Contents>{text}</Contents>"
        self._answer_xml(f"<ListBucketResult>{''.join(items.values())}</ListBucketResult>")

    def _upload(self, bucket: str, key: str, query: dict[str, str], body: bytes) -> None:
        uploads = self.state.uploads
        if self.command == "POST" and "uploads" in query:
            name = base64.urlsafe_b64encode(f"{bucket}/{key}/{len(uploads)}".encode()).decode()
            uploads[name] = {}
            content = f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
            self._answer_xml(f"{content}<UploadId>{name}</UploadId></InitiateMultipartUploadResult>")
            return
        if query["uploadId"] not in uploads:
            raise _RefusedError(404, "NoSuchUpload")
        if self.command == "PUT":
            uploads[query["uploadId"]][int(query["partNumber"])] = body
            etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
            self._answer(200, b"", {"ETag": etag})
        elif self.command == "POST":
            parts = uploads.pop(query["uploadId"])
            numbers = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</", body)]
            if numbers != sorted(parts):
                raise _RefusedError(400, "InvalidPart")
            new = self.state.store(bucket, key, b"".join(parts[number] for number in numbers), {})
            self._answer_xml(
                f"<CompleteMultipartUploadResult><ETag>{escape(new.etag)}</ETag></CompleteMultipartUploadResult>",
                generation=new.generation,
            )
        else:
            del uploads[query["uploadId"]]
            self._answer(204, b"", {})

    def _answer_xml(self, content: str, status: int = 200, *, generation: int = 0) -> None:
        headers = {"Content-Type": "application/xml", "x-goog-generation": str(generation)}
        self._answer(status, f"<?xml version='1.0' encoding='UTF-8'?>{content}".encode(), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def gcs_server() -> AbstractContextManager[GcsServer]:
    """Start a server in a thread of this process, and end it with the block."""
    return fake_server(_Handler, GcsServer)
