"""Split a labelled dataset: distribute its images over new lists.

The split is stratified by class, seeded, and independent of the order of the lines. No image is moved, and none is read
but for groups of near-duplicates. The dataset is read as in check and training. A dataset with faults is refused,
because a new list must not lose a line.
"""

from __future__ import annotations

import io
import logging
import math
import os
import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.class_name_files import LABEL_FILE, write_class_name
from imgcls_ray.datasets.findings import Finding, FindingCode, Severity
from imgcls_ray.datasets.list_files import LISTS, write_entry
from imgcls_ray.datasets.packed import is_packed_table
from imgcls_ray.datasets.rewrite import refuse_if_unfinished, replace_lists
from imgcls_ray.datasets.source import TABLES, read_dataset
from imgcls_ray.datasets.split_table import with_splits
from imgcls_ray.datasets.stratify import UncoveredError, deal_groups, deal_images
from imgcls_ray.errors import InputError, UsageError
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory
from imgcls_ray.storage.files import check_address, path_from_uri, scheme_of
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from imgcls_ray.datasets.duplicate_groups import Looks
    from imgcls_ray.datasets.labelled import DatasetSource, Entry
    from imgcls_ray.storage import Directory
    from imgcls_ray.storage.options import StorageOptions

logger = logging.getLogger(__name__)

NEAR_DUPLICATES = "near-duplicates"
"""Word for groups of equal and nearly equal pictures, in place of an expression."""
_TOLERANCE_PERCENT = 1e-6
_NOT_PACKED = (
    "packed images have their split in the names of files; pack each split into files of its own, or list the images "
    "in a table with the columns uri and label"
)
_MAX_CLASSES_NAMED = 10


class Deviation(NamedTuple):
    """The class and split whose count is farthest from its exact share."""

    class_name: str
    split: str
    num_images: int
    wanted: float
    """Exact share of the class, in images."""


@dataclass(frozen=True)
class SplitReport:
    """The result of a split."""

    dataset: str
    num_images: dict[str, int]
    """Number of images by split, in the order train, val, test, for the requested splits."""
    images_per_class: dict[str, Counter[int]]
    """Number of images by split, then by class id."""
    num_groups: int | None
    """Number of groups; ``None`` without ``group_by``."""
    num_unknown: int
    """Number of images that could not be read, or not be compared with all others; 0 without near-duplicates."""
    num_duplicates: int
    """Number of lines that repeated an image and were left out."""
    deviation: Deviation
    backups: dict[str, str]
    """Names of the backups, by the names of the files that were replaced or deleted."""


def split_dataset(
    dataset: str,
    *,
    train_percent: float,
    val_percent: float,
    test_percent: float = 0,
    seed: int = 0,
    group_by: str | None = None,
    delimiter: str | None = None,
    split_folders: Mapping[str, str] | None = None,
    storage: StorageOptions = DEFAULT_STORAGE,
    measure: Callable[[Sequence[Entry]], Looks] | None = None,
) -> SplitReport:
    """Pool all images of train, val and test, and split them anew.

    Args:
        dataset: a folder, local or in object storage, with lists (any of ``train.txt``, ``val.txt``, ``test.txt``;
            ``PATH CLASS_ID`` a line), or with folders of classes, for which lists and ``label.txt`` are written beside
            them; or a table, whose column ``split`` is written.
        train_percent: above 0; all three add up to 100.
        val_percent: above 0.
        test_percent: 0 writes no ``test.txt``, and deletes an existing one.
        seed: the same one splits the same images in the same way.
        group_by: a regular expression; images whose paths give the same first group (or, without groups, the same
            match) stay together. Or ``near-duplicates``: equal and nearly equal pictures stay together.
        delimiter: between path and class id of the lists, the new ones too. If not given, spaces or a tab are read and
            a space is written.
        split_folders: of class folders, the folder of each split; empty if the first folders are the classes. Default:
            found by their names.
        storage: how object storage is reached.
        measure: looks at all images, for ``near-duplicates``.

    Raises:
        UsageError: the percentages do not add up, the dataset has a fault, an image has two classes, a class has too
            few images, or a path is not matched; nothing was written.
        StorageError: something cannot be written; says in which state the folder is.
    """
    shares = _shares(dict(zip(SPLITS, (train_percent, val_percent, test_percent), strict=True)))
    pattern = None if group_by == NEAR_DUPLICATES else _compile(group_by)
    if delimiter == "":
        raise UsageError("delimiter must not be empty; leave it out for spaces and tabs")
    place = _place_of(dataset, storage)
    refuse_if_unfinished(place.directory)
    pool = _read_table(place, storage) if place.table else _read(place, delimiter, split_folders, storage)
    num_groups, num_unknown = None, 0
    if group_by == NEAR_DUPLICATES:
        assert measure is not None, "images are to be looked at"
        # Before all images are read: there are no more groups than images.
        _refuse_small_classes(dataset, pool, None, list(shares))
        looks = measure(pool.images)
        groups, dealt, num_unknown = _deal_looks(dataset, pool, looks, shares, seed=seed)
        num_groups = len(set(groups.values()))
    else:
        by_path = None if pattern is None else _groups(place, pool.images, pattern)
        dealt = _deal(dataset, pool, by_path, shares, seed=seed)
        num_groups = None if by_path is None else len(set(by_path.values()))
    backups = replace_lists(place.directory, pool.contents(dealt, list(shares)), pool.originals)
    per_class = {split: Counter(image.label for image in pool.images if dealt[image.path] == split) for split in shares}
    return SplitReport(
        dataset=dataset,
        num_images={split: counts.total() for split, counts in per_class.items()},
        images_per_class=per_class,
        num_groups=num_groups,
        num_unknown=num_unknown,
        num_duplicates=pool.num_duplicates,
        deviation=_largest_deviation(pool.source, per_class, shares),
        backups=backups,
    )


