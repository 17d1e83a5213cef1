"""What each worker of a run does: step after step, the same on one process and on a hundred."""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgcls_ray.data.options import decode_limits, fetch_limits, s3_options
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.storage import open_directory
from imgcls_ray.train.augment import Augmentation, make_mixer
from imgcls_ray.train.entries import SPLITS, write_entries
from imgcls_ray.train.events import send
from imgcls_ray.train.loading import LoadTask, load_batches
from imgcls_ray.train.network import network_of
from imgcls_ray.train.optimisation import average_of, learning_rate_at, make_optimizer, set_learning_rate
from imgcls_ray.train.order import BatchOrder
from imgcls_ray.train.saving import Saver
from imgcls_ray.train.state import STATE_FILE, load_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    import torch
    from torch import nn

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.data.board import Board
    from imgcls_ray.train.loading import Batch
    from imgcls_ray.train.order import Sample
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.state import TrainState

STATE_NAME = f"latest/{STATE_FILE}"


@dataclass(frozen=True)
class TrainTask:
    """What every worker is told."""

    config: TrainConfig
    recipe: Recipe
    batch_size: int
    """Images of a step, of all workers together."""
    train_size: int
    """Height and width of training images, pixels."""
    output: str
    """Absolute, the same on every node."""
    tables: Any
    """In Ray's object store: ``{split: table}``."""
    cpus_per_worker: int
    loader_processes: int
    board: Board


@dataclass(frozen=True)
class Outcome:
    """How a worker's part of a run ended, if it was not by a death."""

    kind: str
    """``done``, ``stopped`` or ``failed``."""
    reason: str = ""


def train_worker(config: dict[str, Any]) -> Outcome:
    """Ray Train's loop of one worker."""
    import ray
    import ray.train
    import ray.train.torch

    task: TrainTask = config["task"]
    context = ray.train.get_context()
    return run_worker(
        task,
        ray.get(task.tables),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )


def run_worker(
    task: TrainTask, tables: dict[str, pa.Table], *, rank: int, world_size: int, device: torch.device
) -> Outcome:
    """Train from the state in the output folder on, until the run is done or has to end."""
    import torch

    torch.set_num_threads(task.cpus_per_worker)
    s3 = s3_options(task.config)
    directory = open_directory(task.output, s3)
    state = load_state(directory, STATE_NAME)
    assert state is not None, "the command writes a state before it starts workers"
    with tempfile.TemporaryDirectory(prefix="imgcls-train-") as folder:
        files = {split: Path(folder, f"{split}.arrow") for split in SPLITS}
        for split in SPLITS:
            write_entries(tables[split], files[split])
        labels = tables["train"]["label"].to_numpy()
        saver = Saver(task.output, s3, keep=task.config.keep_checkpoints) if rank == 0 else None
        try:
            worker = _Worker(task, state, files, labels, len(tables["val"]), rank, world_size, device, saver)
            return worker.run()
        finally:
            if saver is not None:
                saver.close()


