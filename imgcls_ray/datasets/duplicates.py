"""Find equal and nearly equal pictures among many, by hashes alone, in less than quadratic time.

Nearly equal pictures differ in few bits of their perceptual hash. Cut into bands, two hashes that differ in fewer bits
than there are bands agree in at least one; so only pictures that share a band are compared (Manku et al. 2007,
"Detecting near-duplicates for web crawling", https://doi.org/10.1145/1242572.1242592).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def near_pairs(hashes: np.ndarray, max_bits: int) -> np.ndarray:
    """Pairs of pictures whose hashes differ in at most ``max_bits`` bits.

    All such pairs are found if ``max_bits`` is below the number of bands (8 up to two million pictures, then 4), if no
    value of a band occurs more than 512 times, and if there are at most ten million pairs. Otherwise some are missed.

    Args:
        hashes: uint8 (N, 16), perceptual hashes.
        max_bits: largest number of different bits. Pairs of equal hashes are returned, too.

    Returns:
        int64 (M, 2), pairs of positions, the lower one first, sorted, each pair once.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    bands = np.ascontiguousarray(hashes).view(np.uint16 if len(hashes) <= _MANY else np.uint32)
    # A pair as one number: lower place times N, plus the higher one. Sorts as pairs do, in a fifth of the time.
    found = np.empty(0, np.int64)
    for band in bands.T:
        # Neighbours in a run are then nearest in the rest of the hash too.
        order = np.lexsort((words[:, 1], words[:, 0], band))
        parts, num_new = [found], 0
        for first, second in _candidates(band[order]):
            one, two = order[first], order[second]
            near = np.bitwise_count(words[one] ^ words[two]).sum(axis=1) <= max_bits
            one, two = one[near], two[near]
            parts.append(np.minimum(one, two) * len(hashes) + np.maximum(one, two))
            num_new += len(one)
            if num_new >= _MAX_PAIRS:
                break
        # np.unique's hash table takes ten times as long as sorting, for keys like these.
        found = np.sort(np.concatenate(parts))
        found = found[np.flatnonzero(np.diff(found, prepend=-1))][:_MAX_PAIRS]
    return np.stack(np.divmod(found, max(1, len(hashes))), axis=1)


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


def _candidates(ordered: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places to compare, a bounded number at once: those beside each other first, then those two apart, ..."""
    starts, ends = _runs(ordered)
    lengths = ends - starts
    # Every place but the last of its run has partners, up to the end of the run or its neighbours only.
    places = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    reach = np.repeat(np.where(lengths <= _MAX_RUN, _MAX_RUN, _NEIGHBOURS), lengths)
    last = np.minimum(np.repeat(ends, lengths) - 1, places + reach)
    for distance in range(1, _MAX_RUN + 1):
        has_partner = places + distance <= last
        places, last = places[has_partner], last[has_partner]
        if not len(places):
            return
        for start in range(0, len(places), _PAIRS_AT_ONCE):
            some = places[start : start + _PAIRS_AT_ONCE]
            yield some, some + distance
