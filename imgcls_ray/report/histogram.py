"""Draw the number of images of every class: names and bars for some dozens of classes, a curve for thousands."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

from imgcls_ray.report.figures import Label, draw_png, fit_labels, write_labels
from imgcls_ray.words import counted, short_count, tell_apart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from imgcls_ray.datasets.check_result import CheckResult

MAX_NAMED_CLASSES = 120
"""Largest number of named classes; with more, the picture names only the largest and the smallest ones."""

_CLASSES_PER_COLUMN = 40
_NUM_EXTREMES = 20  # classes named at either end of the curve
_LOG_RATIO = 50  # a bar of a fiftieth of the longest is hardly seen
_COLOURS = {"train": "#0072b2", "val": "#e69f00", "test": "#009e73"}  # of Okabe and Ito: told apart by everyone
_GREY = "#777777"


class Histogram(NamedTuple):
    """A picture, and the characters that it could not draw."""

    png: bytes
    undrawn: str
    """Characters of names that no installed font has; the picture shows them as ``\\u4e2d``."""


class ClassCount(NamedTuple):
    """One class and its images."""

    class_id: int
    name: str | None
    counts: tuple[int, ...]
    """Number of images by split, in the order of ``CheckResult.num_images``."""

    @property
    def label(self) -> str:
        """The name, or the id where there is none."""
        return f"id {self.class_id} (no name)" if self.name is None else self.name


def rank_classes(result: CheckResult) -> list[ClassCount]:
    """All classes, those with most images in the first split first, then by id.

    An id without a name is there only if images have it.
    """
    per_split = [result.images_per_class.get(split, Counter()) for split in result.num_images]
    names = dict(enumerate(result.class_names))
    ids = {class_id for class_id, name in names.items() if name is not None}.union(*per_split)
    classes = [
        ClassCount(class_id, names.get(class_id), tuple(counts[class_id] for counts in per_split)) for class_id in ids
    ]
    return sorted(classes, key=lambda one: (*(-count for count in one.counts[:1]), one.class_id))


def draw_histogram(result: CheckResult) -> Histogram:
    """Draw the images per class and split as PNG, at most 1,900 pixels wide and 2,700 high."""
    ranked, splits = rank_classes(result), list(result.num_images)
    names = tell_apart({one.class_id: one.label for one in ranked})
    classes = [one._replace(name=names[one.class_id]) for one in ranked]
    labels: list[Label] = []

    def draw(figure: Figure) -> None:
        if not classes or not splits:
            _draw_nothing(figure)
        elif len(classes) <= MAX_NAMED_CLASSES:
            labels.extend(_draw_bars(figure, classes, splits))
        else:
            labels.extend(_draw_curve(figure, classes, splits))

    png = draw_png(draw)
    undrawn = frozenset[str]().union(*(label.undrawn for label in labels))
    return Histogram(png, "".join(sorted(undrawn)))


def _draw_nothing(figure: Figure) -> None:
    figure.set_size_inches(8, 2)
    figure.text(0.5, 0.5, "There are no images.", ha="center", va="center", color=_GREY)


def _draw_bars(figure: Figure, classes: list[ClassCount], splits: list[str]) -> list[Label]:
    num_columns = -(-len(classes) // _CLASSES_PER_COLUMN)
    num_rows = -(-len(classes) // num_columns)
    figure.set_size_inches(max(9.0, 5.2 * num_columns), 1.3 + num_rows * _row_height(splits))
    labels = []
    for column, axes in enumerate(figure.subplots(1, num_columns, squeeze=False)[0]):
        part = classes[column * num_rows : (column + 1) * num_rows]
        labels += _bars(axes, part, splits, num_rows=num_rows)
        _scale(axes, "x", classes, max_ticks=7 if num_columns < 3 else 4)
    _head(figure, classes, splits)
    return labels


def _draw_curve(figure: Figure, classes: list[ClassCount], splits: list[str]) -> list[Label]:
    figure.set_size_inches(13, 4.6 + _NUM_EXTREMES * _row_height(splits))
    heights = [4, 0.6 + _NUM_EXTREMES * _row_height(splits)]
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    axes = upper.subplots()
    ranks = range(1, len(classes) + 1)
    for number, split in enumerate(splits):
        counts = [one.counts[number] for one in classes]
        if number == 0:
            axes.fill_between(ranks, counts, step="mid", color=_COLOURS[split], linewidth=0.8, alpha=0.85)
        else:
            # The later the smaller: of equal counts both are seen.
            axes.plot(ranks, counts, ".", color=_COLOURS[split], markersize=7 - 2 * number)
    axes.set_xlim(0.5, len(classes) + 0.5)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(f"classes, by number of {splits[0]} images")
    axes.spines[["top", "right"]].set_visible(False)
    _scale(axes, "y", classes)
    labels = []
    most, fewest = lower.subplots(1, 2)
    for axes, part, title in (
        (most, classes[:_NUM_EXTREMES], f"The {_NUM_EXTREMES} classes with most images"),
        (fewest, classes[-_NUM_EXTREMES:], f"The {_NUM_EXTREMES} classes with fewest images"),
    ):
        labels += _bars(axes, part, splits, num_rows=_NUM_EXTREMES)
        # Each on its own scale: beside the largest classes the smallest could not be told apart.
        _scale(axes, "x", part)
        axes.set_title(title, fontsize=10, loc="left")
    _head(figure, classes, splits)
    return labels


def _row_height(splits: list[str]) -> float:
    """Inches that one class takes."""
    return 0.1 + 0.14 * len(splits)


def _bars(axes: Axes, classes: list[ClassCount], splits: list[str], *, num_rows: int) -> list[Label]:
    thickness = 0.82 / len(splits)
    for number, split in enumerate(splits):
        places = [row + (number - (len(splits) - 1) / 2) * thickness for row in range(len(classes))]
        bars = axes.barh(places, [one.counts[number] for one in classes], thickness * 0.94, color=_COLOURS[split])
        axes.bar_label(bars, [f"{one.counts[number]:,}" for one in classes], padding=2, fontsize=7, color="#444444")
    labels = fit_labels({one.class_id: one.label for one in classes})
    axes.set_yticks(range(len(classes)), [label.text for label in labels])
    write_labels(axes.get_yticklabels(), labels, size=9)
    axes.set_ylim(num_rows - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    return labels


def _scale(axes: Axes, direction: Literal["x", "y"], classes: list[ClassCount], *, max_ticks: int = 7) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    axis = axes.xaxis if direction == "x" else axes.yaxis
    counts = [count for one in classes for count in one.counts if count]
    highest = max(counts, default=1)
    if counts and highest > _LOG_RATIO * min(counts):
        # Symmetric, so that 0 has a place; below 1 it is linear.
        set_scale = axes.set_xscale if direction == "x" else axes.set_yscale
        set_scale("symlog", linthresh=1, linscale=0.5)
        axis.set_major_locator(FixedLocator(_powers_of_ten(highest, max_ticks)))
        limit, words = highest * 4.0, "images (logarithmic)"
    else:
        axis.set_major_locator(MaxNLocator(min(max_ticks, 5), integer=True))
        limit, words = highest * 1.2, "images"
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda count, _: short_count(round(count)))
    axes.set(**{f"{direction}lim": (0, limit), f"{direction}label": words})
    axes.grid(axis=direction, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _powers_of_ten(highest: int, max_ticks: int) -> list[int]:
    """0 and at most ``max_ticks`` powers of ten, evenly spaced."""
    num_powers = len(str(highest))
    step = -(-num_powers // max_ticks)
    return [0, *(10**power for power in range(0, num_powers, step))]


def _head(figure: Figure, classes: Sequence[ClassCount], splits: list[str]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(color=_COLOURS[split], label=f"{split}: {counted(sum(one.counts[number] for one in classes), 'image')}")
        for number, split in enumerate(splits)
    ]
    figure.legend(
        handles=patches,
        # Not a title of the figure: millions of images make the legend as wide as the picture.
        title=f"Images per class, {counted(len(classes), 'class', 'classes')}",
        title_fontsize=12,
        alignment="left",
        loc="outside upper left",
        ncols=len(patches),
        frameon=False,
        fontsize=9,
    )
