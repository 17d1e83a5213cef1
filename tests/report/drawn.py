"""What stands where on a figure, as a reader would see it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from matplotlib.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.transforms import BboxBase


def all_axes(figure: Figure) -> list[Axes]:
    """Those of parts of the figure too."""
    return [*figure.axes, *(axes for part in figure.subfigs for axes in part.axes if axes not in figure.axes)]


def texts_outside(figure: Figure) -> list[str]:
    """Texts that the edge of the figure cuts off."""
    width, height = figure.bbox.size
    cut = []
    for text in _seen_texts(figure):
        box = text.get_window_extent()
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            cut.append(text.get_text())
    return cut


def overlapping_ticks(figure: Figure) -> list[tuple[str, str]]:
    """Neighbours on an axis whose texts touch."""
    return [
        (one.get_text(), other.get_text())
        for axes in all_axes(figure)
        for axis in (axes.xaxis, axes.yaxis)
        for one, other in pairwise(_tick_labels(axis))
        if _touch(one.get_window_extent(), other.get_window_extent())
    ]


def legends_on_data(figure: Figure) -> list[str]:
    """Legends that lie on a diagram or on the figure's title."""
    legends = [*figure.legends, *(legend for axes in all_axes(figure) if (legend := axes.get_legend()))]
    return [
        ", ".join(text.get_text() for text in legend.get_texts())
        for legend in legends
        for other in (*all_axes(figure), *figure.texts)
        if _touch(legend.get_window_extent(), other.get_window_extent())
    ]


def _seen_texts(figure: Figure) -> list[Text]:
    axises = [axis for axes in all_axes(figure) for axis in (axes.xaxis, axes.yaxis)]
    # Ticks beyond the ends of their axis are never drawn.
    of_ticks = {text for axis in axises for text in axis.findobj(Text)} - {axis.label for axis in axises}
    others = [text for text in figure.findobj(Text) if text not in of_ticks]
    texts = [*others, *(text for axis in axises for text in (*_tick_labels(axis), axis.offsetText))]
    return [text for text in texts if text.get_visible() and text.get_text()]


def _tick_labels(axis: Axis) -> Iterator[Text]:
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks():
        if low <= tick.get_loc() <= high and tick.label1.get_visible() and tick.label1.get_text():
            yield tick.label1


def _touch(one: BboxBase, other: BboxBase) -> bool:
    return bool(one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1)
