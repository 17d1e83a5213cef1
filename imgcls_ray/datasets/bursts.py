"""Compare the pictures of pairs so that every picture that has a partner gets one, without comparing every pair.

A hundred frames of one scene are 4,950 pairs, and 99 comparisons say as much: what is connected to a frame already is
not compared with it again. So a burst cannot use up the comparisons that other pictures need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


class Confirmed(NamedTuple):
    """The pairs that comparing has confirmed, and those that there was no time for."""

    pairs: np.ndarray
    """int64 (K, 2); every picture that is in a confirmed pair at all is in one of these."""
    differences: np.ndarray
    """float64 (K,)."""
    left: np.ndarray
    """int64 (L, 2): pairs that were not compared, and whose pictures are not connected by confirmed ones."""


def confirm_pairs(
    pairs: np.ndarray,
    order: np.ndarray,
    compare: Callable[[np.ndarray], np.ndarray],
    *,
    num_pictures: int,
    largest: float,
    max_compared: int,
) -> Confirmed:
    """Compare pairs, round by round, until those that are left connect nothing new.

    Args:
        pairs: int64 (M, 2), places of pictures below ``num_pictures``.
        order: (M,), which pairs to compare first, the likeliest: in ascending order.
        compare: gives the difference of each of some pairs.
        num_pictures: number of pictures.
        largest: largest difference of a pair that counts.
        max_compared: largest number of comparisons.
    """
    left = pairs[np.argsort(order, kind="stable")]
    found, differences = np.empty((0, 2), np.int64), np.empty(0)
    num_compared = 0
    while True:
        groups = connected(found, num_pictures)
        left = left[groups[left[:, 0]] != groups[left[:, 1]]]
        if not len(left) or num_compared == max_compared:
            return Confirmed(found, differences, left)
        chosen = _spanning(groups[left])
        # Two scenes that look alike and differ need one pair a round, and have a million: rounds must be few.
        chosen = np.union1d(chosen, np.arange(min(num_compared // 2, len(left))))[: max_compared - num_compared]
        num_compared += len(chosen)
        measured = compare(left[chosen])
        is_near = measured <= largest
        found = np.concatenate([found, left[chosen][is_near]])
        differences = np.concatenate([differences, measured[is_near]])
        left = np.delete(left, chosen, axis=0)


def connected(pairs: np.ndarray, num_pictures: int) -> np.ndarray:
    """Numbers of the groups of pictures that pairs connect, (num_pictures,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(num_pictures, num_pictures))
    groups: np.ndarray = connected_components(graph, directed=False)[1]
    return groups


def _spanning(pairs: np.ndarray) -> np.ndarray:
    """Rows of the earliest pairs that connect all that the pairs connect, ascending: a forest, no pair too many."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    names, compact = np.unique(pairs, return_inverse=True)
    low, high = np.sort(compact.reshape(-1, 2), axis=1).T
    # Of equal pairs the first one: a sparse array would add them up.
    _, rows = np.unique(low.astype(np.int64) * len(names) + high, return_index=True)
    # The weight of a pair says which one it is; nought would be no pair.
    graph = coo_array((rows + 1.0, (low[rows], high[rows])), shape=(len(names), len(names)))
    return np.sort(minimum_spanning_tree(graph.tocsr()).data.astype(np.int64) - 1)
