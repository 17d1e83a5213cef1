"""An INPUT of the command line to a sorted stream of files.

A folder, prefix, glob, list or address becomes one stream of ``FileInfo``, sorted by URI, each URI once. Nothing is
held in memory whole: folders and prefixes are walked in order, and what comes unsorted is sorted on disk.
"""

from __future__ import annotations

import glob
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.data.lists import is_list, read_list
from imgcls_ray.data.sorting import sort_files
from imgcls_ray.errors import InputError
from imgcls_ray.storage import DEFAULT_S3
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.local import FileInfo, list_folder, may_be_image, path_from_uri, scheme_of, stat_file
from imgcls_ray.storage.s3 import is_s3
from imgcls_ray.storage.s3_inputs import check_place, find_object, list_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.storage.s3 import S3Options


@dataclass
class ListingCounts:
    """What a listing left out, for the summary."""

    not_images: int = 0
    """Files of a folder that are texts or tables by their names."""
    doubles: int = 0
    """Entries of a list that name a URI again."""


def is_single_file(source: str, s3: S3Options = DEFAULT_S3) -> bool:
    """Whether INPUT is one image rather than a place of many."""
    if is_list(source):
        return False
    if is_s3(source):
        return find_object(source, s3) is not None
    return is_url(source) or os.path.isfile(path_from_uri(source))


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
    if os.path.lexists(path):
        return
    if glob.has_magic(path):
        if not os.path.isdir(_glob_root(path)):
            raise InputError(f"{source}: there is no folder {_glob_root(path)}")
        return
    raise InputError(f"{source}: there is no such file or folder")


def list_inputs(
    source: str, counts: ListingCounts, s3: S3Options = DEFAULT_S3, *, leave_out: str | None = None
) -> Iterator[FileInfo]:
    """List an INPUT, sorted by URI, each URI once.

    Args:
        source: folder (recursive), prefix, file, object, glob, list (``.txt``, ``.csv``, ``.parquet``, an S3
            Inventory's ``manifest.json``) or http(s) address.
        counts: told what was left out.
        s3: how to reach object storage.
        leave_out: a folder or prefix whose files are no inputs: the label store, where it lies inside the input.

    Raises:
        InputError: the input as a whole cannot be read.
        StorageError: its storage fails.
    """
    check_input(source, s3)
    if is_s3(source):
        if is_list(source):
            return _distinct(sort_files(read_list(source, s3)), counts)
        return _only_images(_outside(list_place(source, s3), leave_out), counts, named=source)
    if is_url(source):
        return iter([FileInfo(source, None, None, None)])
    path = path_from_uri(source)
    leave_out = leave_out if leave_out and not is_s3(leave_out) else None
    if os.path.isdir(path):
        return _only_images(list_folder(path, leave_out=leave_out), counts)
    if is_list(path):
        return _distinct(sort_files(read_list(path, s3)), counts)
    if os.path.lexists(path):
        return iter([stat_file(os.path.abspath(path))])
    return _distinct(sort_files(_matches(path, leave_out)), counts)


def _outside(files: Iterable[FileInfo], leave_out: str | None) -> Iterator[FileInfo]:
    left_out = f"{leave_out}/" if leave_out and is_s3(leave_out) else None
    return (info for info in files if not (left_out and info.uri.startswith(left_out)))


def _glob_root(pattern: str) -> str:
    parts = Path(pattern).parts
    return str(Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts)))


def _matches(pattern: str, leave_out: str | None) -> Iterator[FileInfo]:
    left_out = os.path.join(os.path.realpath(leave_out), "") if leave_out else None
    for match in glob.iglob(pattern, recursive=True):
        if os.path.isfile(match) and not (left_out and os.path.realpath(match).startswith(left_out)):
            yield stat_file(os.path.abspath(match))


def _only_images(files: Iterable[FileInfo], counts: ListingCounts, *, named: str = "") -> Iterator[FileInfo]:
    for info in files:
        if may_be_image(info.uri) or info.uri == named:
            yield info
        else:
            counts.not_images += 1


def _distinct(files: Iterable[FileInfo], counts: ListingCounts) -> Iterator[FileInfo]:
    last = None
    for info in files:
        if info.uri == last:
            counts.doubles += 1
            continue
        last = info.uri
        yield info
