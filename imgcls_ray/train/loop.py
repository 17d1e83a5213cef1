"""What each worker of a run does: epoch after epoch, the same on one process and on a hundred."""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING, Literal

from imgcls_ray.options import decode_limits, fetch_limits
from imgcls_ray.train.augment import Augmentation
from imgcls_ray.train.distillation import teacher_of
from imgcls_ray.train.entries import map_entries
from imgcls_ray.train.events import Doing, EpochDone, StepsDone, WorkersReady, send
from imgcls_ray.train.learner import Learner
from imgcls_ray.train.loading import LoadTask, load_batches
from imgcls_ray.train.optimisation import learning_rate_at
from imgcls_ray.train.order import BatchOrder
from imgcls_ray.train.plan import Plan
from imgcls_ray.train.scores import is_better, told_of_loss
from imgcls_ray.train.task import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

    from imgcls_ray.train.events import Event, RunBoard
    from imgcls_ray.train.loading import Batch
    from imgcls_ray.train.saving import Saver
    from imgcls_ray.train.state import Metrics, TrainState
    from imgcls_ray.train.task import TrainTask

_SUMS = ("loss", "correct", "count", "bad", "seconds")
_SAVE_WITHIN_EPOCH_S = 600.0
_EPOCH_DIGITS = 6
_DOING_S = 1.0
"""Between two words of how far it is: each is a message to the command."""


