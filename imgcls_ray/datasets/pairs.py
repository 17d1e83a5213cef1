"""Find pairs among the entries of a dataset: similar names, equal files, and pictures that look nearly the same."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from imgcls_ray.datasets.bursts import confirm_pairs
from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.duplicates import equal_groups, near_pictures
from imgcls_ray.datasets.findings import Finding, FindingCode, ImageFinding
from imgcls_ray.datasets.inspecting import folded
from imgcls_ray.errors import ImageError
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.measure import copy_difference, views
from imgcls_ray.machine import available_cores
from imgcls_ray.packed.listing import fetch_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgcls_ray.config import CheckConfig
    from imgcls_ray.datasets.entry_file import EntryFile
    from imgcls_ray.datasets.inspecting import InspectTask
    from imgcls_ray.datasets.labelled import DatasetSource, Entry

_MIN_COMPARED = 20_000
"""Pairs of two splits, and pairs within the splits, whose pixels are compared: so many, or as many as there are images
if these are more. They are pairs that look alike, connect nothing that is connected, and mostly turn out to differ."""
_NUM_KEPT = 1024
"""Pictures whose views are kept: 32 KiB each."""

Columns = dict[str, np.ndarray]


def find_pairs(
    columns: Columns, source: DatasetSource, entries: EntryFile, config: CheckConfig, task: InspectTask
) -> Iterator[ImageFinding]:
    """Find similar names, then equal bytes, then nearly equal pictures.

    Args:
        columns: of all M entries, in any order: ``named`` (their numbers, 0 to M - 1), ``path_hash`` and
            ``folded_hash``. Of the N images that can be read: ``number``, ``split``, ``label``, ``digest``,
            ``hashes`` and ``has_looks``. They are sorted in place.
        source: gives the names of classes.
        entries: where images are.
        config: which pictures are nearly equal.
        task: limits for reading pictures again.
    """
    # Blocks come back in any order; what is found, and what is said of it, must not depend on it.
    _sort_by(columns, "named", ("path_hash", "folded_hash"))
    _sort_by(columns, "number", ("split", "label", "digest", "hashes", "has_looks"))
    yield from _similar_names(columns)
    yield from _equal_files(columns, source)
    yield from _near_pictures(columns, source, entries, config, task)


def class_twins(source: DatasetSource) -> Iterator[Finding]:
    """Classes whose names differ only in case or in how an accent is written."""
    firsts: dict[str, str] = {}
    for name in dict.fromkeys(name for name in source.class_names if name is not None):
        if (other := firsts.setdefault(folded(name), name)) != name:
            # Two spellings of an accent look alike unless they are escaped.
            told = repr if other.casefold() == name.casefold() else ascii
            what = f"the classes {told(other)} and {told(name)}"
            yield Finding(FindingCode.NAME_TWINS, source.label_file or "", class_name=name, detail=what)


def _similar_names(columns: Columns) -> Iterator[ImageFinding]:
    for places in equal_groups(columns["folded_hash"]):
        hashes = columns["path_hash"][places]
        _, firsts = np.unique(hashes, return_index=True)
        first, *others = np.sort(columns["named"][places[firsts]])
        for other in others:
            yield ImageFinding(FindingCode.NAME_TWINS, int(other), "differs only in case or accents", int(first))
    for places in equal_groups(columns["path_hash"]):
        first, *others = np.sort(columns["named"][places])
        for other in others:
            yield ImageFinding(FindingCode.DUPLICATE_LINE, int(other), "is listed before", int(first))


def _equal_files(columns: Columns, source: DatasetSource) -> Iterator[ImageFinding]:
    numbers, splits, labels = columns["number"], columns["split"], columns["label"]
    # Every entry has a name, so its number is its place there.
    path_hash_of = columns["path_hash"]
    for places in equal_groups(columns["digest"]):
        first = places[0]
        for place in places[1:]:
            number, other = int(numbers[place]), int(numbers[first])
            is_same_file = path_hash_of[number] == path_hash_of[other]
            what = "the same file" if is_same_file else "the same bytes"
            if labels[place] != labels[first]:
                names = (source.class_name(int(labels[at])) for at in (place, first))
                yield ImageFinding(FindingCode.CONFLICTING_LABELS, number, f"{what}: {' and '.join(names)}", other)
            if splits[place] != splits[first]:
                yield ImageFinding(FindingCode.LEAKAGE, number, f"{what} in {SPLITS[splits[first]]}", other)
            elif not is_same_file:
                yield ImageFinding(FindingCode.EXACT_DUPLICATE, number, what, other)


def _near_pictures(
    columns: Columns, source: DatasetSource, entries: EntryFile, config: CheckConfig, task: InspectTask
) -> Iterator[ImageFinding]:
    # One of each group of equal files is enough.
    _, firsts = np.unique(columns["digest"], return_index=True)
    firsts = np.sort(firsts[columns["has_looks"][firsts]])
    numbers, splits, labels = (columns[name][firsts] for name in ("number", "split", "label"))
    hashes = columns["hashes"][firsts]
    measure = Differences(numbers, entries, task)
    # Those of two splits first, and for themselves: that frames of one split are nearly the same hides no leak.
    for is_across in (True, False):
        near = compare_looks(hashes, splits, measure, config, is_across=is_across)
        for (one, two), difference in zip(near.pairs, near.differences, strict=True):
            first, place = sorted((int(one), int(two)), key=lambda at: int(numbers[at]))
            what = f"nearly the same, {difference:.1f} of 255 apart"
            if labels[first] != labels[place]:
                what += f", and of another class: {source.class_name(int(labels[first]))}"
            what += f", in {SPLITS[splits[first]]}" if is_across else ""
            code = FindingCode.LEAKAGE if is_across else FindingCode.NEAR_DUPLICATE
            yield ImageFinding(code, int(numbers[place]), what, int(numbers[first]))
        code = FindingCode.LEAKAGE_UNKNOWN if is_across else FindingCode.DUPLICATES_UNKNOWN
        for number in numbers[near.is_missed].tolist():
            yield ImageFinding(code, number, "")


class NearLooks(NamedTuple):
    """Pairs of pictures that are nearly the same; every picture that has such a partner is in one of these."""

    pairs: np.ndarray
    """int64 (K, 2)."""
    differences: np.ndarray
    """float64 (K,), 0 to 255."""
    is_missed: np.ndarray
    """bool (N,): pictures of which it is not known whether they have a partner."""


def compare_looks(
    hashes: np.ndarray,
    splits: np.ndarray,
    measure: Callable[[np.ndarray], np.ndarray],
    config: CheckConfig,
    *,
    is_across: bool,
) -> NearLooks:
    """Find pictures that are nearly the same: by their hashes, and then by their pixels.

    Args:
        hashes: uint8 (N, 1 + NUM_VIEWS, 16).
        splits: (N,), places in ``SPLITS``.
        measure: gives the differences of pairs.
        config: which pictures are nearly equal.
        is_across: whether pairs of two splits are wanted, or those within one.
    """
    near = near_pictures(hashes, config.near_duplicate_bits, splits, is_across=is_across)
    is_missed = near.may_miss
    pairs, differences = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for rows in _layers(splits[near.pairs], is_across=is_across):
        found = confirm_pairs(
            near.pairs[rows],
            near.bits[rows],
            measure,
            num_pictures=len(hashes),
            largest=config.near_duplicate_difference,
            max_compared=max(_MIN_COMPARED, len(hashes)),
        )
        pairs.append(found.pairs)
        differences.append(found.differences)
        is_missed[found.pairs] = False
        is_missed[found.left] = True
    return NearLooks(np.concatenate(pairs), np.concatenate(differences), is_missed)


def _layers(splits: np.ndarray, *, is_across: bool) -> Iterator[np.ndarray]:
    """Rows of pairs, one layer after the other: those of each two splits, or those within a split.

    Each picture gets a partner in each layer: one in train hides none in test.

    Args:
        splits: int8 (M, 2), the splits of each pair.
        is_across: which pairs are wanted.
    """
    low, high = np.sort(splits, axis=1).T
    if not is_across:
        yield np.flatnonzero(low == high)
        return
    for one, two in itertools.combinations(range(len(SPLITS)), 2):
        yield np.flatnonzero((low == one) & (high == two))


class EntriesByNumber(Protocol):
    """Where images are."""

    def lookup(self, numbers: np.ndarray) -> dict[int, Entry]:
        """The entries of these numbers, which are ascending."""


class Differences:
    """Differences of pairs, 0 to 255; the pictures are read again."""

    def __init__(self, numbers: np.ndarray, entries: EntriesByNumber, task: InspectTask) -> None:
        self._numbers, self._entries, self._task = numbers, entries, task

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        found = self._entries.lookup(np.unique(self._numbers[pairs]))

        # A picture of a burst is in many pairs.
        @lru_cache(_NUM_KEPT)
        def seen(place: int) -> np.ndarray | None:
            try:
                entry = found[int(self._numbers[place])]
                data = fetch_input(entry.uri, None, self._task.fetch_limits, source=entry.source, locator=entry.locator)
                return views(decode_image(data, self._task.decode_limits))
            except ImageError:  # it was there before
                return None

        def compare(pair: np.ndarray) -> float:
            one, two = (seen(int(place)) for place in pair)
            return 255.0 if one is None or two is None else copy_difference(one, two)

        with ThreadPoolExecutor(available_cores(), thread_name_prefix="compare") as executor:
            return np.fromiter(executor.map(compare, pairs), np.float64, len(pairs))


def _sort_by(columns: Columns, key: str, others: Sequence[str]) -> None:
    order = np.argsort(columns[key], kind="stable")
    for name in (key, *others):
        columns[name] = columns[name][order]
