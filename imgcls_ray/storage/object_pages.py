"""List with obstore: the storages whose keys are paths, Google's and Azure's. S3's pages are in ``object_listing``.

obstore follows the pages by itself. After a failure the listing begins again behind the last key.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from imgcls_ray.errors import StorageError
from imgcls_ray.storage.files import opaque_etag
from imgcls_ray.storage.object_failures import Failure, ObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from typing import Any

    from imgcls_ray.storage.object_client import ObjectClient

Row: TypeAlias = "tuple[str, int, str, datetime | None]"
"""Key, size, version, time."""
_PAGE_KEYS = 1000
_PAGE_DEADLINE_S = 120.0
# Of the pages of a server, which may hold 5,000, and of what obstore makes of them.
_RECENT_KEYS = 12_000


def path_pages(client: ObjectClient, bucket: str, prefix: str) -> Iterator[list[Row]]:
    """All objects under a prefix that ends with ``/``, or in the bucket, ascending.

    Raises:
        ObjectError: a page cannot be had.
    """
    after = ""
    # A page that comes again holds keys that came just before; other keys out of order are an order of its own.
    recent: OrderedDict[str, None] = OrderedDict()
    listing = _Listing(client, bucket, prefix)
    while (page := client.retried(lambda _: listing.page(after), _PAGE_DEADLINE_S)) is not None:  # noqa: B023
        rows = []
        for row in page:
            if row[0] in recent:
                continue
            # A marker is listed without its "/": "a/" comes behind "a-b".
            if not row[1] and _is_marker(client, bucket, row[0]):
                continue
            if row[0] <= after:
                raise StorageError(f"{bucket}/{prefix}: is not listed in order of its keys")
            after = row[0]
            recent[after] = None
            rows.append(row)
        while len(recent) > _RECENT_KEYS:
            recent.popitem(last=False)
        yield rows


def is_any(client: ObjectClient, bucket: str, prefix: str) -> bool:
    """Whether there is any object under a prefix that ends with ``/``, or in the bucket.

    Raises:
        ObjectError: that cannot be told.
    """
    listing = _Listing(client, bucket, prefix)
    return bool(client.retried(lambda _: listing.page(""), _PAGE_DEADLINE_S))


def level(client: ObjectClient, bucket: str, prefix: str) -> Iterator[str]:
    """As ``object_listing.list_level``.

    Raises:
        ObjectError: it cannot be had.
    """
    folder = prefix[: prefix.rfind("/") + 1]

    async def attempt(_number: int) -> dict[str, Any]:
        import obstore

        store = (await client.wire.bucket(bucket)).folders
        found: dict[str, Any] = await obstore.list_with_delimiter_async(store, folder or None)  # type: ignore[assignment]
        return found

    found = client.retried(attempt, _PAGE_DEADLINE_S)
    names = [f"{name}/" for name in found["common_prefixes"]]
    # An empty object with the name of a folder is its marker: obstore takes the "/" off.
    markers = {name[:-1] for name in [*names, folder]}
    names += [item["path"] for item in found["objects"] if item["size"] or item["path"] not in markers]
    # Each once, though a page came twice.
    yield from sorted({name for name in names if name.startswith(prefix)})


class _Listing:
    """A listing on its way; after a failure it begins again behind the last key that came."""

    def __init__(self, client: ObjectClient, bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix
        self._stream: Any = None
        self._begins_behind = ""

    async def page(self, after: str) -> list[Row] | None:
        """The next rows, if it has to begin again those behind ``after``; ``None`` at the end."""
        import obstore

        try:
            if self._stream is None:
                store = (await self._client.wire.bucket(self._bucket)).patient
                self._begins_behind = after
                self._stream = obstore.list(
                    store, self._prefix.rstrip("/") or None, offset=after or None, chunk_size=_PAGE_KEYS
                )
            came = await anext(self._stream, None)
        except BaseException:
            self._stream = None
            raise
        if came is None:
            return None
        rows = [(item["path"], item["size"], opaque_etag(item["e_tag"] or ""), item["last_modified"]) for item in came]
        if not self._begins_behind:
            return rows
        # Azure's listing may begin at the offset itself, and its emulator's begins anew.
        rows = list(itertools.dropwhile(lambda row: row[0] <= self._begins_behind, rows))
        self._begins_behind = "" if rows else self._begins_behind
        return rows


def _is_marker(client: ObjectClient, bucket: str, key: str) -> bool:
    """Whether an empty object marks a folder: it was listed without its ``/``, and is not there without."""
    try:
        client.head(bucket, key)
    except ObjectError as error:
        if error.failure is not Failure.MISSING:
            raise
        return True
    return False
