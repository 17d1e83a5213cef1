"""What a page tells about a store: every newest row counted once, and the rows that people should look at."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from imgcls_ray.models.calibration import Calibration
from imgcls_ray.store import oddness as oddness_module
from imgcls_ray.store.extremes import Extremes
from imgcls_ray.store.overview import read_overview
from tests.store.stores import info, list_and_label, new_store, part_bytes, plan, run_record
from tests.store.test_diff import add_run, store_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.overview import Overview


def overview_of(store: LabelStore, num_each: int = 2) -> Overview:
    return read_overview(store, num_each=num_each)


def names(rows: Mapping[str, Any]) -> dict[str, list[str]]:
    return {label: [row.uri.rpartition("/")[2] for row in found] for label, found in rows.items()}


def test_newest_rows_are_counted_by_label_and_by_error(tmp_path: Path) -> None:
    store = store_of(
        tmp_path,
        {"1": "cat@v1", "2": "cat", "3": "!corrupt", "4": "dog"},
        {"1": "dog@v2", "5": "!empty"},
    )
    found = overview_of(store)
    assert {label: (counts.total, counts.of_run) for label, counts in found.labels.items()} == {
        "cat": (1, 0),
        "dog": (2, 1),
    }
    assert (found.codes, found.codes_of_run) == (Counter(corrupt=1, empty=1), Counter(empty=1))
    assert names(found.failed) == {"corrupt": ["3"], "empty": ["5"]}
    assert found.run == 2


def test_the_surest_and_the_most_doubtful_of_each_label_are_found(tmp_path: Path) -> None:
    rows = {str(i): ("cat" if i % 2 else "dog", i / 16) for i in range(12)}
    found = overview_of(store_of(tmp_path, rows))
    assert names(found.surest) == {"cat": ["11", "9"], "dog": ["10", "8"]}
    assert names(found.doubtful) == {"cat": ["1", "3"], "dog": ["0", "2"]}
    assert found.histogram.sum() == 12
    assert found.histogram[:4].tolist() == [1, 1, 1, 1]
    assert (found.confidence, found.oddest, found.odd_rows) == ("score", {}, None)


def test_what_the_newest_run_changed_is_told_of_its_inputs_alone(tmp_path: Path) -> None:
    store = store_of(
        tmp_path,
        {"1": "cat@v1", "2": "cat", "3": "!fetch_failed", "4": "dog@v1"},
        {"1": ("dog@v2", 0.75), "3": "cat", "4": "dog@v2", "6": "dog"},
    )
    changes = overview_of(store).changes
    assert changes is not None
    assert (changes.num_only_b, changes.num_other_version) == (1, 2)
    assert changes.labels == {("cat", "dog"): 1, ("dog", "dog"): 1}
    assert changes.codes == {("fetch_failed", "ok"): 1}
    [move] = changes.moves
    assert [(example.uri, example.etag) for example in move.examples] == [("/in/1", "v2")]


def test_the_first_run_changed_nothing(tmp_path: Path) -> None:
    assert overview_of(store_of(tmp_path, {"1": "cat"})).changes is None


def test_a_run_that_is_open_is_told_as_open(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"1": "cat"})
    run = plan(store, [info("/in/2"), info("/in/3")], unit_size=16)
    [unit] = store.units(run)
    rows = store.read_unit(unit).select(["image_id", "uri", "etag"]).to_pylist()
    best = {"status": "ok", "label": "dog", "score": 0.5}
    store.directory.create(unit.part_name, part_bytes([{**row, **best} for row in rows], store.schema))
    found = overview_of(store)
    assert (found.run, found.record, found.labels["dog"].of_run) == (2, None, 2)


def test_a_store_without_rows_is_empty(tmp_path: Path) -> None:
    found = overview_of(new_store(tmp_path))
    assert (found.run, found.num_labelled, found.num_failed) == (None, 0, 0)


def test_inputs_that_are_gone_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jpg").write_bytes(b"")
    store = new_store(tmp_path / "labels")
    list_and_label(store, folder)
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    found = overview_of(store)
    assert (found.num_labelled, found.num_absent) == (1, 1)


def store_with_embeddings(folder: Path, embeddings: Mapping[str, list[float]]) -> LabelStore:
    store = new_store(folder, embedding=True)
    run = plan(store, [info(f"/in/{name}") for name in sorted(embeddings)])
    for unit in store.units(run):
        rows = [
            {
                **row,
                "status": "ok",
                "label": "cat",
                "label_id": 0,
                "score": 0.5,
                "labels": ["cat"],
                "scores": [0.5],
                "embedding": embeddings[row["uri"].rpartition("/")[2]],
            }
            for row in store.read_unit(unit).select(["image_id", "uri", "etag"]).to_pylist()
        ]
        store.directory.create(unit.part_name, part_bytes(rows, store.schema))
    store.finish_run(run, run_record(run, num_images=len(embeddings)))
    return store


def test_the_oddest_are_far_from_the_middle_of_their_label(tmp_path: Path) -> None:
    embeddings = {f"{i:02d}": [1.0, i / 100, 0.0] for i in range(20)}
    found = overview_of(store_with_embeddings(tmp_path, {**embeddings, "odd": [-1.0, 0.0, 2.0]}), num_each=1)
    assert names(found.oddest) == {"cat": ["odd"]}
    assert found.odd_rows == ("embedding", None)
    assert found.oddest["cat"][0].oddness == pytest.approx(1.6, abs=0.3)


def test_of_a_large_store_a_sample_is_looked_at_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oddness_module, "_MAX_ROWS", 40)
    store = store_with_embeddings(tmp_path, {f"{i:03d}": [1.0, i / 100] for i in range(150)})
    found = overview_of(store)
    assert found.num_labelled == 150
    assert found.odd_rows == ("embedding", 40)


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_counted_as_by_hand(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    store, newest = new_store(tmp_path), dict[str, tuple[str, float]]()
    for run in range(chance.choice((1, 3))):
        rows = {}
        for name in (f"{i:03d}" for i in range(120)):
            if chance.random() < 0.5:
                label = chance.choice(("cat", "dog", "owl", "!corrupt"))
                rows[name] = (f"{label}@v{run}", chance.random())
        add_run(store, rows)
        newest |= rows
    found = overview_of(store, num_each=3)
    labels = {name: (label.partition("@")[0], score) for name, (label, score) in newest.items()}
    assert {label: counts.total for label, counts in found.labels.items()} == Counter(
        label for label, _ in labels.values() if label != "!corrupt"
    )
    for label in found.labels:
        of_label = sorted((score, name) for name, (other, score) in labels.items() if other == label)
        assert names(found.doubtful)[label] == [name for _, name in of_label[:3]]
        assert names(found.surest)[label] == [name for _, name in of_label[::-1][:3]]


def test_of_rows_alike_the_first_ones_are_kept_and_values_that_are_no_numbers_never() -> None:
    table = pa.table({"uri": list("abcdef"), "etag": [None] * 6, "confidence": [0.5] * 6, "label": ["x"] * 6})
    extremes = Extremes(2)
    extremes.add(table, "label", np.array([np.nan, 1, 1, 1, 0, np.nan]))
    extremes.add(table, "label", np.array([1, 1, 1, 1, 1, 2.0]))
    assert [row.uri for row in extremes.best()["x"]] == ["f", "b"]


def test_a_calibrated_store_is_told_by_probability_decision_and_ood_score(tmp_path: Path) -> None:
    fitted = {"split": "val", "num_images": 10, "coverage": 0.5}
    thresholds = {"target_precision": 0.9, "confidence": 0.95, "threshold": 0.5, **fitted}
    calibration = Calibration.model_validate({"temperature": 2.0, "thresholds": thresholds})
    store = new_store(tmp_path, calibration=calibration)
    run = plan(store, [info(f"/in/{i}") for i in range(4)])
    [unit] = store.units(run)
    rows = [
        {
            **row,
            "labels": [],
            "scores": [],
            "status": "ok",
            "label": "cat",
            "score": 0.9,
            "probability": 0.1 + i / 5,
            "decision": "unsure" if i < 1 else "accepted",
            "ood_score": 10.0 - i,
        }
        for i, row in enumerate(store.read_unit(unit).select(["image_id", "uri", "etag"]).to_pylist())
    ]
    store.directory.create(unit.part_name, part_bytes(rows, store.schema))
    store.finish_run(run, run_record(run, num_images=4))
    found = overview_of(store, num_each=1)
    assert (found.confidence, found.odd_rows, found.labels["cat"].unsure) == ("probability", ("ood_score", None), 1)
    assert (names(found.surest), names(found.doubtful), names(found.oddest)) == (
        {"cat": ["3"]},
        {"cat": ["0"]},
        {"cat": ["0"]},
    )
