"""What comes into a queue, in which order, and in which files."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from imgcls_ray.commands import review
from imgcls_ray.errors import UsageError
from imgcls_ray.review.candidates import find_candidates
from imgcls_ray.review.ranking import rank, shares
from imgcls_ray.storage import open_directory
from imgcls_ray.store import oddness as oddness_module
from imgcls_ray.store import rows as rows_module
from imgcls_ray.store.opening import open_store
from tests.report.test_run_report import label
from tests.store.stores import info, new_store, part_bytes, plan, run_record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def draw(folder: Path, name: str, seed: int) -> str:
    """A picture unlike those of other seeds."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(folder / name)
    return str(folder / name)


def queue_of(tmp_path: Path, **options: Any) -> list[dict[str, str]]:
    asked = {"store": str(tmp_path / "store"), "output": str(tmp_path / "queue"), **options}
    review.run(None, [], asked)
    with (tmp_path / "queue" / "queue.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names(rows: list[dict[str, str]]) -> list[str]:
    return [row["uri"].rpartition("/")[2] for row in rows]


def test_the_most_doubtful_come_first(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    rows = {draw(tmp_path / "in", f"{i}.png", i): ("cat", 0.1 + i / 10) for i in range(6)}
    label(store, {**rows, "/in/broken.jpg": ("!corrupt", 0)})
    assert names(queue_of(tmp_path, budget=3)) == ["0.png", "1.png", "2.png"]


def test_near_duplicates_come_once_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = new_store(tmp_path / "store")
    one = draw(tmp_path / "in", "a.png", 0)
    Image.open(one).save(tmp_path / "in" / "copy.jpg", quality=80)
    rows = {one: ("cat", 0.1), str(tmp_path / "in" / "copy.jpg"): ("cat", 0.2)}
    label(store, {**rows, draw(tmp_path / "in", "z.png", 1): ("dog", 0.9)})
    rows_found = queue_of(tmp_path, budget=2)
    assert [(name, row["num_alike"]) for name, row in zip(names(rows_found), rows_found, strict=True)] == [
        ("a.png", "1"),
        ("z.png", "0"),
    ]
    assert "1 image left out: they look nearly the same" in capsys.readouterr().out


def test_images_that_cannot_be_read_any_more_make_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = new_store(tmp_path / "store")
    label(store, {"/gone/x.png": ("cat", 0.1), draw(tmp_path / "in", "a.png", 0): ("cat", 0.9)})
    assert names(queue_of(tmp_path, budget=1)) == ["a.png"]
    assert "1 image left out: their pictures cannot be read any more" in capsys.readouterr().out


def test_images_of_the_dataset_are_left_out_and_its_classes_offered(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    one, other = (draw(tmp_path / "in", f"{i}.png", i) for i in range(2))
    label(store, {one: ("cat", 0.1), other: ("cat", 0.9)})
    data = tmp_path / "data"
    data.mkdir()
    (data / "label.txt").write_text("0 cat\n1 dog\n2 <b>owl</b>\n")
    (data / "train.txt").write_text(f"{one} 0\n")
    (data / "val.txt").write_text("x.jpg 0\n")
    assert names(queue_of(tmp_path, dataset=str(data))) == ["1.png"]
    labels = json.loads((tmp_path / "queue" / "cvat_labels.json").read_bytes())
    assert [one["name"] for one in labels] == ["cat", "dog", "<b>owl</b>"]


def test_every_annotation_program_gets_the_model_s_label(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    hostile = '<b>"cat"</b>\x01'
    label(store, {draw(tmp_path / "in", "<i>&.png", 0): (hostile, 0.25)})
    queue_of(tmp_path)
    folder = tmp_path / "queue"
    [task] = json.loads((folder / "label_studio.json").read_bytes())
    assert task["data"]["image"] == "/data/local-files/?d=data/00001.jpg"
    assert task["predictions"][0]["result"][0]["value"] == {"choices": [hostile]}
    config = ElementTree.parse(folder / "label_studio.xml")
    assert [choice.get("value") for choice in config.iter("Choice")] == ['<b>"cat"</b>\\x01']
    [image] = ElementTree.parse(folder / "cvat.xml").iter("image")
    assert [tag.get("label") for tag in image] == ['<b>"cat"</b>\\x01']
    fiftyone = json.loads((folder / "labels.json").read_bytes())
    assert fiftyone["labels"]["00001"]["label"] in fiftyone["classes"]
    with Image.open(folder / "data" / "00001.jpg") as picture:
        told = {"id": "0", "name": "00001.jpg", "width": str(picture.width), "height": str(picture.height)}
        assert image.attrib == told
    assert "<b>" not in (folder / "review.html").read_text()


@pytest.mark.parametrize("rows", [{}, {"/in/1": ("!corrupt", 0.0)}])
def test_a_store_with_nothing_to_look_at_gives_an_empty_queue(
    tmp_path: Path, rows: dict[str, tuple[str, float]]
) -> None:
    store = new_store(tmp_path / "store")
    if rows:
        label(store, rows)
    assert queue_of(tmp_path) == []
    assert "no image left that a person could label" in (tmp_path / "queue" / "review.html").read_text()


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    label(new_store(tmp_path / "store"), {draw(tmp_path / "in", "a.png", 0): ("cat", 0.5)})
    queue_of(tmp_path)
    with pytest.raises(UsageError, match="queue: is not empty; a queue needs a folder of its own, give a new one"):
        queue_of(tmp_path)


def store_with_vectors(tmp_path: Path, rows: Mapping[str, tuple[float, list[float]]]) -> None:
    store = new_store(tmp_path / "store", embedding=True)
    run = plan(store, [info(uri, None) for uri in sorted(rows)])
    for unit in store.units(run):
        planned = store.read_unit(unit).select(["image_id", "uri", "etag"]).to_pylist()
        best = {"status": "ok", "label": "cat", "label_id": 0, "labels": ["cat"], "scores": [0.5]}
        done = [{**row, **best, "score": rows[row["uri"]][0], "embedding": rows[row["uri"]][1]} for row in planned]
        store.directory.create(unit.part_name, part_bytes(done, store.schema))
    store.finish_run(run, run_record(run, num_images=len(rows)))


def test_with_embeddings_the_queue_is_spread_and_has_the_oddest(tmp_path: Path) -> None:
    rows = {draw(tmp_path / "in", f"{i}.png", i): (0.2 + i / 100, [1.0, i / 1000, 0.0]) for i in range(8)}
    rows[draw(tmp_path / "in", "odd.png", 9)] = (0.99, [-1.0, 0.0, 1.0])
    store_with_vectors(tmp_path, rows)
    found = queue_of(tmp_path, budget=2)
    assert [(name, row["why"]) for name, row in zip(names(found), found, strict=True)] == [
        ("0.png", "doubtful"),
        ("odd.png", "odd"),
    ]
    assert float(found[1]["oddness"]) > 1


def test_what_is_odd_is_looked_for_in_the_whole_of_a_large_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oddness_module, "_MAX_ROWS", 40)
    monkeypatch.setattr(rows_module, "_BATCH_ROWS", 16)
    store_with_vectors(tmp_path, {f"/in/{i:03d}.png": (0.5, [1.0, i / 1000]) for i in range(160)})
    store = open_store(open_directory(str(tmp_path / "store")))
    found = find_candidates(store, num_places=1, known=frozenset())
    looked_at = [row["uri"] for row in found.rows.to_pylist() if row["oddness"] is not None]
    assert len(looked_at) == 40
    assert looked_at[-1] > "/in/140.png"


def test_the_next_one_is_far_from_all_before_it() -> None:
    embeddings = np.array([[1, 0], [0.999, 0.04], [0, 1], [-1, 0]], np.float32)
    ranked = rank(np.array([0.1, 0.11, 0.3, 0.6]), np.full(4, np.nan), embeddings, 4)
    assert ranked.order.tolist() == [0, 2, 3, 1]
    assert rank(np.array([0.3, 0.1]), np.full(2, np.nan), None, 5).order.tolist() == [1, 0]


def test_candidates_that_are_all_alike_come_each_once() -> None:
    ranked = rank(np.full(5, 0.5), np.full(5, np.nan), np.ones((5, 1), np.float32), 5)
    assert sorted(ranked.order.tolist()) == [0, 1, 2, 3, 4]


def test_shares_are_of_the_values_that_there_are() -> None:
    assert np.nan_to_num(shares(np.array([3.0, np.nan, 1.0, 3.0])), nan=-1).tolist() == [1, -1, 1 / 3, 1]
    assert shares(np.empty(0)).tolist() == []
