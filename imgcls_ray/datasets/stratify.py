"""Distribute images, or groups of images, over splits so that each class keeps its shares.

The result does not depend on the order of images, groups or classes: they are sorted by a hash of seed and name, which
is the same on every machine and in every version of Python. No file is read.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class UncoveredError(ValueError):
    """With these groups, a class has no image in a split."""

    def __init__(self, class_id: int, split: int) -> None:
        super().__init__(f"class {class_id} has no image in split {split}")
        self.class_id, self.split = class_id, split


def deal_images(class_ids: Mapping[str, int], shares: Sequence[Fraction], *, seed: int) -> dict[str, int]:
    """Assign every image to a split; the counts are those of ``split_counts``.

    Args:
        class_ids: by path.
        shares: of the splits, each above 0, 1 together. Every class needs at least as many images as there are splits.
        seed: random seed.

    Returns:
        The number of its split by path.
    """
    paths: dict[int, list[str]] = defaultdict(list)
    for path in sorted(class_ids, key=lambda path: _order(seed, path)):
        paths[class_ids[path]].append(path)
    classes = sorted(paths)
    dealt: dict[str, int] = {}
    counts = split_counts([len(paths[class_id]) for class_id in classes], shares)
    for class_id, row in zip(classes, counts, strict=True):
        numbers = [split for split, count in enumerate(row) for _ in range(count)]
        dealt.update(zip(paths[class_id], numbers, strict=True))
    return dealt


def split_counts(num_images: Sequence[int], shares: Sequence[Fraction]) -> list[list[int]]:
    """How many images of each class go to each split.

    Every count is the exact share, rounded up or down, but at least 1. The largest remainders are rounded up, so that
    the totals of the splits are near their exact shares, too.

    Args:
        num_images: per class, each at least the number of splits.
        shares: of the splits, each above 0, 1 together.

    Returns:
        Counts (classes, splits); each row adds up to the class's images.
    """
    totals = _largest_remainders(sum(num_images), shares)
    bounds = [_bounds(num, shares) for num in num_images]
    counts: list[list[int]] = [[] for _ in num_images]
    left = list(num_images)
    for split, share in enumerate(shares):
        # What the splits after this one need and can take bounds what this one takes.
        lows, highs = [], []
        for rest, row in zip(left, bounds, strict=True):
            later = row[split + 1 :]
            lows.append(max(row[split].low, rest - sum(bound.high for bound in later)))
            highs.append(min(row[split].high, rest - sum(bound.low for bound in later)))
        taken = _fill(lows, highs, [num * share for num in num_images], totals[split])
        for i, count in enumerate(taken):
            counts[i].append(count)
            left[i] -= count
    return counts


class _Bounds(NamedTuple):
    low: int
    high: int


def _bounds(num_images: int, shares: Sequence[Fraction]) -> list[_Bounds]:
    """Between what each split of a class may have: its share, rounded down and up, and at least 1."""
    lows = [max(1, floor(num_images * share)) for share in shares]
    highs = [max(1, ceil(num_images * share)) for share in shares]
    # 3 images of 90, 5 and 5 percent: 2 + 1 + 1 are too many. The largest split gives.
    while sum(lows) > num_images:
        lows[lows.index(max(lows))] -= 1
    return [_Bounds(low, high) for low, high in zip(lows, highs, strict=True)]


def _fill(lows: list[int], highs: list[int], exact: Sequence[Fraction], total: int) -> list[int]:
    """Counts between ``lows`` and ``highs`` that add up to ``total``, or come as near as they can."""
    counts = list(lows)
    steps = [(low + k - exact[i], i) for i, low in enumerate(lows) for k in range(highs[i] - low)]
    for _, i in sorted(steps)[: max(0, total - sum(lows))]:
        counts[i] += 1
    return counts


def _largest_remainders(num: int, shares: Sequence[Fraction]) -> list[int]:
    exact = [num * share for share in shares]
    counts = [floor(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: num - sum(counts)]:
        counts[i] += 1
    return counts


def deal_groups(
    class_ids: Mapping[str, int], groups: Mapping[str, str], shares: Sequence[Fraction], *, seed: int
) -> dict[str, int]:
    """Assign every image to a split, and all images of a group to the same split.

    Greedy: the largest group first, each to the split that lacks most of the group's images. If a class has only as
    many groups left as there are splits without this class, its next group goes to one of these splits.

    Args:
        class_ids: by path.
        groups: by path.
        shares: as for ``deal_images``. Every class needs at least as many groups as there are splits.
        seed: decides between groups of one size.

    Returns:
        The number of its split by path.

    Raises:
        UncoveredError: groups of several classes that left a class without any image in a split.
    """
    members: dict[str, Counter[int]] = defaultdict(Counter)
    for path, class_id in class_ids.items():
        members[groups[path]][class_id] += 1
    num_images = Counter(class_ids.values())
    # How much each split still lacks of each class, in parts of the class.
    lacks = [dict.fromkeys(num_images, share) for share in shares]
    groups_left = Counter(class_id for classes in members.values() for class_id in classes)
    without = {class_id: set(range(len(shares))) for class_id in num_images}
    split_of: dict[str, int] = {}
    for group in sorted(members, key=lambda group: (-members[group].total(), _order(seed, group))):
        parts = {class_id: Fraction(count, num_images[class_id]) for class_id, count in members[group].items()}
        urgent = [class_id for class_id in parts if groups_left[class_id] <= len(without[class_id])]

        def merit(
            split: int, parts: dict[int, Fraction] = parts, urgent: list[int] = urgent
        ) -> tuple[int, Fraction, int]:
            num_covered = sum(split in without[class_id] for class_id in urgent)
            wanted = sum((part * lacks[split][class_id] for class_id, part in parts.items()), Fraction(0))
            return num_covered, wanted, -split

        split = split_of[group] = max(range(len(shares)), key=merit)
        for class_id, part in parts.items():
            lacks[split][class_id] -= part
            groups_left[class_id] -= 1
            without[class_id].discard(split)
    for class_id in sorted(without):
        for split in sorted(without[class_id]):
            raise UncoveredError(class_id, split)
    return {path: split_of[groups[path]] for path in class_ids}


def _order(seed: int, name: str) -> tuple[bytes, str]:
    return hashlib.blake2b(f"{seed}\0{name}".encode(errors="surrogatepass"), digest_size=16).digest(), name
