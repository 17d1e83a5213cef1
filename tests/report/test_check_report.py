"""The report of a check: PaddleX's file, one page for people, pictures, and every finding as a table."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from PIL import Image

from imgcls_ray.datasets.check_result import CheckResult, Sample
from imgcls_ray.datasets.findings import FINDING_SCHEMA, Finding, FindingCode
from imgcls_ray.images.decoder import DEFAULT_LIMITS
from imgcls_ray.report import figures, histogram
from imgcls_ray.report.check_report import write_report
from imgcls_ray.report.histogram import draw_histogram, rank_classes
from imgcls_ray.report.page import visible
from imgcls_ray.storage import FetchLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOSTILE = '<script>alert("1")</script>\u202e\0\udc80'


def result_of(dataset: Path | str, **changes: Any) -> CheckResult:
    """Two classes, two splits; what a test is about is changed."""
    fields = {
        "label_file": "label.txt",
        "class_names": ["ant", "bee"],
        "num_images": {"train": 7, "val": 3},
        "images_per_class": {"train": Counter({0: 2, 1: 5}), "val": Counter({0: 3})},
    }
    return CheckResult(str(dataset), **{**fields, **changes})


def with_findings(dataset: Path | str, *findings: Finding, **changes: Any) -> CheckResult:
    num_findings = Counter(str(finding.code) for finding in findings)
    return result_of(dataset, findings=list(findings), num_findings=num_findings, **changes)


def write(result: CheckResult, output: Path) -> dict[str, Any]:
    """Write the report and return what its JSON says."""
    write_report(result, str(output), fetch_limits=FetchLimits(), decode_limits=DEFAULT_LIMITS)
    summary: dict[str, Any] = json.loads((output / "check_dataset_result.json").read_bytes())
    return summary


def page_of(result: CheckResult, output: Path) -> str:
    write(result, output)
    return (output / "check_dataset" / "report.html").read_text()


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without any font: matplotlib brings its own, for European scripts."""
    monkeypatch.setattr(figures, "system_fonts", lambda: ())


