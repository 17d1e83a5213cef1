"""Train a small network on the demo's pictures: an honest loop, short enough to read in one sitting.

It is for the demo, not for real work: one process, pictures in memory, no checkpoints. The same arguments give the
same weights on the same machine, and the caller's random state is as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import torch

# Measured with timm's lcnet_050 from random weights, pictures drawn at 64 pixels: four seeds got 94 to 99 % of newly
# drawn pictures right. One took 28 s, with two cores nearly to itself; other work beside it made that 45 s and more.
# With 150 pictures per class, one seed got 78 %.
NUM_IMAGES_PER_CLASS = 280
IMAGE_SIZE = 64
NUM_EPOCHS = 14
BATCH_SIZE = 32

# High for AdamW, yet needed: tried with 150 pictures per class, turned any way round, lcnet_050 was still near chance
# after a third of the epochs at 0.004, and never left it at 0.08.
_MAX_LEARNING_RATE = 0.02
_WEIGHT_DECAY = 0.02
_LABEL_SMOOTHING = 0.05


def fit_demo_model(
    network: torch.nn.Module,
    pixels: np.ndarray,
    labels: np.ndarray,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    epochs: int = NUM_EPOCHS,
    batch_size: int = BATCH_SIZE,
    max_learning_rate: float = _MAX_LEARNING_RATE,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> float:
    """Train ``network`` in place, on the device it is on, and leave it in eval mode.

    Pictures are mirrored at random, left to right: the classes must not depend on it.

    Args:
        network: (B, 3, H, W) float32, normalized, to (B, classes) logits.
        pixels: uint8 (N, H, W, 3), RGB.
        labels: int64 (N,), class ids.
        mean, std: of the normalization, per channel, for pixels scaled to 0..1. Prediction must use the same.
        on_epoch: is called after each epoch with its number, from 1, and its training accuracy.

    Returns:
        The training accuracy of the last epoch, 0..1, measured on the way: each picture mirrored at random, with the
        weights of the moment. How good the model is, only pictures that it has not seen can tell.

    Raises:
        ValueError: arrays that do not fit together, or fewer pictures than one batch.
    """
    import torch
    from torch.nn import functional as F

    _check(pixels, labels, batch_size=batch_size)
    device = next(network.parameters()).device
    normalize = _normalizer(mean, std, device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=max_learning_rate, weight_decay=_WEIGHT_DECAY, fused=True)
    # The last, incomplete batch is left out: batch norm on one or two pictures would spoil a step. Shuffling lets
    # each picture have its turn.
    batches_per_epoch = len(pixels) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=max_learning_rate, total_steps=epochs * batches_per_epoch, pct_start=0.25
    )
    network.train()
    accuracy = 0.0
    # Dropout draws from the global generator: it is seeded here and given back as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            num_correct = 0
            for batch, target in _batches(pixels, labels, batch_size):
                target = target.to(device)
                logits = network(normalize(batch.to(device)))
                loss = F.cross_entropy(logits, target, label_smoothing=_LABEL_SMOOTHING)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                num_correct += int((logits.argmax(1) == target).sum())
            accuracy = num_correct / (batches_per_epoch * batch_size)
            if on_epoch is not None:
                on_epoch(epoch, accuracy)
    network.eval()
    return accuracy


def _check(pixels: np.ndarray, labels: np.ndarray, *, batch_size: int) -> None:
    if pixels.dtype != "uint8" or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels must be uint8 (N, H, W, 3), not {pixels.dtype} {pixels.shape}")
    if labels.dtype != "int64" or labels.shape != pixels.shape[:1]:
        raise ValueError(f"labels must be int64 ({len(pixels)},), not {labels.dtype} {labels.shape}")
    if len(pixels) < batch_size:
        raise ValueError(f"{len(pixels)} pictures do not fill one batch of {batch_size}; draw more or lower batch_size")


def _normalizer(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """uint8 (B, H, W, 3) to normalized float32 (B, 3, H, W)."""
    import torch

    scale = 1 / (255 * torch.tensor(std, device=device).view(1, 3, 1, 1))
    offset = -(torch.tensor(mean, device=device) / torch.tensor(std, device=device)).view(1, 3, 1, 1)
    # Permuting leaves the channels last in memory, which is the faster order for small convolutions on a CPU.
    return lambda batch: batch.permute(0, 3, 1, 2).float() * scale + offset


def _batches(pixels: np.ndarray, labels: np.ndarray, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of full batches in random order, half of the pictures mirrored."""
    import torch

    order = torch.randperm(len(pixels)).numpy()
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        batch, target = torch.from_numpy(pixels[chosen]), torch.from_numpy(labels[chosen])
        mirrored = torch.rand(batch_size) < 0.5
        batch[mirrored] = batch[mirrored].flip(2)
        yield batch, target
