"""The inputs of another label store, to be labelled with another model: its newest rows, without a listing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.errors import InputError, LabelStoreError
from imgcls_ray.inputs.kept import with_texts
from imgcls_ray.inputs.tables import FILE_SCHEMA, FileTables, only_array, with_columns
from imgcls_ray.storage import open_directory
from imgcls_ray.store.history import read_history
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.rows import KEY_COLUMNS
from imgcls_ray.store.values import StoredValues

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from imgcls_ray.inputs.kept import Kept
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.store.label_store import LabelStore


def open_like(like: str, output: str, storage: StorageOptions) -> LabelStore:
    """Open the store whose inputs are labelled.

    Raises:
        InputError: there is none, or it is the one that is written.
        StorageError: its storage fails.
    """
    directory = open_directory(like, storage)
    if directory.uri == open_directory(output, storage).uri:
        raise InputError(f"{like}: is the label store that is written; give another --output, one for each model")
    try:
        return open_store(directory)
    except LabelStoreError as error:
        raise InputError(str(error)) from error


def list_like(store: LabelStore, kept: Kept) -> FileTables:
    """The inputs of a store in the version of their row, sorted by URI; without those that are not there any more.

    Args:
        store: which.
        kept: receives the types of what lists said of them.

    Raises:
        LabelStoreDamagedError: a file of the store is damaged or lost.
    """
    return FileTables(lambda _: _files_of(store, kept))


def _files_of(store: LabelStore, kept: Kept) -> Iterator[pa.Table]:
    values = StoredValues(store, read_history(store))
    if kept.wanted is None:
        kept.types.update(values.columns())
    for rows in latest_rows(store, KEY_COLUMNS, only_present=True):
        files = with_columns(rows.select(["uri", "etag"]), FILE_SCHEMA)
        yield with_texts(files, values.of(only_array(files.column("uri")))) if kept.wanted is None else files
