"""Draw the confidence of a model against its accuracy, before and after temperature scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.report.figures import draw_png
from imgcls_ray.words import short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

    from imgcls_ray.evaluate.calibration import Reliability

_RIGHT, _TOO_SURE, _UNSURE, _COUNTS = "#0072b2", "#e69f00", "#56b4e9", "#777777"  # of Okabe and Ito
_Z_95 = 1.959964  # of the normal distribution


def draw_reliability(before: Reliability, after: Reliability | None, *, temperature: float | None) -> bytes:
    """Draw a reliability diagram as PNG, one or two columns: accuracy by confidence, and the number of images.

    Each bin shows the 95 % interval of its accuracy: of a few images it is wide.
    """
    columns = [(before, "as the model says it")]
    if after is not None:
        columns.append((after, f"with temperature {temperature:.3g}"))

    def draw(figure: Figure) -> None:
        figure.set_size_inches(4.8 * len(columns) + 0.4, 6.4)
        axes = figure.subplots(2, len(columns), squeeze=False, sharex=True, height_ratios=[3, 1])
        for column, (reliability, words) in enumerate(columns):
            _draw_diagram(axes[0, column], reliability)
            axes[0, column].set_title(f"{words}: ECE {reliability.ece:.3f}", fontsize=10, loc="left")
            _draw_counts(axes[1, column], reliability)
        axes[0, 0].set_ylabel("accuracy")
        axes[1, 0].set_ylabel("images")
        # Below the diagrams: every place inside may have a bar.
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)

    return draw_png(draw)


def wilson_interval(num_correct: np.ndarray, num_images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the 95 % interval of a share (Wilson 1927, https://doi.org/10.2307/2276774).

    >>> [round(float(end[0]), 3) for end in wilson_interval(np.array([1.0]), np.array([2.0]))]
    [0.095, 0.905]

    Args:
        num_correct: float (N,), from 0 to ``num_images``.
        num_images: float (N,), above 0.
    """
    share, square = num_correct / num_images, _Z_95**2 / num_images
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return middle - half, middle + half


def _filled(reliability: Reliability) -> np.ndarray:
    # Between two temperatures counts are interpolated, so that a bin may have a hundredth of an image.
    filled: np.ndarray = reliability.counts >= min(0.5, reliability.counts.max())
    return filled


def _draw_diagram(axes: Axes, reliability: Reliability) -> None:
    filled = _filled(reliability)
    counts = reliability.counts[filled]
    # Sums of floats may leave the range by a rounding error.
    accuracy, confidence = (
        np.clip(sums[filled] / counts, 0, 1) for sums in (reliability.num_correct, reliability.confidence)
    )
    places = _places(len(filled))[filled]
    for height, bottom, colour, words in (
        (np.minimum(accuracy, confidence), np.zeros_like(accuracy), _RIGHT, "right as often as it is sure"),
        (np.maximum(confidence - accuracy, 0), accuracy, _TOO_SURE, "too sure by"),
        (np.maximum(accuracy - confidence, 0), confidence, _UNSURE, "not sure enough by"),
    ):
        _bars(axes, places, height, len(filled), colour, bottom=bottom, label=words)
    _draw_intervals(axes, places, accuracy, counts)
    axes.plot([0, 1], [0, 1], "--", color="#444444", linewidth=1, label="perfectly calibrated")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_axisbelow(True)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_intervals(axes: Axes, places: np.ndarray, accuracy: np.ndarray, counts: np.ndarray) -> None:
    low, high = wilson_interval(accuracy * counts, counts)
    axes.errorbar(
        places,
        accuracy,
        # At the ends a rounding error could make a length negative, which matplotlib refuses.
        np.maximum([accuracy - low, high - accuracy], 0),
        fmt="none",
        ecolor="black",
        elinewidth=1,
        capsize=2.5,
        label="accuracy, 95 % interval (Wilson)",
    )


def _draw_counts(axes: Axes, reliability: Reliability) -> None:
    from matplotlib.ticker import MaxNLocator

    num_bins, filled = len(reliability.counts), _filled(reliability)
    counts = reliability.counts[filled]
    bars = _bars(axes, _places(num_bins)[filled], counts, num_bins, _COUNTS)
    texts = [short_count(round(count)) for count in counts.tolist()]
    # Upright, as a bin is narrower than a number of five digits.
    axes.bar_label(bars, texts, padding=2, fontsize=7, rotation=90, color="#444444")
    axes.set(ylim=(0, 1.55 * max(1.0, float(counts.max()))), xlabel=f"confidence, {num_bins} bins")
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(lambda count, _: short_count(round(count)))
    axes.spines[["top", "right"]].set_visible(False)


def _bars(
    axes: Axes,
    places: np.ndarray,
    heights: np.ndarray,
    num_bins: int,
    colour: str,
    *,
    bottom: np.ndarray | float = 0.0,
    label: str = "",
) -> BarContainer:
    return axes.bar(
        places, heights, 1 / num_bins, bottom=bottom, color=colour, label=label, edgecolor="white", linewidth=0.6
    )


def _places(num_bins: int) -> np.ndarray:
    return (np.arange(num_bins) + 0.5) / num_bins
