"""Split a labelled dataset anew: the same images, dealt to other lists.

Stratified by class, seeded, and the same whatever the order of the lines was. No image is read or moved.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.datasets.pool import LABELS, LISTS, read_pool
from imgcls_ray.datasets.result import SPLITS
from imgcls_ray.datasets.rewrite import refuse_if_unfinished, replace_lists
from imgcls_ray.datasets.stratify import UncoveredError, deal_groups, deal_images
from imgcls_ray.errors import InputError, UsageError
from imgcls_ray.storage.files import path_from_uri, scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgcls_ray.datasets.pool import Pool, PooledImage

_TOLERANCE_PERCENT = 1e-6
_MAX_CLASSES_NAMED = 10


class Deviation(NamedTuple):
    """Of the class and split whose count is farthest from its exact share."""

    class_id: int
    split: str
    num_images: int
    wanted: float
    """Images; the class's exact share."""


@dataclass(frozen=True)
class SplitReport:
    """What a split made of a dataset."""

    dataset: str
    num_images: dict[str, int]
    """By split, in the order train, val, test; those that were asked for."""
    images_per_class: dict[str, Counter[int]]
    """By split, then by class id."""
    class_names: list[str] | None
    """By class id, where folders gave the classes; None where lists gave ids."""
    num_groups: int | None
    """How many groups stayed together; None without ``group_by``."""
    num_duplicates: int
    """Lines that named an image again and were left out."""
    deviation: Deviation
    backups: dict[str, str]
    """The name of its backup by the name of each file that was replaced or taken away."""


def split_dataset(
    dataset: str,
    *,
    train_percent: float,
    val_percent: float,
    test_percent: float = 0,
    seed: int = 0,
    group_by: str | None = None,
) -> SplitReport:
    """Pool all images of train, val and test, and split them anew.

    Args:
        dataset: a local folder with lists (``train.txt``, ``val.txt``, ``test.txt``; ``PATH CLASS_ID`` a line), or with
            folders of classes, for which lists and ``label.txt`` are written beside them.
        train_percent: above 0; all three add up to 100.
        val_percent: above 0.
        test_percent: 0 makes no ``test.txt``, and takes away one that is there.
        seed: the same one splits the same images in the same way.
        group_by: a regular expression; images whose paths give the same first group (or, without groups, the same
            match) stay together.

    Raises:
        UsageError: the percentages do not add up, a line cannot be read, an image has two classes, a class has too few
            images, or a path is not matched; nothing was written.
        StorageError: something cannot be written; with the state that the folder is in.
    """
    shares = _shares(dict(zip(SPLITS, (train_percent, val_percent, test_percent), strict=True)))
    pattern = _compile(group_by)
    folder = _local_folder(dataset)
    refuse_if_unfinished(folder)
    pool = read_pool(folder)
    groups = None if pattern is None else _groups(folder, pool.images, pattern)
    _refuse_small_classes(dataset, pool, groups, list(shares))
    dealt = _deal(dataset, pool, groups, shares, seed=seed)
    backups = replace_lists(folder, _contents(pool, dealt, list(shares)), pool.originals)
    per_class = {
        split: Counter(image.class_id for image in pool.images if dealt[image.path] == split) for split in shares
    }
    return SplitReport(
        dataset=dataset,
        num_images={split: counts.total() for split, counts in per_class.items()},
        images_per_class=per_class,
        class_names=pool.class_names,
        num_groups=None if groups is None else len(set(groups.values())),
        num_duplicates=pool.num_duplicates,
        deviation=_largest_deviation(per_class, shares),
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


def _local_folder(dataset: str) -> Path:
    if scheme_of(dataset) not in ("", "file"):
        raise UsageError(
            f"{dataset}: only local folders are split; copy its lists to one, split them there and copy them back: the "
            "images are not needed"
        )
    folder = Path(path_from_uri(dataset))
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "there is no such folder"
        raise InputError(f"{dataset}: {what}")
    return folder


def _groups(folder: Path, images: Iterable[PooledImage], pattern: re.Pattern[str]) -> dict[str, str]:
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


def _refuse_small_classes(dataset: str, pool: Pool, groups: Mapping[str, str] | None, splits: list[str]) -> None:
    members: dict[int, set[str]] = {class_id: set() for class_id in range(len(pool.class_names or ()))}
    for image in pool.images:
        members.setdefault(image.class_id, set()).add(groups[image.path] if groups else image.path)
    small = [class_id for class_id in sorted(members) if len(members[class_id]) < len(splits)]
    if not small:
        return
    noun = "groups" if groups else "images"
    named = ", ".join(f"{class_label(i, pool.class_names)} ({len(members[i])})" for i in small[:_MAX_CLASSES_NAMED])
    more = f" and {len(small) - _MAX_CLASSES_NAMED:,} more" if len(small) > _MAX_CLASSES_NAMED else ""
    fewer = " or ask for fewer splits" if len(splits) > 2 else ""
    raise UsageError(
        f"{dataset}: {len(splits)} splits need at least {len(splits)} {noun} of every class, "
        f"and too few has {named}{more}; add {noun}, take these classes out{fewer}"
    )


def _deal(
    dataset: str, pool: Pool, groups: Mapping[str, str] | None, shares: Mapping[str, Fraction], *, seed: int
) -> dict[str, str]:
    """The split of every path."""
    class_ids = {image.path: image.class_id for image in pool.images}
    splits = list(shares)
    try:
        if groups is None:
            dealt = deal_images(class_ids, list(shares.values()), seed=seed)
        else:
            dealt = deal_groups(class_ids, groups, list(shares.values()), seed=seed)
    except UncoveredError as error:
        name = class_label(error.class_id, pool.class_names)
        raise UsageError(
            f"{dataset}: the groups hold several classes, and no image of {name} came into "
            f"{splits[error.split]}; try another seed or smaller groups"
        ) from error
    return {path: splits[number] for path, number in dealt.items()}


def _contents(pool: Pool, dealt: Mapping[str, str], splits: list[str]) -> dict[str, bytes | None]:
    """What is to be written, by name of file; None for what is to go."""
    lines: dict[str, list[str]] = {split: [] for split in splits}
    for image in sorted(pool.images):
        lines[dealt[image.path]].append(f"{image.path} {image.class_id}\n")
    contents: dict[str, bytes | None] = {f"{split}.txt": "".join(lines[split]).encode() for split in splits}
    contents |= {name: None for name in LISTS if name in pool.originals and name not in contents}
    if pool.class_names is not None:
        contents[LABELS] = "".join(f"{i} {name}\n" for i, name in enumerate(pool.class_names)).encode()
    return contents


def _largest_deviation(per_class: Mapping[str, Counter[int]], shares: Mapping[str, Fraction]) -> Deviation:
    num_images = sum(per_class.values(), Counter[int]())
    return max(
        (
            Deviation(class_id, split, per_class[split][class_id], float(num_images[class_id] * share))
            for class_id in sorted(num_images)
            for split, share in shares.items()
        ),
        key=lambda deviation: abs(deviation.num_images - deviation.wanted),
    )


def class_label(class_id: int, class_names: list[str] | None) -> str:
    """A class as people are told of it."""
    return f"class {class_id}" if class_names is None else class_names[class_id]
