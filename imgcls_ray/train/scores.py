"""Metrics of an evaluation on val, from sums that workers add up, and which of two epochs is the better one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.train.state import ClassCounts, Metrics

_ABSURD = 10.0
"""How many times the loss of guessing among all classes alike an absurd loss is."""


class Evaluated(NamedTuple):
    """What an evaluation on val has found, over all workers."""

    metrics: Metrics
    """Over all images that could be read."""
    num_bad: int
    """Number of images that could not be read."""
    class_counts: ClassCounts


class ScoreOfClass(NamedTuple):
    """How well one class is told. A share of no images is None."""

    num_images: int
    recall: float | None
    precision: float | None
    f1: float | None


def score_each_class(counts: ClassCounts) -> list[ScoreOfClass]:
    """Recall, precision and F1 score of each class, in the order of the classes.

    ::

        score_each_class([[3, 0], [4, 1], [4, 1]])
        # [ScoreOfClass(4, 0.75, 0.75, 0.75), ScoreOfClass(1, 0.0, 0.0, 0.0)]
    """
    return [
        ScoreOfClass(true, _share(right, true), _share(right, told), _share(2 * right, true + told) if true else None)
        for right, true, told in zip(*counts, strict=True)
    ]


def recalls_by_epoch(
    class_counts: dict[float, ClassCounts], names: Sequence[str]
) -> dict[str, list[tuple[float, float]]]:
    """The points of each class' curve: epoch and recall. Classes without images on val are left out.

    Args:
        class_counts: counts by epoch.
        names: names of the classes, all different.
    """
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for epoch, counts in class_counts.items():
        for name, score in zip(names, score_each_class(counts), strict=True):
            if score.recall is not None:
                points[name].append((epoch, score.recall))
    return {name: found for name, found in points.items() if found}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def class_scores(num_right: np.ndarray, num_true: np.ndarray, num_told: np.ndarray) -> Metrics:
    """Mean F1 score and mean recall over the classes that have images.

    ::

        class_scores(np.array([3, 0]), np.array([4, 1]), np.array([4, 1]))
        # {"val.macro_f1": 0.375, "val.balanced_accuracy": 0.375}

    Args:
        num_right: (num_classes,), images of each class that are predicted right.
        num_true: (num_classes,), images of each class.
        num_told: (num_classes,), images that are predicted to be of each class.
    """
    is_there = num_true > 0
    right, true, told = num_right[is_there], num_true[is_there], num_told[is_there]
    if not len(true):
        return {"val.macro_f1": 0.0, "val.balanced_accuracy": 0.0}
    return {
        "val.macro_f1": float((2 * right / (true + told)).mean()),
        "val.balanced_accuracy": float((right / true).mean()),
    }


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that have images of the average precision of a class against all others.

    Args:
        scores: float32 (N, num_classes).
        labels: (N,), class ids.
    """
    from sklearn.metrics import average_precision_score

    if not np.isfinite(scores).all():
        return math.nan
    found = [average_precision_score(labels == label, scores[:, label]) for label in np.unique(labels)]
    return float(np.mean(found)) if found else 0.0


def is_better(metrics: Metrics, best: Metrics, monitor: str) -> bool:
    """Whether an epoch is better than the best one before, which is empty at first.

    Of equally good ones the one with the lower loss is the better, else the first. A metric or a loss that is no number
    is never better.
    """
    key = f"val.{monitor}"
    if not (math.isfinite(metrics[key]) and math.isfinite(metrics["val.loss"])):
        return False
    sign = -1 if monitor == "loss" else 1
    return not best or (sign * metrics[key], -metrics["val.loss"]) > (sign * best[key], -best["val.loss"])


def told_of_loss(loss: float, num_classes: int) -> str:
    """What is wrong with a loss on val, in words; empty if nothing is."""
    guessing = math.log(max(num_classes, 2))
    if math.isfinite(loss) and loss <= _ABSURD * guessing:
        return ""
    return (
        f"val loss {loss:.3g} is no loss of a network that works (guessing has {guessing:.2g}): it has diverged, or "
        "batch norm's statistics are of too few steps; a lower learning_rate, or more steps, may help"
    )
