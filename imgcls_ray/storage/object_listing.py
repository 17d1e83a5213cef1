"""List the objects under a prefix in the order of their keys; on S3 several key ranges at a time.

A request returns 1,000 keys, and requests follow one another: this takes hours for a hundred million objects. So the
keys after the first pages are cut into ranges at folder names, several ranges are listed at the same time, and their
pages wait on disk until they are next in order.
"""

from __future__ import annotations

import pickle
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import IO, TYPE_CHECKING

from imgcls_ray.errors import StorageError
from imgcls_ray.storage.files import FileInfo, opaque_etag
from imgcls_ray.storage.hub_listing import hub_level, hub_rows, is_any_in_hub
from imgcls_ray.storage.object_client import STORE_DEADLINE_S
from imgcls_ray.storage.object_failures import AskAgainError
from imgcls_ray.storage.object_pages import Row, is_any, level, path_pages
from imgcls_ray.storage.scratch import scratch_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.storage.object_client import ObjectClient
    from imgcls_ray.storage.s3 import ListedObject, Page, S3Requests

_PAGE_KEYS = 1000  # the most that S3 gives
# Few objects are listed before the time that cutting takes is over.
_PAGES_BEFORE_RANGES = 8
_THREADS = 8
_MAX_RANGES = 256
# A range takes one page at least, however few of its keys are in the range: ranges of small folders take several.
_PAGES_OF_A_RANGE = 4
_LEVELS = 8


def list_level(client: ObjectClient, bucket: str, prefix: str) -> Iterator[str]:
    """Keys that begin with ``prefix``, ascending; those with a ``/`` behind it only up to that, each once.

    Raises:
        ObjectError: a page cannot be had.
    """
    if client.hub is not None:
        yield from hub_level(client, client.hub, bucket, prefix)
        return
    if client.s3 is None:
        yield from level(client, bucket, prefix)
        return
    for page in _level_pages(client, client.s3, bucket, prefix):
        yield from page


def is_any_under(client: ObjectClient, bucket: str, prefix: str) -> bool:
    """Whether any key begins with ``prefix``.

    Raises:
        ObjectError: that cannot be told: no such bucket, not allowed, unreachable.
    """
    if client.hub is not None:
        return is_any_in_hub(client, client.hub, bucket, prefix)
    s3 = client.s3
    if s3 is None:
        return is_any(client, bucket, prefix)
    return bool(client.retried(lambda _: s3.page(bucket, prefix, 1), STORE_DEADLINE_S).get("Contents"))


def list_objects(client: ObjectClient, bucket: str, prefix: str) -> Iterator[FileInfo]:
    """All objects whose keys begin with ``prefix``, in the order of their URIs.

    Empty objects whose names end with ``/`` mark folders for some tools and are left out.

    Raises:
        ObjectError: a page cannot be had.
    """
    if client.hub is not None:
        yield from _infos(bucket, hub_rows(client, client.hub, bucket, prefix))
        return
    if client.s3 is None:
        for rows in path_pages(client, bucket, prefix):
            yield from _infos(bucket, rows)
        return
    s3: S3Requests = client.s3
    keys: list[str] = []
    for number, rows in enumerate(_range_pages(client, s3, bucket, prefix, "", None), 1):
        yield from _infos(bucket, rows)
        keys.extend(row[0] for row in rows)
        if number == _PAGES_BEFORE_RANGES and rows:
            break
    else:
        return
    last, bounds = keys[-1], _cut_points(client, s3, bucket, prefix, keys)
    stopped = threading.Event()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="list") as executor:
        try:
            ranges = []
            for after, until in zip([last, *bounds], [*bounds, None], strict=True):
                pages = _Pages()
                executor.submit(pages.fill, _range_pages(client, s3, bucket, prefix, after, until), stopped)
                ranges.append(pages)
            # Taken off one by one: a range's file is gone from the disk when it has been read.
            while ranges:
                yield from _infos(bucket, ranges.pop(0))
        finally:
            stopped.set()
            executor.shutdown(cancel_futures=True)


def _infos(bucket: str, rows: Iterable[Row]) -> Iterator[FileInfo]:
    for key, size, etag, mtime in rows:
        if size or not key.endswith("/"):
            yield FileInfo(f"{bucket}/{key}", size, etag, mtime)


