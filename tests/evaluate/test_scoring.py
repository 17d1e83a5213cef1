"""Counts and scores equal a plain loop over the answers, for two classes and for thousands."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from imgcls_ray.datasets.classes import match_classes
from imgcls_ray.errors import UsageError
from imgcls_ray.evaluate.scoring import balanced_accuracy, confusion_of, macro_f1, score_classes
from imgcls_ray.report.confusion import (
    MAX_DRAWN_CLASSES,
    MAX_MATRIX_CLASSES,
    NUM_MOST_CONFUSED,
    confusion_csv,
    draw_confusion,
    drawn_classes,
)

if TYPE_CHECKING:
    from imgcls_ray.evaluate.scoring import ClassScore
    from imgcls_ray.report.confusion import Confusion


def draw(num_images: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_classes, num_images).astype(np.int32)
    wrong = rng.integers(0, num_classes, num_images).astype(np.int32)
    return true, np.where(rng.random(num_images) < 0.6, true, wrong)


def names_of(num_classes: int) -> list[str]:
    return [f"class {i}" for i in range(num_classes)]


def score(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> tuple[list[ClassScore], Confusion]:
    confusion = confusion_of(true, predicted, num_classes)
    return score_classes(true, predicted, names_of(num_classes), confusion), confusion


@pytest.mark.filterwarnings("ignore:A single label")
@pytest.mark.parametrize("num_classes", [1, 2, 7])
def test_the_matrix_is_that_of_a_loop_and_of_scikit_learn(num_classes: int) -> None:
    true, predicted = draw(300, num_classes)
    expected = np.zeros((num_classes, num_classes), int)
    for row, column in zip(true, predicted, strict=True):
        expected[row, column] += 1
    matrix = confusion_of(true, predicted, num_classes).matrix(np.arange(num_classes))
    assert matrix.tolist() == expected.tolist()
    assert matrix.tolist() == confusion_matrix(true, predicted, labels=range(num_classes)).tolist()


def test_scores_of_a_class_are_those_of_a_loop() -> None:
    true, predicted = draw(300, 5)
    for one in score(true, predicted, 5)[0]:
        hits = int(((true == one.class_id) & (predicted == one.class_id)).sum())
        assert one.precision == hits / (predicted == one.class_id).sum()
        assert one.recall == hits / (true == one.class_id).sum()
        assert one.support == (true == one.class_id).sum()
        others = [int(((true == one.class_id) & (predicted == other)).sum()) for other in range(5)]
        others[one.class_id] = 0
        assert (one.confused_with, one.num_confused) == (int(np.argmax(others)), max(others))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_classes_without_images_count_for_nothing_in_the_means() -> None:
    # The model has five classes, the images three; a fourth is only ever a mistake.
    true = np.array([0, 0, 1, 1, 2, 2], np.int32)
    predicted = np.array([0, 3, 1, 1, 2, 0], np.int32)
    scores, _ = score(true, predicted, 5)
    assert balanced_accuracy(scores) == pytest.approx(balanced_accuracy_score(true, predicted))
    assert macro_f1(scores) == pytest.approx(f1_score(true, predicted, labels=[0, 1, 2], average="macro"))
    assert [one.support for one in scores] == [2, 2, 2, 0, 0]
    assert (scores[3].precision, scores[3].recall, scores[3].confused_with) == (0, 0, None)


def test_a_model_of_many_classes_needs_no_full_matrix() -> None:
    true, predicted = draw(1000, 100_000)
    scores, confusion = score(true, predicted, 100_000)
    assert int(confusion.counts.sum()) == 1000
    assert len(scores) == 100_000
    assert len(confusion_csv(confusion, names_of(100_000)).splitlines()) == 1 + len(confusion.counts)


def test_the_table_has_names_in_rows_and_columns() -> None:
    true, predicted = draw(50, 3)
    rows = list(csv.reader(io.StringIO(confusion_csv(confusion_of(true, predicted, 3), ["a,b", "猫", 'c"d']).decode())))
    assert rows[0] == ["true", "a,b", "猫", 'c"d']
    matrix = confusion_matrix(true, predicted)
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == matrix.tolist()


def test_of_many_classes_the_table_lists_the_cells_that_are_not_nought() -> None:
    num_classes = MAX_MATRIX_CLASSES + 1
    true, predicted = np.array([0, 0, 200], np.int32), np.array([5, 5, 200], np.int32)
    text = confusion_csv(confusion_of(true, predicted, num_classes), names_of(num_classes)).decode()
    assert text.splitlines() == ["true,predicted,count", "class 0,class 5,2", "class 200,class 200,1"]


def test_all_of_some_dozens_of_classes_are_drawn() -> None:
    confusion = confusion_of(*draw(10, MAX_DRAWN_CLASSES), MAX_DRAWN_CLASSES)
    assert len(drawn_classes(confusion, MAX_DRAWN_CLASSES)) == MAX_DRAWN_CLASSES


def test_of_many_classes_those_are_drawn_that_occur() -> None:
    true, predicted = np.array([900, 3, 3], np.int32), np.array([900, 3, 700], np.int32)
    assert drawn_classes(confusion_of(true, predicted, 1000), 1000).tolist() == [3, 700, 900]


def test_where_too_many_occur_the_most_confused_pairs_are_drawn() -> None:
    right = np.arange(1000, dtype=np.int32)
    true, predicted = np.append(right, [600] * 9 + [8] * 5), np.append(right, [601] * 9 + [950] * 5)
    drawn = drawn_classes(confusion_of(true, predicted, 1000), 1000)
    assert len(drawn) == NUM_MOST_CONFUSED
    assert {600, 601, 8, 950} < set(drawn.tolist())


@pytest.mark.filterwarnings("error:.*Glyph.*")
@pytest.mark.parametrize("names", [["one"], ["$x$", "猫头鹰"], ["\u202eabc", "", "\U000e0001\n", "n" * 300]])
def test_whatever_classes_are_called_the_picture_is_drawn(names: list[str]) -> None:
    confusion = confusion_of(*draw(40, len(names)), len(names))
    assert draw_confusion(confusion, names, title="model on val").startswith(b"\x89PNG")


def test_classes_are_matched_by_name_whatever_their_ids() -> None:
    assert match_classes("set", ["dog", None, "ant"], "model", ["ant", "bee", "dog"]).tolist() == [2, -1, 0]


def test_classes_that_the_model_lacks_are_named() -> None:
    with pytest.raises(
        UsageError, match=r"set: 2 of its 3 classes are none of the model's: 'owl', 'Dog'; model has 2:"
    ):
        match_classes("set", ["owl", "dog", None, "Dog"], "model", ["dog", "ant"])


@pytest.mark.parametrize(
    ("dataset", "model", "ids"),
    [
        (["crane", "kite", "crane"], ["crane", "kite", "crane"], [0, 1, 2]),
        (["kite", "crane", "crane"], ["crane", "kite", "crane"], [1, 0, 2]),
        (["crane", None], ["crane", "crane"], [0, -1]),
    ],
)
def test_classes_of_one_name_are_matched_by_their_ids_or_by_their_order(
    dataset: list[str | None], model: list[str], ids: list[int]
) -> None:
    assert match_classes("set", dataset, "model", model).tolist() == ids


def test_classes_of_one_name_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(UsageError, match=r"set: has 1 class called 'crane', model has 2\. .*cannot be told which is"):
        match_classes("set", ["kite", "ant", "crane"], "model", ["crane", "crane", "kite", "ant"])
