"""Which images make which batch: decided by the seed, the epoch and nothing else.

Batches are cut from one order for all workers together, and each takes its share of every batch. So a run that goes on
with fewer workers, or from the middle of an epoch, sees the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


class Sample(NamedTuple):
    """One image to be loaded; ``seed`` is of its augmentation."""

    split: Literal["train", "val"]
    number: int
    """Its place in the split."""
    seed: int


@dataclass(frozen=True)
class BatchOrder:
    """The order of one worker's batches in a whole run."""

    labels: np.ndarray
    """Of the train split, int32 (N,)."""
    num_val: int
    batch_size: int
    """Of all workers together, at most N."""
    accumulate_steps: int
    seed: int
    balanced: bool
    """Draw every class equally often, images with replacement."""
    rank: int
    world_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches: a small one would spoil a step and batch norm, and shuffling gives each image its turn."""
        return len(self.labels) // self.batch_size

    def train_passes(self, epoch: int, first_step: int = 0) -> Iterator[list[Sample]]:
        """This worker's part of each pass of an epoch; ``accumulate_steps`` of them are a step."""
        order = self._order(epoch)
        for step in range(first_step, self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            for part in np.array_split(batch, self.accumulate_steps):
                mine = np.array_split(part, self.world_size)[self.rank]
                yield [Sample("train", int(i), self._sample_seed(epoch, int(i))) for i in mine]

    @property
    def num_val_batches(self) -> int:
        """Of this worker."""
        return -(-self._num_mine // self._val_size)

    def val_batches(self) -> Iterator[list[Sample]]:
        """This worker's share of the val split; all workers together see each image once."""
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
