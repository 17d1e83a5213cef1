"""Datasets of class folders: ``train/NAME/*.jpg`` and so on, or ``NAME/*.jpg``; also one level deeper."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections import Counter
from typing import TYPE_CHECKING

from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.folder_layout import find_layout, given_layout
from imgcls_ray.datasets.labelled import DatasetSource, Entry, name_text
from imgcls_ray.errors import InputError
from imgcls_ray.storage.files import absolute_path, path_from_uri
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.names import rule_of_folder
from imgcls_ray.storage.object_inputs import list_place
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.walking import list_folder
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from imgcls_ray.datasets.folder_layout import Layout
    from imgcls_ray.storage.options import StorageOptions

logger = logging.getLogger(__name__)

# What our reports hold besides text: in a dataset of class folders it would be taken for images.
_REPORT = re.compile(
    r"(^|/)(check_dataset/(histogram\.png|demo_img/[^/]+\.jpg)"
    r"|evaluate/(confusion\.png|reliability\.png|mistakes\.jpg))$"
)


def read_class_folders(
    dataset: str, storage: StorageOptions, split_folders: Mapping[str, str] | None = None
) -> DatasetSource:
    """Read ``train/NAME/*.jpg`` and so on, or ``NAME/*.jpg``, whose images are all training images.

    Args:
        dataset: the folder, local or on object storage.
        storage: how to reach it.
        split_folders: the folder of each split, relative to the dataset; empty if the first folders are the classes.
            Default: found by their names.

    Raises:
        InputError: there are no class folders, or it cannot be told what are splits and what classes.
    """
    root = dataset.rstrip("/") + "/" if is_object(dataset) else absolute_path(path_from_uri(dataset)).rstrip("/") + "/"

    def paths(counts: ListingCounts) -> Iterator[tuple[str, str]]:
        files = (
            list_place(root, storage, counts)
            if is_object(dataset)
            else list_folder(root, counts=counts, every_name=True)
        )
        for info in files:
            where = (info.uri if is_object(dataset) else path_from_uri(info.uri)).removeprefix(root)
            if not _REPORT.search(where):
                yield where, info.uri
        if counts.num_unlisted:
            raise InputError(counts.unlisted_text)

    left_out = ListingCounts()
    folders: Counter[tuple[str, ...]] = Counter()
    firsts: dict[tuple[str, ...], str] = {}
    for path, _ in paths(left_out):
        parts = tuple(path.split("/")[:-1])
        folders[parts] += 1
        firsts.setdefault(parts, path)
    for line in left_out.lines():
        logger.info("%s: left out: %s", dataset, line)
    try:
        layout = find_layout(folders) if split_folders is None else given_layout(folders, split_folders)
    except ValueError as error:
        raise InputError(f"{dataset}: {name_text(str(error))}") from error
    classes = sorted({place[1] for parts in folders if (place := layout.place(parts)) is not None})
    ids = {name: label for label, name in enumerate(classes)}

    def read(_report: Callable[[Finding], None]) -> Iterator[Entry]:
        for path, uri in paths(ListingCounts()):
            if (place := layout.place(path.split("/")[:-1])) is not None:
                yield Entry(place[0], "", None, name_text(path), uri, ids[place[1]])

    names: list[str | None] = [name_text(name) for name in classes]
    # An object storage has no empty folders.
    findings = [] if is_object(dataset) else list(_empty_folders(root, layout, frozenset(classes)))
    splits = [split for split in SPLITS if split in layout.folders]
    notes = [name_text(note) for note in [*layout.notes, *_note_of_loose(layout, folders, firsts)]]
    return DatasetSource(dataset, None, names, splits, read, findings, notes=notes)


def _note_of_loose(
    layout: Layout, folders: Mapping[tuple[str, ...], int], firsts: Mapping[tuple[str, ...], str]
) -> Iterator[str]:
    """A line about the images that lie beside the folders of classes."""
    loose = sorted(parts for parts in folders if layout.has_loose(parts))
    if loose:
        number = sum(folders[parts] for parts in loose)
        yield f"left out: {counted(number, 'image')} beside the folders of classes, e.g. {firsts[loose[0]]}"


def _empty_folders(root: str, layout: Layout, classes: frozenset[str]) -> Iterator[Finding]:
    """Folders without any image beside the class folders; they are no classes."""
    for split in SPLITS:
        if split not in layout.folders:
            continue
        folder = "/".join(layout.folders[split])
        for name in sorted(os.listdir(root + folder)):
            place = posixpath.join(folder, name)
            if name in classes or name.startswith(".") or rule_of_folder(name) or not os.path.isdir(root + place):
                continue
            if next(list_folder(root + place, every_name=True), None) is None:
                what = f"the folder {name_text(place)} holds no image, so it is no class"
                code = FindingCode.CLASS_WITHOUT_IMAGES
                yield Finding(code, split=split, class_name=name_text(name), detail=what)
