"""Read a labelled dataset: PaddleX's lists, class folders, packed files, or a table. Every fault becomes a finding.

Entries are streamed: only the class names stay in memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgcls_ray.datasets.class_folders import read_class_folders
from imgcls_ray.datasets.list_files import LIST_NAMES, find_lists, lists_without_names, read_lists
from imgcls_ray.datasets.packed import is_packed_table, packed_files, read_packed
from imgcls_ray.datasets.tables import read_table
from imgcls_ray.errors import InputError
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory
from imgcls_ray.storage.files import check_address, path_from_uri
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgcls_ray.datasets.labelled import DatasetSource
    from imgcls_ray.datasets.list_files import ListFolder
    from imgcls_ray.storage.options import StorageOptions

TABLES = (".csv", ".parquet")
"""Ends of names of tables."""


def read_dataset(
    dataset: str,
    *,
    delimiter: str | None = None,
    split_folders: Mapping[str, str] | None = None,
    storage: StorageOptions = DEFAULT_STORAGE,
    folder: ListFolder | None = None,
) -> DatasetSource:
    """Find out what kind of dataset it is, and read its class names.

    Args:
        dataset: a folder (local or on object storage) with ``train.txt``, ``val.txt``, ``label.txt`` and maybe
            ``test.txt``, or with PaddleX 2's lists; one of class folders, ``train/NAME/*.jpg`` or ``NAME/*.jpg``; or a
            ``.csv`` or ``.parquet`` file with the columns ``uri``, ``label`` and maybe ``split``; or packed images
            (``packed``): a tar file, Parquet with images, or a folder of such files.
        delimiter: between path and class id of the lists; spaces or a tab, whichever is last in a line, if not given.
        split_folders: of class folders, the folder of each split; empty if the first folders are the classes. Default:
            found by their names.
        storage: object storage of the dataset.
        folder: where its lists are read from; default: the folder ``dataset`` itself.

    Raises:
        InputError: there is no such dataset, it is of no known kind, it cannot be told which folders are splits, there
            are lists but no class names, or ``split_folders`` is given where lists or a table tell the splits.
    """
    if not os.path.lexists(dataset):
        check_address(dataset)
    is_folder = not is_object(dataset) and os.path.isdir(path_from_uri(dataset))
    if not is_folder and (
        dataset.lower().endswith(".tar") or (dataset.lower().endswith(".parquet") and is_packed_table(dataset, storage))
    ):
        _splits_are_told(dataset, "the name of the file says", split_folders)
        return read_packed(dataset, [], storage)
    if os.path.splitext(dataset)[1].lower() in TABLES and not is_folder:
        _splits_are_told(dataset, "the table says", split_folders)
        return read_table(dataset, storage)
    if not is_object(dataset) and not is_folder:
        raise InputError(f"{dataset}: there is no such folder; a dataset is a folder, or a .csv, .parquet or .tar file")
    is_whole = folder is None
    place = open_directory(dataset, storage, only_read=True)
    folder = folder or place
    # A folder may hold millions of names: only these few are kept.
    files = frozenset(name.rstrip("/") for name in folder.entries() if name.rstrip("/").lower() in LIST_NAMES)
    try:
        names = find_lists(files)
    except ValueError as error:
        raise InputError(f"{dataset}: {error}") from error
    if names is not None:
        _splits_are_told(dataset, "lists say", split_folders)
        return read_lists(dataset, folder, files, names, delimiter, storage)
    if unread := lists_without_names(files):
        return _beside_lists(dataset, unread, split_folders, storage)
    if is_whole and split_folders is None and (packed := packed_files(place)):
        return read_packed(dataset, packed, storage)
    return read_class_folders(dataset, storage, split_folders)


def _splits_are_told(dataset: str, by: str, split_folders: Mapping[str, str] | None) -> None:
    if split_folders is not None:
        raise InputError(
            f"{dataset}: split_folders is for class folders; here {by} which images are in which split: leave "
            "split_folders out, or give a folder that holds class folders alone"
        )


def _beside_lists(
    dataset: str, unread: Sequence[str], split_folders: Mapping[str, str] | None, storage: StorageOptions
) -> DatasetSource:
    """Class folders beside lists that cannot be read: only if the splits are known without them.

    Raises:
        InputError: otherwise images to validate with would become training images.
    """
    what = f"{', '.join(unread)}: not read, because there is no file of class names"
    source: DatasetSource | None = None
    try:
        source = read_class_folders(dataset, storage, split_folders)
    except InputError:
        if split_folders is not None:
            raise
    if source is None or (split_folders is None and len(source.splits) == 1):
        raise InputError(
            f"{dataset}: {what}; rename it to labels.txt (one name, or `id name`, in each line), or give "
            "split_folders=none if the first folders are the classes and there are no splits"
        )
    source.notes = [*source.notes, what]
    return source
