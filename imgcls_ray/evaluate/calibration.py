"""Calibration error and temperature scaling, from small tables that can be added.

A worker reduces its logits to one table for a grid of temperatures. The driver adds the tables of all workers. So no
logits are sent, and the tables do not grow with the number of images. The method is Guo et al. 2017, "On Calibration of
Modern Neural Networks" (https://arxiv.org/abs/1706.04599): 15 equal bins of confidence, and one temperature that
minimises the negative log-likelihood (NLL).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUM_BINS = 15
_OCTAVES = np.concatenate([np.arange(-24, -12) / 6, np.arange(-48, 72) / 24, np.arange(18, 37) / 6])
TEMPERATURES = np.round(2.0**_OCTAVES, 6)
"""The grid: from 1/16 to 64, six per octave, and 24 from 1/4 to 8, where networks are; with 1 among them. As they are
saved, so that what is told of the chosen one is of the saved one."""


class Reliability(NamedTuple):
    """Sums over images at one temperature, by bin of confidence."""

    nll: float
    """Sum of the negative log-likelihood, in nats."""
    counts: np.ndarray
    """float64 (NUM_BINS,): number of images in each bin; bin ``i`` is ``(i / NUM_BINS, (i + 1) / NUM_BINS]``."""
    confidence: np.ndarray
    """float64 (NUM_BINS,): sum of the confidence of the images in each bin."""
    num_correct: np.ndarray
    """float64 (NUM_BINS,): number of correct predictions in each bin."""

    @property
    def num_images(self) -> float:
        return float(self.counts.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap between confidence and accuracy, 0 to 1, weighted by images."""
        return float(np.abs(self.confidence - self.num_correct).sum()) / self.num_images

    @property
    def mean_nll(self) -> float:
        return self.nll / self.num_images


def empty_table(num_temperatures: int) -> np.ndarray:
    """Make a table of zeros, float64 (num_temperatures, 1 + 3 * NUM_BINS).

    A row has the sums of one temperature: NLL, then counts, confidence and correct predictions by bin.
    """
    return np.zeros((num_temperatures, 1 + 3 * NUM_BINS))


def calibration_table(logits: np.ndarray, labels: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Sum over images, one row for each temperature, in the columns of ``empty_table``.

    Two images, one of them wrong, both with confidence 0.731, which is in bin 10:

    >>> table = calibration_table(np.float32([[1, 0], [1, 0]]), np.array([0, 1]), np.ones(1))
    >>> result = reliability_at(1.0, np.ones(1), table)
    >>> int(result.counts[10]), int(result.num_correct[10]), round(result.ece, 3)
    (2, 1, 0.231)

    Args:
        logits: float32 (B, num_classes), finite.
        labels: int (B,), ids of the true classes.
        temperatures: float64 (T,), above 0.
    """
    table = empty_table(len(temperatures))
    # The highest is subtracted first: however small the temperature, no exponential overflows.
    shifted = logits - logits.max(axis=1, keepdims=True)
    of_label = shifted[np.arange(len(labels)), labels]
    # Of equal scores the lowest class id is the answer, as in ``top_k_scores``.
    is_correct = (logits.argmax(axis=1) == labels).astype(np.float64)
    for row, temperature in zip(table, temperatures, strict=True):
        total = np.exp(shifted / np.float32(temperature)).sum(axis=1, dtype=np.float64)
        # The best class has the exponential 1.
        confidence = 1 / total
        bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
        row[0] = (np.log(total) - of_label / temperature).sum()
        sums = (np.ones_like(confidence), confidence, is_correct)
        row[1:] = np.concatenate([np.bincount(bins, weights=values, minlength=NUM_BINS) for values in sums])
    return table


def reliability_at(temperature: float, temperatures: np.ndarray, table: np.ndarray) -> Reliability:
    """Read the sums of one of the temperatures from a table."""
    [place] = np.flatnonzero(temperatures == temperature)
    row = table[place]
    return Reliability(float(row[0]), *row[1:].reshape(3, NUM_BINS))


def fit_temperature(temperatures: np.ndarray, table: np.ndarray) -> float | None:
    """Find the temperature of the grid with the lowest NLL.

    One between two of the grid would have a lower NLL by less than 0.001, and no calibration error that is known.

    Returns:
        None if the best is at an end of the grid, as when all predictions are correct (then no confidence is too high)
        or are as good as random.
    """
    best = int(table[:, 0].argmin())
    if best in (0, len(temperatures) - 1):
        return None
    return float(temperatures[best])