class _Pages:
    """The pages of one key range, on their way from the thread that lists it; they wait on disk, without a name."""

    def __init__(self) -> None:
        self._places: queue.SimpleQueue[tuple[int, int] | BaseException | None] = queue.SimpleQueue()
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def fill(self, pages: Iterator[list[Row]], stopped: threading.Event) -> None:
        """Put pages by until there are no more, or nobody wants them; never raises."""
        try:
            self._file = scratch_file("list")
            for page in pages:
                if stopped.is_set():
                    return
                data = pickle.dumps(page)
                with self._lock:
                    start = self._file.seek(0, 2)
                    self._file.write(data)
                self._places.put((start, len(data)))
            self._places.put(None)
        except BaseException as error:  # raised again where the listing is read
            self._places.put(error)

    def __iter__(self) -> Iterator[Row]:
        try:
            while (place := self._places.get()) is not None:
                if isinstance(place, BaseException):
                    raise place
                assert self._file is not None
                with self._lock:
                    self._file.seek(place[0])
                    data = self._file.read(place[1])
                yield from pickle.loads(data)
        finally:
            if self._file is not None:
                self._file.close()


def _cut_points(client: ObjectClient, s3: S3Requests, bucket: str, prefix: str, before: list[str]) -> list[str]:
    """Folder names, ascending, that cut the keys behind those ``before`` into ranges; from few requests, so uneven."""
    last = before[-1]
    # The folders that the last key is in have keys behind it too, though not their names.
    around_last = [last[: i + 1] for i in range(len(prefix), len(last)) if last[i] == "/"]
    folders: set[str] = set()
    level = {prefix}
    for number in range(_LEVELS):
        below = {name for folder in sorted(level) for name in _folders_behind(client, s3, bucket, folder, last)}
        # A folder within another starts behind it: together they are still cut points.
        folders |= below
        if len(folders) >= _THREADS:
            break
        level = {*below, *around_last[number : number + 1]}
    if not folders:
        return []
    depth = max(name.count("/") for name in folders)
    num_before = len({"/".join(key.split("/")[:depth]) for key in before if key.count("/") >= depth})
    step = max(1, -(-len(folders) // _MAX_RANGES), num_before * _PAGES_OF_A_RANGE // _PAGES_BEFORE_RANGES)
    return sorted(folders)[::step]


def _folders_behind(client: ObjectClient, s3: S3Requests, bucket: str, prefix: str, last: str) -> list[str]:
    page = _page(client, s3, bucket, prefix, "", Delimiter="/", StartAfter=last)
    return [item["Prefix"] for item in page.get("CommonPrefixes", ()) if item["Prefix"] > last]


def _level_pages(client: ObjectClient, s3: S3Requests, bucket: str, prefix: str) -> Iterator[list[str]]:
    last, token = "", None
    while True:
        more: dict[str, str] = {"ContinuationToken": token} if token else {}
        page = _page(client, s3, bucket, prefix, last, Delimiter="/", **more)
        names = _names(page)
        yield names
        last, token = (names or [last])[-1], page.get("NextContinuationToken")
        if not page.get("IsTruncated"):
            return


def _range_pages(
    client: ObjectClient, s3: S3Requests, bucket: str, prefix: str, after: str, until: str | None
) -> Iterator[list[Row]]:
    """Pages of the keys behind ``after``, up to ``until`` and with it."""
    while True:
        more = {"StartAfter": after} if after else {}
        page = _page(client, s3, bucket, prefix, after, **more)
        rows = [_row(item) for item in page.get("Contents", ())]
        if until is not None and rows and rows[-1][0] > until:
            yield [row for row in rows if row[0] <= until]
            return
        yield rows
        if not page.get("IsTruncated"):
            return
        # From the last key, not from a token: a page is asked for again and again with the same outcome.
        after = rows[-1][0]


def _row(item: ListedObject) -> Row:
    return item["Key"], item["Size"], opaque_etag(item["ETag"]), item["LastModified"].astimezone(UTC)


def _names(page: Page) -> list[str]:
    folders = [item["Prefix"] for item in page.get("CommonPrefixes", ())]
    return sorted([*folders, *(item["Key"] for item in page.get("Contents", ()))])


def _page(client: ObjectClient, s3: S3Requests, bucket: str, prefix: str, after: str, **more: str) -> Page:
    """One page of a listing, whose names all lie behind ``after``: a page that came before is asked for again."""

    async def attempt(_number: int) -> Page:
        page = await s3.page(bucket, prefix, _PAGE_KEYS, **more)
        names = _names(page)
        keys = [item["Key"] for item in page.get("Contents", ())]
        if keys != sorted(keys):
            raise StorageError(f"{bucket}/{prefix}: is not listed in order of its keys")
        if names and names[0] <= after:
            raise AskAgainError(f"a page of the listing came again, at {names[0]!r}")
        if page.get("IsTruncated") and not names:
            raise AskAgainError("a page of the listing came without keys and without an end")
        return page

    return client.retried(attempt, STORE_DEADLINE_S)