class _Worker:
    """One process of a run."""

    def __init__(
        self,
        task: TrainTask,
        state: TrainState,
        files: dict[str, Path],
        labels: np.ndarray,
        num_val: int,
        rank: int,
        world_size: int,
        device: torch.device,
        saver: Saver | None,
    ) -> None:
        import torch

        config = task.config
        self._task, self._config, self._state, self._saver, self._device = task, config, state, saver, device
        self._rank, self._world_size = rank, world_size
        self._recipe = task.recipe
        self._num_images = {"train": len(labels), "val": num_val}
        self._num_classes = len(state.model["class_names"])
        self._order = BatchOrder(
            labels,
            num_val,
            task.batch_size,
            config.accumulate_steps,
            config.seed,
            balanced=config.sampling == "balanced",
            rank=rank,
            world_size=world_size,
        )
        preprocess = Preprocess(**state.model["preprocess"])
        self._network = network_of(state.model, state.network, drop_path=self._recipe.drop_path)
        self._network.to(device).to(memory_format=torch.channels_last)
        if config.freeze == "backbone":
            _freeze_backbone(self._network)
        self._average = average_of(self._network, self._recipe)
        if self._average is not None and state.average is not None:
            self._average.module.load_state_dict(state.average)
        self._optimizer = make_optimizer(self._network, self._recipe)
        if state.optimizer is not None:
            self._optimizer.load_state_dict(state.optimizer)
        self._amp_type = _amp_type(config.amp, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._amp_type is torch.float16)
        if state.scaler:
            self._scaler.load_state_dict(state.scaler)
        self._parallel: nn.Module = self._network
        if world_size > 1:
            device_ids = [device] if device.type == "cuda" else None
            self._parallel = torch.nn.parallel.DistributedDataParallel(self._network, device_ids=device_ids)
        self._mean = (255 * torch.tensor(preprocess.mean, device=device)).view(1, 3, 1, 1)
        self._std = (255 * torch.tensor(preprocess.std, device=device)).view(1, 3, 1, 1)
        self._mix = make_mixer(self._recipe, self._num_classes)
        self._weights = _class_weights(labels, self._num_classes).to(device) if config.class_weights != "none" else None
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=device)
        self._counts = np.zeros(2)
        augmentation = Augmentation(
            task.train_size,
            preprocess.interpolation,
            self._recipe.crop_scale,
            self._recipe.flip,
            self._recipe.rand_augment,
            self._recipe.random_erasing,
            preprocess.mean,
        )
        self._batches = load_batches(
            LoadTask(files, augmentation, preprocess, fetch_limits(config), decode_limits(config)),
            self._all_batches(),
            num_processes=task.loader_processes,
            for_gpu=device.type == "cuda",
        )
        self._bad: dict[str, str] = {}

    def run(self) -> Outcome:
        """Go on until the last epoch, a stop, or a reason to end."""
        config, steps = self._config, self._order.steps_per_epoch
        first = self._state.step
        self._tell(
            "begin",
            step=first,
            steps_per_epoch=steps,
            epochs=config.epochs,
            num_workers=self._world_size,
            device=str(self._device),
            amp=str(self._amp_type or "off"),
        )
        for epoch in range(first // steps, config.epochs):
            if self._is_past_best():
                break
            outcome = self._train_epoch(epoch, first_step=first % steps if epoch == first // steps else 0)
            if outcome is not None:
                return outcome
        self._save(is_last=True)
        return Outcome("done")

    def _all_batches(self) -> Iterator[list[Sample]]:
        """The batches of the whole run, in the order in which ``run`` asks for them."""
        steps = self._order.steps_per_epoch
        first = self._state.step
        for epoch in range(first // steps, self._config.epochs):
            yield from self._order.train_passes(epoch, first % steps if epoch == first // steps else 0)
            if self._is_evaluated(epoch):
                yield from self._order.val_batches()

    def _is_evaluated(self, epoch: int) -> bool:
        return (epoch + 1) % self._config.eval_interval == 0 or epoch + 1 == self._config.epochs

    def _is_past_best(self) -> bool:
        state, config = self._state, self._config
        num_evaluated = sum("val.top1" in row for row in state.history if row["epoch"] > state.best_epoch)
        return bool(config.early_stop) and bool(state.best_epoch) and num_evaluated >= config.early_stop

    def _train_epoch(self, epoch: int, *, first_step: int) -> Outcome | None:
        config, steps = self._config, self._order.steps_per_epoch
        totals = dict.fromkeys(_SUMS, 0.0) | {"seconds": 0.0} | self._state.sums
        since = time.monotonic()
        rate = 0.0
        for step_of_epoch in range(first_step, steps):
            step = epoch * steps + step_of_epoch
            rate = learning_rate_at(step, self._recipe, epochs=config.epochs, steps_per_epoch=steps)
            self._step(step, rate)
            if (step_of_epoch + 1) % config.log_interval and step_of_epoch + 1 < steps:
                continue
            sums = self._take_sums()
            seconds = time.monotonic() - since
            since = time.monotonic()
            totals = {key: totals[key] + value for key, value in {**sums, "seconds": seconds}.items()}
            self._state.step = step + 1
            self._state.sums = totals
            if not math.isfinite(sums["loss"]):
                return Outcome(
                    "failed",
                    f"the loss is not a finite number after step {step + 1:,} (epoch {epoch + 1}); a lower "
                    f"learning_rate than {self._recipe.learning_rate:.3g} or clip_grad_norm=1 may help",
                )
            self._tell(
                "step",
                step=step + 1,
                epoch=epoch + 1,
                loss=sums["loss"] / max(sums["count"], 1),
                learning_rate=rate,
                images_per_s=sums["count"] / seconds,
            )
            if sums["stop"]:
                self._save(is_last=True)
                return Outcome("stopped", f"in epoch {epoch + 1} of {config.epochs}")
            if outcome := self._too_many_bad("train", totals["bad"]):
                return outcome
            if step_of_epoch + 1 < steps:
                self._save_if_due(_SAVE_WITHIN_EPOCH_S)
        return self._end_epoch(epoch, totals, rate)

    def _end_epoch(self, epoch: int, totals: dict[str, float], rate: float) -> Outcome | None:
        state, config = self._state, self._config
        count = max(totals["count"], 1)
        row = {
            "epoch": epoch + 1,
            "step": state.step,
            "learning_rate": rate,
            "train.loss": totals["loss"] / count,
            "train.top1": totals["correct"] / count,
            "images_per_s": totals["count"] / max(totals["seconds"], 1e-9),
            "seconds": totals["seconds"],
        }
        if self._is_evaluated(epoch):
            metrics, num_bad = self._evaluate()
            if outcome := self._too_many_bad("val", num_bad):
                return outcome
            row |= metrics
        state.history.append(row)
        state.sums = {}
        state.bad |= self._gathered_bad()
        is_best = "val.top1" in row and (
            not state.best_epoch
            or (row["val.top1"], -row["val.loss"]) > (state.best_metrics["val.top1"], -state.best_metrics["val.loss"])
        )
        if is_best:
            state.best_epoch = epoch + 1
            state.best_metrics = {key: row[key] for key in ("val.top1", "val.top5", "val.loss")}
            if self._saver is not None:
                state.best = self._weights_for_use()
        self._tell("epoch", row=row, is_best=is_best, num_bad=len(state.bad))
        if config.save_interval and (epoch + 1) % config.save_interval == 0:
            self._save(checkpoint=f"epoch_{epoch + 1}")
        self._save_if_due(config.save_seconds)
        return None

    def _step(self, step: int, rate: float) -> None:
        """One step of the optimizer, of ``accumulate_steps`` passes."""
        import torch

        # Dropout, depth and mixes: from the step, so that a run that goes on draws what it would have drawn.
        torch.manual_seed(hash((self._config.seed, step, self._rank)) % 2**63)
        self._train_mode()
        self._optimizer.zero_grad(set_to_none=True)
        set_learning_rate(self._optimizer, rate)
        num_passes = self._config.accumulate_steps
        for number in range(num_passes):
            # Gradients are shared with the other workers once a step.
            is_last = number + 1 == num_passes or self._world_size == 1
            with nullcontext() if is_last else self._parallel.no_sync():  # type: ignore[operator]
                self._forward_backward(next(self._batches))
        if self._recipe.clip_grad_norm:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self._network, step + 1)

    def _forward_backward(self, batch: Batch) -> None:
        import torch
        from torch.nn import functional as F

        self._note_bad(batch)
        pixels, labels, count = _at_least_two(batch)
        images = self._normalised(pixels)
        target = labels.to(self._device, non_blocking=True)
        if self._mix is not None and count >= 2:
            images, target = self._mix(images, target)
        with self._autocast():
            logits = self._parallel(images)
        # Of all images of the step, wherever they are: workers with fewer of them count for less.
        losses = F.cross_entropy(
            logits.float(),
            target,
            weight=self._weights,
            reduction="sum",
            label_smoothing=self._recipe.label_smoothing,
        )
        scaled = self._scaler.scale(losses * (self._world_size / self._task.batch_size))
        torch.autograd.backward(scaled)
        with torch.no_grad():
            truth = target.argmax(1) if target.ndim == 2 else target
            self._sums[:2] += torch.stack([losses.detach(), (logits.argmax(1) == truth).sum()])
        # Counted here: a number that goes to a GPU makes this process wait for it.
        self._counts += (count, len(batch.bad))

    def _train_mode(self) -> None:
        if self._config.freeze == "backbone":
            # Batch norm keeps the statistics that it was trained with.
            self._network.eval()
            self._network.get_classifier().train()  # type: ignore[operator]
        else:
            self._parallel.train()

    def _take_sums(self) -> dict[str, float]:
        """Sums of all workers since the last time; whether any of them was asked to stop travels with them."""
        import torch

        is_stopped = self._rank == 0 and self._task.board.is_stopped()
        self._sums[2:] += torch.tensor([*self._counts, is_stopped], device=self._device)
        _add_up(self._sums, self._world_size)
        sums = dict(zip(_SUMS, self._sums.tolist(), strict=True))
        self._sums.zero_()
        self._counts[:] = 0
        return sums

    def _evaluate(self) -> tuple[dict[str, float], float]:
        """Metrics over the val split, every image of it once, and how many could not be read."""
        import torch
        from torch.nn import functional as F

        network = self._network if self._average is None else self._average.module
        network.eval()
        top = min(5, self._num_classes)
        sums = torch.zeros(5, dtype=torch.float64, device=self._device)
        with torch.inference_mode():
            for _ in self._order.val_batches():
                batch = next(self._batches)
                self._note_bad(batch)
                sums[4] += len(batch.bad)
                if not len(batch.labels):
                    continue
                labels = batch.labels.to(self._device, non_blocking=True)
                with self._autocast():
                    logits = network(self._normalised(batch.pixels))
                logits = logits.float()
                hits = logits.topk(top).indices == labels[:, None]
                sums[0] += F.cross_entropy(logits, labels, reduction="sum").double()
                sums[1] += hits[:, 0].sum()
                sums[2] += hits.any(1).sum()
                sums[3] += len(labels)
        _add_up(sums, self._world_size)
        loss, top1, top5, count, num_bad = sums.tolist()
        count = max(count, 1)
        return {"val.loss": loss / count, "val.top1": top1 / count, "val.top5": top5 / count}, num_bad

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        images = pixels.to(self._device, non_blocking=True).float()
        return images.sub_(self._mean).div_(self._std).contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> Any:
        import torch

        if self._amp_type is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._amp_type)

    # Images that cannot be read

    def _note_bad(self, batch: Batch) -> None:
        for split, number, code in batch.bad:
            self._bad[f"{split}/{number}"] = code

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

        everyones: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(everyones, self._bad)
        return {key: code for bad in everyones for key, code in bad.items()}

    # Saving

    def _weights_for_use(self) -> dict[str, torch.Tensor]:
        return _on_cpu(self._network if self._average is None else self._average.module)

    def _save_if_due(self, seconds: float) -> None:
        if self._saver is not None and self._saver.seconds_since_save() >= seconds:
            self._save()

    def _save(self, *, checkpoint: str | None = None, is_last: bool = False) -> None:
        if self._saver is None:
            return
        state = self._state
        state.network = _on_cpu(self._network)
        state.average = _on_cpu(self._average.module) if self._average is not None else None
        state.optimizer = self._optimizer.state_dict()
        state.scaler = self._scaler.state_dict() if self._scaler.is_enabled() else None
        self._saver.save(state, checkpoint=checkpoint)
        if is_last:
            self._saver.wait()

    def _tell(self, kind: str, **values: Any) -> None:
        if self._rank == 0:
            send(self._task.board, kind, values)


_SUMS = ("loss", "correct", "count", "bad", "stop")
_SAVE_WITHIN_EPOCH_S = 600.0


def _add_up(sums: torch.Tensor, world_size: int) -> None:
    if world_size > 1:
        import torch.distributed

        torch.distributed.all_reduce(sums)


def _on_cpu(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the weights that training does not change."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in network.state_dict().items()}


def _freeze_backbone(network: nn.Module) -> None:
    network.requires_grad_(False)
    network.get_classifier().requires_grad_(True)  # type: ignore[operator]


def _class_weights(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """Inverse to how many images a class has; 1 on average over the images."""
    import torch

    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(weights).float()


def _amp_type(amp: str, device: torch.device) -> torch.dtype | None:
    import torch

    if amp == "off" or (amp == "auto" and device.type == "cpu"):
        return None
    if amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if amp == "bf16" else torch.float16


def _at_least_two(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Pixels, labels and how many count: batch norm needs two images, and other workers wait for this one's pass."""
    import torch

    missing = 2 - len(batch.labels)
    if missing <= 0:
        return batch.pixels, batch.labels, len(batch.labels)
    blank = torch.zeros((missing, *batch.pixels.shape[1:]), dtype=torch.uint8)
    ignored = torch.full((missing,), -100, dtype=torch.int64)
    return torch.cat([batch.pixels, blank]), torch.cat([batch.labels, ignored]), len(batch.labels)
