"""Requests to repositories of the Hugging Face Hub: list and read, with the Hub's own versions of files.

obstore has no store for the Hub: its HTTP store cannot list there, and does not see the version of a large file, which
the Hub tells where it leads on to the server that has it. huggingface_hub finds the token, the endpoint and proxies,
and tells failures apart; retries and deadlines are ``object_client``'s, as of every storage.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

from imgcls_ray.storage.files import opaque_etag
from imgcls_ray.storage.object_failures import (
    AskAgainError,
    Failure,
    ObjectError,
    check_version,
    explain_answer,
)
from imgcls_ray.storage.object_stores import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from imgcls_ray.storage.object_wire import Answer, Head, check_size
from imgcls_ray.storage.schemes import bucket_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx2

    from imgcls_ray.storage.object_wire import Span
    from imgcls_ray.storage.options import StorageOptions

T = TypeVar("T")

_THREADS = 32
_TYPES = {"datasets": "dataset", "spaces": "space", "models": "model"}
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


class Entry(NamedTuple):
    """A file or folder of a repository."""

    path: str
    is_file: bool
    size: int
    version: str
    """SHA-256 of a large file, git's id of the content of another: what the Hub gives as ETag."""


class _Repository(NamedTuple):
    kind: str
    name: str
    revision: str


class HubRequests:
    """Single requests, without retries; ``bucket`` is a repository, ``hf://datasets/OWNER/NAME@REVISION``.

    The client blocks, so each request has a thread. One that nobody waits for any more ends at its next byte.
    """

    def __init__(self, options: StorageOptions) -> None:
        self._is_anonymous = options.anonymous
        # It tells of each request at the level that jobs tell at, with addresses that are signed.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hub")

    async def head(self, bucket: str, key: str) -> Head:
        entries = await self._in_thread(lambda _: self._paths_info(bucket, key))
        found = next((entry for entry in entries if entry.path == key and entry.is_file), None)
        if found is None:
            raise ObjectError(Failure.MISSING, "the repository has no such file")
        return Head(found.size, found.version, None)

    async def get(
        self, bucket: str, key: str, *, etag: str | None, if_match: bool, span: Span, max_bytes: int | None
    ) -> Answer:
        """As ``ObstoreWire.get``; a condition is never sent, because the server of large files does not know it."""
        limit = max_bytes if span is None else None
        return await self._in_thread(lambda stopped: self._get(bucket, key, etag, span, limit, stopped))

    async def tree(self, bucket: str, folder: str, cursor: str, *, is_deep: bool) -> tuple[list[Entry], str | None]:
        """A page of what is in a folder, in the Hub's order, and where the next one begins."""
        return await self._in_thread(lambda _: self._tree(bucket, folder, cursor, is_deep=is_deep))

    async def put(self, bucket: str, key: str, data: bytes, *, writer: str | None) -> NoReturn:
        raise ObjectError(Failure.STORAGE, "the Hub is only read")

    async def delete(self, bucket: str, key: str) -> NoReturn:
        raise ObjectError(Failure.STORAGE, "the Hub is only read")

    async def upload(self, path: str, bucket: str, key: str) -> NoReturn:
        raise ObjectError(Failure.STORAGE, "the Hub is only read")

    async def _in_thread(self, request: Callable[[threading.Event], T]) -> T:
        stopped = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, request, stopped)
        finally:
            stopped.set()

    def _paths_info(self, bucket: str, key: str) -> list[Entry]:
        with self._stream("POST", _api(bucket, "paths-info"), data={"paths": [key], "expand": False}) as response:
            return [_entry(item) for item in _json(response)]

    def _tree(self, bucket: str, folder: str, cursor: str, *, is_deep: bool) -> tuple[list[Entry], str | None]:
        # Only the cursor of the next page's address: a mirror may give the Hub's own address.
        params = {"recursive": str(is_deep).lower(), **({"cursor": cursor} if cursor else {})}
        with self._stream("GET", _api(bucket, "tree", folder.strip("/")), params=params) as response:
            following = parse_qs(urlsplit(response.links.get("next", {}).get("url", "")).query).get("cursor")
            if following == [cursor]:
                raise AskAgainError("a page of the listing came again")
            return [_entry(item) for item in _json(response)], following[0] if following else None

    def _get(
        self, bucket: str, key: str, etag: str | None, span: Span, max_bytes: int | None, stopped: threading.Event
    ) -> Answer:
        from huggingface_hub import hf_hub_url

        where = _repository(bucket)
        url = hf_hub_url(where.name, key, repo_type=where.kind, revision=where.revision, endpoint=_endpoint())
        headers = {} if span is None else {"Range": _range(span)}
        with self._stream("GET", url, headers=headers) as response:
            head = _head_of(response)
            check_version(head.etag, etag)
            check_size(head.size, max_bytes)
            is_part = response.status_code == 206
            # Of a server that does not know ranges, no more than up to the end of this one is read.
            start, stop = (0, head.size) if is_part or span is None else _bounds(span, head.size)
            data = bytearray()
            for piece in response.iter_raw():
                if stopped.is_set():
                    raise TimeoutError
                data += piece
                if len(data) >= stop:
                    break
        return Answer(bytes(data if is_part or span is None else data[start:stop]), head)

    @contextmanager
    def _stream(self, method: str, url: str, *, headers: dict[str, str] | None = None, **more: Any) -> Iterator[Any]:
        """An answer, its body still to be read, that tells of no failure.

        Raises:
            ObjectError, AskAgainError: the kinds of failures that the client tells apart.
        """
        import httpx2
        from huggingface_hub import get_session, get_token, hf_raise_for_status

        # What is sent of this machine is the token and no more. A compressed body has no ranges, and other lengths.
        given = {"user-agent": "imgcls-ray", "accept-encoding": "identity", **(headers or {})}
        if not self._is_anonymous and (token := get_token()):
            given["authorization"] = f"Bearer {token}"
        timeout = httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            with get_session().stream(method, url, headers=given, timeout=timeout, **more) as response:
                hf_raise_for_status(response)
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise _failure(error) from None


