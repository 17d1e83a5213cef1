"""Turn an INPUT of the command line into a sorted stream of files.

A folder, prefix, glob, list or address becomes one stream of ``FileInfo``, sorted by URI, each URI once. No list is
held in memory as a whole: folders and prefixes are walked in order, and unsorted lists are sorted on disk.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.lists import is_inventory, is_list, read_list
from imgcls_ray.inputs.sorting import sort_files
from imgcls_ray.storage import DEFAULT_S3
from imgcls_ray.storage.files import FileInfo, absolute_path, path_from_uri, scheme_of, stat_file
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.patterns import Pattern, has_magic
from imgcls_ray.storage.s3 import is_s3
from imgcls_ray.storage.s3_inputs import check_place, find_object, list_place, only_inputs
from imgcls_ray.storage.walking import list_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.storage.s3 import S3Options

__all__ = ["ListingCounts", "check_input", "is_single_file", "list_inputs"]


def is_single_file(source: str, s3: S3Options = DEFAULT_S3) -> bool:
    """Whether INPUT is one image, not a folder, prefix, list or pattern."""
    if is_list(source):
        return False
    if is_s3(source):
        return find_object(source, s3) is not None
    path = path_from_uri(source)
    # Also a link that leads nowhere, or a pipe: one image that cannot be read.
    return is_url(source) or (os.path.lexists(path) and not os.path.isdir(path))


def check_input(source: str, s3: S3Options = DEFAULT_S3) -> None:
    """Refuse an INPUT that cannot be listed, before anything is started.

    Raises:
        InputError: what it is and what is expected.
        StorageError: its storage cannot be asked.
    """
    if is_s3(source):
        check_place(source, s3)
        return
    if is_url(source):
        if is_list(source):
            raise InputError(f"{source}: lists are read from files and objects; download it first")
        return
    if (scheme := scheme_of(source)) not in ("", "file"):
        raise InputError(
            f"{source}: {scheme}:// is not a kind of storage that can be read; give a path, an s3:// URI or an "
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


def list_inputs(
    source: str, counts: ListingCounts, s3: S3Options = DEFAULT_S3, *, leave_out: str | None = None
) -> Iterator[FileInfo]:
    """List an INPUT, sorted by URI, each URI once.

    Args:
        source: folder (recursive), prefix, file, object, glob, list (``.txt``, ``.csv``, ``.parquet``, an S3
            Inventory's ``manifest.json``) or http(s) address.
        counts: receives the numbers of skipped files.
        s3: how to reach object storage.
        leave_out: the label store, whose own files are no inputs, whether it is inside the input or around it.

    Raises:
        InputError: the input as a whole cannot be read.
        StorageError: its storage fails.
    """
    check_input(source, s3)
    if is_s3(source):
        store = leave_out if leave_out and is_s3(leave_out) else None
        if not is_list(source) or (has_magic(source) and find_object(source, s3) is None):
            return list_place(source, s3, counts, store=store)
        listed = _distinct(sort_files(read_list(source, s3)), counts)
        return only_inputs(listed, s3, counts, store=store) if is_inventory(source) else listed
    if is_url(source):
        return iter([FileInfo(source, None, None, None)])
    path = path_from_uri(source)
    store = leave_out if leave_out and not is_s3(leave_out) else None
    if os.path.isdir(path):
        return list_folder(path, counts=counts, store=store)
    if not os.path.lexists(path):
        root, parts = _split_pattern(path)
        return list_folder(root, pattern=Pattern(parts), counts=counts, store=store)
    if is_list(path):
        listed = _distinct(sort_files(read_list(path, s3)), counts)
        return only_inputs(listed, s3, counts) if is_inventory(path) else listed
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


def _distinct(files: Iterable[FileInfo], counts: ListingCounts) -> Iterator[FileInfo]:
    last = None
    for info in files:
        if info.uri == last:
            counts.doubles += 1
            continue
        last = info.uri
        yield info
