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


def equal_groups(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Places of equal keys: an array of at least two for each key that occurs more than once, ascending.

    Args:
        keys: (N,) of any sortable type.
    """
    order = np.argsort(keys, kind="stable")
    for start, end in _runs(keys[order]):
        yield order[start:end]


def near_pairs(hashes: np.ndarray, max_bits: int) -> np.ndarray:
    """Pairs of pictures whose hashes differ in at most ``max_bits`` bits.

    All of them, if ``max_bits`` is below the number of bands (8 up to two million pictures, then 4) and no band is
    shared by more than 512; else most of them.

    Args:
        hashes: uint8 (N, 16), perceptual hashes.
        max_bits: not counted among the pairs are those of equal hashes and more.

    Returns:
        int64 (M, 2), the lower place first, sorted, each pair once.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    bands = np.ascontiguousarray(hashes).view(np.uint16 if len(hashes) <= _MANY else np.uint32)
    found = [np.empty((0, 2), np.int64)]
    for band in bands.T:
        # Neighbours in a run are then nearest in the rest of the hash too.
        order = np.lexsort((words[:, 1], words[:, 0], band))
        for first, second in _candidates(band[order]):
            pairs = np.stack([order[first], order[second]], axis=1)
            bits = np.bitwise_count(words[pairs[:, 0]] ^ words[pairs[:, 1]]).sum(axis=1)
            found.append(np.sort(pairs[bits <= max_bits], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def hashes_array(hashes: list[bytes]) -> np.ndarray:
    """uint8 (N, 16)."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def _runs(ordered: np.ndarray) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of at least two equal values."""
    if not len(ordered):
        return
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    lengths = np.diff(edges)
    for place in np.flatnonzero(lengths > 1):
        yield int(edges[place]), int(edges[place + 1])


def _candidates(ordered: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places to compare, a bounded number at once."""
    firsts: list[np.ndarray] = []
    seconds: list[np.ndarray] = []
    waiting = 0
    for start, end in _runs(ordered):
        length = end - start
        if length <= _MAX_RUN:
            first, second = np.triu_indices(length, 1)
        else:
            steps = [(np.arange(length - step), np.arange(step, length)) for step in range(1, _NEIGHBOURS + 1)]
            first, second = (np.concatenate(side) for side in zip(*steps, strict=True))
        firsts.append(first + start)
        seconds.append(second + start)
        waiting += len(first)
        if waiting >= _PAIRS_AT_ONCE:
            yield np.concatenate(firsts), np.concatenate(seconds)
            firsts, seconds, waiting = [], [], 0
    if firsts:
        yield np.concatenate(firsts), np.concatenate(seconds)
