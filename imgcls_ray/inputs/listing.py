"""Turn the INPUTs of the command line into a sorted stream of files.

Folders, prefixes, globs, lists and addresses become one stream of ``FileInfo``, sorted by URI, each URI once. No list
is held in memory as a whole: folders and prefixes are walked in order, and unsorted lists are sorted on disk.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.boxes import is_box, named_box
from imgcls_ray.inputs.inventories import is_inventory
from imgcls_ray.inputs.kept import together
from imgcls_ray.inputs.list_rows import URI_COLUMN
from imgcls_ray.inputs.list_tables import is_of_parts, parquet_parts
from imgcls_ray.inputs.lists import is_list, read_list, read_parts, refuse_other_lists
from imgcls_ray.inputs.members import (
    PACKED_PATTERNS,
    is_member,
    named_member,
    open_packed,
    packed_parquet,
    refuse_compressed,
)
from imgcls_ray.inputs.merging import merge_sorted
from imgcls_ray.inputs.sorting import sort_files
from imgcls_ray.inputs.tables import FileTables, tables_of
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.storage.crops import picture_of
from imgcls_ray.storage.files import FileInfo, absolute_path, check_address, path_from_uri, scheme_of, stat_file
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.members import is_packed_file
from imgcls_ray.storage.names import DEFAULT_NAMES, NameRules
from imgcls_ray.storage.object_inputs import check_place, find_object, list_place, only_inputs
from imgcls_ray.storage.patterns import Pattern, has_magic
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.walking import list_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgcls_ray.inputs.kept import Kept
    from imgcls_ray.storage.options import StorageOptions

__all__ = [
    "ListingCounts",
    "check_input",
    "check_inputs",
    "is_any_list",
    "is_single_file",
    "list_found",
    "list_inputs",
    "list_unsorted",
    "named_files",
]

logger = logging.getLogger(__name__)


def is_single_file(source: str, storage: StorageOptions = DEFAULT_STORAGE) -> bool:
    """Whether INPUT is one image, not a folder, prefix, list, pattern or packed file."""
    if is_box(source, storage):
        return True
    if is_url(source):
        return not is_list(source)
    if is_member(source, storage):
        return True
    if is_list(source) or is_packed_file(source):
        return False
    return find_object(source, storage) is not None if is_object(source) else _is_file(path_from_uri(source))


def _is_file(path: str) -> bool:
    # Also a link that leads nowhere, or a pipe: one image that cannot be read.
    return os.path.lexists(path) and not os.path.isdir(path)


def check_inputs(
    sources: Sequence[str],
    storage: StorageOptions = DEFAULT_STORAGE,
    *,
    uri_column: str = URI_COLUMN,
    kept: Kept | None = None,
) -> None:
    """Refuse INPUTs that cannot be listed, and lists on this machine that cannot be read, before anything is started.

    Raises:
        InputError: which one it is, and what is expected.
        StorageError: its storage cannot be asked.
    """
    for source in sources:
        check_input(source, storage)
        # What is in a bucket would be copied as a whole; it is refused when it is planned, before the first row.
        if is_object(source) or is_url(source) or is_inventory(source):
            continue
        parts = _parquet_in(source, storage)
        if packed_parquet(source, storage, uri_column, parts):
            continue
        if _is_list_here(source, storage):
            next(read_list(source, storage, uri_column=uri_column, kept=kept), None)
        else:
            is_of_parts(parts, source, uri_column, storage)
    _check_mixture(sources)
    # Among several, it is one of the names that a shell found.
    if len(sources) == 1 and not is_object(sources[0]) and _is_file(path_from_uri(sources[0])):
        refuse_other_lists(sources[0])
    if len(sources) == 1 and not is_url(sources[0]):
        refuse_compressed(sources[0])


def check_input(source: str, storage: StorageOptions = DEFAULT_STORAGE) -> None:
    """Refuse an INPUT that cannot be listed.

    Raises:
        InputError: what it is and what is expected.
        StorageError: its storage cannot be asked.
    """
    if not os.path.lexists(source):
        check_address(source)
    if is_box(source, storage):
        check_input(picture_of(source), storage)
        return
    if is_member(source, storage):
        return
    if is_object(source):
        check_place(source, storage)
        return
    if is_url(source):
        if is_list(source):
            raise InputError(f"{source}: lists are read from files and objects; download it first")
        return
    if (scheme := scheme_of(source)) not in ("", "file"):
        raise InputError(
            f"{source}: {scheme}:// is not a kind of storage that can be read; give a path, an s3:// (gs://, az://) "
            "URI or an "
            "http(s) address"
        )
    path = path_from_uri(source)
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:
        if not has_magic(path):
            raise InputError(f"{source}: {_why_not(error)}") from error
        root, _ = _split_pattern(path)
        if not os.path.isdir(root):
            raise InputError(f"{source}: there is no folder {root}") from error


def _check_mixture(sources: Sequence[str]) -> None:
    """Refuse lists beside files of their own folder: a shell wrote all names of that folder, and nobody meant a list.

    Raises:
        InputError: naming the list.
    """
    files = [path_from_uri(source) for source in sources if not is_url(source) and not is_object(source)]
    folders = {os.path.dirname(path) for path in files if _is_file(path) and not is_list(path)}
    for path in files:
        if is_list(path) and _is_file(path) and os.path.dirname(path) in folders:
            raise InputError(
                f"{path}: is read as a list of images, and files of its folder are given beside it; give the folder "
                f"({os.path.dirname(path) or '.'}/), or the list without them"
            )


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
    _check_mixture(given)
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
        if _is_list_here(source, storage) and not packed_parquet(source, storage, uri_column, []):
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


def is_any_list(source: str, storage: StorageOptions = DEFAULT_STORAGE, *, uri_column: str = URI_COLUMN) -> bool:
    """Whether INPUT names its inputs one by one: a list, or a folder of Parquet files that is one."""
    if is_url(source) or packed_parquet(source, storage, uri_column, parts := _parquet_in(source, storage)):
        return False
    return _is_list_here(source, storage) or is_of_parts(parts, source, uri_column, storage)


def _is_list_here(source: str, storage: StorageOptions) -> bool:
    """Whether a list is at this place: not a pattern, or a folder, of such a name."""
    if not is_list(source) or is_url(source):
        return False
    if is_object(source):
        return find_object(source, storage) is not None
    return _is_file(path_from_uri(source))


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
    parts = [] if is_url(source) else _parquet_in(source, storage)
    if packed := packed_parquet(source, storage, uri_column, parts):
        return open_packed(packed, storage, names, counts.by_name)
    if _is_list_here(source, storage):
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


def _parquet_in(source: str, storage: StorageOptions) -> list[str]:
    """The files of a folder that holds Parquet and nothing else; none if it is a folder of images, or no folder."""
    if is_object(source):
        if has_magic(source) or find_object(source, storage) is not None:
            return []
    elif not os.path.isdir(path_from_uri(source)):
        return []
    return parquet_parts(source, storage)


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
        root, parts = _split_pattern(path)
        return list_folder(root, pattern=Pattern(parts), counts=counts, store=store, names=names)
    return iter([stat_file(absolute_path(path))])


def _why_not(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
        return "there is no such file or folder"
    return f"cannot be looked at: {error.strerror}"


def _split_pattern(path: str) -> tuple[str, list[str]]:
    """The fixed folder of a pattern, and the parts below it; an existing name is no pattern.

    Raises:
        InputError: it is no pattern, or has ``..`` behind a wildcard.
    """
    parts = path.split("/")
    places = (i for i, part in enumerate(parts) if has_magic(part) and not os.path.lexists("/".join(parts[: i + 1])))
    start = next(places, None)
    if start is None:  # every part that looks like a pattern is the name of a folder
        raise InputError(f"{path}: there is no such file or folder")
    root = "/".join(parts[:start]) or ("/" if path.startswith("/") else ".")
    below = [part for part in parts[start:-1] if part not in ("", ".")] + parts[-1:]
    if ".." in below:
        raise InputError(f"{path}: .. cannot stand behind a wildcard; write the folder that it leads to")
    return root, below


def _distinct(files: Iterable[FileInfo], counts: ListingCounts) -> FileTables:
    def count(number: int) -> None:
        counts.doubles += number

    return FileTables(lambda _: together(tables_of(files), count))
