"""Figures that a careful reader accepts, at a few and at 1,000 classes, whatever the classes are called."""

from __future__ import annotations

import io
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from PIL import Image

from imgcls_ray.datasets.check_result import CheckResult
from imgcls_ray.evaluate.calibration import NUM_BINS, Reliability
from imgcls_ray.evaluate.evaluation import Mistake
from imgcls_ray.evaluate.scoring import confusion_of
from imgcls_ray.images.annotate import annotate_image
from imgcls_ray.images.decoder import DEFAULT_LIMITS
from imgcls_ray.report import figures as figures_module
from imgcls_ray.report import mistakes as mistakes_module
from imgcls_ray.report.confusion import draw_confusion
from imgcls_ray.report.curves import draw_curves
from imgcls_ray.report.figures import fit_label, fit_labels
from imgcls_ray.report.histogram import draw_histogram
from imgcls_ray.report.mistakes import draw_mistakes
from imgcls_ray.report.reliability import draw_reliability
from imgcls_ray.report.sheet import BACK, CELL_SIDE, GUTTER
from imgcls_ray.storage import FetchLimits
from tests.report.drawn import all_axes, legends_on_data, overlapping_ticks, texts_outside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

LONG = "a very long class name that goes on and on and ends with "
NAMES = ["crane", "crane", f"{LONG}one", f"{LONG}two", "\u4e2d\u6587" * 12, "$x^2$", "W" * 40, "x", "\u202e", "tench"]
MODEL = "timm:vit_base_patch16_clip_224.laion2b_ft_in12k_in1k"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is drawn, after its layout."""
    drawn: list[Figure] = []

    class Recorded(matplotlib.figure.Figure):
        def savefig(self, *args: Any, **options: Any) -> None:
            super().savefig(*args, **options)
            drawn.append(self)

    monkeypatch.setattr(matplotlib.figure, "Figure", Recorded)
    return drawn


def assert_readable(figure: Figure) -> None:
    assert texts_outside(figure) == []
    assert overlapping_ticks(figure) == []
    assert legends_on_data(figure) == []


def names_of(num_classes: int) -> list[str]:
    return [f"{NAMES[i % 10]}{i // 10 or ''}" if i % 20 else NAMES[0] for i in range(num_classes)]


# Reliability


def reliability(counts: Sequence[float], *, share_correct: float = 0.5) -> Reliability:
    images = np.array(counts, np.float64)
    return Reliability(1.0, images, images * (np.arange(NUM_BINS) + 0.5) / NUM_BINS, images * share_correct)


def interval_lengths(figure: Figure) -> list[float]:
    """Of the bins of the first column, from the left."""
    ((_, _, (lines,)),) = [one for one in figure.axes[0].containers if isinstance(one, ErrorbarContainer)]
    return [float(np.ptp(segment[:, 1])) for segment in lines.get_segments()]


@pytest.mark.parametrize("counts", [[1] * NUM_BINS, [0] * 14 + [200], [10**7] * NUM_BINS, [3] + [123_456] * 14])
@pytest.mark.parametrize("with_temperature", [False, True])
def test_a_reliability_diagram_is_readable(figures: list[Figure], counts: list[int], with_temperature: bool) -> None:
    table = reliability(counts)
    draw_reliability(table, table if with_temperature else None, temperature=1.5)
    assert_readable(figures[0])


def test_a_bin_of_a_few_images_says_so(figures: list[Figure]) -> None:
    draw_reliability(reliability([0] * 12 + [2, 20, 20_000]), None, temperature=None)
    few, some, many = interval_lengths(figures[0])
    assert few > 0.7
    assert 0.3 < some < 0.5
    assert many < 0.02
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["2", "20", "20k"]


def test_an_interval_stays_between_nought_and_one(figures: list[Figure]) -> None:
    draw_reliability(reliability([1] * NUM_BINS, share_correct=1.0), None, temperature=None)
    assert all(0.7 < length < 0.9 for length in interval_lengths(figures[0]))


def test_a_hundredth_of_an_image_between_two_temperatures_is_no_bin(figures: list[Figure]) -> None:
    draw_reliability(reliability([0.01] * 14 + [99.86]), None, temperature=None)
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["100"]


# Confusion


@pytest.mark.parametrize("num_classes", [1, 2, 10, 1000])
def test_a_confusion_matrix_is_readable(figures: list[Figure], num_classes: int) -> None:
    true = np.arange(3 * num_classes, dtype=np.int32) % num_classes
    predicted = np.where(np.arange(len(true)) % 3, true, (true + 1) % num_classes).astype(np.int32)
    draw_confusion(confusion_of(true, predicted, num_classes), names_of(num_classes), title=f"{MODEL} on val, 3 images")
    assert_readable(figures[0])


@pytest.mark.parametrize("num_classes", [2, 12])
def test_large_numbers_fit_into_their_cells_and_can_be_read(figures: list[Figure], num_classes: int) -> None:
    confusion = confusion_of(
        np.arange(num_classes, dtype=np.int32), np.arange(num_classes, dtype=np.int32), num_classes
    )
    confusion = confusion._replace(counts=confusion.counts * 5_678_901)
    draw_confusion(confusion, ["x"] * num_classes, title="model")
    (axes,) = figures[0].axes
    assert {text.get_text() for text in axes.texts} == {"5.68M"}
    assert all(text.get_window_extent().width < axes.get_window_extent().width / num_classes for text in axes.texts)
    assert min(float(text.get_fontsize()) for text in axes.texts) > 6


def test_a_confusion_matrix_says_what_its_colours_mean(figures: list[Figure]) -> None:
    draw_confusion(confusion_of(np.zeros(1, np.int32), np.zeros(1, np.int32), 2), ["a", "b"], title="model")
    assert "blue: correct, orange: wrong" in " ".join(figures[0].get_suptitle().split())


# Names


def test_two_classes_of_one_name_are_told_apart(figures: list[Figure]) -> None:
    draw_confusion(confusion_of(np.zeros(1, np.int32), np.ones(1, np.int32), 3), ["crane", "crane", "owl"], title="m")
    assert [text.get_text() for text in figures[0].axes[0].get_yticklabels()] == ["crane (id 0)", "crane (id 1)", "owl"]


def test_names_that_differ_at_their_ends_stay_different() -> None:
    one, other = fit_labels({0: f"{LONG}one", 1: f"{LONG}two"})
    assert one.text.startswith("a very long")
    assert one.text.endswith("one")
    assert other.text.endswith("two")


def test_names_that_differ_in_their_middles_get_their_ids() -> None:
    labels = fit_labels({7: "n" * 50 + "1" + "n" * 50, 8: "n" * 50 + "2" + "n" * 50})
    assert [label.text[-7:] for label in labels] == [" (id 7)", " (id 8)"]


@pytest.mark.parametrize(
    "name", ["W" * 60, "i" * 200, "\u4e2d" * 40, "\U00013000" * 40], ids=["wide", "narrow", "Chinese", "Egyptian"]
)
def test_a_label_is_never_wider_than_its_space(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without fonts, Chinese is six letters a character.
    monkeypatch.setattr(figures_module, "system_fonts", lambda: ())
    label = fit_label(name, max_width=20)
    width = sum(figures_module._width(label.font_path, character) for character in label.text)
    assert 10 < width <= 20


# Images per class


@pytest.mark.parametrize(
    ("num_classes", "counts"),
    [(1, "equal"), (1, "none"), (10, "equal"), (10, "long tail"), (10, "none"), (90, "long tail"), (1000, "long tail")],
)
def test_a_histogram_is_readable(figures: list[Figure], num_classes: int, counts: str) -> None:
    tail = [1 + 10**6 // (i + 1) ** 2 for i in range(num_classes)]
    of_class = {"equal": [1_234_567] * num_classes, "long tail": tail, "none": [0] * num_classes}[counts]
    images = Counter(dict(enumerate(of_class)))
    splits = ("train", "val", "test")
    result = CheckResult("data", None, list(names_of(num_classes)), dict.fromkeys(splits, images.total()))
    result.images_per_class = dict.fromkeys(splits, images)
    draw_histogram(result)
    assert_readable(figures[0])


def test_equal_counts_of_two_splits_are_both_seen(figures: list[Figure]) -> None:
    images = Counter(dict.fromkeys(range(500), 5))
    splits = ("train", "val", "test")
    result = CheckResult("data", None, list(names_of(500)), dict.fromkeys(splits, 2500))
    result.images_per_class = dict.fromkeys(splits, images)
    draw_histogram(result)
    curve = next(axes for axes in all_axes(figures[0]) if axes.lines)
    val, test = (line.get_markersize() for line in curve.lines)
    assert val > test + 1


# Curves


def history(num_epochs: int, *, has_val: bool = True) -> list[dict[str, float]]:
    rows = []
    for epoch in range(1, num_epochs + 1):
        loss = 3 * math.exp(-epoch / num_epochs)
        row = {"epoch": epoch, "train.loss": loss, "train.top1": 1 - loss / 4, "learning_rate": 0.01 * loss}
        if has_val:
            row |= {"val.loss": loss + 0.1, "val.top1": 0.9 - loss / 4}
        rows.append(row)
    return rows


@pytest.mark.parametrize("num_epochs", [1, 2, 40, 500])
@pytest.mark.parametrize("has_val", [True, False])
def test_curves_are_readable(figures: list[Figure], num_epochs: int, has_val: bool) -> None:
    draw_curves(history(num_epochs, has_val=has_val), num_epochs)
    assert_readable(figures[0])
    assert all(axes.get_window_extent().width > figures[0].bbox.width / 5 for axes in figures[0].axes)


@pytest.mark.parametrize(
    ("key", "values"),
    [("val.top1", [0.99990, 0.99991, 0.99992]), ("learning_rate", [1e-7] * 3), ("train.loss", [4e7, 2.0, 1e-3])],
)
def test_curves_of_odd_values_are_readable(figures: list[Figure], key: str, values: list[float]) -> None:
    draw_curves([{**row, key: value} for row, value in zip(history(3), values, strict=True)], 3)
    assert_readable(figures[0])


def test_every_axis_says_its_range(figures: list[Figure]) -> None:
    draw_curves(history(500), 500)
    loss, accuracy, rate = figures[0].axes
    assert [axes.get_xlabel() for axes in figures[0].axes] == ["epoch, 1 to 500"] * 3
    for axes, number in ((loss, "{:.3g}"), (accuracy, "{:.1%}"), (rate, "{:.3g}")):
        low, high = (number.format(end) for end in axes.get_ylim())
        assert axes.get_ylabel().endswith(f"axis from {low.replace('0.0%', '0%')} to {high}")


def test_values_that_are_not_finite_are_told(figures: list[Figure]) -> None:
    rows = history(9)
    for row in rows[4:]:
        row["val.loss"] = math.nan
    rows[8]["train.loss"] = math.inf
    draw_curves(rows, 2)
    assert figures[0].axes[0].get_title() == "not finite: train in 1 epoch, val in 5 epochs"
    assert figures[0].axes[0].get_xlim() == (0.5, 9.5)


@pytest.mark.parametrize("num_classes", [1, 3, 300])
def test_the_worst_classes_have_a_name_whatever_it_is(figures: list[Figure], num_classes: int) -> None:
    names = ["_hidden", "$x^2$", "W" * 40, *map(str, range(num_classes))][:num_classes]
    recalls = {name: [(epoch, min(place / 10, 1)) for epoch in (1, 2, 3)] for place, name in enumerate(names)}
    draw_curves(history(3), 3, recalls)
    assert_readable(figures[0])
    legend = figures[0].axes[3].get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:3] == ["median", "_hidden", "$x^2$"][: num_classes + 1]
    assert len(texts) == min(num_classes, 4) + 1


def test_curves_without_a_finite_value_say_so(figures: list[Figure]) -> None:
    draw_curves([{**row, "train.loss": math.nan, "val.loss": math.nan} for row in history(3)], 0)
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["nothing to draw"]
    assert_readable(figures[0])


# Mistakes


def sheet_of(tmp_path: Path, sizes: Sequence[tuple[int, int]], names: Sequence[str] = ("a", "b")) -> np.ndarray:
    mistakes = []
    for number, size in enumerate(sizes):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", size, "red").save(path)
        mistakes.append(Mistake(path.name, str(path), 0, 1, 0.9))
    jpeg = draw_mistakes(mistakes, names, fetch_limits=FetchLimits(), decode_limits=DEFAULT_LIMITS)
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture).astype(int)


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (130, 130), (224, 224), (240, 240), (1000, 1000), (640, 480)])
def test_a_square_or_wide_picture_fills_its_cell(tmp_path: Path, size: tuple[int, int]) -> None:
    sheet = sheet_of(tmp_path, [size])
    assert sheet.shape[1] == CELL_SIDE + 2 * GUTTER
    row = sheet[GUTTER + 20, GUTTER + 2 : -GUTTER - 2]
    assert (row[:, 0] > 230).all()
    assert (row[:, 1] < 60).all()


def test_beside_a_tall_picture_is_the_colour_of_the_sheet(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, [(100, 300)])
    assert np.abs(sheet[GUTTER + 20, GUTTER + 5] - BACK).max() < 10


def test_all_cells_are_of_one_width(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, [(100, 300), (28, 28), (2000, 1), (1, 2000), (224, 224)])
    assert (sheet.shape[1] - GUTTER) % (CELL_SIDE + GUTTER) == 0


def test_a_mistake_between_classes_of_one_name_says_their_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines: list[str] = []

    def annotate(pixels: np.ndarray, texts: Sequence[str]) -> Image.Image:
        lines.extend(texts)
        return annotate_image(pixels, texts)

    monkeypatch.setattr(mistakes_module, "annotate_image", annotate)
    sheet_of(tmp_path, [(30, 30)], ["crane", "crane"])
    assert lines[:2] == ["says crane (id 1) 0.900", "is crane (id 0)"]
