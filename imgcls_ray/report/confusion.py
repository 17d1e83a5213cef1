"""The confusion matrix as a table for programs and as a picture for people."""

from __future__ import annotations

import csv
import io
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.report.figures import Label, draw_png, fit_labels, write_labels
from imgcls_ray.words import counted, short_count, tell_apart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_MATRIX_CLASSES = 200
"""With more, the table is a list of the cells that are not 0."""
MAX_DRAWN_CLASSES = 60
NUM_MOST_CONFUSED = 40
"""Number of classes in the picture if there are more than fit."""

_MAX_LABEL_WIDTH = 22
_CELL_INCHES, _MIN_MATRIX_INCHES = 0.34, 1.8
_TITLE_LETTER_INCHES = 0.09  # of size 10, on average
_CELL_SHARE = 0.85  # of a cell's width, for its number
_LETTER_EMS = 0.62  # width of a digit
_RIGHT, _WRONG = "Blues", "Oranges"


class Confusion(NamedTuple):
    """The non-zero cells of a confusion matrix, sorted by true and then by predicted class."""

    true: np.ndarray
    """int32 (N,), ids of the true classes."""
    predicted: np.ndarray
    """int32 (N,), ids of the predicted classes."""
    counts: np.ndarray
    """int64 (N,), numbers of images, above 0."""

    def matrix(self, class_ids: np.ndarray) -> np.ndarray:
        """Make the part of the matrix that these classes span: int64 (C, C), true classes in rows.

        >>> Confusion(np.array([0, 0, 2]), np.array([0, 2, 2]), np.array([1, 1, 1])).matrix(np.array([0, 2]))
        array([[1, 1],
               [0, 1]])

        Args:
            class_ids: int (C,), ascending.
        """
        matrix = np.zeros((len(class_ids), len(class_ids)), np.int64)
        inside = np.isin(self.true, class_ids) & np.isin(self.predicted, class_ids)
        rows, columns = (np.searchsorted(class_ids, ids[inside]) for ids in (self.true, self.predicted))
        matrix[rows, columns] = self.counts[inside]
        return matrix


