"""Forward and backward passes, optimizer steps and evaluation of one worker. It knows no epochs and no files."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from imgcls_ray.models.engines.torch_engine import make_normalise
from imgcls_ray.train.augment import make_mixer
from imgcls_ray.train.batch_norm import BatchNorms, with_synced_norms
from imgcls_ray.train.evaluation import added_up, evaluate
from imgcls_ray.train.losses import IGNORED, Loss
from imgcls_ray.train.network import checkpoint_gradients, network_of
from imgcls_ray.train.optimisation import average_of, make_optimizer, set_learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    import numpy as np
    import torch
    from torch import nn

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.distillation import Teacher
    from imgcls_ray.train.loading import Batch
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.scores import Evaluated
    from imgcls_ray.train.state import TrainState


class Learner:
    """One worker's copy of the network. After each step all workers have the same weights.

    Args:
        state: state to resume from.
        config: settings of the run.
        recipe: resolved hyperparameters.
        batch_size: images of one step over all workers.
        labels: int32 (N,), class ids of the train split.
        device: device of this worker.
        world_size: number of workers.
        teacher: who teaches besides the labels.
    """

    def __init__(
        self,
        state: TrainState,
        config: TrainConfig,
        recipe: Recipe,
        *,
        batch_size: int,
        labels: np.ndarray,
        device: torch.device,
        world_size: int,
        teacher: Teacher | None = None,
    ) -> None:
        import torch

        self._recipe, self._device, self._world_size, self._batch_size = recipe, device, world_size, batch_size
        self._num_classes, self._teacher = len(state.model.class_names), teacher
        self._network = network_of(state.model, state.network, drop_path=recipe.drop_path)
        self._network.to(device).to(memory_format=torch.channels_last)
        self._runs_again = config.grad_checkpointing
        if self._runs_again:
            checkpoint_gradients(self._network)
        self._is_probe = config.freeze == "backbone"
        self._is_synced = world_size > 1 and config.sync_batch_norm
        if self._is_synced:
            self._network = with_synced_norms(self._network, device)
        if self._is_probe:
            self._network.requires_grad_(False)
            self._head().requires_grad_(True)
        self._average = average_of(self._network, recipe)
        if self._average is not None and state.average is not None:
            self._average.module.load_state_dict(state.average)
        self._optimizer = make_optimizer(self._network, recipe)
        if state.optimizer is not None:
            self._optimizer.load_state_dict(state.optimizer)
        self.amp_type = _amp_type(config.amp, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.amp_type is torch.float16)
        if state.scaler:
            self._scaler.load_state_dict(state.scaler)
        self._norms = BatchNorms(self._network, is_synced=self._is_synced)
        self._parallel: nn.Module = self._network
        if world_size > 1:
            self._parallel = _in_parallel(self._network, device)
        self._normalise = make_normalise(state.model.preprocess).to(device)
        self._mix = make_mixer(recipe, self._num_classes)
        self._loss = Loss(
            labels,
            self._num_classes,
            device=device,
            is_weighted=config.class_weights == "balanced",
            label_smoothing=recipe.label_smoothing,
            focal_gamma=config.focal_gamma,
            logit_adjustment=config.logit_adjustment,
        )
        # The precision of a class needs the order of all images, and so the scores of all workers.
        self._ranks = config.monitor == "mAP"
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)

    def step(self, passes: Iterable[Batch], *, num_passes: int, rate: float, step: int, seed: int) -> None:
        """Do one optimizer step.

        Args:
            passes: this worker's share of the images, one batch per pass; gradients are summed over the passes.
            num_passes: number of passes.
            rate: learning rate.
            step: number of the step in the run, from 0.
            seed: seed of dropout, stochastic depth, MixUp and CutMix.
        """
        import torch

        torch.manual_seed(seed)
        self._train_mode()
        self._optimizer.zero_grad(set_to_none=True)
        set_learning_rate(self._optimizer, rate)
        for number, batch in enumerate(passes):
            # Gradients are shared with the other workers once a step.
            is_last = number + 1 == num_passes or self._world_size == 1
            with nullcontext() if is_last else self._parallel.no_sync():  # type: ignore[operator]
                self._forward_backward(batch)
        if self._recipe.clip_grad_norm:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._world_size > 1:
            self._norms.share(self._world_size)
        if self._average is not None:
            self._average.update(self._network, step + 1)

    def _forward_backward(self, batch: Batch) -> None:
        import torch

        pixels, labels = (batch.pixels, batch.labels) if self._is_synced else _at_least_one(batch)
        images = self._normalised(pixels)
        target = labels.to(self._device, non_blocking=True)
        if self._mix is not None and len(batch.labels) >= 2:
            images, target = self._mix(images, target)
        with self._norms.for_images(len(batch.labels)):
            with self._autocast():
                logits = self._parallel(images)
            loss = self._loss(logits.float(), target)
            if self._teacher is not None:
                with self._autocast():
                    of_teacher = self._teacher.logits(images)
                loss = self._teacher.blended(loss, logits.float(), of_teacher, target)
            # The mean over all images of the step, wherever they are: DDP averages over workers, who may have fewer.
            scaled = self._scaler.scale(loss * (self._world_size / self._batch_size))
            # With gradient checkpointing, the network runs again here.
            with self._norms.kept() if self._runs_again else nullcontext():
                torch.autograd.backward(scaled)
        with torch.no_grad():
            truth = target.argmax(1) if target.ndim == 2 else target
            self._sums += torch.stack([loss.detach(), (logits.argmax(1) == truth).sum()])

    def take_sums(self, counts: list[float]) -> tuple[list[float], list[float]]:
        """Sum over all workers: [loss, correct predictions] since the last call, and ``counts`` element by element."""
        import torch

        sums = torch.cat([self._sums, torch.tensor(counts, dtype=torch.float64, device=self._device)])
        self._sums.zero_()
        totals = added_up(sums, self._world_size).tolist()
        return totals[:2], totals[2:]

    def evaluate(self, batches: Iterable[Batch]) -> Evaluated:
        """Evaluate the weights for use on the batches of all workers."""
        network = self._network if self._average is None else self._average.module
        network.eval()

        def logits_of(pixels: torch.Tensor) -> torch.Tensor:
            with self._autocast():
                logits: torch.Tensor = network(self._normalised(pixels))
            return logits.float()

        return evaluate(
            logits_of,
            batches,
            num_classes=self._num_classes,
            device=self._device,
            world_size=self._world_size,
            ranks=self._ranks,
        )

    def weights_for_use(self) -> dict[str, torch.Tensor]:
        """A CPU copy of the weights that are evaluated: the averaged ones, if the recipe has them."""
        return _on_cpu(self._network if self._average is None else self._average.module)

    def write_to(self, state: TrainState) -> None:
        """Write weights, optimizer and loss scaler into a state. The weights are copies on the CPU."""
        state.network = _on_cpu(self._network)
        state.average = _on_cpu(self._average.module) if self._average is not None else None
        state.optimizer = self._optimizer.state_dict()
        state.scaler = self._scaler.state_dict() if self._scaler.is_enabled() else None

    def _train_mode(self) -> None:
        if self._is_probe:
            # Batch norm keeps the statistics that it was trained with.
            self._network.eval()
            self._head().train()
        else:
            self._parallel.train()

    def _head(self) -> nn.Module:
        head: nn.Module = self._network.get_classifier()  # type: ignore[operator]
        return head

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self._normalise(pixels.to(self._device, non_blocking=True).permute(0, 2, 3, 1))
        return images

    def _autocast(self) -> AbstractContextManager[object]:
        import torch

        if self.amp_type is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.amp_type)


def _in_parallel(network: nn.Module, device: torch.device) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    # ``BatchNorms`` brings the buffers together: after each step, and all workers' and not the first one's alone.
    has_new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {"forward_sync_buffers" if has_new_name else "broadcast_buffers": False}
    parallel: nn.Module = DistributedDataParallel(
        network, device_ids=[device] if device.type == "cuda" else None, **options
    )
    return parallel


def _on_cpu(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in network.state_dict().items()}


def _amp_type(amp: str, device: torch.device) -> torch.dtype | None:
    import torch

    if amp == "off" or (amp == "auto" and device.type == "cpu"):
        return None
    if amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if amp == "bf16" else torch.float16


def _at_least_one(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and labels; of a batch without images, one that does not count: the other workers wait for this pass."""
    import torch

    if len(batch.labels):
        return batch.pixels, batch.labels
    blank = torch.zeros((1, *batch.pixels.shape[1:]), dtype=torch.uint8)
    return blank, torch.full((1,), IGNORED, dtype=torch.int64)
