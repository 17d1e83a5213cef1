"""Find pairs among the entries of a dataset: similar names, equal files, and pictures that look nearly the same."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.duplicates import equal_groups, near_pairs
from imgcls_ray.datasets.findings import Finding, FindingCode, ImageFinding
from imgcls_ray.datasets.inspecting import folded
from imgcls_ray.errors import ImageError
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.measure import small_grey
from imgcls_ray.machine import available_cores
from imgcls_ray.packed.listing import fetch_input

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgcls_ray.config import CheckConfig
    from imgcls_ray.datasets.entry_file import EntryFile
    from imgcls_ray.datasets.inspecting import InspectTask
    from imgcls_ray.datasets.labelled import DatasetSource

logger = logging.getLogger(__name__)

_MAX_CONFIRMED = 20_000
"""Largest number of pairs whose pixels are compared; with so many, it is clear that the dataset has many duplicates."""

Columns = dict[str, np.ndarray]


def find_pairs(
    columns: Columns, source: DatasetSource, entries: EntryFile, config: CheckConfig, task: InspectTask
) -> Iterator[ImageFinding]:
    """Find similar names, then equal bytes, then nearly equal pictures.

    Args:
        columns: of all M entries, in any order: ``named`` (their numbers, 0 to M - 1), ``path_hash`` and
            ``folded_hash``. Of the N images that can be read: ``number``, ``split``, ``label``, ``digest``,
            ``perceptual_hash`` and ``has_looks``. They are sorted in place.
        source: gives the names of classes.
        entries: where images are.
        config: which pictures are nearly equal.
        task: limits for reading pictures again.
    """
    # Blocks come back in any order; what is found, and what is said of it, must not depend on it.
    _sort_by(columns, "named", ("path_hash", "folded_hash"))
    _sort_by(columns, "number", ("split", "label", "digest", "perceptual_hash", "has_looks"))
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
    pairs = firsts[near_pairs(columns["perceptual_hash"][firsts], config.near_duplicate_bits)]
    numbers, splits, labels = columns["number"], columns["split"], columns["label"]
    if len(pairs) > _MAX_CONFIRMED:
        logger.warning(
            "%d pairs of pictures may be nearly equal; the pixels of the first %d are compared",
            len(pairs),
            _MAX_CONFIRMED,
        )
    for (one, two), difference in _differences(numbers, pairs[:_MAX_CONFIRMED], entries, task):
        if difference > config.near_duplicate_difference:
            continue
        first, place = sorted((one, two), key=lambda at: int(numbers[at]))
        what = f"nearly the same, {difference:.1f} of 255 apart"
        if labels[first] != labels[place]:
            what += f", and of another class: {source.class_name(int(labels[first]))}"
        is_leak = splits[first] != splits[place]
        what += f", in {SPLITS[splits[first]]}" if is_leak else ""
        code = FindingCode.LEAKAGE if is_leak else FindingCode.NEAR_DUPLICATE
        yield ImageFinding(code, int(numbers[place]), what, int(numbers[first]))


def _differences(
    numbers: np.ndarray, pairs: np.ndarray, entries: EntryFile, task: InspectTask
) -> Iterator[tuple[tuple[int, int], float]]:
    """Mean difference of the pixels of each pair, 0 to 255."""
    found_entries = entries.lookup(np.unique(numbers[pairs]))

    def content(number: int) -> bytes:
        entry = found_entries[number]
        return fetch_input(entry.uri, None, task.fetch_limits, source=entry.source, locator=entry.locator)

    def difference(pair: np.ndarray) -> float:
        try:
            one, two = (small_grey(decode_image(content(int(numbers[at])), task.decode_limits)) for at in pair)
        except ImageError:  # it was there before
            return 255.0
        return float(np.abs(one - two).mean())

    with ThreadPoolExecutor(available_cores(), thread_name_prefix="compare") as executor:
        for (one, two), found in zip(pairs, executor.map(difference, pairs), strict=True):
            yield (int(one), int(two)), found


def _sort_by(columns: Columns, key: str, others: Sequence[str]) -> None:
    order = np.argsort(columns[key], kind="stable")
    for name in (key, *others):
        columns[name] = columns[name][order]
