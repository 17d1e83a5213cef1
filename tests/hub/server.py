"""A small fake of the Hugging Face Hub, as far as repositories are read: trees in pages, files, where large ones lie.

What is imitated is what huggingface_hub asks for: names and statuses of errors, ``Link`` to the next page, the version
of a large file in the answer that leads on to another server, which knows no token and has ETags of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlencode

from tests.fake_server import fake_server

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

TOKEN = "hf_token-of-tests"
_PAGE_ENTRIES = 10
_LARGE_BYTES = 1000
"""A larger file lies elsewhere."""
_API = re.compile(r"/api/(dataset|model|space)s/([^/]+/[^/]+)/(tree|paths-info)/([^/]+)(?:/(.*))?")
_FILE = re.compile(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


class HubServer:
    """A running server; its state is in this process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.elsewhere = url.replace("127.0.0.1", "localhost")
        """The server of large files: another host, to who asks."""
        self.forget()

    def forget(self) -> None:
        """Be as at the beginning."""
        self.files: dict[str, dict[str, bytes]] = {}
        """Of repositories, ``dataset owner/name@main``."""
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.faults: list[int] = []
        """Statuses of the next answers; 0 is a connection that breaks in the middle of the body."""
        self.asked: list[tuple[str, str | None, str | None]] = []
        """Method and target of each request, token and range."""
        self.knows_ranges = True


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(code)
        self.status, self.code = status, code


def oid_of(data: bytes) -> str:
    """The version of a small file: git's id of its content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: HubServer
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        state = self.state
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        state.asked.append(
            (f"{self.command} {self.path}", self.headers.get("Authorization"), self.headers.get("Range"))
        )
        path, _, text = self.path.partition("?")
        try:
            fault = state.faults.pop(0) if state.faults else None
            if fault:
                raise _RefusedError(fault)
            if path.startswith("/elsewhere/"):
                self._large_file(path, is_broken=fault == 0)
            elif found := _API.fullmatch(path):
                files = self._files(found[1], found[2], found[4])
                if found[3] == "tree":
                    self._tree(files, unquote(found[5] or ""), parse_qs(text))
                else:
                    self._paths_info(files, parse_qs(body.decode()))
            elif found := _FILE.fullmatch(path):
                self._file(self._files(found[1] or "model", found[2], found[3]), unquote(found[4]))
            else:
                raise _RefusedError(400)
        except _RefusedError as error:
            told = json.dumps({"error": "what the server says"}).encode()
            self._answer(error.status, told, {"X-Error-Code": error.code} if error.code else {})

    do_GET = do_HEAD = do_POST = _serve  # noqa: N815

    def _files(self, kind: str, name: str, revision: str) -> dict[str, bytes]:
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            raise _RefusedError(401)
        repository = f"{kind} {name}@{unquote(revision)}"
        known = {key.partition("@")[0] for key in self.state.files}
        if f"{kind} {name}" not in known or (name in self.state.private and given is None):
            # The Hub says the same of what is not there and of what may not be seen.
            raise _RefusedError(401 if given is None else 404, "RepoNotFound")
        if name in self.state.gated:
            raise _RefusedError(403, "GatedRepo")
        if repository not in self.state.files:
            raise _RefusedError(404, "RevisionNotFound")
        return self.state.files[repository]

    def _tree(self, files: dict[str, bytes], folder: str, query: dict[str, list[str]]) -> None:
        prefix = f"{folder}/" if folder else ""
        is_deep = query.get("recursive") == ["true"]
        below = [path for path in files if path.startswith(prefix)]
        if prefix and not below:
            raise _RefusedError(404, "EntryNotFound")
        parents = {"/".join(path.split("/")[:i]) for path in below for i in range(1, path.count("/") + 1)}
        names = [path for path in [*sorted(parents), *sorted(below)] if path.startswith(prefix)]
        # Folders come first: not the order of the paths.
        names = [path for path in names if is_deep or "/" not in path[len(prefix) :]]
        start = int(query.get("cursor", ["0"])[0])
        page = [_entry(path, files.get(path)) for path in names[start : start + _PAGE_ENTRIES]]
        headers = {}
        if len(names) > start + _PAGE_ENTRIES:
            following = urlencode({"recursive": str(is_deep).lower(), "cursor": start + _PAGE_ENTRIES})
            # As a mirror hands it on.
            headers["Link"] = f'<https://huggingface.co{self.path.partition("?")[0]}?{following}>; rel="next"'
        self._answer(200, json.dumps(page).encode(), headers)

    def _paths_info(self, files: dict[str, bytes], form: dict[str, list[str]]) -> None:
        paths = form["paths"]
        found = [_entry(path, files[path]) for path in paths if path in files]
        found += [_entry(path, None) for path in paths if any(name.startswith(f"{path}/") for name in files)]
        self._answer(200, json.dumps(found).encode(), {})

    def _file(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            raise _RefusedError(404, "EntryNotFound")
        data = files[path]
        if len(data) <= _LARGE_BYTES:
            self._content(data, oid_of(data))
            return
        sha256 = hashlib.sha256(data).hexdigest()
        headers = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        self._answer(302, b"", {**headers, "Location": f"{self.state.elsewhere}/elsewhere/{sha256}?signature=secret"})

    def _large_file(self, path: str, *, is_broken: bool) -> None:
        contents = (data for files in self.state.files.values() for data in files.values())
        wanted = path.rpartition("/")[2]
        data = next(data for data in contents if hashlib.sha256(data).hexdigest() == wanted)
        self._content(data, "an-etag-of-its-own", is_broken=is_broken)

    def _content(self, data: bytes, etag: str, *, is_broken: bool = False) -> None:
        headers, status, size = {"ETag": f'"{etag}"'}, 200, len(data)
        if (wanted := self.headers.get("Range")) and self.state.knows_ranges:
            match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
            assert match is not None, wanted
            start = int(match[1]) if match[1] else max(0, size - int(match[2]))
            stop = min(size, int(match[2]) + 1) if match[1] and match[2] else size
            if start >= size:
                raise _RefusedError(416)
            data, status = data[start:stop], 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._answer(status, data, headers, is_broken=is_broken)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, is_broken: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_broken else body)
        self.close_connection |= is_broken

    def log_message(self, *_: object) -> None:
        pass


def _entry(path: str, data: bytes | None) -> dict[str, object]:
    if data is None:
        return {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": oid_of(data)}
    if len(data) > _LARGE_BYTES:
        sha256 = hashlib.sha256(data).hexdigest()
        entry |= {"lfs": {"oid": sha256, "size": len(data), "pointerSize": 130}, "xetHash": "0" * 64}
    return entry


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that gives up is part of some tests."""


def hub_server() -> AbstractContextManager[HubServer]:
    """Start a server in a thread of this process, and end it with the block."""
    return fake_server(_Handler, HubServer, _Server)