def _failure(error: Exception) -> Exception:
    """A failure of the Hub's client as one of the storage's."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return ObjectError(Failure.STORAGE, "HF_HUB_OFFLINE is set")
    if isinstance(error, errors.GatedRepoError):
        return ObjectError(Failure.DENIED, "its owner gives access to those who ask for it on its page")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ObjectError(Failure.NO_BUCKET, "the Hub knows no such repository, or does not show it to this token")
    if isinstance(error, errors.RevisionNotFoundError):
        return ObjectError(Failure.NO_BUCKET, "the repository has no such branch, tag or commit")
    if isinstance(error, errors.EntryNotFoundError):
        return ObjectError(Failure.MISSING, "the repository has no such file")
    if isinstance(error, errors.DisabledRepoError):
        return ObjectError(Failure.DENIED, "the repository is disabled")
    if isinstance(error, errors.HfHubHTTPError):
        told = " ".join((error.server_message or "").split())
        return ObjectError(*explain_answer(error.response.status_code, "", told))
    if "certificate" in str(error).lower():
        return ObjectError(Failure.STORAGE, f"its certificate is not trusted: {error}")
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)):
        return ObjectError(Failure.UNREACHABLE, f"no connection: {error}")
    if isinstance(error, httpx2.TimeoutException):
        return AskAgainError("no answer within the time")
    if isinstance(error, httpx2.TransportError):
        return AskAgainError(f"the connection broke: {error}")
    return ObjectError(Failure.STORAGE, str(error))


def _repository(bucket: str) -> _Repository:
    """
    >>> _repository("hf://datasets/org/name@v1")
    _Repository(kind='dataset', name='org/name', revision='v1')
    """
    name, _, revision = bucket_name(bucket).partition("@")
    first, _, rest = name.partition("/")
    kind = _TYPES.get(first.lower()) if "/" in rest else None
    # A reference may be written as in an address: refs%2Fconvert%2Fparquet.
    return _Repository(kind or "model", rest if kind else name, unquote(revision) or "main")


def _api(bucket: str, what: str, path: str = "") -> str:
    where = _repository(bucket)
    tail = f"/{quote(path)}" if path else ""
    return f"{_endpoint()}/api/{where.kind}s/{where.name}/{what}/{quote(where.revision, safe='')}{tail}"


def _endpoint() -> str:
    # huggingface_hub reads it once, when it is imported.
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def _json(response: httpx2.Response) -> Any:
    response.read()
    try:
        return response.json()
    except ValueError:
        raise AskAgainError("the answer is no JSON") from None


def _entry(item: dict[str, Any]) -> Entry:
    version = (item.get("lfs") or item)["oid"]
    return Entry(item["path"], item["type"] == "file", item.get("size") or 0, version)


def _head_of(response: httpx2.Response) -> Head:
    """Size and version of the whole file. The Hub's own answer tells those of a file that lies elsewhere."""
    for answer in response.history:
        if (etag := answer.headers.get("X-Linked-Etag")) and (size := answer.headers.get("X-Linked-Size")):
            return Head(int(size), opaque_etag(etag), None)
    total = _TOTAL.match(response.headers.get("Content-Range", ""))
    size = total[1] if total else response.headers.get("Content-Length")
    if size is None:
        raise ObjectError(Failure.NO_LENGTH, "the answer does not say how many bytes it has")
    # Another server's ETag is not the Hub's.
    is_hubs = response.url.host == urlsplit(_endpoint()).hostname
    etag = response.headers.get("X-Linked-Etag") or (response.headers.get("ETag") if is_hubs else None)
    return Head(int(size), opaque_etag(etag or ""), None)


def _range(span: tuple[int, int] | int) -> str:
    return f"bytes=-{span}" if isinstance(span, int) else f"bytes={span[0]}-{span[1] - 1}"


def _bounds(span: tuple[int, int] | int, size: int) -> tuple[int, int]:
    start, stop = (max(0, size - span), size) if isinstance(span, int) else (span[0], min(span[1], size))
    if start >= size:
        raise ObjectError(Failure.EMPTY_RANGE, "the file ends before")
    return start, stop
