"""What stands under a picture: readable on any picture, whole for any text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageFont

from imgcls_ray.images import annotate
from imgcls_ray.images.annotate import MAX_LINES, annotate_image, error_card

if TYPE_CHECKING:
    from pathlib import Path

LINES = ["tench 0.98", "eel 0.01"]
SIZES = [(1, 1), (10, 10), (1, 2000), (2000, 1), (32, 48), (375, 500), (1000, 1500)]


@pytest.fixture
def only_pillow_font(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without any font."""
    monkeypatch.setattr(annotate, "system_fonts", lambda: ())


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 200, np.uint8)


def text_of(line: str, *, width: int = 500) -> str:
    """The text that is drawn for ``line`` on a picture that wide."""
    style = annotate._style_for((width, 375))
    (row,) = annotate._shorten_rows([line], style)
    return row.text


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("value", [0, 255])
def test_text_contrasts_with_its_strip_on_any_picture(height: int, width: int, value: int) -> None:
    picture = annotate_image(np.full((height, width, 3), value, np.uint8), LINES)
    strip = np.asarray(picture)[-annotate._style_for((width, height)).caption_height(2) :]
    assert picture.mode == "RGB"
    assert int(strip.max()) - int(strip.min()) > 150


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_row_fits_beside_the_padding(height: int, width: int) -> None:
    style = annotate._style_for((width, height))
    rows = annotate._shorten_rows(["m" * 5000, "a long name " * 40 + "0.98", *LINES], style)
    assert all(row.font.getlength(row.text) <= style.text_width for row in rows)


def test_pixels_of_a_large_picture_are_untouched_above_the_strip() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(annotate_image(pixels, LINES))[:300], pixels)


def test_small_picture_is_enlarged_by_a_whole_factor() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    picture = np.asarray(annotate_image(pixels, LINES))[:192]
    np.testing.assert_array_equal(picture[::6, ::6], pixels)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (130, 130), (200, 200), (224, 224), (300, 225), (300, 100)])
def test_a_picture_of_an_ordinary_shape_is_as_wide_as_its_strip(height: int, width: int) -> None:
    picture = np.asarray(annotate_image(np.zeros((height, width, 3), np.uint8), LINES))
    assert not (picture[:height] == annotate._BACKDROP).all(axis=-1).any()


def test_a_long_thin_picture_stays_of_a_size_that_can_be_looked_at() -> None:
    assert annotate_image(grey(600, 20), LINES).height < 800


@pytest.mark.parametrize("score", [" 0.98", ""])
def test_the_id_of_a_class_stays_when_its_name_is_too_long(score: str) -> None:
    assert text_of("black-and-tan coonhound " * 10 + "(id 134)" + score).endswith("… (id 134)" + score)


def test_font_grows_with_the_picture() -> None:
    assert annotate._style_for((6000, 4000)).font_size > 8 * annotate._style_for((500, 375)).font_size


def test_score_stays_when_the_name_is_too_long() -> None:
    text = text_of("black-and-tan coonhound " * 10 + "0.98")
    assert text.startswith("black-and-tan")
    assert text.endswith("… 0.98")


def test_score_stays_behind_a_megabyte_of_name() -> None:
    assert text_of("x y" * 350_000 + " 0.98").endswith("… 0.98")


def test_more_lines_than_fit_are_counted() -> None:
    rows = annotate._shorten_rows([f"class {number} 0.01" for number in range(30)], annotate._style_for((500, 375)))
    assert len(rows) == MAX_LINES
    assert rows[-1].text == "and 21 more"


def test_without_lines_there_is_no_strip() -> None:
    assert annotate_image(grey(300, 400), []).size == (400, 300)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("two\nlines\t0.5", "two lines 0.5"),
        ("bell\x07 0.5", "bell\\x07 0.5"),
        ("\x1b[31mred 0.5", "\\x1b[31mred 0.5"),
        ("right\u202eto left 0.5", "rightto left 0.5"),
        ("broken \ud800 0.5", "broken \\ud800 0.5"),
        ("丁鱥 0.5", "\\u4e01\\u9c65 0.5"),
        ("\U0001f600\ufe0f 0.5", "\\U0001f600 0.5"),
    ],
)
@pytest.mark.usefixtures("only_pillow_font")
def test_what_cannot_be_drawn_is_escaped(line: str, shown: str) -> None:
    assert text_of(line) == shown


def test_line_gets_the_first_font_that_has_all_its_glyphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotate, "_fonts", lambda: iter([0, 1, 2]))
    monkeypatch.setattr(annotate, "_has_glyph", lambda number, character: character.isascii() or number == 2)
    chosen = []
    monkeypatch.setattr(annotate, "_sized_font", lambda number, size: chosen.append(number))
    assert annotate._printable("丁鱥 0.5", 20)[0] == "丁鱥 0.5"
    assert annotate._printable("tench 0.5", 20)[0] == "tench 0.5"
    assert chosen == [2, 0]


def test_pillow_font_knows_which_glyphs_it_lacks() -> None:
    assert all(annotate._has_glyph(0, character) for character in "azAZ09 .,…'/\\")
    assert not any(annotate._has_glyph(0, character) for character in "中ж\U0001f600")


def test_installed_system_font_draws_what_pillow_font_lacks() -> None:
    try:
        ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("DejaVu is not installed here")
    assert text_of("Жук café 0.5") == "Жук café 0.5"


def test_error_is_wrapped_not_shortened() -> None:
    style = annotate._style_for((250, 200))
    message = "the model's output for it is not a finite number"
    rows = annotate._wrap_rows([message], style, max_rows=8)
    assert len(rows) > 1
    assert " ".join(row.text for row in rows) == message


def test_error_strip_is_red() -> None:
    red, green, blue = np.asarray(annotate_image(grey(300, 400), ["broken"], error=True))[-2, 2].tolist()
    assert red > 2 * max(green, blue)


@pytest.mark.parametrize("size", [(240, 160), (480, 360), (300, 2000), (2000, 300)])
@pytest.mark.parametrize("text", ["its end is missing", "no space" * 400, "", "文件不存在"])
def test_error_card_has_the_size_asked_for(size: tuple[int, int], text: str) -> None:
    assert error_card(text, size=size).size == size


def test_error_card_keeps_a_frame_above_a_long_text() -> None:
    card = np.asarray(error_card("its end is missing " * 100, size=(240, 160)))
    assert (card[:20] == annotate._CARD).all(axis=-1).any()


def test_error_card_starts_a_row_for_each_line() -> None:
    two_rows, one_row = (np.asarray(error_card(text)) for text in ("a.jpg\nempty", "a.jpg empty"))
    num_red = [int((card == annotate._STRIP_ERROR).all(axis=-1)[:, 2].sum()) for card in (two_rows, one_row)]
    assert num_red[0] - num_red[1] == annotate._style_for((480, 360)).row_height


def test_error_card_refuses_a_size_without_room() -> None:
    with pytest.raises(ValueError, match=r"needs at least \(240, 160\) \(width, height\) pixels, not \(100, 100\)"):
        error_card("broken", size=(100, 100))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pixels must be uint8"):
        annotate_image(pixels, LINES)


def test_result_can_be_saved_as_jpeg(tmp_path: Path) -> None:
    picture = annotate_image(grey(20, 20), LINES)
    picture.save(tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as saved:
        assert saved.size == picture.size
