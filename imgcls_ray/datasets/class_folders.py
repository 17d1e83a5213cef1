"""Datasets of class folders: ``train/NAME/*.jpg`` and so on, or ``NAME/*.jpg``."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections import Counter
from typing import TYPE_CHECKING

from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.labelled import DatasetSource, Entry, name_text
from imgcls_ray.errors import InputError
from imgcls_ray.storage.files import absolute_path, path_from_uri
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.names import rule_of_folder
from imgcls_ray.storage.s3 import S3Options, is_s3
from imgcls_ray.storage.s3_inputs import list_place
from imgcls_ray.storage.walking import list_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

# What our reports hold besides text: in a dataset of class folders it would be taken for images.
_REPORT = re.compile(
    r"(^|/)(check_dataset/(histogram\.png|demo_img/[^/]+\.jpg)"
    r"|evaluate/(confusion\.png|reliability\.png|mistakes\.jpg))$"
)


def read_class_folders(dataset: str, s3: S3Options) -> DatasetSource:
    """Read ``train/NAME/*.jpg`` and so on, or ``NAME/*.jpg``, whose images are all training images."""
    root = dataset.rstrip("/") + "/" if is_s3(dataset) else absolute_path(path_from_uri(dataset)).rstrip("/") + "/"

    def paths(counts: ListingCounts) -> Iterator[tuple[str, str]]:
        files = list_place(root, s3, counts) if is_s3(dataset) else list_folder(root, counts=counts, every_name=True)
        for info in files:
            where = (info.uri if is_s3(dataset) else path_from_uri(info.uri)).removeprefix(root)
            if not _REPORT.search(where):
                yield where, info.uri
        if counts.num_unlisted:
            raise InputError(counts.unlisted_text)

    left_out = ListingCounts()
    parts_of = Counter(tuple(path.split("/")[:-1]) for path, _ in paths(left_out))
    for line in left_out.lines():
        logger.info("%s: left out: %s", dataset, line)
    splits = [split for split in SPLITS if any(len(parts) >= 2 and parts[0] == split for parts in parts_of)]
    depth = 1 if splits else 0
    # What lies outside of a split's folders is another thing: a folder of raw material, say.
    classes = sorted({parts[depth] for parts in parts_of if len(parts) > depth and (not splits or parts[0] in splits)})
    if not classes or (not splits and set(classes) <= set(SPLITS)):
        raise InputError(
            f"{dataset}: no dataset of a known kind; it has neither train.txt and val.txt nor folders of images by "
            "class (train/NAME/*.jpg or NAME/*.jpg)"
        )
    ids = {name: label for label, name in enumerate(classes)}

    def read(_report: Callable[[Finding], None]) -> Iterator[Entry]:
        for path, uri in paths(ListingCounts()):
            parts = path.split("/")[:-1]
            if len(parts) > depth and (not splits or parts[0] in splits):
                yield Entry(parts[0] if splits else "train", "", None, name_text(path), uri, ids[parts[depth]])

    names: list[str | None] = [name_text(name) for name in classes]
    # An object storage has no empty folders.
    findings = [] if is_s3(dataset) else list(_empty_folders(root, splits, frozenset(classes)))
    return DatasetSource(dataset, None, names, splits or ["train"], read, findings)


def _empty_folders(root: str, splits: list[str], classes: frozenset[str]) -> Iterator[Finding]:
    """Folders without any image beside the class folders; they are no classes."""
    for split in splits or [""]:
        for name in sorted(os.listdir(root + split)):
            place = posixpath.join(split, name)
            if name in classes or name.startswith(".") or rule_of_folder(name) or not os.path.isdir(root + place):
                continue
            if next(list_folder(root + place, every_name=True), None) is None:
                what = f"the folder {name_text(place)} holds no image, so it is no class"
                code = FindingCode.CLASS_WITHOUT_IMAGES
                yield Finding(code, split=split or "train", class_name=name_text(name), detail=what)
