"""Draw a range test: the loss by the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.report.figures import draw_png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

_LINE = "#0072b2"
_MARKS = ("#009e73", "#e69f00", "#777777")


def draw_range_test(rates: Sequence[float], losses: Sequence[float], marks: Mapping[str, float]) -> bytes:
    """Draw a range test as PNG.

    Args:
        rates: learning rates, rising.
        losses: smoothed losses of these.
        marks: rates to mark, by their words.
    """

    def draw(figure: Figure) -> None:
        figure.set_size_inches(8, 4.5)
        axes = figure.subplots()
        axes.plot(rates, losses, color=_LINE)
        for (words, rate), colour in zip(marks.items(), _MARKS, strict=False):
            axes.axvline(rate, color=colour, linestyle=":", label=f"{words}: {rate:.2g}")
        axes.set_xscale("log")
        low, first = min(losses), losses[0]
        # The explosion at the end would flatten all that matters.
        axes.set_ylim(low - 0.1 * (first - low) - 1e-3, first + 0.5 * (first - low) + 1e-3)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss, smoothed")
        axes.legend(fontsize=8)

    return draw_png(draw)
