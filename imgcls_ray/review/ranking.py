"""The order in which a person should look at candidates: doubtful and odd ones first, and never two alike in a row.

Greedy, as k-centre selection is (Sener and Savarese 2018, https://arxiv.org/abs/1708.00489), but weighted: the next one
is that with the largest product of how much it needs a look and how far it is from all that were chosen before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Ranked(NamedTuple):
    """An order of candidates."""

    order: np.ndarray
    """Places of candidates, the first one first, int64 (K,)."""
    is_odd: np.ndarray
    """bool (N,): whether a candidate needs a look because it is odd, rather than doubtful."""


def rank(confidence: np.ndarray, oddness: np.ndarray, embeddings: np.ndarray | None, number: int) -> Ranked:
    """Choose candidates, one after the other.

    Args:
        confidence: (N,), 0 to 1.
        oddness: (N,), higher is odder; NaN where it is not known.
        embeddings: float32 (N, D), each of length 1; ``None``: there is no diversity to look at.
        number: how many to choose.
    """
    doubt = shares(1 - np.nan_to_num(confidence))
    odd = np.nan_to_num(shares(oddness))
    need = np.maximum(doubt, odd)
    is_odd = odd > doubt
    number = min(number, len(need))
    if embeddings is None:
        return Ranked(np.argsort(-need, kind="stable")[:number], is_odd)
    order = np.empty(number, np.int64)
    # Of unit vectors the largest distance is 2; nothing is chosen yet.
    nearest = np.full(len(need), 2.0)
    for place in range(number):
        order[place] = best = int(np.argmax(need * nearest))
        distance = np.sqrt(np.maximum(0, 2 - 2 * (embeddings @ embeddings[best])))
        nearest = np.minimum(nearest, distance)
        # What is exactly alike comes last, but it comes, and each candidate comes once.
        nearest = np.maximum(nearest, 1e-9)
        need[best] = -1
    return Ranked(order, is_odd)


def shares(values: np.ndarray) -> np.ndarray:
    """Of each value the share of the values that are not larger, above 0 to 1; NaN where there is none.

    >>> shares(np.array([5.0, np.nan, 7.0])).tolist()
    [0.5, nan, 1.0]
    """
    found = np.full(len(values), np.nan)
    is_there = ~np.isnan(values)
    there = values[is_there]
    found[is_there] = np.searchsorted(np.sort(there), there, side="right") / max(1, len(there))
    return found