def _shares(percents: Mapping[str, float]) -> dict[str, Fraction]:
    """The exact share of each split that is wanted; 1 together."""
    for split, percent in percents.items():
        if not math.isfinite(percent) or percent < 0 or (percent == 0 and split != "test"):
            at_least = "0 or more" if split == "test" else "more than 0"
            raise UsageError(f"the {split} percentage must be {at_least}, got {percent:g}")
    # By their decimals: in binary, 0.3 percent of 1,000 images is a little less than 3.
    exact = {split: Fraction(repr(float(percent))) for split, percent in percents.items() if percent}
    total = sum(exact.values(), Fraction(0))
    if abs(total - 100) > _TOLERANCE_PERCENT:
        asked = " + ".join(f"{percent:g} ({split})" for split, percent in percents.items() if percent)
        raise UsageError(f"the percentages must add up to 100: {asked} is {float(total):.10g}")
    return {split: percent / total for split, percent in exact.items()}


def _compile(group_by: str | None) -> re.Pattern[str] | None:
    try:
        return None if group_by is None else re.compile(group_by)
    except re.error as error:
        raise UsageError(f"{group_by!r} is not a regular expression: {error}") from error


class _Place(NamedTuple):
    """Where the lists or the table of a dataset are."""

    dataset: str
    name: str
    """Of the folder, for people."""
    directory: Directory
    table: str
    """Name of the table; empty for a folder."""


def _place_of(dataset: str, storage: StorageOptions) -> _Place:
    check_address(dataset)
    if not is_object(dataset) and scheme_of(dataset) not in ("", "file"):
        raise UsageError(
            f"{dataset}: is not split there; give a local folder or table, or one on s3://, gs:// or az://"
        )
    path = dataset if is_object(dataset) else str(Path(path_from_uri(dataset)))
    is_folder = not is_object(dataset) and os.path.isdir(path)
    if not is_folder and path.lower().endswith(TABLES):
        if path.lower().endswith(".parquet") and is_packed_table(dataset, storage):
            raise UsageError(f"{dataset}: {_NOT_PACKED}")
        folder, name = posixpath.split(path)
        return _Place(dataset, folder or ".", open_directory(folder or ".", storage), name)
    if not is_object(dataset) and not is_folder:
        what = "is not a folder" if os.path.exists(path) else "there is no such folder"
        raise InputError(f"{dataset}: {what}")
    return _Place(dataset, path.rstrip("/") or "/", open_directory(path, storage), "")


class _Pool(NamedTuple):
    """All images of a dataset, each once."""

    source: DatasetSource
    images: list[Entry]
    originals: dict[str, bytes]
    """By name, as they were read, the files that new ones will replace."""
    num_duplicates: int
    contents: Callable[[Mapping[str, str], list[str]], dict[str, bytes | None]]
    """What is to be written, by name of file, for the split of each path; None for what is to go."""


