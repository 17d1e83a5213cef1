"""Find equal and nearly equal pictures among many, by hashes alone, in less than quadratic time.

Nearly equal pictures differ in few bits of their perceptual hash. Cut into bands, two hashes that differ in fewer bits
than there are bands agree in at least one; so only pictures that share a band are compared (Manku et al. 2007,
"Detecting near-duplicates for web crawling", https://doi.org/10.1145/1242572.1242592).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.images.measure import HASH_BYTES, NUM_COPIES, NUM_VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator

# Up to so many pictures, bands of 16 bits leave few strangers to compare; beyond, bands of 32 do.
_MANY = 2_000_000
# Pictures that share a band with more others than that are compared with their neighbours in the order of hashes only:
# a thousand frames of one scene must not make a million comparisons.
_MAX_RUN = 512
_NEIGHBOURS = 16
# Those of two groups are all compared, up to so many pairs: no burst may hide that a picture is in two splits.
_MAX_OF_TWO = 250_000
_PAIRS_AT_ONCE = 1_000_000
_MAX_PAIRS = 10_000_000
_BITS = 8 * HASH_BYTES + 1


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


class Groups(NamedTuple):
    """Which pairs are wanted."""

    codes: np.ndarray
    """(N,), the group of each picture, from 0."""
    are_wanted: np.ndarray
    """bool (G, G), symmetric: whether a pair of these two groups is wanted; all of them are looked for."""


def near_pictures(hashes: np.ndarray, max_bits: int, splits: np.ndarray, *, is_across: bool) -> NearPairs:
    """Pairs of pictures of which one looks like the other, or like a view of it: as ``near_pairs`` of the nearest view.

    Args:
        hashes: uint8 (N, 1 + NUM_VIEWS, 16).
        max_bits: largest number of different bits.
        splits: (N,), the split of each picture, below 3.
        is_across: whether pairs of two splits are wanted, or those within one.
    """
    count = len(hashes)
    is_other = ~np.eye(3, dtype=bool)
    of_splits = Groups(splits, is_other) if is_across else None
    # Of a picture and a view, which are two halves.
    of_halves = Groups(
        np.concatenate([splits, splits + 3]), np.kron(~np.eye(2, dtype=bool), is_other if is_across else ~is_other)
    )
    found, may_miss = np.empty(0, np.int64), np.zeros(count, bool)
    for view in range(1 + NUM_VIEWS):
        if 1 <= view <= NUM_COPIES:
            near = near_pairs(np.concatenate([hashes[:, 0], hashes[:, view]]), max_bits, of_halves)
        else:
            near = near_pairs(hashes[:, view], max_bits, of_splits)
        one, two = np.sort(near.pairs % count, axis=1).T
        # A picture is no pair with its own view.
        is_wanted = (one != two) & ((splits[one] != splits[two]) == is_across)
        # A pair as one number, as in ``near_pairs``, and its bits behind it: the fewest come first.
        new = (one * count + two)[is_wanted] * _BITS + near.bits[is_wanted]
        found = np.sort(np.concatenate([found, new]))
        found = found[np.flatnonzero(np.diff(found // _BITS, prepend=-1))]
        may_miss |= near.may_miss[:count] | near.may_miss[-count:] | (len(found) > _MAX_PAIRS)
        found = found[:_MAX_PAIRS]
    places, bits = np.divmod(found, _BITS)
    return NearPairs(np.stack(np.divmod(places, max(1, count)), axis=1), bits, may_miss)


def near_pairs(hashes: np.ndarray, max_bits: int, groups: Groups | None = None) -> NearPairs:
    """Pairs of pictures whose hashes differ in at most ``max_bits`` bits.

    All such pairs are found if ``max_bits`` is below the number of bands (8 up to two million pictures, then 4), if no
    value of a band occurs more than 512 times (with groups: in 250,000 wanted pairs), and if there are at most ten
    million pairs. Otherwise some may be missed.

    Args:
        hashes: uint8 (N, 16), perceptual hashes.
        max_bits: largest number of different bits. Pairs of equal hashes are returned, too.
        groups: which pairs are wanted; all, if it is not given.
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
        here = None if groups is None else groups._replace(codes=groups.codes[order])
        parts, num_new = [found], 0
        for first, second in _candidates(runs, here):
            one, two = order[first], order[second]
            near = _distance(words, one, two) <= max_bits
            one, two = one[near], two[near]
            parts.append(np.minimum(one, two) * len(hashes) + np.maximum(one, two))
            num_new += len(one)
            if num_new >= _MAX_PAIRS:
                is_full = True
                break
        for start, end in _cut_runs(runs, here):
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
    distance: np.ndarray = np.bitwise_count(words[one] ^ words[two]).sum(axis=1, dtype=np.int64)
    return distance


def hashes_array(hashes: list[bytes]) -> np.ndarray:
    """uint8 (N, 1 + NUM_VIEWS, 16): of each picture and its views."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 1 + NUM_VIEWS, HASH_BYTES)


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begins and ends of the runs of at least two equal values."""
    if not len(ordered):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    is_run = np.diff(edges) > 1
    return edges[:-1][is_run], edges[1:][is_run]


def _candidates(runs: tuple[np.ndarray, np.ndarray], groups: Groups | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places to compare, a bounded number at once: those beside each other first, then those two apart, ..."""
    starts, ends = runs
    lengths = ends - starts
    if groups is not None:
        is_long = lengths > _MAX_RUN
        for start, end in zip(starts[is_long], ends[is_long], strict=True):
            for one, two in _wanted_groups(groups, start, end):
                for place in one[: _MAX_OF_TWO // len(two) + 1]:
                    yield from _bounded(np.full(len(two), place), two)
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
        if groups is None:
            yield from _bounded(places, partners)
        else:
            is_wanted = groups.are_wanted[groups.codes[places], groups.codes[partners]]
            yield from _bounded(places[is_wanted], partners[is_wanted])


def _wanted_groups(groups: Groups, start: int, end: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of every two groups of a run whose pairs are wanted, those of the smaller one first."""
    codes = groups.codes[start:end]
    present = np.unique(codes)
    for one, two in itertools.combinations(present, 2):
        if groups.are_wanted[one, two]:
            fewer, more = sorted((start + np.flatnonzero(codes == code) for code in (one, two)), key=len)
            yield fewer, more


def _cut_runs(runs: tuple[np.ndarray, np.ndarray], groups: Groups | None) -> Iterator[tuple[int, int]]:
    """The runs of which not every wanted pair is a candidate."""
    for start, end in zip(*runs, strict=True):
        if end - start > _MAX_RUN and (
            groups is None or any(len(one) * len(two) > _MAX_OF_TWO for one, two in _wanted_groups(groups, start, end))
        ):
            yield int(start), int(end)


def _bounded(one: np.ndarray, two: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(one), _PAIRS_AT_ONCE):
        yield one[start : start + _PAIRS_AT_ONCE], two[start : start + _PAIRS_AT_ONCE]
