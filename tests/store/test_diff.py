"""Two stores side by side: each input counted once, by class names, with the examples that tell most."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.store import diff as diff_module
from imgcls_ray.store import rows
from imgcls_ray.store.diff import diff_stores
from imgcls_ray.store.diff_result import Move
from imgcls_ray.store.history import commit_finished
from tests.store.stores import (
    failed_row,
    info,
    list_and_label,
    new_store,
    part_bytes,
    plan,
    run_record,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imgcls_ray.store.diff_result import StoreDiff
    from imgcls_ray.store.label_store import LabelStore


def store_of(folder: Path, *runs: Mapping[str, Any], **changes: Any) -> LabelStore:
    """A store of runs, each with the label of each input, or its error: ``!corrupt``; ``cat@v2`` of another version."""
    store = new_store(folder, **changes)
    for labels in runs:
        add_run(store, labels)
    return store


def add_run(store: LabelStore, labels: Mapping[str, Any]) -> None:
    named = {f"/in/{name}": value for name, value in sorted(labels.items())}
    run = plan(store, [info(uri, version(value)) for uri, value in named.items()])
    for unit in store.units(run):
        planned = store.read_unit(unit).select(["image_id", "uri", "etag"]).to_pylist()
        data = part_bytes([row_of(row, named[row["uri"]]) for row in planned], store.schema)
        assert store.directory.create(unit.part_name, data)
    store.finish_run(run, run_record(run, num_images=len(named)))
    commit_finished(store)


def version(value: Any) -> str | None:
    label = value[0] if isinstance(value, tuple) else value
    _, at, etag = label.partition("@")
    return (etag or None) if at else "v1"


def row_of(planned: Mapping[str, Any], value: Any) -> dict[str, Any]:
    label, score = value if isinstance(value, tuple) else (value, 0.5)
    label = label.partition("@")[0]
    if label.startswith("!"):
        return failed_row(planned, label[1:])
    best = {"label": label, "label_id": 3, "score": score, "labels": [label], "scores": [score]}
    return {**planned, "status": "ok", "error": None, **best, "width": 64, "height": 48}


def compare(tmp_path: Path, a: Mapping[str, Any], b: Mapping[str, Any], **options: Any) -> StoreDiff:
    return diff_stores(store_of(tmp_path / "a", a), store_of(tmp_path / "b", b), **{"num_examples": 4, **options})


def moves_of(diff: StoreDiff) -> list[tuple[str, str, int]]:
    return [(move.label_a, move.label_b, move.num_inputs) for move in diff.moves]


def test_stores_with_the_same_labels_do_not_differ(tmp_path: Path) -> None:
    labels = {"1": "cat", "2": "dog", "3": "!corrupt"}
    diff = compare(tmp_path, labels, labels)
    assert (diff.num_compared, diff.num_changed, diff.moves) == (2, 0, [])
    assert diff.codes == {("corrupt", "corrupt"): 1}


def test_changed_labels_are_counted_by_class_the_most_frequent_first(tmp_path: Path) -> None:
    a = {"1": "cat", "2": "cat", "3": "dog", "4": "dog", "5": "dog", "6": "owl"}
    b = {"1": "dog", "2": "dog", "3": "cat", "4": "dog", "5": "ant", "6": "owl"}
    diff = compare(tmp_path, a, b)
    assert (diff.num_compared, diff.num_changed) == (6, 4)
    assert moves_of(diff) == [("cat", "dog", 2), ("dog", "ant", 1), ("dog", "cat", 1)]
    assert [(c.name, c.num_a, c.num_b, c.num_left, c.num_came) for c in diff.classes] == [
        ("dog", 3, 3, 2, 2),
        ("cat", 2, 1, 2, 1),
        ("ant", 0, 1, 0, 1),
        ("owl", 1, 1, 0, 0),
    ]


def test_models_with_other_classes_are_compared_by_their_names(tmp_path: Path) -> None:
    a = store_of(tmp_path / "a", {"1": "cat", "2": "cat"})
    b = store_of(
        tmp_path / "b", {"1": "cat", "2": "tabby"}, fingerprint="e" * 64, num_classes=900, model="large", top_k=1
    )
    diff = diff_stores(a, b, num_examples=1)
    assert moves_of(diff) == [("cat", "tabby", 1)]
    assert (diff.a.model, diff.b.model) == ("small", "large")


def test_inputs_of_one_store_alone_are_counted(tmp_path: Path) -> None:
    diff = compare(tmp_path, {"1": "cat", "2": "cat", "3": "!empty"}, {"2": "cat", "4": "dog"})
    assert (diff.num_compared, diff.num_only_a, diff.num_only_b, diff.num_vanished) == (1, 2, 1, 0)


def test_broken_inputs_are_counted_by_their_codes_in_both(tmp_path: Path) -> None:
    a = {"1": "!corrupt", "2": "cat", "3": "!corrupt", "4": "!empty"}
    b = {"1": "dog", "2": "!truncated", "3": "!truncated", "4": "!empty"}
    diff = compare(tmp_path, a, b)
    assert diff.codes == {
        ("corrupt", "ok"): 1,
        ("ok", "truncated"): 1,
        ("corrupt", "truncated"): 1,
        ("empty", "empty"): 1,
    }
    assert diff.num_compared == 0


def test_labels_of_other_versions_are_not_compared(tmp_path: Path) -> None:
    diff = compare(tmp_path, {"1": "cat@v1", "2": "cat@", "3": "cat@"}, {"1": "dog@v2", "2": "dog@", "3": "dog@v1"})
    assert (diff.num_compared, diff.num_changed, diff.num_other_version) == (1, 1, 2)


def test_only_the_newest_row_of_an_input_counts(tmp_path: Path) -> None:
    a = store_of(tmp_path / "a", {"1": "cat@v1"}, {"1": "dog@v2"})
    b = store_of(tmp_path / "b", {"1": "dog@v2"})
    assert moves_of(diff_stores(a, b, num_examples=1)) == []


def test_inputs_that_are_gone_are_not_told_as_those_of_one_store(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.jpg").write_bytes(b"")
    a = new_store(tmp_path / "labels")
    list_and_label(a, folder)
    (folder / "b.jpg").unlink()
    list_and_label(a, folder)
    b = new_store(tmp_path / "other")
    list_and_label(b, folder)
    diff = diff_stores(a, b, num_examples=1)
    assert (diff.num_compared, diff.num_only_a, diff.num_vanished) == (2, 0, 1)


def test_examples_are_those_that_b_is_surest_of(tmp_path: Path) -> None:
    scores = [0.5, 0.875, 0.25, 0.75, 0.875]
    a = {str(i): ("cat", 0.25) for i in range(5)}
    b = {str(i): ("dog", score) for i, score in enumerate(scores)}
    [move] = compare(tmp_path, a, b, num_examples=3).moves
    assert [(example.uri, example.score_a, example.score_b) for example in move.examples] == [
        ("/in/1", 0.25, 0.875),
        ("/in/4", 0.25, 0.875),
        ("/in/3", 0.25, 0.75),
    ]
    assert move.examples[0].etag == "v1"
    assert compare(tmp_path / "none", a, b, num_examples=0).moves == [Move("cat", "dog", 5, ())]


def test_of_very_many_moves_the_frequent_ones_keep_their_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_module, "_MAX_MOVES_WITH_EXAMPLES", 4)
    a = {f"{i:03d}": "cat" for i in range(60)}
    b = {f"{i:03d}": f"other {i}" if i % 2 else "dog" for i in range(60)}
    diff = compare(tmp_path, a, b, num_examples=2)
    assert len(diff.moves) == 31
    assert diff.moves[0].num_inputs == 30
    assert len(diff.moves[0].examples) == 2
    assert len(diff.examples) <= 4


@pytest.mark.parametrize("seed", range(6))
def test_any_two_stores_are_compared_as_by_hand(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that overlap, in stores whose tables end at other inputs."""
    monkeypatch.setattr(rows, "MAX_PIECES", 3)
    chance = random.Random(seed)

    def random_runs() -> list[dict[str, str]]:
        names = [f"{i:03d}" for i in range(chance.choice((0, 40, 200)))]
        values = ("cat", "dog", "owl", "!corrupt", "cat@v2", "!empty@v2")
        return [
            {name: chance.choice(values) for name in chance.sample(names, len(names) // chance.choice((1, 3)))}
            for _ in range(chance.choice((1, 2, 5)))
        ]

    runs_a, runs_b = random_runs(), random_runs()
    a, b = ({name: value for run in runs for name, value in run.items()} for runs in (runs_a, runs_b))
    diff = diff_stores(store_of(tmp_path / "a", *runs_a), store_of(tmp_path / "b", *runs_b), num_examples=1)
    both = [(a[name], b[name]) for name in a.keys() & b.keys()]
    same = [(one.partition("@")[0], other.partition("@")[0]) for one, other in both if version(one) == version(other)]
    good = [pair for pair in same if "!" not in "".join(pair)]
    assert diff.labels == Counter(good)
    assert sum(diff.codes.values()) == len(same) - len(good)
    assert diff.num_other_version == len(both) - len(same)
    assert (diff.num_only_a, diff.num_only_b) == (len(a.keys() - b.keys()), len(b.keys() - a.keys()))


def test_the_record_tells_all_of_it(tmp_path: Path) -> None:
    record = compare(tmp_path, {"1": "cat", "2": "!empty"}, {"1": "dog", "2": "cat"}).to_record()
    assert record["moves"] == [
        {
            "a": "cat",
            "b": "dog",
            "count": 1,
            "examples": [{"uri": "/in/1", "etag": "v1", "score_a": 0.5, "score_b": 0.5}],
        }
    ]
    assert record["codes"] == [{"a": "empty", "b": "ok", "count": 1}]
    assert [record[f"num_{name}"] for name in ("compared", "changed", "only_a", "only_b", "vanished")] == [
        1,
        1,
        0,
        0,
        0,
    ]
    assert (record["a"], record["b"]) == (
        {"uri": str(tmp_path / "a"), "model": "small", "fingerprint": "f" * 64},
        {"uri": str(tmp_path / "b"), "model": "small", "fingerprint": "f" * 64},
    )
