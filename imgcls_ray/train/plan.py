"""What comes when in a run: its epochs, steps and evaluations, and the batches of all of them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.order import BatchOrder, Sample


class Plan:
    """The rest of a run.

    Args:
        order: the batches of this worker.
        config: when it evaluates.
        epochs: number of epochs of the run.
        step: number of steps that are done.
    """

    def __init__(self, order: BatchOrder, config: TrainConfig, *, epochs: int, step: int) -> None:
        self._order, self._config, self._epochs = order, config, epochs
        self._first_epoch, self._first_step = divmod(step, order.steps_per_epoch)

    def epochs(self) -> range:
        """Numbers of the epochs that are left, from 0."""
        return range(self._first_epoch, self._epochs)

    def steps_of(self, epoch: int) -> range:
        """Numbers of the steps of an epoch that are left, from 0 in the epoch."""
        first = self._first_step if epoch == self._first_epoch else 0
        return range(first, self._order.steps_per_epoch)

    def is_evaluated(self, epoch: int) -> bool:
        """Whether there is an evaluation at the end of an epoch."""
        return (epoch + 1) % self._config.eval_interval == 0 or epoch + 1 == self._epochs

    def is_evaluated_after(self, step_of_epoch: int) -> bool:
        """Whether there is an evaluation within an epoch; the one at its end does not count."""
        every, num_done = self._config.eval_steps, step_of_epoch + 1
        return bool(every) and num_done % every == 0 and num_done < self._order.steps_per_epoch

    def batches(self) -> Iterator[list[Sample]]:
        """The batches of all passes and evaluations, in the order in which they come: loading never waits for them."""
        for epoch in self.epochs():
            steps = self.steps_of(epoch)
            passes = self._order.train_passes(epoch, steps.start)
            for step in steps:
                yield from itertools.islice(passes, self._config.accumulate_steps)
                if self.is_evaluated_after(step):
                    yield from self._order.val_batches()
            if self.is_evaluated(epoch):
                yield from self._order.val_batches()
