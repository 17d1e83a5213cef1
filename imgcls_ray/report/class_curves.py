"""Draw how well each class is told by epoch: the worst ones by name, the others as thin lines."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from imgcls_ray.report.figures import fit_labels, write_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")  # of Okabe and Ito: told apart by everyone
_NUM_THIN = 200  # more lines are one grey area, and take long
_MAX_NAME_WIDTH = 18
_NAME_SIZE = 8


def draw_recalls(axes: Axes, recalls: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Draw the recall of each class, with the names of the classes that are told worst in the last epoch.

    Args:
        axes: where to draw.
        recalls: for each class its points, of epoch and recall; at least one point each.
    """
    from matplotlib.ticker import PercentFormatter

    by_recall = sorted(recalls, key=lambda name: recalls[name][-1][1])
    worst, others = by_recall[: len(_COLOURS)], by_recall[len(_COLOURS) :]
    for name in others[:_NUM_THIN]:
        axes.plot(*zip(*recalls[name], strict=True), color="#cccccc", linewidth=0.6)
    epochs: dict[float, list[float]] = {}
    for points in recalls.values():
        for epoch, recall in points:
            epochs.setdefault(epoch, []).append(recall)
    middle = [(epoch, median(epochs[epoch])) for epoch in sorted(epochs)]
    lines = axes.plot(*zip(*middle, strict=True), color="black", linewidth=1, linestyle="--")
    for name, colour in zip(worst, _COLOURS, strict=False):
        lines += axes.plot(*zip(*recalls[name], strict=True), color=colour, marker="o", markersize=3)
    _write_legend(axes, lines, worst)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("recall of classes, the worst by name", fontsize=9)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _write_legend(axes: Axes, lines: Sequence[Line2D], names: Sequence[str]) -> None:
    labels = fit_labels(dict(enumerate(names)), max_width=_MAX_NAME_WIDTH)
    # matplotlib leaves out what begins with "_", so the names come afterwards.
    places = ["median", *map(str, range(len(names)))]
    legend = axes.legend(
        lines, places, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=_NAME_SIZE
    )
    texts = legend.get_texts()[1:]
    write_labels(texts, labels, size=_NAME_SIZE)
    for text, label in zip(texts, labels, strict=True):
        text.set_text(label.text)
