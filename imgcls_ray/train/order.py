"""The order of images and batches: a function of the seed and the epoch only.

Batches are cut from one order of all workers, and each worker takes its share of every batch. So a resumed run sees the
same batches, also with fewer workers or from the middle of an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


class Sample(NamedTuple):
    """One image to load."""

    split: Literal["train", "val"]
    number: int
    """Position of the image in its split."""
    seed: int
    """Seed of its augmentation; 0 in the val split."""


@dataclass(frozen=True)
class BatchOrder:
    """The batches of one worker in a whole run.

    Ten images in batches of four, for the first of two workers:

    >>> order = BatchOrder(np.zeros(10, np.int32), 3, 4, 1, seed=0, balanced=False, rank=0, world_size=2)
    >>> order.steps_per_epoch, [len(batch) for batch in order.train_passes(epoch=0)]
    (2, [2, 2])
    >>> [[sample.number for sample in batch] for batch in order.val_batches()]
    [[0, 2]]
    """

    labels: np.ndarray
    """Class ids of the train split, int32 (N,)."""
    num_val: int
    """Number of images in the val split."""
    batch_size: int
    """Images of one optimizer step over all workers, at most N."""
    accumulate_steps: int
    """Number of passes that one step is split into."""
    seed: int
    balanced: bool
    """Draw all classes equally often; images are drawn with replacement."""
    rank: int
    world_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch.

        The rest is left out: a small batch would disturb a step and batch norm. Each epoch leaves out other images.
        """
        return len(self.labels) // self.batch_size

    def train_passes(self, epoch: int, first_step: int = 0) -> Iterator[list[Sample]]:
        """This worker's share of each pass of an epoch. ``accumulate_steps`` passes are one step.

        Args:
            epoch: from 0.
            first_step: step of the epoch to begin with, from 0.
        """
        order = self._order(epoch)
        for step in range(first_step, self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            for part in np.array_split(batch, self.accumulate_steps):
                mine = np.array_split(part, self.world_size)[self.rank]
                yield [Sample("train", int(i), self._sample_seed(epoch, int(i))) for i in mine]

    @property
    def num_val_batches(self) -> int:
        """Number of this worker's batches of the val split."""
        return -(-self._num_mine // self._val_size)

    def val_batches(self) -> Iterator[list[Sample]]:
        """This worker's share of the val split. All workers together see each image exactly once."""
        mine = range(self.rank, self.num_val, self.world_size)
        for start in range(0, len(mine), self._val_size):
            yield [Sample("val", i, 0) for i in mine[start : start + self._val_size]]

    @property
    def _num_mine(self) -> int:
        return len(range(self.rank, self.num_val, self.world_size))

    @property
    def _val_size(self) -> int:
        return max(self.batch_size // self.accumulate_steps // self.world_size, 1)

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        if not self.balanced:
            return rng.permutation(len(self.labels))
        weights = 1.0 / np.bincount(self.labels)[self.labels]
        return rng.choice(len(self.labels), size=len(self.labels), p=weights / weights.sum())

    def _sample_seed(self, epoch: int, index: int) -> int:
        # Knuth's multiplicative hashing: neighbours get seeds that have nothing to do with one another.
        return (((self.seed + 1) * 2_654_435_761 + epoch) * 2_246_822_519 + index * 3_266_489_917) % 2**63
