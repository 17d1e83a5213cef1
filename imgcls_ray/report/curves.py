"""Draw the curves of a training run: loss, accuracy and learning rate by epoch."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

_DPI = 110
_TRAIN, _VAL, _GREY = "#0072b2", "#e69f00", "#777777"  # of Okabe and Ito: told apart by everyone
_FEW_EPOCHS = 40  # so many points are drawn as points


def draw_curves(history: Sequence[dict[str, float]], best_epoch: int) -> bytes:
    """Draw a run's epochs as PNG.

    Args:
        history: a row of metrics for each epoch.
        best_epoch: the epoch to mark; 0 marks none.
    """
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.style.context("default"):
        figure = Figure(figsize=(10, 3.6), dpi=_DPI, layout="constrained")
        loss, accuracy, rate = figure.subplots(1, 3)
        _draw(loss, history, {"train": ("train.loss", _TRAIN), "val": ("val.loss", _VAL)}, "loss")
        names = {"train, augmented": ("train.top1", _TRAIN), "val": ("val.top1", _VAL)}
        _draw(accuracy, history, names, "top-1 accuracy")
        _draw(rate, history, {"": ("learning_rate", _GREY)}, "learning rate")
        if best := next((row for row in history if row["epoch"] == best_epoch), None):
            accuracy.axvline(best_epoch, color=_GREY, linewidth=0.8, linestyle=":")
            accuracy.set_title(f"best: {best['val.top1']:.2%} in epoch {best_epoch}", fontsize="medium")
        for axes in (loss, accuracy, rate):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(axes: Axes, history: Sequence[dict[str, float]], lines: dict[str, tuple[str, str]], what: str) -> None:
    for label, (key, colour) in lines.items():
        points = [(row["epoch"], row[key]) for row in history if key in row]
        marker = "o" if len(points) <= _FEW_EPOCHS else None
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3, label=label or None)
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend()
