"""Write a prediction, or the reason for its absence, below a picture.

The text is on a solid strip below the pixels, so that it is readable for any picture and hides no pixel.
Text comes from class names and file contents, so any string is accepted and none of it can break the layout.

Characters that the chosen font cannot draw appear as escapes (``\\u4e2d``), never as boxes. Pillow's own font, always
there, has ASCII only; every other script needs a font of the system (``apt install fonts-dejavu fonts-noto-cjk``).
"""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_LINES = 10
"""Largest number of predictions below a picture; a last line counts the others."""
MAX_ERROR_ROWS = 8
"""Largest number of rows of an error text; a longer one is cut."""

_MIN_CANVAS_WIDTH = 192  # holds a score and some twenty letters of a name at the smallest font
_MAX_ENLARGED_SIDE = 640  # of a small picture, which is enlarged until it is as wide as the canvas
_MIN_PICTURE_HEIGHT = 32  # room for a picture one pixel high, which would drown in the strip's edge
_MIN_CARD_SIZE = (240, 160)
_MIN_FONT_SIZE = 14  # the smallest that stays readable after JPEG compression
_MAX_CHARS = 600  # more never fits; measuring a megabyte of text would take seconds
# The score or another short word, and before it what tells two classes of one name apart.
_KEPT_END = re.compile(r"(?<=.)( \(id \d{1,6}\))?( [^ ()]{1,12})?$")
_MAX_TAIL_CHARS = 60  # of these, kept from the end, where the score is

_BACKDROP = (128, 128, 128)  # beside pictures narrower than the strip: neither black nor white, so their edges show
_TEXT_BEST = (255, 255, 255)
_TEXT_REST = (190, 194, 200)
_STRIP = (24, 26, 30)
_STRIP_ERROR = (140, 20, 28)
_RULE = (64, 156, 255)
_RULE_ERROR = (255, 96, 96)
_CARD = (70, 72, 78)
_CARD_MARK = (104, 107, 114)


