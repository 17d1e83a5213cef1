"""The inputs of another label store, to be labelled with another model: its newest rows, without a listing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.errors import InputError, LabelStoreError
from imgcls_ray.inputs.tables import FILE_SCHEMA, FileTables, with_columns
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.rows import KEY_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

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


def list_like(store: LabelStore) -> FileTables:
    """The inputs of a store in the version of their row, sorted by URI; without those that are not there any more.

    Raises:
        LabelStoreDamagedError: a file of the store is damaged or lost.
    """
    return FileTables(lambda _: map(_files_of, latest_rows(store, KEY_COLUMNS, only_present=True)))


def _files_of(rows: pa.Table) -> pa.Table:
    return with_columns(rows.select(["uri", "etag"]), FILE_SCHEMA)
