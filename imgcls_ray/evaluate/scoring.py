"""Exact metrics of a set of predictions, per class and overall, from pairs of true and predicted class."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.report.confusion import Confusion

if TYPE_CHECKING:
    from collections.abc import Sequence


class ClassScore(NamedTuple):
    """The metrics of one class of the model."""

    class_id: int
    name: str
    precision: float
    """Share of correct predictions among all predictions of this class; 0 if it was never predicted."""
    recall: float
    """Share of the images of this class that were predicted as it; 0 if it has no images."""
    f1: float
    support: int
    """Number of images of this class."""
    confused_with: int | None
    """Id of the wrong class predicted most often for its images, the lowest of several; None without mistakes."""
    num_confused: int
    """Number of its images that were predicted as ``confused_with``."""


def confusion_of(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> Confusion:
    """Count the images of each pair of true and predicted class.

    The result is sparse: a full matrix of 21,000 classes would take gigabytes.

    >>> [column.tolist() for column in confusion_of(np.array([0, 0, 2]), np.array([1, 1, 2]), num_classes=3)]
    [[0, 2], [1, 2], [2, 1]]

    Args:
        true: int32 (N,), class ids.
        predicted: int32 (N,), class ids.
        num_classes: number of classes of the model.
    """
    cells, counts = np.unique(true.astype(np.int64) * num_classes + predicted, return_counts=True)
    ids = np.divmod(cells, num_classes)
    return Confusion(ids[0].astype(np.int32), ids[1].astype(np.int32), counts)


def score_classes(
    true: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], confusion: Confusion
) -> list[ClassScore]:
    """Compute the metrics of every class of the model, in the order of the ids.

    >>> true, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    >>> ant, bee = score_classes(true, predicted, ["ant", "bee"], confusion_of(true, predicted, 2))
    >>> ant.precision, ant.recall, bee.precision, bee.recall
    (1.0, 0.5, 0.5, 1.0)

    Args:
        true: int32 (N,), class ids.
        predicted: int32 (N,), class ids.
        class_names: names by id.
        confusion: of the same images, as ``confusion_of`` returns it.
    """
    from sklearn.metrics import precision_recall_fscore_support

    num_classes = len(class_names)
    columns = precision_recall_fscore_support(true, predicted, labels=np.arange(num_classes), zero_division=0)
    confused = _most_confused(confusion)
    return [
        ClassScore(
            class_id, name, float(precision), float(recall), float(f1), int(support), *confused.get(class_id, (None, 0))
        )
        for class_id, (name, precision, recall, f1, support) in enumerate(zip(class_names, *columns, strict=True))
    ]


def _most_confused(confusion: Confusion) -> dict[int, tuple[int, int]]:
    """By class, the other class that most of its images were given, and how many."""
    most: dict[int, tuple[int, int]] = {}
    wrong = confusion.true != confusion.predicted
    for true, predicted, count in zip(*(column[wrong].tolist() for column in confusion), strict=True):
        if count > most.get(true, (0, 0))[1]:
            most[true] = (predicted, count)
    return most


def macro_f1(scores: Sequence[ClassScore]) -> float:
    """Mean F1 of the classes that have images. Classes without images do not count."""
    return float(np.mean([score.f1 for score in scores if score.support]))


def balanced_accuracy(scores: Sequence[ClassScore]) -> float:
    """Mean recall of the classes that have images: the value of scikit-learn's ``balanced_accuracy_score``.

    scikit-learn makes a full confusion matrix, which does not fit into memory with many classes.
    """
    return float(np.mean([score.recall for score in scores if score.support]))