class _Style(NamedTuple):
    """Geometry of a caption, in pixels."""

    width: int
    font_size: int

    @property
    def padding(self) -> int:
        return max(6, self.font_size // 2)

    @property
    def row_height(self) -> int:
        return round(self.font_size * 1.35)

    @property
    def rule_height(self) -> int:
        return max(2, self.font_size // 8)

    @property
    def text_width(self) -> int:
        return self.width - 2 * self.padding

    def caption_height(self, num_rows: int) -> int:
        return self.rule_height + 2 * self.padding + num_rows * self.row_height


class _Row(NamedTuple):
    text: str
    font: ImageFont.FreeTypeFont


def annotate_image(pixels: np.ndarray, lines: Sequence[str], *, error: bool = False) -> Image.Image:
    """Put ``lines`` on a strip below the picture.

    A picture narrower than the text needs, 192 pixels, is enlarged by a whole factor, nearest neighbour, so that its
    pixels stay what they were, but to at most 640 pixels in height. One that is still narrower is centred on grey. Any
    other is kept as it is.

    Args:
        pixels: uint8 (H, W, 3), upright RGB, neither side 0.
        lines: best first, e.g. ``["tench 0.98", "eel 0.01"]``. One that is too wide loses letters before its last
            word, so that the score stays. None at all gives the picture without a strip.
        error: the lines are sentences about a failure: they are wrapped, not shortened, and the strip is red.

    Raises:
        ValueError: ``pixels`` is not such an array.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels must be uint8 (H, W, 3) with H, W > 0, not {pixels.dtype} {pixels.shape}")
    picture = _enlarge_small(Image.fromarray(pixels))
    if not lines:
        return picture
    style = _style_for(picture.size)
    rows = _wrap_rows(lines, style, max_rows=MAX_ERROR_ROWS) if error else _shorten_rows(lines, style)
    height = max(picture.height, _MIN_PICTURE_HEIGHT)
    canvas = Image.new("RGB", (style.width, height + style.caption_height(len(rows))), _BACKDROP)
    canvas.paste(picture, ((style.width - picture.width) // 2, (height - picture.height) // 2))
    canvas.paste(_draw_caption(rows, style, error=error), (0, height))
    return canvas


def error_card(text: str, *, size: tuple[int, int] = (480, 360)) -> Image.Image:
    """Draw a replacement for an unreadable picture: a crossed-out frame above the wrapped ``text``.

    Args:
        text: the failure, for people; each of its lines starts a row.
        size: (width, height) in pixels of the returned picture, at least (240, 160). Text beyond it is cut with an
            ellipsis.

    Raises:
        ValueError: ``size`` is smaller than that.
    """
    if size[0] < _MIN_CARD_SIZE[0] or size[1] < _MIN_CARD_SIZE[1]:
        raise ValueError(f"an error card needs at least {_MIN_CARD_SIZE} (width, height) pixels, not {size}")
    style = _style_for(size)
    # The frame keeps a quarter of the card, or the card could be mistaken for a picture of text.
    max_rows = max(1, (size[1] * 3 // 4 - style.caption_height(0)) // style.row_height)
    caption = _draw_caption(_wrap_rows(text.split("\n"), style, max_rows=max_rows), style, error=True)
    card = Image.new("RGB", size, _CARD)
    _draw_crossed_frame(card, height=size[1] - caption.height, line_width=style.rule_height)
    card.paste(caption, (0, size[1] - caption.height))
    return card


def _enlarge_small(picture: Image.Image) -> Image.Image:
    needed, allowed = -(-_MIN_CANVAS_WIDTH // picture.width), _MAX_ENLARGED_SIDE // max(picture.size)
    factor = min(needed, allowed)
    if factor <= 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _style_for(size: tuple[int, int]) -> _Style:
    width = max(size[0], _MIN_CANVAS_WIDTH)
    # The area sets the size, so that five lines take a quarter of a photograph; the width bounds it, so that a tall
    # narrow picture still gets some thirty letters in a row.
    by_area = 0.037 * (width * size[1]) ** 0.5
    return _Style(width=width, font_size=max(_MIN_FONT_SIZE, round(min(by_area, width / 26))))


def _draw_caption(rows: Sequence[_Row], style: _Style, *, error: bool) -> Image.Image:
    # An image of its own clips what towers above its line (stacked accents), which would otherwise reach the picture.
    caption = Image.new("RGB", (style.width, style.caption_height(len(rows))), _STRIP_ERROR if error else _STRIP)
    draw = ImageDraw.Draw(caption)
    draw.rectangle((0, 0, style.width, style.rule_height - 1), fill=_RULE_ERROR if error else _RULE)
    baseline = style.rule_height + style.padding + style.font_size
    for number, row in enumerate(rows):
        fill = _TEXT_BEST if error or number == 0 else _TEXT_REST
        draw.text((style.padding, baseline), row.text, font=row.font, fill=fill, anchor="ls")
        baseline += style.row_height
    return caption


def _draw_crossed_frame(card: Image.Image, *, height: int, line_width: int) -> None:
    side = int(min(card.width, height) * 0.6)
    left, top = (card.width - side) // 2, (height - side) // 2
    draw = ImageDraw.Draw(card)
    draw.rectangle((left, top, left + side, top + side), outline=_CARD_MARK, width=line_width)
    draw.line((left, top, left + side, top + side), fill=_CARD_MARK, width=line_width)
    draw.line((left, top + side, left + side, top), fill=_CARD_MARK, width=line_width)


def _shorten_rows(lines: Sequence[str], style: _Style) -> list[_Row]:
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1} more"]
    rows = []
    for line in lines:
        text, font = _printable(line, style.font_size)
        rows.append(_Row(_shorten(text, font, style.text_width), font))
    return rows


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Take letters out before the end, which is the score, until ``text`` is at most ``width`` pixels wide."""
    if font.getlength(text) <= width:
        return text
    end = _KEPT_END.search(text)
    tail = f"…{end[0]}" if end else "…"
    num_kept = _fitting_length(text, tail, font, width)
    return text[:num_kept].rstrip() + tail


def _fitting_length(text: str, tail: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """The most leading characters of ``text`` that fit into ``width`` pixels together with ``tail``."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle].rstrip() + tail) <= width:
            low = middle
        else:
            high = middle - 1
    return low


def _wrap_rows(lines: Sequence[str], style: _Style, *, max_rows: int) -> list[_Row]:
    rows: list[_Row] = []
    for line in lines[:max_rows]:
        text, font = _printable(line, style.font_size)
        rows += [_Row(part, font) for part in _wrap(text, font, style.text_width)]
    if len(rows) > max_rows:
        last = rows[max_rows - 1]
        num_kept = _fitting_length(last.text, "…", last.font, style.text_width)
        rows[max_rows - 1 :] = [last._replace(text=last.text[:num_kept].rstrip() + "…")]
    return rows


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """Break at spaces where there are any, otherwise (paths, Chinese) between letters."""
    while font.getlength(text) > width:
        num_fitting = max(1, _fitting_length(text, "", font, width))
        at_space = text.rfind(" ", 0, num_fitting + 1)
        # A break far to the left for the sake of one long path would waste the row.
        end = at_space if at_space > num_fitting // 3 else num_fitting
        yield text[:end]
        text = text[end:].lstrip()
    yield text


def _printable(text: str, font_size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """One line of ``text`` and the first font that draws all of it, or most of it: then the rest is escaped."""
    text = one_line(text)
    best_font, missing = 0, frozenset(text)
    for number in _fonts():
        lacking = frozenset(character for character in text if not _has_glyph(number, character))
        if number == 0 or len(lacking) < len(missing):
            best_font, missing = number, lacking
        if not missing:
            break
    text = "".join(escape(character) if character in missing else character for character in text)
    return text, _sized_font(best_font, font_size)


def one_line(text: str) -> str:
    """Text without anything that moves the pen: line breaks, controls, direction overrides, emoji selectors."""
    if len(text) > _MAX_CHARS:
        text = f"{text[: _MAX_CHARS - _MAX_TAIL_CHARS]}…{text[-_MAX_TAIL_CHARS:]}"
    text = " ".join(unicodedata.normalize("NFC", text).split())
    kept = (c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return "".join(escape(c) if unicodedata.category(c) in {"Cc", "Cs", "Co", "Cn"} else c for c in kept)


def escape(character: str) -> str:
    """``\\u4e2d`` and the like, in ASCII."""
    return f"\\x{ord(character):02x}" if character < "\x80" else character.encode("ascii", "backslashreplace").decode()


# matplotlib's font_manager would know families instead of files. But its import takes 0.1 s (this search: 2 ms), up to
# 0.7 s where it has no list of fonts yet, and a font that is installed later is missing until that list is deleted.
# fontTools finds no files; its table of a font's characters takes 30 ms, a comparison of two glyphs less than 1 ms.
#
# Preferred first; (file name, index inside a collection). DejaVu covers European scripts; the others are the Chinese,
# Japanese and Korean fonts of Linux distributions, macOS and Windows, Simplified Chinese forms where there is a choice.
_SYSTEM_FONTS = (
    ("DejaVuSans.ttf", 0),
    ("NotoSans-Regular.ttf", 0),
    ("LiberationSans-Regular.ttf", 0),
    ("NotoSansCJK-Regular.ttc", 2),
    ("NotoSansCJKsc-Regular.otf", 0),
    ("NotoSansSC-Regular.otf", 0),
    ("SourceHanSansSC-Regular.otf", 0),
    ("wqy-microhei.ttc", 0),
    ("wqy-zenhei.ttc", 0),
    ("DroidSansFallbackFull.ttf", 0),
    ("PingFang.ttc", 0),
    ("Hiragino Sans GB.ttc", 0),
    ("STHeiti Light.ttc", 0),
    ("AppleSDGothicNeo.ttc", 0),
    ("Arial Unicode.ttf", 0),
    ("segoeui.ttf", 0),
    ("msyh.ttc", 0),
    ("simsun.ttc", 0),
    ("YuGothM.ttc", 0),
    ("malgun.ttf", 0),
)
_PROBE_SIZE = 24  # glyphs are compared at one size, whatever the size of the caption
_NO_CHARACTER = "\uffff"  # guaranteed by Unicode never to be assigned: what a font draws for it means "missing"


def _fonts() -> Iterator[int]:
    """Numbers of the usable fonts: 0 is Pillow's own; those of the system are looked for only when it is not enough."""
    yield 0
    yield from range(1, 1 + len(system_fonts()))


@lru_cache(maxsize=1)
def system_fonts() -> tuple[tuple[str, int], ...]:
    """(path, index) of those of the known fonts that are installed; searching takes a while, so once per process."""
    found = []
    for name, index in _SYSTEM_FONTS:
        with suppress(OSError):
            found.append((str(ImageFont.truetype(name, _PROBE_SIZE, index=index).path), index))
    return tuple(found)


@lru_cache(maxsize=64)
def _sized_font(number: int, size: int) -> ImageFont.FreeTypeFont:
    if number == 0:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise RuntimeError("this Pillow was built without FreeType; install the wheel from PyPI")
        return font
    path, index = system_fonts()[number - 1]
    return ImageFont.truetype(path, size, index=index)


@lru_cache(maxsize=65_536)
def _has_glyph(number: int, character: str) -> bool:
    # Pillow shows no character map, but every font draws all that it lacks as one and the same box.
    return character == " " or _glyph(number, character) != _glyph(number, _NO_CHARACTER)


@lru_cache(maxsize=1024)
def _glyph(number: int, character: str) -> tuple[tuple[int, int], bytes]:
    mask = _sized_font(number, _PROBE_SIZE).getmask(character)
    return mask.size, bytes(mask)
