"""Draw the confidence of a model against its accuracy, before and after temperature scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.report.figures import draw_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from imgcls_ray.evaluate.calibration import Reliability

_RIGHT, _TOO_SURE, _UNSURE, _COUNTS = "#0072b2", "#e69f00", "#56b4e9", "#777777"  # of Okabe and Ito


def draw_reliability(before: Reliability, after: Reliability | None, *, temperature: float | None) -> bytes:
    """Draw a reliability diagram as PNG, one or two columns: accuracy by confidence, and where the images are."""
    columns = [(before, "as the model says it")]
    if after is not None:
        columns.append((after, f"with temperature {temperature:.3g}"))

    def draw(figure: Figure) -> None:
        figure.set_size_inches(4.6 * len(columns) + 0.4, 5.6)
        axes = figure.subplots(2, len(columns), squeeze=False, sharex=True, height_ratios=[3, 1])
        for column, (reliability, words) in enumerate(columns):
            _draw_diagram(axes[0, column], reliability)
            axes[0, column].set_title(f"{words}: ECE {reliability.ece:.3f}", fontsize=10, loc="left")
            _draw_counts(axes[1, column], reliability)
        axes[0, 0].set_ylabel("accuracy")
        axes[1, 0].set_ylabel("share of images")
        axes[0, 0].legend(loc="upper left", frameon=False, fontsize=8)

    return draw_png(draw)


def _draw_diagram(axes: Axes, reliability: Reliability) -> None:
    filled = reliability.counts > 0
    counts = reliability.counts[filled]
    accuracy, confidence = reliability.num_correct[filled] / counts, reliability.confidence[filled] / counts
    places, width = _places(len(filled))[filled], 1 / len(filled)
    axes.bar(
        places,
        np.minimum(accuracy, confidence),
        width,
        color=_RIGHT,
        label="right as often as it is sure",
        edgecolor="white",
        linewidth=0.6,
    )
    for gap, bottom, colour, words in (
        (confidence - accuracy, accuracy, _TOO_SURE, "too sure by"),
        (accuracy - confidence, confidence, _UNSURE, "not sure enough by"),
    ):
        axes.bar(
            places,
            np.maximum(gap, 0),
            width,
            bottom=bottom,
            color=colour,
            label=words,
            edgecolor="white",
            linewidth=0.6,
        )
    axes.plot([0, 1], [0, 1], "--", color="#444444", linewidth=1, label="perfectly calibrated")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_axisbelow(True)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_counts(axes: Axes, reliability: Reliability) -> None:
    num_bins = len(reliability.counts)
    axes.bar(
        _places(num_bins),
        reliability.counts / reliability.num_images,
        1 / num_bins,
        color=_COUNTS,
        edgecolor="white",
        linewidth=0.6,
    )
    axes.set(ylim=(0, 1), xlabel=f"confidence, {num_bins} bins")
    axes.spines[["top", "right"]].set_visible(False)


def _places(num_bins: int) -> np.ndarray:
    return (np.arange(num_bins) + 0.5) / num_bins