class ReadOnce:
    """A folder that keeps the contents that were read, so that backups equal them even if a list changes meanwhile."""

    def __init__(self, folder: Directory) -> None:
        self._folder = folder
        self.contents: dict[str, bytes] = {}

    def entries(self) -> Iterator[str]:
        return self._folder.entries()

    def open(self, name: str) -> BinaryIO:
        if name not in self.contents:
            self.contents[name] = self._folder.read(name)
        return io.BytesIO(self.contents[name])


def _read(
    place: _Place, delimiter: str | None, split_folders: Mapping[str, str] | None, storage: StorageOptions
) -> _Pool:
    """Lists, or folders of classes."""
    opened = ReadOnce(place.directory)
    source = read_dataset(
        place.dataset, delimiter=delimiter, split_folders=split_folders, storage=storage, folder=opened
    )
    source.tell_notes()
    if source.files and not source.splits:
        # Otherwise the folder of all the images would be taken for a class.
        raise UsageError(
            f"{place.name}: has {source.label_file}, but none of {', '.join(LISTS)}; add them, or remove "
            f"{source.label_file} to have it made of folders of classes"
        )
    lists = source.list_files or {split: f"{split}.txt" for split in SPLITS}

    def is_refused(finding: Finding) -> bool:
        # Lists that are not there are what a split makes; without label.txt classes are called by their ids.
        return finding.file in source.files

    refuse = _refusing(place, is_refused)
    for finding in source.findings:
        refuse(finding)
    images, num_duplicates = _each_once(place, source.read(refuse))
    if not images:
        raise UsageError(
            f"{place.name}: no image in {', '.join(name for name in lists.values() if name in source.files)}"
        )
    lines = {
        image.path: _written(place, image.where, image.path, write_entry(place.dataset, image, delimiter))
        for image in images
    }
    labels = []
    if source.label_file is None:
        names = enumerate(map(str, source.class_names))
        labels = [_written(place, LABEL_FILE, name, write_class_name(label, name)) for label, name in names]
    originals = {name: data for name, data in opened.contents.items() if name in lists.values()}

    def contents(dealt: Mapping[str, str], splits: list[str]) -> dict[str, bytes | None]:
        texts: dict[str, list[str]] = {lists[split]: [] for split in splits}
        for path, line in sorted(lines.items()):
            texts[lists[dealt[path]]].append(line)
        if labels:
            texts[LABEL_FILE] = labels
        gone = {name: None for name in originals if name not in texts}
        return {**{name: "".join(text).encode() for name, text in texts.items()}, **gone}

    return _Pool(source, images, originals, num_duplicates, contents)


def _read_table(place: _Place, storage: StorageOptions) -> _Pool:
    """A table, of which every row stays: those of one image come into one split."""
    try:
        data = place.directory.read(place.table)
    except FileNotFoundError:
        raise InputError(f"{place.dataset}: there is no such file") from None
    source = read_dataset(place.dataset, storage=storage)
    refuse = _refusing(place, lambda _: True)
    for finding in source.findings:
        refuse(finding)
    rows = list(source.read(refuse))
    images, _ = _each_once(place, rows)
    if not images:
        raise UsageError(f"{place.dataset}: has no row with an image")

    def contents(dealt: Mapping[str, str], _splits: list[str]) -> dict[str, bytes | None]:
        split_of = {image.uri: dealt[image.path] for image in images}
        splits = {row.line or 0: split_of[row.uri] for row in rows}
        return {place.table: with_splits(place.dataset, data, splits)}

    return _Pool(source, images, {place.table: data}, 0, contents)


def _refusing(place: _Place, is_refused: Callable[[Finding], bool]) -> Callable[[Finding], None]:
    """What is done with a finding: warnings are told, faults refused."""

    def refuse(finding: Finding) -> None:
        if finding.code.severity is Severity.WARNING:
            logger.warning("%s: %s", place.name, finding.text)
        elif is_refused(finding):
            way_out = "give delimiter, e.g. ','; " if finding.code is FindingCode.UNKNOWN_DELIMITER else ""
            shown = place.dataset if place.table else place.name
            raise UsageError(f"{place.name}: {finding.text}; {way_out}`imgcls check {shown}` lists every fault")

    return refuse