def confusion_csv(confusion: Confusion, class_names: Sequence[str]) -> bytes:
    """Counts of images, true classes in rows; with many classes one line per cell: ``true,predicted,count``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if len(class_names) <= MAX_MATRIX_CLASSES:
        writer.writerow(["true", *class_names])
        matrix = confusion.matrix(np.arange(len(class_names)))
        writer.writerows([name, *row] for name, row in zip(class_names, matrix.tolist(), strict=True))
    else:
        writer.writerow(["true", "predicted", "count"])
        cells = zip(*(column.tolist() for column in confusion), strict=True)
        writer.writerows([class_names[true], class_names[predicted], count] for true, predicted, count in cells)
    return text.getvalue().encode(errors="backslashreplace")


def drawn_classes(confusion: Confusion, num_classes: int) -> np.ndarray:
    """Ids of the classes in the picture, ascending: all, only those with images, or the most confused ones."""
    if num_classes <= MAX_DRAWN_CLASSES:
        return np.arange(num_classes)
    occurring = np.union1d(confusion.true, confusion.predicted)
    if len(occurring) <= MAX_DRAWN_CLASSES:
        return occurring
    # By pairs: a class with mistakes here and there would show an empty row among the others.
    wrong = np.flatnonzero(confusion.true != confusion.predicted)
    worst = wrong[np.argsort(-confusion.counts[wrong], kind="stable")]
    pairs = np.stack([confusion.true[worst], confusion.predicted[worst]], axis=1)
    in_turn = dict.fromkeys([*pairs.reshape(-1).tolist(), *occurring.tolist()])
    return np.sort(list(in_turn)[:NUM_MOST_CONFUSED])


class MatrixWords(NamedTuple):
    """What a matrix is about, in words."""

    rows: str
    columns: str
    colours: str
    """What blue, orange and their shades mean."""


TRUTH = MatrixWords(
    "true class", "predicted class", "blue: correct, orange: wrong; darker: a larger share of the true class"
)


def draw_confusion(
    confusion: Confusion, class_names: Sequence[str], *, title: str, words: MatrixWords = TRUTH
) -> bytes:
    """Draw the matrix as PNG: colours are shares of the class of the row, numbers are images."""
    class_ids = drawn_classes(confusion, len(class_names))
    names = tell_apart(dict(enumerate(class_names)))
    labels = fit_labels({class_id: names[class_id] for class_id in class_ids.tolist()}, max_width=_MAX_LABEL_WIDTH)
    lines = [title, _subtitle(confusion, class_ids, len(class_names)), words.colours]

    def draw(figure: Figure) -> None:
        side = 2.6 + max(_CELL_INCHES * len(labels), _MIN_MATRIX_INCHES)
        figure.set_size_inches(side, side)
        axes = figure.subplots()
        _draw_cells(axes, confusion.matrix(class_ids), class_total=_totals(confusion, class_ids))
        _label_axes(axes, labels, words)
        rows = [row for line in lines for row in wrap(line, int(side / _TITLE_LETTER_INCHES))]
        figure.suptitle("\n".join(rows), fontsize=10, x=0.02, ha="left", parse_math=False)

    return draw_png(draw)


def _subtitle(confusion: Confusion, class_ids: np.ndarray, num_classes: int) -> str:
    if len(class_ids) == num_classes:
        return counted(num_classes, "class", "classes")
    if len(class_ids) < len(np.union1d(confusion.true, confusion.predicted)):
        return f"the {len(class_ids)} most confused of {num_classes:,} classes"
    return f"the {len(class_ids)} of {num_classes:,} classes that occur"


def _totals(confusion: Confusion, class_ids: np.ndarray) -> np.ndarray:
    """Number of images of each of these classes, with any prediction."""
    totals: np.ndarray = np.zeros(1 + max(int(confusion.true.max()), int(class_ids.max())), np.int64)
    np.add.at(totals, confusion.true, confusion.counts)
    of_classes: np.ndarray = totals[class_ids]
    return of_classes


def _draw_cells(axes: Axes, matrix: np.ndarray, *, class_total: np.ndarray) -> None:
    import matplotlib

    shares = matrix / np.maximum(class_total, 1)[:, None]
    # The faintest shade is white: a single mistake among thousands must still be seen.
    shades = np.where(matrix > 0, 0.12 + 0.88 * shares, 0.0)
    right, wrong = (matplotlib.colormaps[name](shades)[..., :3] for name in (_RIGHT, _WRONG))
    is_right = np.eye(len(matrix), dtype=bool)[:, :, None]
    colours = np.where(is_right, right, wrong)
    colours[matrix == 0] = 1
    axes.imshow(colours, interpolation="nearest", aspect="equal")
    numbers = {(row, column): short_count(int(matrix[row, column])) for row, column in np.argwhere(matrix).tolist()}
    cell_points = 72 * max(_CELL_INCHES, _MIN_MATRIX_INCHES / len(matrix)) * _CELL_SHARE
    size = min(9.0, cell_points / (_LETTER_EMS * max(map(len, numbers.values()), default=1)))
    for (row, column), number in numbers.items():
        axes.text(
            column,
            row,
            number,
            ha="center",
            va="center",
            fontsize=size,
            color="white" if shades[row, column] > 0.6 else "black",
        )
    edges = np.arange(-0.5, len(matrix))
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="#e3e3e3", linewidth=0.6)
    axes.tick_params(which="minor", length=0)


def _label_axes(axes: Axes, labels: list[Label], words: MatrixWords) -> None:
    places, texts = range(len(labels)), [label.text for label in labels]
    axes.set_xticks(places, texts, rotation=90)
    axes.set_yticks(places, texts)
    for texts_of_axis in (axes.get_xticklabels(), axes.get_yticklabels()):
        write_labels(texts_of_axis, labels, size=8)
    axes.tick_params(which="major", length=0)
    axes.set_xlabel(words.columns)
    axes.set_ylabel(words.rows)
    axes.spines[:].set_color("#999999")
