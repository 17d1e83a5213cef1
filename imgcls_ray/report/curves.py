"""Draw the curves of a training run: loss, accuracy, learning rate and recall of the classes by epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from imgcls_ray.report.class_curves import draw_recalls
from imgcls_ray.report.figures import draw_png
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TRAIN, _VAL, _GREY = "#0072b2", "#e69f00", "#777777"  # of Okabe and Ito: told apart by everyone
_FEW_EPOCHS = 40  # so many points are drawn as points
_LOG_RATIO = 1000  # between the highest and the lowest loss: a straight scale would show the highest one only
_MIN_ACCURACY_SPAN = 0.01  # of the axis: noise must not look like a leap
_MARGIN = 0.05  # of an axis beyond its curves

_Points = dict[str, list[tuple[float, float]]]


def draw_curves(
    history: Sequence[dict[str, float]],
    best_epoch: float,
    recalls: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> bytes:
    """Draw a run's epochs as PNG. Each axis says its range; values that are not finite are counted, not drawn.

    Args:
        history: a row of metrics for each epoch, and for each evaluation within one.
        best_epoch: the epoch to mark; 0 marks none.
        recalls: for each class its points, of epoch and recall on val; without any, the axes are left out.
    """

    def draw(figure: Figure) -> None:
        figure.set_size_inches(15 if recalls else 11, 4)
        loss, accuracy, rate, *of_classes = figure.subplots(1, 4 if recalls else 3)
        _draw_loss(loss, _points(history, {"train": "train.loss", "val": "val.loss"}))
        _draw_accuracy(accuracy, _points(history, {"train": "train.top1", "val": "val.top1"}))
        _draw_rate(rate, _points(history, {"learning rate": "learning_rate"}))
        if best := next((row for row in history if row["epoch"] == best_epoch and "val.top1" in row), None):
            accuracy.axvline(best_epoch, color=_GREY, linewidth=0.8, linestyle=":")
            accuracy.set_title(f"best: {best['val.top1']:.2%} in epoch {best_epoch:g}", fontsize=10)
        for axes in of_classes:
            draw_recalls(axes, recalls or {})
        for axes in (loss, accuracy, rate, *of_classes):
            _draw_epochs(axes, [row["epoch"] for row in history])
        _draw_legend(figure, has_val=any("val.loss" in row for row in history))

    return draw_png(draw)


def _points(history: Sequence[dict[str, float]], keys: dict[str, str]) -> _Points:
    return {name: [(row["epoch"], row[key]) for row in history if key in row] for name, key in keys.items()}


def _draw_loss(axes: Axes, points: _Points) -> None:
    values = _plot(axes, points, "loss")
    if not values:
        return
    low, high = min(values), max(values)
    scale = ""
    if low > 0 and high > _LOG_RATIO * low:
        axes.set_yscale("log")
        low, high, scale = low / 1.5, high * 1.5, "logarithmic, "
    else:
        margin = _MARGIN * (high - low or abs(high) or 1)
        low, high = low - margin, high + margin
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    _set_range(axes, low, high, f"loss, {scale}axis from {low:.3g} to {high:.3g}")


def _draw_accuracy(axes: Axes, points: _Points) -> None:
    from matplotlib.ticker import PercentFormatter

    values = _plot(axes, points, "top-1 accuracy")
    if not values:
        return
    margin = max(_MARGIN * (max(values) - min(values)), _MIN_ACCURACY_SPAN / 2)
    low, high = max(min(values) - margin, 0.0), min(max(values) + margin, 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _set_range(axes, low, high, f"top-1 accuracy, axis from {low:.1%} to {high:.1%}")


def _draw_rate(axes: Axes, points: _Points) -> None:
    values = _plot(axes, points, "learning rate")
    if not values:
        return
    high = (1 + _MARGIN) * max(values) or 1.0
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    _set_range(axes, 0, high, f"learning rate, axis from 0 to {high:.3g}")


def _plot(axes: Axes, points: _Points, what: str) -> list[float]:
    """Draw the finite values, say how many others there are, and return the finite ones."""
    finite = {name: [point for point in of_name if math.isfinite(point[1])] for name, of_name in points.items()}
    for name, of_name in finite.items():
        # A line without a point has no place, and without clipping no bounds: no layout could be found.
        if not of_name:
            continue
        epochs, values = [epoch for epoch, _ in of_name], [value for _, value in of_name]
        # A point between epochs that are not finite, or that were not measured, has no line to be seen by.
        marker = "o" if len(points[name]) <= _FEW_EPOCHS else "." if len(of_name) < len(points[name]) else None
        colour = {"train": _TRAIN, "val": _VAL}.get(name, _GREY)
        axes.plot(epochs, values, color=colour, marker=marker, markersize=3, clip_on=False)
    lost = {name: len(points[name]) - len(of_name) for name, of_name in finite.items()}
    words = [f"{name} in {counted(number, 'epoch')}" for name, number in lost.items() if number]
    if words:
        axes.set_title(f"not finite: {', '.join(words)}", fontsize=9, color="#b42318")
    axes.set_ylabel(what)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if not any(finite.values()):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "nothing to draw", ha="center", transform=axes.transAxes, color=_GREY)
    return [value for of_name in finite.values() for _, value in of_name]


def _set_range(axes: Axes, low: float, high: float, words: str) -> None:
    axes.set_ylim(low, high)
    axes.set_ylabel(words, fontsize=9)


def _draw_epochs(axes: Axes, epochs: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    first, last = int(min(epochs, default=1)), int(max(epochs, default=1))
    # Half an epoch on either side: one epoch alone has no width.
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel(f"epoch, {first:,} to {last:,}" if first < last else f"epoch {first:,}")


def _draw_legend(figure: Figure, *, has_val: bool) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=_TRAIN, label="train, augmented images")]
    lines += [Line2D([], [], color=_VAL, label="val")] if has_val else []
    # Above the axes: every place inside may have a curve.
    figure.legend(handles=lines, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