class Run:
    """One worker's part of a run."""

    def __init__(
        self,
        task: TrainTask,
        state: TrainState,
        files: dict[str, Path],
        board: RunBoard,
        rank: int,
        world_size: int,
        device: torch.device,
        saver: Saver | None,
    ) -> None:
        self._task, self._config, self._state, self._saver = task, task.config, state, saver
        self._board = board
        self._rank, self._world_size, self._device = rank, world_size, device
        tables = {split: map_entries(file) for split, file in files.items()}
        self._num_images = {split: len(table) for split, table in tables.items()}
        labels = tables["train"]["label"].to_numpy()
        self._order = BatchOrder(
            labels,
            self._num_images["val"],
            task.batch_size,
            self._config.accumulate_steps,
            self._config.seed,
            balanced=self._config.sampling == "balanced",
            rank=rank,
            world_size=world_size,
        )
        self._plan = Plan(self._order, self._config, epochs=task.recipe.epochs, step=state.step)
        self._batches = load_batches(
            self._load_task(files),
            self._plan.batches(),
            num_processes=task.loader_processes,
            for_gpu=device.type == "cuda",
            forks=task.forks_loaders,
        )
        # The first batches are loaded meanwhile.
        self._learner = Learner(
            state,
            self._config,
            task.recipe,
            batch_size=task.batch_size,
            labels=labels,
            device=device,
            world_size=world_size,
            teacher=teacher_of(task, state.model, device),
        )
        self._bad: dict[str, str] = {}
        self._must_stop = False
        self._counts = [0.0, 0.0]
        """Images that were learnt from, and that could not be read, since the workers last added up."""
        self._last_doing = -math.inf

    def _load_task(self, files: dict[str, Path]) -> LoadTask:
        preprocess, recipe = self._state.model.preprocess, self._task.recipe
        augmentation = Augmentation(
            self._task.train_size,
            preprocess.interpolation,
            recipe.crop_scale,
            recipe.flip,
            recipe.rand_augment,
            recipe.random_erasing,
            preprocess.mean,
            vertical_flip=recipe.vertical_flip,
            color_jitter=recipe.color_jitter,
        )
        return LoadTask(files, augmentation, preprocess, fetch_limits(self._config), decode_limits(self._config))

    def first_batches(self, count: int) -> list[Batch]:
        """Take the first batches, as they would be learnt from; the run cannot go on after it."""
        return list(self._take(count))

    def go_on(self) -> Outcome:
        """Train until the last epoch, a stop, or a reason to end."""
        self._tell(
            WorkersReady(
                self._state.step,
                steps_per_epoch=self._order.steps_per_epoch,
                epochs=self._task.recipe.epochs,
                num_workers=self._world_size,
                device=str(self._device),
                amp=str(self._learner.amp_type or "off"),
            )
        )
        for epoch in self._plan.epochs():
            if self._is_past_best():
                break
            outcome = self._train_epoch(epoch) or self._end_epoch(epoch)
            if outcome is not None:
                return outcome
            if self._must_stop:
                return self._stop(epoch)
        if not self._state.best_epoch:
            return Outcome("failed", "no epoch has a loss on val that is a number; a lower learning_rate may help")
        self._save()
        return Outcome("done")

    def _is_past_best(self) -> bool:
        state, patience = self._state, self._config.early_stop
        num_since = sum("val.top1" in row for row in state.history if row["epoch"] > state.best_epoch)
        return bool(patience) and num_since >= patience

    def _take(self, count: int) -> Iterator[Batch]:
        for batch in itertools.islice(self._batches, count):
            for split, number, code in batch.bad:
                self._bad[f"{split}/{number}"] = code
            yield batch

    # Epochs

    def _train_epoch(self, epoch: int) -> Outcome | None:
        config, steps = self._config, self._order.steps_per_epoch
        since = time.monotonic()
        for step_of_epoch in self._plan.steps_of(epoch):
            step = epoch * steps + step_of_epoch
            self._learn(step)
            if time.monotonic() - self._last_doing >= _DOING_S:
                self._tell_doing("training", step + 1)
            is_evaluated, is_last = self._plan.is_evaluated_after(step_of_epoch), step_of_epoch + 1 == steps
            if (step_of_epoch + 1) % config.log_interval == 0 or is_last or is_evaluated:
                if outcome := self._add_up(epoch, step + 1, time.monotonic() - since):
                    return outcome
                if is_last:
                    break
                if is_evaluated and (outcome := self._evaluate_within(epoch)):
                    return outcome
                since = time.monotonic()
                if self._must_stop:
                    return self._stop(epoch)
                self._save_if_due(_SAVE_WITHIN_EPOCH_S)
        return None

    def _learn(self, step: int) -> None:
        num_passes = self._config.accumulate_steps

        def passes() -> Iterator[Batch]:
            for batch in self._take(num_passes):
                self._counts[0] += len(batch.labels)
                self._counts[1] += len(batch.bad)
                yield batch

        # From the step, so that a run that goes on draws what it would have drawn.
        seed = hash((self._config.seed, step, self._rank)) % 2**63
        self._learner.step(passes(), num_passes=num_passes, rate=self._rate(step), step=step, seed=seed)

    def _rate(self, step: int) -> float:
        return learning_rate_at(
            step, self._task.recipe, epochs=self._task.recipe.epochs, steps_per_epoch=self._order.steps_per_epoch
        )

    def _add_up(self, epoch: int, step: int, seconds: float) -> Outcome | None:
        """Bring the workers' sums together and tell of them; a stop or a failure is one of all workers."""
        is_stopped = self._rank == 0 and self._board.is_stopped()
        (loss, correct), (count, num_bad, stop) = self._learner.take_sums([*self._counts, float(is_stopped)])
        self._counts = [0.0, 0.0]
        state = self._state
        new = dict(zip(_SUMS, (loss, correct, count, num_bad, seconds), strict=True))
        state.sums = {key: state.sums.get(key, 0.0) + value for key, value in new.items()}
        state.step = step
        mean_loss = loss / max(count, 1)
        self._tell(StepsDone(step, epoch + 1, mean_loss, self._rate(step - 1), images_per_s=count / seconds))
        if not math.isfinite(loss):
            return Outcome(
                "failed",
                f"the loss is not a finite number at step {step:,} (epoch {epoch + 1}); a lower learning_rate than "
                f"{self._task.recipe.learning_rate:.3g}, or clip_grad_norm=1, may help",
            )
        self._must_stop = bool(stop)
        return self._too_many_bad("train", state.sums["bad"])

    def _stop(self, epoch: int) -> Outcome:
        self._save()
        return Outcome("stopped", f"in epoch {epoch + 1} of {self._task.recipe.epochs}")

    def _end_epoch(self, epoch: int) -> Outcome | None:
        state, sums = self._state, self._state.sums
        count = max(sums["count"], 1)
        row: Metrics = {
            "epoch": epoch + 1,
            "step": state.step,
            "learning_rate": self._rate(state.step - 1),
            "train.loss": sums["loss"] / count,
            "train.top1": sums["correct"] / count,
            "images_per_s": sums["count"] / max(sums["seconds"], 1e-9),
            "seconds": sums["seconds"],
        }
        state.sums = {}
        if outcome := self._end_row(row, is_evaluated=self._plan.is_evaluated(epoch)):
            return outcome
        if self._config.save_interval and (epoch + 1) % self._config.save_interval == 0:
            self._save(checkpoint=f"epoch_{epoch + 1}")
        self._save_if_due(self._config.save_seconds)
        return None

    def _evaluate_within(self, epoch: int) -> Outcome | None:
        """Evaluate between two steps of an epoch. Its row of the history has a part of the epoch as number."""
        state, steps = self._state, self._order.steps_per_epoch
        row: Metrics = {
            "epoch": round(state.step / steps, _EPOCH_DIGITS),
            "step": state.step,
            "learning_rate": self._rate(state.step - 1),
        }
        return self._end_row(row, is_evaluated=True)

    def _end_row(self, row: Metrics, *, is_evaluated: bool) -> Outcome | None:
        """Add a row to the history, with an evaluation if there is one, and tell of it."""
        state = self._state
        is_best, warning, class_counts = False, "", None
        if is_evaluated:
            self._tell_doing("evaluating", state.step)
            metrics, num_bad, class_counts = self._learner.evaluate(self._take(self._order.num_val_batches))
            if outcome := self._too_many_bad("val", num_bad):
                return outcome
            row |= metrics
            state.class_counts[row["epoch"]] = class_counts
            is_best = self._note_best(row["epoch"], metrics)
            warning = told_of_loss(metrics["val.loss"], len(state.model.class_names))
        state.history.append(row)
        state.bad |= self._gathered_bad()
        self._tell(EpochDone(row, is_best, num_bad=len(state.bad), warning=warning, class_counts=class_counts))
        return None

    def _note_best(self, epoch: float, metrics: Metrics) -> bool:
        state = self._state
        if not is_better(metrics, state.best_metrics, self._config.monitor):
            return False
        state.best_epoch, state.best_metrics = epoch, metrics
        if self._saver is not None:
            state.best = self._learner.weights_for_use()
        return True

    # Images that cannot be read

    def _too_many_bad(self, split: str, num_bad: float) -> Outcome | None:
        num_images = self._num_images[split]
        if num_bad <= self._config.max_error_rate * num_images:
            return None
        return Outcome(
            "failed",
            f"{num_bad:,.0f} of the {num_images:,} images of the {split} split could not be read so far, more than "
            f"max_error_rate={self._config.max_error_rate:g} allows; `imgcls check` tells which and why",
        )

    def _gathered_bad(self) -> dict[str, str]:
        if self._world_size == 1:
            return dict(self._bad)
        import torch.distributed

        everyones: list[dict[str, str]] = [{}] * self._world_size
        torch.distributed.all_gather_object(everyones, self._bad)
        return {key: code for bad in everyones for key, code in bad.items()}

    # Saving and telling: the first worker's

    def _save_if_due(self, seconds: float) -> None:
        if self._saver is not None and self._saver.is_due(seconds):
            self._save()

    def _save(self, *, checkpoint: str | None = None) -> None:
        if self._saver is not None:
            self._tell_doing("saving", self._state.step)
            self._learner.write_to(self._state)
            self._saver.save(self._state, checkpoint=checkpoint)

    def _tell_doing(self, what: Literal["training", "evaluating", "saving"], step: int) -> None:
        self._tell(Doing(what, step))
        # After an evaluation or a save the first step is told at once.
        self._last_doing = time.monotonic() if what == "training" else -math.inf

    def _tell(self, event: Event) -> None:
        if self._rank == 0:
            send(self._board, event)