def _each_once(place: _Place, entries: Iterable[Entry]) -> tuple[list[Entry], int]:
    """Each image once, and the number of lines that named one again."""
    kept: dict[str, Entry] = {}
    num_lines = 0
    for image in entries:
        num_lines += 1
        # "./a.jpg" and "a.jpg" are one image: it must not come into two splits.
        known = kept.setdefault(image.uri, image)
        if known.label != image.label:
            raise UsageError(
                f"{place.name}/{image.where}: {image.path} is of class {image.label} here and of class {known.label} "
                f"in {known.where}; leave one of the lines"
            )
        if image.path < known.path:
            # Whichever line comes first, the same spelling stays.
            kept[image.uri] = known._replace(path=image.path)
    return list(kept.values()), num_lines - len(kept)


def _written(place: _Place, where: str, name: str, line: str | None) -> str:
    if line is None:
        raise UsageError(
            f"{place.name}/{where}: the name {name[:200]!r} cannot stand in a list: it would be read back as another "
            "one; rename it"
        )
    return line


def _groups(place: _Place, images: Iterable[Entry], pattern: re.Pattern[str]) -> dict[str, str]:
    groups = {}
    for image in images:
        match = pattern.search(image.path)
        group = match[1 if pattern.groups else 0] if match else None
        if group is None:
            raise UsageError(
                f"{place.name}/{image.where}: {pattern.pattern!r} does not match {image.path}, so it has no group; "
                "give an expression that matches every path"
            )
        groups[image.path] = group
    return groups


def _refuse_small_classes(dataset: str, pool: _Pool, groups: Mapping[str, str] | None, splits: list[str]) -> None:
    members: dict[int, set[str]] = {}
    for image in pool.images:
        members.setdefault(image.label, set()).add(groups[image.path] if groups else image.path)
    small = [class_id for class_id in sorted(members) if len(members[class_id]) < len(splits)]
    if not small:
        return
    noun = "groups" if groups else "images"
    named = ", ".join(f"{pool.source.class_name(i)} ({len(members[i])})" for i in small[:_MAX_CLASSES_NAMED])
    more = f" and {len(small) - _MAX_CLASSES_NAMED:,} more" if len(small) > _MAX_CLASSES_NAMED else ""
    fewer = " or ask for fewer splits" if len(splits) > 2 else ""
    raise UsageError(
        f"{dataset}: {len(splits)} splits need at least {len(splits)} {noun} of every class, "
        f"and too few has {named}{more}; add {noun}, take these classes out{fewer}"
    )


def _deal(
    dataset: str, pool: _Pool, groups: Mapping[str, str] | None, shares: Mapping[str, Fraction], *, seed: int
) -> dict[str, str]:
    """The split of every path."""
    _refuse_small_classes(dataset, pool, groups, list(shares))
    class_ids = {image.path: image.label for image in pool.images}
    splits = list(shares)
    try:
        if groups is None:
            dealt = deal_images(class_ids, list(shares.values()), seed=seed)
        else:
            dealt = deal_groups(class_ids, groups, list(shares.values()), seed=seed)
    except UncoveredError as error:
        name = pool.source.class_name(error.class_id)
        raise UsageError(
            f"{dataset}: the groups hold several classes, and no image of {name} came into "
            f"{splits[error.split]}; try another seed or smaller groups"
        ) from error
    return {path: splits[number] for path, number in dealt.items()}


def _deal_looks(
    dataset: str, pool: _Pool, looks: Looks, shares: Mapping[str, Fraction], *, seed: int
) -> tuple[dict[str, str], dict[str, str], int]:
    """The group and the split of every path, such that no pictures of two splits are nearly the same.

    Returns:
        Both, and the number of images of which that is not known.
    """
    from imgcls_ray.datasets.duplicate_groups import group_names

    pairs = looks.pairs().pairs
    paths = [image.path for image in pool.images]
    while True:
        groups = group_names(pairs, paths)
        dealt = _deal(dataset, pool, groups, shares, seed=seed)
        # Among thousands of pictures that look alike, not all pairs are compared, but those of two splits.
        across = looks.pairs_across(np.array([SPLITS.index(dealt[path]) for path in paths], np.int8))
        if not len(across.pairs):
            return groups, dealt, across.num_unknown + looks.num_unreadable
        pairs = np.concatenate([pairs, across.pairs])


def _largest_deviation(
    source: DatasetSource, per_class: Mapping[str, Counter[int]], shares: Mapping[str, Fraction]
) -> Deviation:
    num_images = sum(per_class.values(), Counter[int]())
    return max(
        (
            Deviation(source.class_name(label), split, per_class[split][label], float(num_images[label] * share))
            for label in sorted(num_images)
            for split, share in shares.items()
        ),
        key=lambda deviation: abs(deviation.num_images - deviation.wanted),
    )
