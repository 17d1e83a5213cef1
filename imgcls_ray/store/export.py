"""Write a store's newest rows where people use them: into one file, whole or not at all, or into an empty folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgcls_ray.errors import StorageError, UsageError
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.store.latest import LatestTable
from imgcls_ray.store.table_files import write_file
from imgcls_ray.store.table_folders import write_folder

if TYPE_CHECKING:
    from imgcls_ray.storage import Directory
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.store.label_store import LabelStore

_SUFFIXES = ("parquet", "jsonl", "csv")
FILE_KINDS = (*_SUFFIXES, "coco")
FOLDER_KINDS = ("huggingface", "hive")


def write_latest(
    store: LabelStore,
    output: str,
    storage: StorageOptions,
    *,
    kind: str | None = None,
    only_present: bool = False,
) -> int:
    """Write the newest rows. Returns their number.

    Args:
        store: which.
        output: file or folder, local or on object storage.
        storage: how to reach it.
        kind: one of ``FILE_KINDS`` or ``FOLDER_KINDS``; ``None``: as the end of ``output`` says.
        only_present: leave out what is not there any more.

    Raises:
        UsageError: another suffix, or a place where nothing can be written.
        StorageError: reading the store or writing failed; an older file stays.
    """
    kind = kind or _kind_of(output)
    rows = LatestTable(store, only_present=only_present)
    if kind in FOLDER_KINDS:
        return write_folder(rows, _empty_folder(output, storage, kind), kind)
    folder, name = _place_of(output)
    return _write_file(rows, open_directory(folder, storage), name, kind)


def export_latest(store: LabelStore, kind: str) -> str:
    """Write ``exports/latest.KIND`` inside the store; returns where."""
    name = f"exports/latest.{kind}"
    _write_file(LatestTable(store), store.directory, name, kind)
    return f"{store.uri}/{name}"


def _write_file(rows: LatestTable, directory: Directory, name: str, kind: str) -> int:
    try:
        with scratch_folder("export") as scratch:
            path = scratch / "latest"
            num_rows = write_file(rows, path, kind)
            directory.replace_from(name, str(path))
    except OSError as error:
        raise StorageError(f"{directory.uri}/{name}: was not written: {error}") from error
    return num_rows


def _kind_of(output: str) -> str:
    kind = os.path.splitext(output)[1].lower().lstrip(".")
    if kind not in _SUFFIXES:
        raise UsageError(
            f"{output}: the newest rows are written as .parquet, .jsonl or .csv; --format has more kinds of files and "
            "folders"
        )
    return kind


def _place_of(output: str) -> tuple[str, str]:
    """Folder and name of a file.

    Raises:
        UsageError: no file can be there.
    """
    if is_object(output):
        folder, _, name = output.rpartition("/")
        if not name or not folder.partition("://")[2]:
            raise UsageError(f"{output}: cannot be written: it is a folder; give the name of a file in it")
        return folder, name
    path = path_from_uri(output)
    if os.path.isdir(path) or path.endswith("/"):
        raise UsageError(f"{output}: cannot be written: it is a folder; give the name of a file in it")
    folder, name = os.path.split(path)
    _need_folder(output, folder or ".")
    return folder or ".", name


def _need_folder(output: str, folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from error


def _empty_folder(output: str, storage: StorageOptions, kind: str) -> Directory:
    """A place with nothing in it: what an earlier export left there would be read as rows of this one.

    Raises:
        UsageError: there is something.
    """
    directory = open_directory(output, storage)
    if not is_object(output):
        _need_folder(output, path_from_uri(output))
    if next(iter(directory.entries()), None) is not None:
        raise UsageError(f"{output}: is not empty, and --format {kind} writes a folder of its own; give a new one")
    return directory
