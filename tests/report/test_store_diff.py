"""The report of two label stores: one page without scripts, a matrix, and a file for programs."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

from PIL import Image

from imgcls_ray.images.decoder import DEFAULT_LIMITS
from imgcls_ray.report.store_diff import write_report
from imgcls_ray.storage import FetchLimits
from imgcls_ray.store.diff_result import Example, Side, StoreDiff
from tests.report.test_check_report import HOSTILE, Page

if TYPE_CHECKING:
    from pathlib import Path


def diff_of(*, a: str = "/a", examples: dict[tuple[str, str], list[Example]] | None = None) -> StoreDiff:
    """Three of five changed."""
    labels = Counter({("cat", "cat"): 2, ("cat", "dog"): 2, ("owl", "cat"): 1})
    sides = Side(a, "old", "f" * 64), Side("/b", "new", "e" * 64)
    return StoreDiff(*sides, labels, Counter({("ok", "corrupt"): 7}), num_only_a=11, examples=examples or {})


def write(diff: StoreDiff, output: Path) -> str:
    write_report(diff, str(output), fetch_limits=FetchLimits(), decode_limits=DEFAULT_LIMITS)
    return (output / "store_diff" / "report.html").read_text()


def words(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Page(page).texts))


def test_the_page_tells_how_many_changed_and_how(tmp_path: Path) -> None:
    text = words(write(diff_of(), tmp_path))
    assert "3 of 5 labels changed (60.00%)" in text
    assert "cat dog 2 50.0%" in text
    assert "not compared: ok in A, corrupt in B 7" in text
    assert "only in A 11" in text


def test_the_matrix_is_a_picture_and_the_record_a_file(tmp_path: Path) -> None:
    diff = diff_of()
    write(diff, tmp_path)
    with Image.open(tmp_path / "store_diff" / "moves.png") as picture:
        assert picture.format == "PNG"
    assert json.loads((tmp_path / "store_diff_result.json").read_bytes()) == diff.to_record()


def test_examples_are_pictured_and_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.png")
    examples = {
        ("cat", "dog"): [Example(str(tmp_path / "x.png"), None, 0.25, 0.75), Example("/gone/y.png", "v", 0.5, 0.5)],
    }
    page = write(diff_of(examples=examples), tmp_path / "report")
    pictures = [address for address in Page(page).addresses if address.startswith("data:image/jpeg")]
    assert len(pictures) == 1
    assert "x.png 0.250 → 0.750" in words(page)
    assert "y.png" in words(page)


def test_a_picture_of_another_version_is_not_shown(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.png")
    examples = {("cat", "dog"): [Example(str(tmp_path / "x.png"), "of yesterday", 0.25, 0.75)]}
    page = write(diff_of(examples=examples), tmp_path / "report")
    assert not [address for address in Page(page).addresses if address.startswith("data:image/jpeg")]


def test_hostile_names_are_text(tmp_path: Path) -> None:
    diff = diff_of(a=HOSTILE.replace("\udc80", ""))
    diff.labels[HOSTILE.replace("\udc80", ""), "<b>dog</b>"] = 5
    page = Page(write(diff, tmp_path))
    assert not {"script", "b"} & page.tags.keys()
    assert "<b>dog</b>" in "".join(page.texts)


def test_stores_with_nothing_in_common_give_a_page_without_a_matrix(tmp_path: Path) -> None:
    write(diff_of(), tmp_path)
    diff = StoreDiff(Side("/a", "old", "f"), Side("/b", "new", "e"), num_only_a=1, num_only_b=2)
    assert "0 of 0 labels changed" in words(write(diff, tmp_path))
    assert not (tmp_path / "store_diff" / "moves.png").exists()
