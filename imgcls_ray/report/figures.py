"""Draw figures with texts from datasets as PNG, the same on every machine.

Any class name is drawn as plain text: never as boxes or as a formula, and never wider than its space.
"""

from __future__ import annotations

import io
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.images.annotate import escape, one_line, system_fonts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.figure import Figure
    from matplotlib.text import Text

DPI = 120
MAX_LABEL_WIDTH = 30
"""Largest width of a label in Latin letters; a Chinese character counts as two."""


class Label(NamedTuple):
    """A name in a form that a figure can show."""

    text: str
    font_path: str
    undrawn: frozenset[str]
    """Characters that no installed font has; the text has ``\\u4e2d`` for them."""


def draw_png(draw: Callable[[Figure], object]) -> bytes:
    """Let ``draw`` fill a new figure, and return it as PNG."""
    import matplotlib.style
    from matplotlib.figure import Figure

    # The settings of whoever runs this could, for one, send class names through LaTeX.
    with matplotlib.style.context("default", after_reset=True):
        # Figure, not pyplot: no window, no global state, usable from any thread.
        figure = Figure(layout="constrained", dpi=DPI)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def fit_label(name: str, *, max_width: int = MAX_LABEL_WIDTH) -> Label:
    """Shorten the name to that width, and choose the first font with all or most of its characters; escape the rest."""
    text = _shorten(one_line(name), max_width) or "(empty name)"
    path, missing = "", frozenset(text)
    for candidate in _font_paths():
        lacking = frozenset(character for character in text if ord(character) not in _characters(candidate))
        if not path or len(lacking) < len(missing):
            path, missing = candidate, lacking
        if not missing:
            break
    return Label("".join(escape(c) if c in missing else c for c in text), path, missing)


def write_labels(texts: Iterable[Text], labels: Sequence[Label], *, size: float) -> None:
    """Give texts of a figure, such as the ticks of an axis, the fonts of their labels."""
    from matplotlib.font_manager import FontProperties

    for text, label in zip(texts, labels, strict=True):
        # A class called "$x$" is no formula.
        text.set_parse_math(False)
        text.set_fontproperties(FontProperties(fname=label.font_path, size=size))


def _shorten(text: str, max_width: int) -> str:
    width = 0
    for position, character in enumerate(text):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > max_width:
            return text[: position - 1] + "…"
    return text


def _font_paths() -> list[str]:
    """matplotlib's own font first, then those that captions are drawn with."""
    import matplotlib

    return [f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", *(path for path, _ in system_fonts())]


@lru_cache(maxsize=32)
def _characters(font_path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(font_path).get_charmap())
