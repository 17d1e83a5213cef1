"""List repositories of the Hugging Face Hub, in the order of the paths.

The Hub has an order of its own, so a listing is read whole and sorted in memory: some 350 bytes a file, of the 100,000
that a repository should have at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.storage.object_failures import Failure, ObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.storage.hub import Entry, HubRequests
    from imgcls_ray.storage.object_client import ObjectClient
    from imgcls_ray.storage.object_pages import Row

_PAGE_DEADLINE_S = 120.0


def hub_rows(client: ObjectClient, hub: HubRequests, bucket: str, prefix: str) -> list[Row]:
    """All files under a prefix, ascending.

    Raises:
        ObjectError: a page cannot be had.
    """
    files = (entry for entry in _entries(client, hub, bucket, prefix, is_deep=True) if entry.is_file)
    # By path: while pages are read, a commit may move a file to a page that is still to come.
    rows: dict[str, Row] = {entry.path: (entry.path, entry.size, entry.version, None) for entry in files}
    return [rows[path] for path in sorted(rows)]


def hub_level(client: ObjectClient, hub: HubRequests, bucket: str, prefix: str) -> list[str]:
    """As ``object_listing.list_level``.

    Raises:
        ObjectError: a page cannot be had.
    """
    entries = _entries(client, hub, bucket, prefix, is_deep=False)
    return sorted({entry.path if entry.is_file else f"{entry.path}/" for entry in entries})


def is_any_in_hub(client: ObjectClient, hub: HubRequests, bucket: str, prefix: str) -> bool:
    """Whether there is any file under a prefix; git keeps no empty folders.

    Raises:
        ObjectError: that cannot be told.
    """
    return next(_entries(client, hub, bucket, prefix, is_deep=False), None) is not None


def _entries(client: ObjectClient, hub: HubRequests, bucket: str, prefix: str, *, is_deep: bool) -> Iterator[Entry]:
    """What begins with a prefix, in the Hub's order."""
    folder = prefix[: prefix.rfind("/") + 1]
    cursor: str | None = ""
    while cursor is not None:
        at = cursor
        try:
            entries, cursor = client.retried(
                lambda _: hub.tree(bucket, folder, at, is_deep=is_deep),  # noqa: B023
                _PAGE_DEADLINE_S,
            )
        except ObjectError as error:
            # As in a bucket, a folder that is not there is one with nothing in it.
            if error.failure is Failure.MISSING:
                return
            raise
        yield from (entry for entry in entries if entry.path.startswith(prefix))
