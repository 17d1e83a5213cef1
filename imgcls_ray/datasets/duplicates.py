"""Find equal and nearly equal pictures among many, by hashes alone, in less than quadratic time.

Nearly equal pictures differ in few bits of their perceptual hash. Cut into bands, two hashes that differ in fewer bits
than there are bands agree in at least one; so only pictures that share a band are compared (Manku et al. 2007,
"Detecting near-duplicates for web crawling", https://doi.org/10.1145/1242572.1242592).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.images.measure import HASH_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

# Up to so many pictures, bands of 16 bits leave few strangers to compare; beyond, bands of 32 do.
_MANY = 2_000_000
# Pictures that share a band with more others than that are compared with their neighbours in the order of hashes only:
# a thousand frames of one scene must not make a million comparisons.
_MAX_RUN = 512
_NEIGHBOURS = 16
# Between two splits they are all compared, up to so many pairs: no burst may hide that a picture is in both.
_MAX_OF_TWO = 4_000_000
_PAIRS_AT_ONCE = 1_000_000
_MAX_PAIRS = 10_000_000


def equal_groups(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Find equal keys: for each key that occurs more than once, yield its positions, ascending.

    Args:
        keys: (N,) of any sortable type.

    >>> [positions.tolist() for positions in equal_groups(np.array([7, 5, 7, 5, 3]))]
    [[1, 3], [0, 2]]
    """
    order = np.argsort(keys, kind="stable")
    for start, end in zip(*_runs(keys[order]), strict=True):
        yield order[start:end]


class NearPairs(NamedTuple):
    """Pairs of pictures whose hashes are nearly equal."""

    pairs: np.ndarray
    """int64 (M, 2), pairs of positions, the lower one first, sorted, each pair once."""
    bits: np.ndarray
    """Number of different bits of each pair, (M,)."""
    may_miss: np.ndarray
    """bool (N,): pictures that may be in pairs which were not found."""


def near_pairs(hashes: np.ndarray, max_bits: int, splits: np.ndarray | None = None) -> NearPairs:
    """Pairs of pictures whose hashes differ in at most ``max_bits`` bits.

    All such pairs are found if ``max_bits`` is below the number of bands (8 up to two million pictures, then 4), if no
    value of a band occurs more than 512 times (in two splits: than some thousand times), and if there are at most ten
    million pairs. Otherwise some may be missed.

    Args:
        hashes: uint8 (N, 16), perceptual hashes.
        max_bits: largest number of different bits. Pairs of equal hashes are returned, too.
        splits: (N,), the split of each picture, where pairs of two splits are wanted and no others.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    bands = np.ascontiguousarray(hashes).view(np.uint16 if len(hashes) <= _MANY else np.uint32)
    # A pair as one number: lower place times N, plus the higher one. Sorts as pairs do, in a fifth of the time.
    found = np.empty(0, np.int64)
    num_cut, is_full = np.zeros(len(hashes), np.int64), False
    for band in bands.T:
        # Neighbours in a run are then nearest in the rest of the hash too.
        order = np.lexsort((words[:, 1], words[:, 0], band))
        runs = _runs(band[order])
        parts, num_new = [found], 0
        for first, second in _candidates(runs, None if splits is None else splits[order]):
            one, two = order[first], order[second]
            near = _distance(words, one, two) <= max_bits
            one, two = one[near], two[near]
            parts.append(np.minimum(one, two) * len(hashes) + np.maximum(one, two))
            num_new += len(one)
            if num_new >= _MAX_PAIRS:
                is_full = True
                break
        for start, end in _cut_runs(runs, None if splits is None else splits[order]):
            num_cut[order[start:end]] += 1
        # np.unique's hash table takes ten times as long as sorting, for keys like these.
        found = np.sort(np.concatenate(parts))
        found = found[np.flatnonzero(np.diff(found, prepend=-1))]
        is_full |= len(found) > _MAX_PAIRS
        found = found[:_MAX_PAIRS]
    pairs = np.stack(np.divmod(found, max(1, len(hashes))), axis=1)
    # Two hashes agree in all bands but those with a different bit. Only if the runs of all of these are cut is the pair
    # missed.
    may_miss = num_cut >= max(1, bands.shape[1] - max_bits)
    return NearPairs(pairs, _distance(words, *pairs.T), may_miss | is_full)


def _distance(words: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    distance: np.ndarray = np.bitwise_count(words[one] ^ words[two]).sum(axis=1)
    return distance


def hashes_array(hashes: list[bytes]) -> np.ndarray:
    """uint8 (N, 16)."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begins and ends of the runs of at least two equal values."""
    if not len(ordered):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    is_run = np.diff(edges) > 1
    return edges[:-1][is_run], edges[1:][is_run]


def _candidates(
    runs: tuple[np.ndarray, np.ndarray], splits: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places to compare, a bounded number at once: those beside each other first, then those two apart, ..."""
    starts, ends = runs
    lengths = ends - starts
    if splits is not None:
        is_long = lengths > _MAX_RUN
        for start, end in zip(starts[is_long], ends[is_long], strict=True):
            yield from _of_two_splits(start, splits[start:end])
        starts, ends, lengths = starts[~is_long], ends[~is_long], lengths[~is_long]
    # Every place but the last of its run has partners, up to the end of the run or its neighbours only.
    places = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    reach = np.repeat(np.where(lengths <= _MAX_RUN, _MAX_RUN, _NEIGHBOURS), lengths)
    last = np.minimum(np.repeat(ends, lengths) - 1, places + reach)
    for distance in range(1, _MAX_RUN + 1):
        has_partner = places + distance <= last
        places, last = places[has_partner], last[has_partner]
        if not len(places):
            return
        partners = places + distance
        if splits is None:
            yield from _bounded(places, partners)
        else:
            is_wanted = splits[places] != splits[partners]
            yield from _bounded(places[is_wanted], partners[is_wanted])


def _of_two_splits(start: np.ndarray, splits: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every two pictures of different splits in a long run; of too many, the first ones: the run is cut."""
    groups = [start + np.flatnonzero(splits == split) for split in np.unique(splits)]
    for one, two in itertools.combinations(groups, 2):
        fewer, more = sorted((one, two), key=len)
        for place in fewer[: _MAX_OF_TWO // len(more) + 1]:
            yield from _bounded(np.full(len(more), place), more)


def _cut_runs(runs: tuple[np.ndarray, np.ndarray], splits: np.ndarray | None) -> Iterator[tuple[int, int]]:
    """The runs of which not every pair is a candidate."""
    for start, end in zip(*runs, strict=True):
        if end - start > _MAX_RUN:
            counts = [] if splits is None else np.unique(splits[start:end], return_counts=True)[1]
            products = [int(one) * int(two) for one, two in itertools.combinations(counts, 2)]
            if splits is None or any(product > _MAX_OF_TWO for product in products):
                yield int(start), int(end)


def _bounded(one: np.ndarray, two: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(one), _PAIRS_AT_ONCE):
        yield one[start : start + _PAIRS_AT_ONCE], two[start : start + _PAIRS_AT_ONCE]
