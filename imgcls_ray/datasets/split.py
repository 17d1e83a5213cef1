"""Split a labelled dataset: distribute its images over new lists.

The split is stratified by class, seeded, and independent of the order of the lines. No image is read or moved. The
dataset is read as in check and training. A dataset with faults is refused, because a new list must not lose a line.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.class_name_files import LABEL_FILE, write_class_name
from imgcls_ray.datasets.findings import Finding, FindingCode, Severity
from imgcls_ray.datasets.list_files import LISTS, write_entry
from imgcls_ray.datasets.rewrite import refuse_if_unfinished, replace_lists
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.datasets.stratify import UncoveredError, deal_groups, deal_images
from imgcls_ray.errors import InputError, UsageError
from imgcls_ray.storage.files import path_from_uri, scheme_of
from imgcls_ray.storage.local import LocalDirectory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from imgcls_ray.datasets.labelled import DatasetSource, Entry

logger = logging.getLogger(__name__)

_TOLERANCE_PERCENT = 1e-6
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
) -> SplitReport:
    """Pool all images of train, val and test, and split them anew.

    Args:
        dataset: a local folder with lists (any of ``train.txt``, ``val.txt``, ``test.txt``; ``PATH CLASS_ID`` a line),
            or with folders of classes, for which lists and ``label.txt`` are written beside them.
        train_percent: above 0; all three add up to 100.
        val_percent: above 0.
        test_percent: 0 writes no ``test.txt``, and deletes an existing one.
        seed: the same one splits the same images in the same way.
        group_by: a regular expression; images whose paths give the same first group (or, without groups, the same
            match) stay together.
        delimiter: between path and class id of the lists, the new ones too. If not given, spaces or a tab are read and
            a space is written.
        split_folders: of class folders, the folder of each split; empty if the first folders are the classes. Default:
            found by their names.

    Raises:
        UsageError: the percentages do not add up, the dataset has a fault, an image has two classes, a class has too
            few images, or a path is not matched; nothing was written.
        StorageError: something cannot be written; says in which state the folder is.
    """
    shares = _shares(dict(zip(SPLITS, (train_percent, val_percent, test_percent), strict=True)))
    pattern = _compile(group_by)
    if delimiter == "":
        raise UsageError("delimiter must not be empty; leave it out for spaces and tabs")
    folder = local_folder(dataset, "are split")
    refuse_if_unfinished(folder)
    pool = _read(folder, delimiter, split_folders)
    groups = None if pattern is None else _groups(folder, pool.images, pattern)
    _refuse_small_classes(dataset, pool, groups, list(shares))
    dealt = _deal(dataset, pool, groups, shares, seed=seed)
    backups = replace_lists(folder, _contents(pool, dealt, list(shares)), pool.originals)
    per_class = {split: Counter(image.label for image in pool.images if dealt[image.path] == split) for split in shares}
    return SplitReport(
        dataset=dataset,
        num_images={split: counts.total() for split, counts in per_class.items()},
        images_per_class=per_class,
        num_groups=None if groups is None else len(set(groups.values())),
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


def local_folder(dataset: str, what: str) -> Path:
    """The folder of a dataset whose lists are to be replaced.

    Args:
        dataset: must be local.
        what: that only local folders do, for the error message.

    Raises:
        UsageError: it is not.
        InputError: there is none.
    """
    if scheme_of(dataset) not in ("", "file"):
        raise UsageError(
            f"{dataset}: only local folders {what}; copy its lists to one, do it there and copy them back: the images "
            "are not needed"
        )
    folder = Path(path_from_uri(dataset))
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "there is no such folder"
        raise InputError(f"{dataset}: {what}")
    return folder


@dataclass(frozen=True)
class _Pool:
    """All images of a dataset, each once."""

    source: DatasetSource
    images: list[Entry]
    lines: list[str]
    """Of new lists, one for each image."""
    lists: Mapping[str, str]
    """Name of each split's list."""
    label_lines: list[str]
    """Of ``label.txt``, where folders give the classes."""
    originals: dict[str, bytes]
    """By name, as they were read, the lists that new ones will replace."""
    num_duplicates: int


