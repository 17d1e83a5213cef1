"""Evaluate a network on val: the sums of all workers, and what they say."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.train.scores import Evaluated, class_scores, mean_average_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch

    from imgcls_ray.train.loading import Batch


def evaluate(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[Batch],
    *,
    num_classes: int,
    device: torch.device,
    world_size: int,
    ranks: bool,
) -> Evaluated:
    """Evaluate on the batches of all workers, who all call it.

    ::

        evaluate(logits_of, batches, ...)
        # Evaluated({"val.loss": 0.31, "val.top1": 0.91, "val.top5": 0.99, ...}, 2, ...)

    Args:
        logits_of: gives float32 (B, num_classes) of uint8 (B, 3, S, S).
        batches: this worker's.
        num_classes: number of classes.
        device: device of this worker.
        world_size: number of workers.
        ranks: whether the mean average precision is wanted. It needs the scores of all images of all workers.
    """
    import torch
    from torch.nn import functional as F

    top = min(5, num_classes)
    # Of each class the images predicted right, the images, and the predictions, behind the sums of all.
    sums = torch.zeros(5 + 3 * num_classes, dtype=torch.float64, device=device)
    right, true, told = torch.split(sums[5:], num_classes)
    scored: list[tuple[np.ndarray, np.ndarray]] = []
    # The next batches come outside of inference mode: those of training may come with them.
    for batch in batches:
        sums[4] += len(batch.bad)
        if not len(batch.labels):
            continue
        labels = batch.labels.to(device, non_blocking=True)
        with torch.inference_mode():
            logits = logits_of(batch.pixels)
        best = logits.topk(top).indices
        hits = best == labels[:, None]
        sums[0] += F.cross_entropy(logits, labels, reduction="sum").double()
        sums[1] += hits[:, 0].sum()
        sums[2] += hits.any(1).sum()
        sums[3] += len(labels)
        for counts, chosen in ((right, labels[hits[:, 0]]), (true, labels), (told, best[:, 0])):
            counts += torch.bincount(chosen, minlength=num_classes)
        if ranks:
            scored.append((logits.softmax(1).cpu().numpy(), batch.labels.numpy()))
    sums = added_up(sums, world_size)
    loss, top1, top5, count, num_bad = sums[:5].tolist()
    count = max(count, 1)
    metrics = {"val.loss": loss / count, "val.top1": top1 / count, "val.top5": top5 / count}
    of_classes = sums[5:].cpu().numpy().reshape(3, num_classes)
    metrics |= class_scores(*of_classes)
    if ranks:
        metrics["val.mAP"] = mean_average_precision(*_of_all(scored, num_classes, world_size))
    return Evaluated(metrics, int(num_bad), of_classes.astype(int).tolist())


def added_up(sums: torch.Tensor, world_size: int) -> torch.Tensor:
    """The sum over all workers, in place."""
    if world_size > 1:
        import torch.distributed

        torch.distributed.all_reduce(sums)
    return sums


def _of_all(
    scored: Sequence[tuple[np.ndarray, np.ndarray]], num_classes: int, world_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, num_classes) and labels (N,) of all workers."""
    everyones = [scored]
    if world_size > 1:
        import torch.distributed

        everyones = [[]] * world_size
        torch.distributed.all_gather_object(everyones, scored)
    nothing = (np.empty((0, num_classes), np.float32), np.empty(0, np.int64))
    scores, labels = zip(nothing, *itertools.chain.from_iterable(everyones), strict=True)
    return np.concatenate(scores), np.concatenate(labels)
