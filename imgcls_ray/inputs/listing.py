"""Turn the INPUTs of the command line into a sorted stream of files.

Folders, prefixes, globs, lists and addresses become one stream of ``FileInfo``, sorted by URI, each URI once. No list
is held in memory as a whole: folders and prefixes are walked in order, and unsorted lists are sorted on disk.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from imgcls_ray.inputs.boxes import is_box, named_box
from imgcls_ray.inputs.checks import check_input, check_mixture, is_list_here, parquet_in, split_pattern
from imgcls_ray.inputs.inventories import is_inventory
from imgcls_ray.inputs.kept import together
from imgcls_ray.inputs.list_rows import URI_COLUMN
from imgcls_ray.inputs.list_tables import is_of_parts
from imgcls_ray.inputs.lists import is_list, read_list, read_parts
from imgcls_ray.inputs.members import (
    PACKED_PATTERNS,
    is_member,
    named_member,
    open_packed,
    packed_parquet,
)
from imgcls_ray.inputs.merging import merge_sorted
from imgcls_ray.inputs.sorting import sort_files
from imgcls_ray.inputs.tables import FileTables, tables_of
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.storage.files import FileInfo, absolute_path, path_from_uri, stat_file
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.names import DEFAULT_NAMES, NameRules
from imgcls_ray.storage.object_inputs import list_place, only_inputs
from imgcls_ray.storage.patterns import Pattern
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.walking import list_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgcls_ray.inputs.kept import Kept
    from imgcls_ray.storage.options import StorageOptions

__all__ = ["ListingCounts", "list_found", "list_inputs", "list_unsorted", "named_files"]

logger = logging.getLogger(__name__)


def list_inputs(
    sources: str | Sequence[str],
    counts: ListingCounts,
    storage: StorageOptions = DEFAULT_STORAGE,
    *,
    leave_out: str | None = None,
    names: NameRules = DEFAULT_NAMES,
    uri_column: str = URI_COLUMN,
    kept: Kept | None = None,
) -> Iterator[FileInfo]:
    """List INPUTs, sorted by URI, each URI once.

    Args:
        sources: one or several of: folder (recursive), prefix, file, object, glob, list (``.txt``, ``.csv``, ``.tsv``,
            ``.json``, ``.jsonl``, ``.parquet``, a folder of Parquet files, an S3 Inventory's ``manifest.json``),
            http(s) address.
        counts: receives the numbers of skipped files.
        storage: how to reach object storage.
        leave_out: the label store, whose own files are no inputs, whether it is inside the input or around it.
        names: which names of folders, prefixes, globs and inventories are left out; also of the files and folders
            themselves where there are several INPUTs, because a shell may have found them.
        uri_column: the column of the images in lists.
        kept: which other columns of lists stay with the files; by default none.

    Raises:
        InputError: an input as a whole cannot be read.
        StorageError: its storage fails.
    """
    given = _each_once([sources] if isinstance(sources, str) else sources)
    for source in given:
        check_input(source, storage)
    if len(given) == 1:
        return _list_one(given[0], counts, storage, leave_out, names, uri_column, kept)
    check_mixture(given)
    taken = [source for source in given if not _is_left_out(source, names, counts)]
    streams = [tables_of(_list_one(source, counts, storage, leave_out, names, uri_column, kept)) for source in taken]
    return _distinct(FileTables(lambda _: merge_sorted(streams)), counts)


def _each_once(sources: Sequence[str]) -> list[str]:
    """INPUTs without a folder that is given again: what is left out of it would be counted twice."""
    kept: dict[str, str] = {}
    for source in sources:
        is_folder = not is_object(source) and not is_url(source) and os.path.isdir(path_from_uri(source))
        place = absolute_path(path_from_uri(source)) if is_folder else f"{len(kept)} {source}"
        if place in kept:
            logger.warning("%s: is the same folder as %s; it is read once", source, kept[place])
        kept.setdefault(place, source)
    return list(kept.values())


def list_unsorted(
    sources: Sequence[str],
    storage: StorageOptions = DEFAULT_STORAGE,
    *,
    names: NameRules = DEFAULT_NAMES,
    uri_column: str = URI_COLUMN,
    kept: Kept | None = None,
) -> Iterator[FileInfo]:
    """About the same files, but lists in their own order: the first ones come at once."""
    for source in sources:
        if is_list_here(source, storage) and not packed_parquet(source, storage, uri_column, []):
            yield from read_list(source, storage, uri_column=uri_column, kept=kept)
        else:
            check_input(source, storage)
            yield from _list_one(source, ListingCounts(), storage, None, names, uri_column, kept)


def named_files(sources: Sequence[str], names: NameRules, counts: ListingCounts) -> list[str]:
    """INPUTs that are files, without those that a shell found but a listing would leave out."""
    if len(sources) == 1:
        return list(sources)
    return [source for source in sources if not _is_left_out(source, names, counts)]


def _is_left_out(source: str, names: NameRules, counts: ListingCounts) -> bool:
    """Whether one of several INPUTs has a name that is left out."""
    if is_url(source) or is_object(source) or is_list(source):
        return False
    path = path_from_uri(source)
    if not os.path.lexists(path):
        return False
    name = os.path.basename(path.rstrip("/")) + "/" * os.path.isdir(path)
    rule = (names.of_table(name) or names.of_patterns(name)) if name.strip("/") else None
    if rule is not None:
        counts.by_name[rule] += 1
    return rule is not None


def _list_one(
    source: str,
    counts: ListingCounts,
    storage: StorageOptions,
    leave_out: str | None,
    names: NameRules,
    uri_column: str,
    kept: Kept | None = None,
) -> Iterator[FileInfo]:
    if is_box(source, storage):
        return iter([named_box(source, storage)])
    if is_member(source, storage):
        return iter([named_member(source, storage)])
    parts = [] if is_url(source) else parquet_in(source, storage)
    if packed := packed_parquet(source, storage, uri_column, parts):
        return open_packed(packed, storage, names, counts.by_name)
    if is_list_here(source, storage):
        counts.has_list = True
        files = read_list(source, storage, uri_column=uri_column, tell=logger.warning, kept=kept)
        listed = _distinct(sort_files(files), counts)
        store = leave_out if leave_out and is_object(leave_out) else None
        return only_inputs(listed, storage, counts, store=store, names=names) if is_inventory(source) else listed
    if is_url(source):
        return iter([FileInfo(source, None, None, None)])
    if is_of_parts(parts, source, uri_column, storage):
        counts.has_list = True
        logger.info("%s: is read as a list, its %d Parquet files have a column %r", source, len(parts), uri_column)
        # Nothing but parts is in the folder, so a relative name counts from the folder that it is in, as of a file.
        place = source.rstrip("/")
        folder = place.rpartition("/")[0] if is_object(place) else os.path.dirname(absolute_path(path_from_uri(place)))
        return _distinct(sort_files(read_parts(parts, folder, storage, uri_column=uri_column, kept=kept)), counts)
    return _list_checked(source, counts, storage, leave_out, names)


def list_found(
    source: str,
    counts: ListingCounts,
    storage: StorageOptions = DEFAULT_STORAGE,
    *,
    leave_out: str | None = None,
    names: NameRules = DEFAULT_NAMES,
) -> Iterator[FileInfo]:
    """List a folder, prefix, pattern or single file, sorted; see ``list_inputs``.

    Raises:
        InputError: it cannot be read.
        StorageError: its storage fails.
    """
    check_input(source, storage)
    return _list_checked(source, counts, storage, leave_out, names)


def _list_checked(
    source: str, counts: ListingCounts, storage: StorageOptions, leave_out: str | None, names: NameRules
) -> Iterator[FileInfo]:
    is_same_kind = leave_out is not None and is_object(leave_out) == is_object(source)
    store = leave_out if is_same_kind else None
    is_any = False
    for info in open_packed(_list_names(source, counts, storage, store, names), storage, names, counts.by_name):
        is_any = True
        yield info
    if is_any:
        return
    # Beside images, a tar may well be a copy of them; where there are none, it has them.
    told = ListingCounts()
    packed = _list_names(source, told, storage, store, replace(names, include=PACKED_PATTERNS))
    for info in open_packed(packed, storage, names, counts.by_name):
        if not is_any:
            counts.places.extend(told.places)
        is_any = True
        yield info
    if is_any:
        for rule in PACKED_PATTERNS:
            counts.by_name.pop(rule, None)


def _list_names(
    source: str, counts: ListingCounts, storage: StorageOptions, store: str | None, names: NameRules
) -> Iterator[FileInfo]:
    """What a folder, prefix, pattern or single file holds by the rules of names."""
    if is_object(source):
        return list_place(source, storage, counts, store=store, names=names)
    path = path_from_uri(source)
    if os.path.isdir(path):
        return list_folder(path, counts=counts, store=store, names=names)
    if not os.path.lexists(path):
        root, parts = split_pattern(path)
        return list_folder(root, pattern=Pattern(parts), counts=counts, store=store, names=names)
    return iter([stat_file(absolute_path(path))])


def _distinct(files: Iterable[FileInfo], counts: ListingCounts) -> FileTables:
    def count(number: int) -> None:
        counts.doubles += number

    return FileTables(lambda _: together(tables_of(files), count))
