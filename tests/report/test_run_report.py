"""The page about a store: everything that people look for, whatever names and labels are, and never too large."""

from __future__ import annotations

import re
import zipfile
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from imgcls_ray.images.decoder import DEFAULT_LIMITS
from imgcls_ray.report import run_report
from imgcls_ray.report.run_report import write_report
from imgcls_ray.storage import FetchLimits
from imgcls_ray.store.overview import LabelCounts, Overview, read_overview
from tests.report.test_check_report import HOSTILE, Page
from tests.store.stores import info, new_store, plan, run_record
from tests.store.stores import part_bytes as parquet
from tests.store.test_diff import row_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imgcls_ray.store.label_store import LabelStore


def label(store: LabelStore, rows: Mapping[str, tuple[str, float]], **record: object) -> None:
    """A run with the label, or error, of each URI."""
    run = plan(store, [info(uri, None) for uri in sorted(rows)])
    for unit in store.units(run):
        planned = store.read_unit(unit).select(["image_id", "uri", "etag"]).to_pylist()
        done = parquet([row_of(row, rows[row["uri"]]) for row in planned], store.schema)
        store.directory.create(unit.part_name, done)
    store.finish_run(run, run_record(run, num_images=len(rows), **record))


def page_of(store: LabelStore, output: Path) -> str:
    overview = read_overview(store, num_each=run_report.NUM_EACH)
    write_report(overview, str(output), fetch_limits=FetchLimits(), decode_limits=DEFAULT_LIMITS)
    return (output / "report.html").read_text()


def words(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Page(page).texts))


def num_pictures(page: str) -> int:
    return sum(address.startswith("data:image/jpeg") for address in Page(page).addresses)


def draw(path: Path, colour: str = "red") -> str:
    Image.new("RGB", (40, 30), colour).save(path)
    return str(path)


def test_the_page_tells_labels_errors_rate_and_cost(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    rows = {draw(tmp_path / f"{i}.png"): ("cat" if i else "dog", 0.25 * i) for i in range(4)}
    counts = {"ok": 4, "corrupt": 1}
    record = {"counts": counts, "images_per_s": 123.4, "cost_per_million_images": 5.5, "seconds": 90}
    label(store, {**rows, str(tmp_path / "bad.jpg"): ("!corrupt", 0)}, **record)
    page = page_of(store, tmp_path / "out")
    text = words(page)
    assert "4 images labelled, 1 error" in text
    assert "cat 3 75.0% 3" in text
    assert "123.4 images/s" in text
    assert "5.50 for a million images" in text
    assert "1 min 30 s" in text
    assert "corrupt its content is damaged 1 1" in text
    assert "first run of this store" in text
    # Each picture once: the same ones are the surest and the most doubtful.
    assert num_pictures(page) == 4


def test_the_page_tells_what_the_run_changed(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    one, other = draw(tmp_path / "1.png"), str(tmp_path / "gone.png")
    label(store, {one: ("!fetch_failed", 0), other: ("cat", 0.5)})
    label(store, {one: ("cat", 0.75), other: ("dog", 0.5)})
    text = words(page_of(store, tmp_path / "out"))
    assert "fetch_failed before, ok now 1" in text
    assert "cat → dog 1 input" in text
    assert "there is no such file" in text


def test_crops_and_members_of_packed_files_are_pictured(tmp_path: Path) -> None:
    draw(tmp_path / "x.png")
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as packed:
        packed.write(tmp_path / "x.png", "in/y.png")
    store = new_store(tmp_path / "store")
    rows = {f"{tmp_path}/x.png#box=1,2,20,20": ("cat", 0.5), f"{tmp_path}/pack.zip#in/y.png": ("cat", 0.25)}
    label(store, rows)
    assert num_pictures(page_of(store, tmp_path / "out")) == 2


def test_hostile_names_and_labels_are_text(tmp_path: Path) -> None:
    hostile = HOSTILE.replace("\udc80", "").replace("\0", "")
    store = new_store(tmp_path / "store", model=hostile)
    label(store, {f'/in/"><img src=x onerror=alert(1)>{i}': (f"<b>{hostile}</b>", 0.5) for i in range(3)})
    page = Page(page_of(store, tmp_path / "out"))
    assert not {"script", "b", "img"} & page.tags.keys()
    assert "<b>" in page.text


@pytest.mark.parametrize("rows", [{}, {"/in/1": ("!corrupt", 0.0), "/in/2": ("!empty", 0.0)}])
def test_a_store_without_a_label_has_a_page(tmp_path: Path, rows: dict[str, tuple[str, float]]) -> None:
    store = new_store(tmp_path / "store")
    if rows:
        label(store, rows)
    page = page_of(store, tmp_path / "out")
    assert f"0 images labelled, {len(rows)} errors" in words(page)
    assert num_pictures(page) == 0


def test_with_many_labels_the_page_has_few_pictures_of_each_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_report, "_MAX_PICTURES", 20)
    store = new_store(tmp_path / "store", num_classes=50)
    picture = draw(tmp_path / "x.png")
    label(store, {f"{picture}#box=0,0,{i % 30 + 1},{i // 30 + 1}": (f"class {i % 50}", i / 200) for i in range(150)})
    page = page_of(store, tmp_path / "out")
    assert num_pictures(page) == 20
    assert "The 10 most frequent of 50 labels are shown" in words(page)


def test_labels_are_summed_up_once_however_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[Overview] = []

    def num_labelled(overview: Overview) -> int:
        sums.append(overview)
        return 50

    monkeypatch.setattr(Overview, "num_labelled", property(num_labelled))
    overview = Overview("/labels", "small", "f" * 64, labels={f"class {i}": LabelCounts(total=1) for i in range(50)})
    assert run_report._label_rows(overview)[0] == ["class 0", "1", "2.0%", "0"]
    assert len(sums) == 1
