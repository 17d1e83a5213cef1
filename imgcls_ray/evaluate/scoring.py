"""What a set of answers is worth: by class and in all, exactly, from the pairs of true and predicted class."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class ClassScore(NamedTuple):
    """One class of the model."""

    class_id: int
    name: str
    precision: float
    """Of the images that were given this class, the share that has it; 0 where none was given it."""
    recall: float
    """Of the images that have this class, the share that was given it; 0 where none has it."""
    f1: float
    support: int
    """Images that have it."""
    confused_with: int | None
    """The other class that its images were given most often, of several the lowest id."""
    num_confused: int


class Confusion(NamedTuple):
    """The cells of a confusion matrix that are not 0, sorted by true and then by predicted class."""

    true: np.ndarray
    """int32 (N,), class ids."""
    predicted: np.ndarray
    """int32 (N,)."""
    counts: np.ndarray
    """int64 (N,)."""

    def matrix(self, class_ids: np.ndarray) -> np.ndarray:
        """Cells among these classes: int64 (C, C), true classes in rows.

        Args:
            class_ids: int (C,), ascending.
        """
        matrix = np.zeros((len(class_ids), len(class_ids)), np.int64)
        inside = np.isin(self.true, class_ids) & np.isin(self.predicted, class_ids)
        rows, columns = (np.searchsorted(class_ids, ids[inside]) for ids in (self.true, self.predicted))
        matrix[rows, columns] = self.counts[inside]
        return matrix


def confusion_of(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> Confusion:
    """Count pairs. A matrix of 21,000 classes would take gigabytes; its cells that are not 0 are few.

    Args:
        true, predicted: int32 (N,).
    """
    cells, counts = np.unique(true.astype(np.int64) * num_classes + predicted, return_counts=True)
    ids = np.divmod(cells, num_classes)
    return Confusion(ids[0].astype(np.int32), ids[1].astype(np.int32), counts)


def score_classes(
    true: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], confusion: Confusion
) -> list[ClassScore]:
    """Score every class of the model, in the order of their ids."""
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
    """Mean over the classes that have images: one that is not there can be neither found nor missed."""
    return float(np.mean([score.f1 for score in scores if score.support]))


def balanced_accuracy(scores: Sequence[ClassScore]) -> float:
    """Mean recall over the classes that have images, as scikit-learn's ``balanced_accuracy_score``.

    That one makes a full confusion matrix, which of many classes does not fit into memory.
    """
    return float(np.mean([score.recall for score in scores if score.support]))