@pytest.fixture
def missing_glyphs_are_errors() -> Iterator[None]:
    """matplotlib warns of each character that it draws as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Glyph.*")
        yield


def test_keys_are_paddlex_keys_in_their_order(tmp_path: Path) -> None:
    summary = write(result_of(tmp_path / "data"), tmp_path / "out")
    assert list(summary) == [
        *("done_flag", "check_pass", "attributes", "analysis", "dataset_path", "show_type", "dataset_type"),
        "findings",
    ]
    assert list(summary["attributes"]) == [
        *("label_file", "num_classes"),
        *("train_samples", "train_sample_paths", "val_samples", "val_sample_paths"),
    ]


def test_values_are_those_of_paddlex(tmp_path: Path) -> None:
    summary = write(result_of(tmp_path / "data"), tmp_path / "out")
    del summary["findings"]
    assert summary == {
        "done_flag": True,
        "check_pass": True,
        "attributes": {
            "label_file": "../../data/label.txt",
            "num_classes": 2,
            "train_samples": 7,
            "train_sample_paths": [],
            "val_samples": 3,
            "val_sample_paths": [],
        },
        "analysis": {"histogram": "check_dataset/histogram.png"},
        "dataset_path": str(tmp_path / "data"),
        "show_type": "image",
        "dataset_type": "ClsDataset",
    }


def test_a_test_split_follows_train_and_val(tmp_path: Path) -> None:
    summary = write(result_of(tmp_path, num_images={"train": 1, "val": 1, "test": 4}), tmp_path / "out")
    assert list(summary["attributes"])[-2:] == ["test_samples", "test_sample_paths"]
    assert summary["attributes"]["test_samples"] == 4


def test_label_file_of_a_bucket_is_whole(tmp_path: Path) -> None:
    summary = write(result_of("s3://bucket/data/"), tmp_path / "out")
    assert summary["attributes"]["label_file"] == "s3://bucket/data/label.txt"


def test_without_label_file_there_is_none(tmp_path: Path) -> None:
    assert write(result_of(tmp_path, label_file=None), tmp_path / "out")["attributes"]["label_file"] is None


def test_an_error_fails_the_check_and_a_warning_does_not(tmp_path: Path) -> None:
    warning = Finding(FindingCode.DARK)
    assert write(with_findings(tmp_path, warning), tmp_path / "warned")["check_pass"]
    assert not write(with_findings(tmp_path, Finding(FindingCode.BAD_LINE), warning), tmp_path / "failed")["check_pass"]


def test_findings_are_counted_by_code_with_their_meaning(tmp_path: Path) -> None:
    result = with_findings(tmp_path, Finding(FindingCode.BAD_LINE, "train.txt", 3), Finding(FindingCode.DARK))
    result.num_findings["bad_line"] = 4000
    findings = write(result, tmp_path / "out")["findings"]
    assert (findings["num_errors"], findings["num_warnings"]) == (4000, 1)
    assert findings["codes"][0] == {
        "code": "bad_line",
        "severity": "error",
        "meaning": "the line is not a path and a class id",
        "count": 4000,
    }
    assert (findings["first"][0]["file"], findings["first"][0]["line"]) == ("train.txt", 3)


def test_many_errors_do_not_crowd_out_warnings(tmp_path: Path) -> None:
    errors = [Finding(FindingCode.BAD_LINE, line=line) for line in range(500)]
    first = write(with_findings(tmp_path, *errors, Finding(FindingCode.DARK)), tmp_path / "out")["findings"]["first"]
    assert [finding["code"] for finding in first] == ["bad_line"] * 10 + ["dark"]


def test_chinese_stays_readable_in_the_json(tmp_path: Path) -> None:
    write(with_findings(tmp_path, Finding(FindingCode.DARK, class_name="百合")), tmp_path / "out")
    assert '"class_name": "百合"' in (tmp_path / "out" / "check_dataset_result.json").read_text()


def test_bytes_that_are_not_utf8_survive_in_the_json(tmp_path: Path) -> None:
    summary = write(with_findings(tmp_path, Finding(FindingCode.DARK, path=HOSTILE)), tmp_path / "out")
    assert summary["findings"]["first"][0]["path"] == HOSTILE


def test_samples_of_one_name_do_not_overwrite_each_other(
    draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    samples = [Sample(f"{path.parent.name}/1.jpg", str(path), "ant") for path in draw_images(3)]
    summary = write(result_of(tmp_path, samples={"train": samples}), tmp_path / "out")
    paths = summary["attributes"]["train_sample_paths"]
    assert paths == [f"check_dataset/demo_img/train_{number:02d}_1.jpg" for number in range(3)]
    assert len({(tmp_path / "out" / path).read_bytes() for path in paths}) == 3


def test_a_sample_is_upright_with_its_class_name_below(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 300), "white").save(tmp_path / "side.jpg", exif=exif)
    samples = {"train": [Sample("side.jpg", str(tmp_path / "side.jpg"), "ant")]}
    write(result_of(tmp_path, samples=samples), tmp_path / "out")
    with Image.open(tmp_path / "out" / "check_dataset" / "demo_img" / "train_00_side.jpg") as picture:
        assert picture.width == 300
        assert picture.height > 400
        assert np.asarray(picture)[-5].max() < 100


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("images/IMG_1118.JPG", "train_00_IMG_1118.jpg"),
        ("图片/百合 1.png", "train_00_百合_1.jpg"),
        ("../../etc/passwd", "train_00_passwd.jpg"),
        ("..", "train_00.jpg"),
        (f"images/a{HOSTILE}.jpg", "train_00_script.jpg"),
        ("images/" + "花" * 300, f"train_00_{'花' * 40}.jpg"),
    ],
)
def test_sample_names_are_harmless(
    draw_images: Callable[..., list[Path]], tmp_path: Path, path: str, name: str
) -> None:
    samples = {"train": [Sample(path, str(draw_images(1)[0]), "ant")]}
    write(result_of(tmp_path, samples=samples), tmp_path / "out")
    assert [file.name for file in (tmp_path / "out" / "check_dataset" / "demo_img").iterdir()] == [name]


def test_a_sample_that_is_gone_leaves_a_card(tmp_path: Path) -> None:
    samples = {"train": [Sample("gone.jpg", str(tmp_path / "gone.jpg"), "ant")]}
    (path,) = write(result_of(tmp_path, samples=samples), tmp_path / "out")["attributes"]["train_sample_paths"]
    with Image.open(tmp_path / "out" / path) as picture:
        assert picture.format == "JPEG"


def test_samples_of_an_earlier_report_go_and_other_files_stay(
    draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    first, second = draw_images(2)
    folder = tmp_path / "out" / "check_dataset" / "demo_img"
    write(result_of(tmp_path, samples={"train": [Sample("old.jpg", str(first), "ant")]}), tmp_path / "out")
    (folder / "notes.txt").write_text("mine")
    write(result_of(tmp_path, samples={"train": [Sample("new.jpg", str(second), "ant")]}), tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir()) == ["notes.txt", "train_00_new.jpg"]


def test_the_table_of_findings_has_its_schema(tmp_path: Path) -> None:
    finding = Finding(FindingCode.LEAKAGE, "val.txt", 3, "val", "ant", HOSTILE, "same", "a.jpg", "b.jpg")
    write(with_findings(tmp_path, finding, Finding(FindingCode.GAP_IN_IDS)), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "check_dataset" / "findings.parquet")
    assert table.schema.equals(FINDING_SCHEMA)
    assert table.column("line").to_pylist() == [3, None]
    assert table.column("severity").to_pylist() == ["warning", "warning"]
    assert table.column("path").to_pylist()[0].endswith("\\udc80")


def test_without_findings_the_table_is_empty(tmp_path: Path) -> None:
    write(result_of(tmp_path), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "check_dataset" / "findings.parquet")
    assert table.schema.equals(FINDING_SCHEMA)
    assert table.num_rows == 0


def test_texts_of_the_dataset_are_never_markup(draw_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    uri = str(draw_images(1)[0])
    finding = Finding(FindingCode.DARK, HOSTILE, 1, HOSTILE, HOSTILE, HOSTILE, HOSTILE, uri, HOSTILE)
    result = with_findings(
        HOSTILE,
        *(finding, finding._replace(code=FindingCode.LEAKAGE)),
        class_names=[HOSTILE, None, "'\"&"],
        samples={"train": [Sample(HOSTILE, uri, HOSTILE)]},
        formats=Counter({HOSTILE: 3}),
    )
    page = Page(page_of(result, tmp_path / "out"))
    assert page.tags["script"] == 0
    assert page.text.count('<script>alert("1")</script>') >= 10


@pytest.mark.parametrize(
    "text",
    [
        "{{ 7 * 7 }}",
        "{{ result.__class__ }}",
        "{% include 'page.css' %}",
        "{# a comment #}",
        "{% endraw %}",
        "\"'><img src=x onerror=alert(1)>",
        "</style></script><h1>",
        "%s %(x)d {0} {name}",
        "&lt;b&gt; &amp;",
    ],
)
def test_marks_of_templates_and_of_html_stay_text(
    draw_images: Callable[..., list[Path]], tmp_path: Path, text: str
) -> None:
    def page_with(text: str) -> Page:
        uri = str(draw_images(1)[0])
        finding = Finding(FindingCode.DARK, text, 1, text, text, text, text, uri, text)
        result = with_findings(
            text,
            *(finding, finding._replace(code=FindingCode.LEAKAGE)),
            class_names=[text, None],
            samples={"train": [Sample(text, uri, text), Sample(text, text, text)]},
            formats=Counter({text: 3}),
        )
        return Page(page_of(result, tmp_path / "out"))

    page, harmless = page_with(text), page_with("x" * len(text))
    assert page.tags == harmless.tags
    # Each text of the dataset, as it is.
    assert page.text == harmless.text.replace("x" * len(text), text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", r"a\u202eb"),
        ("\0", r"\x00"),
        ("\udc80", r"\udc80"),
        ("\u00a0", r"\xa0"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert Page(visible(text)).text == shown


def test_long_text_loses_its_middle() -> None:
    text = Page(visible("a" + "x" * 10_000 + "z")).text
    assert len(text) < 250
    assert re.fullmatch("ax+…x+z", text)


def test_the_page_needs_nothing_else(draw_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    one, other = map(str, draw_images(2))
    result = with_findings(tmp_path, Finding(FindingCode.LEAKAGE, uri=one, other_uri=other))
    text = page_of(result, tmp_path / "out")
    page = Page(text)
    assert page.tags["img"] == 3  # the pair and the histogram
    assert page.tags["link"] == 0
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "url(" not in text


def test_findings_are_shown_errors_first_with_line_and_meaning(tmp_path: Path) -> None:
    text = Page(
        page_of(
            with_findings(tmp_path, Finding(FindingCode.BAD_LINE, "train.txt", 17), Finding(FindingCode.DARK)),
            tmp_path / "out",
        )
    ).text
    assert "Check failed" in text
    assert "train.txt:17" in text
    assert text.index("the line is not a path and a class id") < text.index("nearly black")


def test_the_page_says_that_there_is_nothing(tmp_path: Path) -> None:
    text = Page(page_of(result_of(tmp_path), tmp_path / "out")).text
    assert "Check passed" in text
    assert "0 errors, 0 warnings" in text


def test_the_page_is_bounded_whatever_the_number_and_text_of_findings(tmp_path: Path) -> None:
    text = "\u202e<" * 500
    findings = [Finding(code, text, 1, text, text, text, text) for code in FindingCode for _ in range(200)]
    page = page_of(with_findings(tmp_path, *findings), tmp_path / "out")
    assert len(page.encode()) < 3 * 2**20
    assert "and 1" in page


def test_a_picture_that_is_gone_is_told_of_in_its_place(draw_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    uri, gone = str(draw_images(1)[0]), str(tmp_path / "gone.jpg")
    page = Page(
        page_of(with_findings(tmp_path, Finding(FindingCode.LEAKAGE, uri=uri, other_uri=gone)), tmp_path / "out")
    )
    assert "there is no such file or object" in page.text
    assert page.tags["img"] == 2


def test_an_image_that_could_not_be_decoded_is_not_tried_again(
    draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    uri = str(draw_images(1)[0])
    findings = (Finding(FindingCode.UNREADABLE_IMAGE, uri=uri), Finding(FindingCode.EXACT_DUPLICATE, uri=uri))
    assert Page(page_of(with_findings(tmp_path, *findings), tmp_path / "out")).tags["img"] == 1


def test_thumbnails_are_few(draw_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    uris = [str(path) for path in draw_images(20)]
    findings = [Finding(FindingCode.DARK, uri=uri) for uri in uris]
    assert Page(page_of(with_findings(tmp_path, *findings), tmp_path / "out")).tags["img"] == 5


def test_a_size_that_many_images_have_is_told_as_it_is(tmp_path: Path) -> None:
    sizes = {"sizes": Counter({(192, 192): 90, (0, 640): 3}), "frequent_sizes": Counter({(200, 200): 88})}
    text = " ".join(Page(page_of(result_of(tmp_path, **sizes), tmp_path / "out")).text.split())
    told = text[text.index("Most frequent sizes") :]
    assert "200 × 200 8894.6%" in told
    # The rest of its range, and others, by ranges.
    assert "192–223 × 192–223 22.2%" in told
    assert "1–31 × 640–671 33.2%" in told
    assert "grouped in steps of 32 pixels" in told


def test_sizes_that_are_all_exact_are_not_called_grouped(tmp_path: Path) -> None:
    sizes = {"sizes": Counter({(192, 192): 90}), "frequent_sizes": Counter({(200, 200): 90})}
    assert "grouped" not in page_of(result_of(tmp_path, **sizes), tmp_path / "out")


def test_classes_are_sorted_by_their_train_images() -> None:
    result = result_of(
        "data", class_names=["a", "b", None, "d"], images_per_class={"train": Counter({1: 9, 3: 4, 7: 5})}
    )
    assert [(one.label, one.counts) for one in rank_classes(result)] == [
        ("b", (9, 0)),
        ("id 7 (no name)", (5, 0)),
        ("d", (4, 0)),
        ("a", (0, 0)),
    ]


@pytest.mark.parametrize("num_classes", [0, 1, 2, 40, 41, 120, 121, 1000])
def test_the_histogram_is_of_a_size_that_can_be_looked_at(num_classes: int) -> None:
    counts = Counter({class_id: 1 + 10_000 // (class_id + 1) for class_id in range(num_classes)})
    result = result_of(
        "data",
        class_names=[f"class {class_id}" for class_id in range(num_classes)],
        num_images={split: counts.total() for split in ("train", "val", "test")},
        images_per_class={"train": counts, "val": counts, "test": counts},
    )
    png = draw_histogram(result).png
    assert len(png) < 2**20
    with Image.open(io.BytesIO(png)) as picture:
        assert 900 <= picture.width <= 1900
        assert 200 <= picture.height <= 2700


def test_one_image_of_a_split_is_told_in_the_singular() -> None:
    per_class = {"train": Counter({0: 2}), "test": Counter({0: 1})}
    result = result_of("data", class_names=["a"], num_images={"train": 2, "test": 1}, images_per_class=per_class)
    figure = Figure()
    histogram._head(figure, rank_classes(result), ["train", "test"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train: 2 images", "test: 1 image"]


@pytest.mark.usefixtures("missing_glyphs_are_errors")
def test_names_in_a_histogram_are_never_boxes_or_formulas() -> None:
    names: list[str | None] = ["百合", "$x^2$", "$\\frac$", "", "\n", HOSTILE, "ℵ𓀀", "роза", "x" * 500, None]
    assert draw_histogram(result_of("data", class_names=names)).png


@pytest.mark.usefixtures("missing_glyphs_are_errors", "no_system_fonts")
def test_letters_that_no_font_has_are_escaped_and_told_of(tmp_path: Path) -> None:
    result = result_of(tmp_path, class_names=["rose", "百合"])
    assert draw_histogram(result).undrawn == "合百"
    assert "No installed font has 合 (U+5408), 百 (U+767E):" in Page(page_of(result, tmp_path / "out")).text


def test_chinese_is_drawn_with_a_font_that_has_it() -> None:
    if not any(ord("百") in figures._characters(path) for path in figures._font_paths()):
        pytest.skip("no font of this machine has Chinese")
    assert figures.fit_label("百合").text == "百合"
    assert draw_histogram(result_of("data", class_names=["百合", "玫瑰"])).undrawn == ""


def test_a_dataset_without_images_has_a_report(tmp_path: Path) -> None:
    summary = write(CheckResult(str(tmp_path), None, []), tmp_path / "out")
    assert (summary["attributes"]["train_samples"], summary["attributes"]["val_samples"]) == (0, 0)