class ReadOnce:
    """A folder that keeps the contents that were read, so that backups equal them even if a list changes meanwhile."""

    def __init__(self, folder: LocalDirectory) -> None:
        self._folder = folder
        self.contents: dict[str, bytes] = {}

    def entries(self) -> Iterator[str]:
        return self._folder.entries()

    def open(self, name: str) -> BinaryIO:
        if name not in self.contents:
            self.contents[name] = self._folder.read(name)
        return io.BytesIO(self.contents[name])


def _read(folder: Path, delimiter: str | None, split_folders: Mapping[str, str] | None) -> _Pool:
    opened = ReadOnce(LocalDirectory(str(folder)))
    source = read_dataset(str(folder), delimiter=delimiter, split_folders=split_folders, folder=opened)
    source.tell_notes()
    if source.files and not source.splits:
        # Otherwise the folder of all the images would be taken for a class.
        raise UsageError(
            f"{folder}: has {source.label_file}, but none of {', '.join(LISTS)}; add them, or remove "
            f"{source.label_file} to have it made of folders of classes"
        )
    lists = source.list_files or {split: f"{split}.txt" for split in SPLITS}

    def refuse(finding: Finding) -> None:
        if finding.code.severity is Severity.WARNING:
            logger.warning("%s: %s", folder, finding.text)
        # Lists that are not there are what a split makes; without label.txt classes are called by their ids.
        elif finding.file in source.files:
            way_out = "give delimiter, e.g. ','; " if finding.code is FindingCode.UNKNOWN_DELIMITER else ""
            raise UsageError(f"{folder}: {finding.text}; {way_out}`imgcls check {folder}` lists every fault")

    for finding in source.findings:
        refuse(finding)
    images, num_duplicates = _each_once(folder, source.read(refuse))
    if not images:
        raise UsageError(f"{folder}: no image in {', '.join(name for name in lists.values() if name in source.files)}")
    lines = [_written(folder, image.where, image.path, write_entry(str(folder), image, delimiter)) for image in images]
    labels = []
    if source.label_file is None:
        names = enumerate(map(str, source.class_names))
        labels = [_written(folder, LABEL_FILE, name, write_class_name(label, name)) for label, name in names]
    originals = {name: data for name, data in opened.contents.items() if name in lists.values()}
    return _Pool(source, images, lines, lists, labels, originals, num_duplicates)


def _each_once(folder: Path, entries: Iterable[Entry]) -> tuple[list[Entry], int]:
    """Each image once, and the number of lines that named one again."""
    kept: dict[str, Entry] = {}
    num_lines = 0
    for image in entries:
        num_lines += 1
        # "./a.jpg" and "a.jpg" are one image: it must not come into two splits.
        known = kept.setdefault(image.uri, image)
        if known.label != image.label:
            raise UsageError(
                f"{folder / image.where}: {image.path} is of class {image.label} here and of class {known.label} in "
                f"{known.where}; leave one of the lines"
            )
        if image.path < known.path:
            # Whichever line comes first, the same spelling stays.
            kept[image.uri] = known._replace(path=image.path)
    return list(kept.values()), num_lines - len(kept)


def _written(folder: Path, where: str, name: str, line: str | None) -> str:
    if line is None:
        raise UsageError(
            f"{folder / where}: the name {name[:200]!r} cannot stand in a list: it would be read back as another one; "
            "rename it"
        )
    return line


def _groups(folder: Path, images: Iterable[Entry], pattern: re.Pattern[str]) -> dict[str, str]:
    groups = {}
    for image in images:
        match = pattern.search(image.path)
        group = match[1 if pattern.groups else 0] if match else None
        if group is None:
            raise UsageError(
                f"{folder / image.where}: {pattern.pattern!r} does not match {image.path}, so it has no group; give an "
                "expression that matches every path"
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


def _contents(pool: _Pool, dealt: Mapping[str, str], splits: list[str]) -> dict[str, bytes | None]:
    """What is to be written, by name of file; None for what is to go."""
    lines: dict[str, list[str]] = {pool.lists[split]: [] for split in splits}
    for image, line in sorted(zip(pool.images, pool.lines, strict=True), key=lambda pair: pair[0].path):
        lines[pool.lists[dealt[image.path]]].append(line)
    if pool.label_lines:
        lines[LABEL_FILE] = pool.label_lines
    gone = {name: None for name in pool.originals if name not in lines}
    return {**{name: "".join(text).encode() for name, text in lines.items()}, **gone}


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
