"""An INPUT of the command line to a sorted stream of files.

A folder, glob, list or address becomes one stream of ``FileInfo``, sorted by URI, each URI once. Nothing is held in
memory whole: folders are walked in order, and what comes unsorted is sorted in chunks on disk and merged.
"""

from __future__ import annotations

import csv
import glob
import heapq
import itertools
import os
import re
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.data.schema import FILE_SCHEMA
from imgcls_ray.errors import InputError
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.local import FileInfo, list_folder, may_be_image, path_from_uri, scheme_of, stat_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_LIST_SUFFIXES = (".txt", ".csv", ".parquet")
_ROWS_IN_MEMORY = 200_000
_ROWS_PER_GROUP = 4096
# Bytes that surrogateescape let through; in an address they are percent-encoded, as Parquet holds UTF-8 only.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


@dataclass
class ListingCounts:
    """What a listing left out, for the summary."""

    not_images: int = 0
    """Files of a folder that are texts or tables by their names."""
    doubles: int = 0
    """Entries of a list that name a URI again."""


def is_single_file(source: str) -> bool:
    """Whether INPUT is one image rather than a place of many."""
    if is_url(source):
        return not _is_list(source)
    path = path_from_uri(source)
    return os.path.isfile(path) and not _is_list(path)


def check_input(source: str) -> None:
    """Refuse an INPUT that cannot be listed, before anything is started.

    Raises:
        InputError: what it is and what is expected.
    """
    if is_url(source):
        if _is_list(source):
            raise InputError(f"{source}: lists are read from files; download it first")
        return
    if (scheme := scheme_of(source)) not in ("", "file"):
        raise InputError(
            f"{source}: {scheme}:// is not a kind of storage that can be read; give a path or an http(s) address"
        )
    path = path_from_uri(source)
    if os.path.lexists(path):
        return
    if glob.has_magic(path):
        if not os.path.isdir(_glob_root(path)):
            raise InputError(f"{source}: there is no folder {_glob_root(path)}")
        return
    raise InputError(f"{source}: there is no such file or folder")


def list_inputs(source: str, counts: ListingCounts, *, leave_out: str | None = None) -> Iterator[FileInfo]:
    """List an INPUT, sorted by URI, each URI once.

    Args:
        source: folder (recursive), file, glob, list (``.txt``, ``.csv``, ``.parquet``) or http(s) address.
        counts: told what was left out.
        leave_out: a folder whose files are no inputs: the label store, where it lies inside the input.

    Raises:
        InputError: the input as a whole cannot be read.
    """
    check_input(source)
    if is_url(source):
        return iter([FileInfo(source, None, None, None)])
    path = path_from_uri(source)
    if os.path.isdir(path):
        return _only_images(list_folder(path, leave_out=leave_out), counts)
    if _is_list(path):
        return _distinct(_sorted(_read_list(path)), counts)
    if os.path.lexists(path):
        return iter([stat_file(os.path.abspath(path))])
    return _distinct(_sorted(_matches(path, leave_out)), counts)


def _is_list(path: str) -> bool:
    return path.lower().endswith(_LIST_SUFFIXES)


def _glob_root(pattern: str) -> str:
    parts = Path(pattern).parts
    return str(Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts)))


def _matches(pattern: str, leave_out: str | None) -> Iterator[FileInfo]:
    left_out = os.path.join(os.path.realpath(leave_out), "") if leave_out else None
    for match in glob.iglob(pattern, recursive=True):
        if os.path.isfile(match) and not (left_out and os.path.realpath(match).startswith(left_out)):
            yield stat_file(os.path.abspath(match))


def _only_images(files: Iterable[FileInfo], counts: ListingCounts) -> Iterator[FileInfo]:
    for info in files:
        if may_be_image(info.uri):
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


def _read_list(path: str) -> Iterator[FileInfo]:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        for row in _list_rows(path):
            yield _listed_file(row, folder)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, csv.Error, pa.ArrowException) as error:
        raise InputError(f"{path}: is not a readable {Path(path).suffix} list: {error}") from error


def _list_rows(path: str) -> Iterator[dict[str, Any]]:
    suffix = Path(path).suffix.lower()
    if suffix == ".txt":
        # surrogateescape: a list made by a tool that knows no encodings may hold any file name.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            for line in file:
                if (uri := line.rstrip("\r\n")).strip():
                    yield {"uri": uri}
    elif suffix == ".csv":
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _need_uri_column(path, reader.fieldnames or [])
            yield from (row for row in reader if row["uri"])
    else:
        with pq.ParquetFile(path) as parquet:
            schema = parquet.schema_arrow
            _need_uri_column(path, schema.names)
            kind = schema.field("uri").type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise InputError(f"{path}: the column 'uri' needs texts, has {kind}")
            columns = [name for name in ("uri", "size", "etag", "mtime") if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=16_384, columns=columns):
                yield from (row for row in batch.to_pylist() if row["uri"])


def _need_uri_column(path: str, names: Iterable[str]) -> None:
    if "uri" not in names:
        raise InputError(f"{path}: needs a column 'uri', has {', '.join(names) or 'none'}")


def _listed_file(row: dict[str, Any], folder: str) -> FileInfo:
    """A list's entry; relative paths count from the list's own folder."""
    uri = str(row["uri"])
    if scheme_of(uri) in ("", "file"):
        return stat_file(os.path.abspath(os.path.join(folder, path_from_uri(uri))))
    size, etag, mtime = (row.get(name) for name in ("size", "etag", "mtime"))
    return FileInfo(
        _NOT_UTF8.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", uri),
        int(size) if size else None,
        str(etag) if etag else None,
        mtime if isinstance(mtime, datetime) else None,
    )


def _sorted(files: Iterable[FileInfo]) -> Iterator[FileInfo]:
    """External merge sort by URI: chunks are sorted in memory, kept on disk, and merged."""
    files = iter(files)
    chunk = _sorted_chunk(files)
    if len(chunk) < _ROWS_IN_MEMORY:
        yield from chunk
        return
    # One file without a name, however many chunks: it meets no limit on open files, and a kill leaves nothing behind.
    with tempfile.TemporaryFile(prefix="imgcls-sort-") as file:
        ends = [0]
        with pq.ParquetWriter(file, FILE_SCHEMA, compression="zstd") as writer:
            while chunk:
                writer.write_table(table_of(chunk), row_group_size=_ROWS_PER_GROUP)
                ends.append(ends[-1] + -(-len(chunk) // _ROWS_PER_GROUP))
                chunk = _sorted_chunk(files)
        with pq.ParquetFile(file) as chunks:
            readers = (_read_groups(chunks, range(*bounds)) for bounds in itertools.pairwise(ends))
            yield from heapq.merge(*readers, key=_by_uri)


def _sorted_chunk(files: Iterator[FileInfo]) -> list[FileInfo]:
    return sorted(itertools.islice(files, _ROWS_IN_MEMORY), key=_by_uri)


def _by_uri(info: FileInfo) -> str:
    return info.uri


def table_of(files: Sequence[FileInfo]) -> pa.Table:
    """Files as rows of ``FILE_SCHEMA``."""
    columns = zip(*files, strict=True)
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, FILE_SCHEMA, strict=True)]
    return pa.table(arrays, schema=FILE_SCHEMA)


def _read_groups(chunks: pq.ParquetFile, groups: range) -> Iterator[FileInfo]:
    for group in groups:
        columns = chunks.read_row_group(group).columns
        yield from map(FileInfo._make, zip(*(column.to_pylist() for column in columns), strict=True))
