"""Distinguish deleted files from files whose storage is unavailable, e.g. because a volume is not mounted.

For a single file both cases look the same. If many inputs in a row are missing that were there when they were listed,
their folder or bucket is listed again. If it is gone or empty, the job ends and records nothing for these inputs.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageErrorCode, InputError, StorageError
from imgcls_ray.storage.crops import picture_of
from imgcls_ray.storage.files import path_from_uri, uri_from_path
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.members import split_member
from imgcls_ray.storage.names import DEFAULT_NAMES, NameRules
from imgcls_ray.storage.schemes import is_object, split_uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from imgcls_ray.storage.options import StorageOptions

MANY = 16
"""So many missing inputs in a row are no accident."""
# ENOENT of an empty mount point, EIO, ESTALE or ENOTCONN of a dead one, EACCES of an expired ticket.
_OF_A_VOLUME = frozenset({ImageErrorCode.NOT_FOUND, ImageErrorCode.FETCH_FAILED, ImageErrorCode.ACCESS_DENIED})
# Of a place that lists: so long it is not asked again.
_TRUSTED_S = 30.0
_looks: dict[str, float] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class ListedIn:
    """Where the inputs of a plan were listed."""

    sources: tuple[str, ...]
    """INPUTs that are folders, prefixes and patterns; paths are absolute. None for a list."""
    names: NameRules = DEFAULT_NAMES
    """Which names were left out: a place that holds only these held nothing before, too."""
    is_only: bool = False
    """Whether there was no other INPUT than the one of ``sources``."""


def check_absences(
    rows: pa.Table,
    errors: Iterable[ImageErrorCode | None],
    *,
    listed: ListedIn | None,
    store: str,
    storage: StorageOptions,
) -> None:
    """End the job if inputs are missing because their storage is unavailable.

    Args:
        rows: of a plan; columns ``uri`` and ``etag``.
        errors: the error of each row, if it has one.
        listed: where they were listed; ``None`` if that is not known.
        store: the label store, whose own files do not show that the inputs are there.
        storage: how to reach object storage.

    Raises:
        StorageError: with the way out.
    """
    if listed is None:
        return
    for missing in _many_in_a_row(rows, list(errors)):
        place = _place_of(missing, listed)
        if place is None or _is_trusted(place):
            continue
        # The folder of what was named was never listed by the command's patterns.
        names = listed.names if place in listed.sources else DEFAULT_NAMES
        if reason := _why_empty(place, names, store, storage):
            raise StorageError(
                f"{place}: {reason}, and {len(missing)} images in a row that were listed there cannot be read. Nothing "
                "was recorded for them. Bring it back (is the volume mounted?) and run the command again; if the "
                "images were deleted on purpose, run it once with --accept-missing"
            )
        with _lock:
            _looks[place] = time.monotonic()


def _many_in_a_row(rows: pa.Table, errors: list[ImageErrorCode | None]) -> list[list[str]]:
    """Sequences of missing inputs; inputs that were already missing when they were listed do not count."""
    if _OF_A_VOLUME.isdisjoint(errors):
        return []
    columns = (rows.column(name).to_pylist() for name in ("uri", "etag"))
    seen = [(uri, _is_away(uri, error)) for uri, etag, error in zip(*columns, errors, strict=True) if etag is not None]
    sequences = itertools.groupby(seen, key=lambda item: item[1])
    away = ([uri for uri, _ in items] for is_away, items in sequences if is_away)
    return [uris for uris in away if len(uris) >= MANY]


def _is_away(uri: str, error: ImageErrorCode | None) -> bool:
    # Without the right to list, S3 says of a missing object that it is refused, and then its prefix says nothing.
    return error in (_OF_A_VOLUME if not is_object(uri) else {ImageErrorCode.NOT_FOUND})


def _is_trusted(place: str) -> bool:
    with _lock:
        seen = _looks.get(place)
    return seen is not None and time.monotonic() - seen < _TRUSTED_S


def _place_of(missing: Sequence[str], listed: ListedIn) -> str | None:
    """The INPUT to look at: the only one, or the one that they lie in; the folder of the files if they were named."""
    from imgcls_ray.inputs.lists import is_list

    # Plans of earlier versions have the name of a list, too.
    sources = [source for source in listed.sources if not is_list(source)]
    if listed.is_only and sources:
        return sources[0]
    folder = _common_folder(missing)
    if folder is None:
        return None
    return next((source for source in sources if _lies_in(folder, source)), folder)


def _lies_in(folder: str, source: str) -> bool:
    return f"{folder.rstrip('/')}/".startswith(f"{source.rstrip('/')}/")


def _why_empty(place: str, names: NameRules, store: str, storage: StorageOptions) -> str | None:
    # Workers import this module and hardly ever come here.
    from imgcls_ray.inputs.listing import ListingCounts, list_found

    try:
        found = next(iter(list_found(place, ListingCounts(), storage, leave_out=store, names=names)), None)
    except InputError as error:
        return str(error).removeprefix(f"{place}: ")
    return "it holds no images" if found is None else None


def _common_folder(uris: Sequence[str]) -> str | None:
    """The common folder or bucket of all these inputs; ``None`` if there is none, or if it proves nothing."""
    uris = [picture_of(uri) for uri in uris]
    uris = [member.source if (member := split_member(uri)) is not None else uri for uri in uris]
    if any(is_url(uri) for uri in uris) or len({is_object(uri) for uri in uris}) > 1:
        return None
    if is_object(uris[0]):
        # Not their prefix, which may have been emptied on purpose: no volume can be away in a bucket.
        buckets = {split_uri(uri)[0] for uri in uris}
        return f"{buckets.pop()}/" if len(buckets) == 1 else None
    folder = os.path.commonpath([os.path.dirname(path_from_uri(uri)) for uri in uris])
    return uri_from_path(folder) if folder not in ("", "/") else None
