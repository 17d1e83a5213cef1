"""Draw figures with texts from datasets as PNG, the same on every machine.

Any class name is drawn as plain text: never as boxes or as a formula, and never wider than its space.
"""

from __future__ import annotations

import io
from collections import Counter
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.images.annotate import escape, one_line, system_fonts
from imgcls_ray.words import with_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.figure import Figure
    from matplotlib.text import Text

DPI = 120
MAX_LABEL_WIDTH = 30
"""Largest width of a label in average Latin letters; a ``W`` or a Chinese character is nearly two of them wide."""
_LETTER_WIDTH = 60.0  # of a font of size 100


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


def fit_label(name: str, *, max_width: float = MAX_LABEL_WIDTH) -> Label:
    """Choose the first font with all or most of the name's characters, escape the rest, and shorten it to that width.

    The middle goes: names of one dataset often differ at their ends only.
    """
    text = one_line(name) or "(empty name)"
    path, missing = "", frozenset(text)
    for candidate in _font_paths():
        lacking = frozenset(character for character in text if ord(character) not in _characters(candidate))
        if not path or len(lacking) < len(missing):
            path, missing = candidate, lacking
        if not missing:
            break
    # An escape is six letters wide, and half of one says nothing.
    pieces = [escape(character) if character in missing else character for character in text]
    return Label(_shorten(pieces, path, max_width), path, missing)


def fit_labels(names: Mapping[int, str], *, max_width: float = MAX_LABEL_WIDTH) -> list[Label]:
    """Labels of classes by id, in their order. Where two would look alike, each ends with its id."""
    labels = {class_id: fit_label(name, max_width=max_width) for class_id, name in names.items()}
    times = Counter(label.text for label in labels.values())
    return [
        label if times[label.text] == 1 else fit_label(with_id(names[class_id], class_id), max_width=max_width)
        for class_id, label in labels.items()
    ]


def write_labels(texts: Iterable[Text], labels: Sequence[Label], *, size: float) -> None:
    """Give texts of a figure, such as the ticks of an axis, the fonts of their labels."""
    from matplotlib.font_manager import FontProperties

    for text, label in zip(texts, labels, strict=True):
        # A class called "$x$" is no formula.
        text.set_parse_math(False)
        text.set_fontproperties(FontProperties(fname=label.font_path, size=size))


def _shorten(pieces: Sequence[str], font_path: str, max_width: float) -> str:
    widths = [sum(_width(font_path, character) for character in piece) for piece in pieces]
    if sum(widths) <= max_width:
        return "".join(pieces)
    room = max_width - _width(font_path, "…")
    num_first = sum(total <= room / 2 for total in accumulate(widths))
    room -= sum(widths[:num_first])
    num_last = sum(total <= room for total in accumulate(reversed(widths)))
    return "".join([*pieces[:num_first], "…", *pieces[len(pieces) - num_last :]])


@lru_cache(maxsize=65_536)
def _width(font_path: str, character: str) -> float:
    """Width of a character, in those of an average Latin letter."""
    from matplotlib.font_manager import get_font

    font = get_font(font_path)
    font.set_size(100, 72)
    return font.load_char(ord(character)).linearHoriAdvance / 2**16 / _LETTER_WIDTH


def _font_paths() -> list[str]:
    """matplotlib's own font first, then those that captions are drawn with."""
    import matplotlib

    return [f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", *(path for path, _ in system_fonts())]


@lru_cache(maxsize=32)
def _characters(font_path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(font_path).get_charmap())
