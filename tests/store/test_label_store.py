"""A store's identity decides who may write into it; its names decide what is done."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.errors import LabelStoreDamagedError, LabelStoreError, StorageError, StoreInUseError
from imgcls_ray.storage import open_directory
from imgcls_ray.store import plan as plan_module
from imgcls_ray.store.opening import check_identity, create_or_open_store, open_store
from imgcls_ray.store.plan import PlanCounts, unanswered, write_plan
from imgcls_ray.store.schema import Unit, parse_part_name
from imgcls_ray.store.verify import verify_store
from tests.predict.schedules import MemoryDirectory
from tests.store.stores import (
    FINGERPRINT,
    answer,
    answer_unit,
    even_sizes,
    identity,
    infos,
    label,
    new_store,
    plan,
    run_record,
    spool,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgcls_ray.store.label_store import LabelStore


# --- identity --------------------------------------------------------------------------------------------------------


def test_a_store_is_made_once_and_then_opened(tmp_path: Path) -> None:
    made = new_store(tmp_path / "new" / "labels")
    content = (tmp_path / "new" / "labels" / "store.json").read_bytes()
    assert new_store(tmp_path / "new" / "labels").identity == made.identity == identity()
    assert (tmp_path / "new" / "labels" / "store.json").read_bytes() == content
    assert made.uri == f"{tmp_path}/new/labels"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"fingerprint": "0" * 64, "model": "other"},
            f"belongs to another model (small, fingerprint {'f' * 12}; this one is other, {'0' * 12}); "
            "use that model, or another --output",
        ),
        ({"top_k": 5}, "was made with top_k=2, this run has top_k=5; use the same, or another --output"),
        ({"embedding": True}, "was made with embedding=False, this run has embedding=True; use the same, or another"),
        ({"logits": True}, "was made with logits=False, this run has logits=True; use the same, or another --output"),
        ({"tta": "hflip"}, "was made with tta=none, this run has tta=hflip; use the same, or another --output"),
    ],
)
def test_a_run_of_another_kind_is_refused(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    store = new_store(tmp_path)
    with pytest.raises(LabelStoreError) as opened:
        new_store(tmp_path, **changes)
    with pytest.raises(LabelStoreError) as checked:
        check_identity(store, identity(**changes))
    assert str(opened.value) == str(checked.value)
    assert str(opened.value).startswith(f"{tmp_path}: {text}")


def test_the_name_of_the_model_is_for_people_only(tmp_path: Path) -> None:
    new_store(tmp_path)
    assert new_store(tmp_path, model="renamed").identity.model == "small"


def test_the_columns_follow_the_identity(tmp_path: Path) -> None:
    plain = new_store(tmp_path / "a").schema
    full = new_store(tmp_path / "b", embedding=True, logits=True).schema
    assert full.names == [*plain.names, "embedding", "logits"]
    assert full.metadata[b"imgcls.fingerprint"] == FINGERPRINT.encode()


def test_a_folder_of_something_else_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(LabelStoreError) as caught:
        new_store(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: is not a label store (it holds 'holiday.jpg' and no store.json); "
        "give --output a new or empty directory"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_hidden_files_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"")
    assert new_store(tmp_path).open_runs() == []


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(b"")
    with pytest.raises(
        LabelStoreError, match=r"labels: cannot be looked into \(Not a directory\); give --output a directory"
    ):
        new_store(tmp_path / "labels")
    with pytest.raises(LabelStoreError, match=r"labels: is not a label store \(no readable store\.json\)"):
        open_store(open_directory(f"{tmp_path}/labels"))


def test_a_folder_without_identity_is_not_opened(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(LabelStoreError, match=r": is not a label store \(no readable store\.json\)"):
            open_store(open_directory(str(folder)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"{}", b"5", b"null", b'"text"', b'{"model": "small"}'],
    ids=ascii,
)
def test_a_damaged_identity_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(LabelStoreError) as caught:
        new_store(tmp_path)
    assert str(caught.value) == f"{tmp_path}: store.json is damaged, or of another version"
    assert (tmp_path / "store.json").read_bytes() == content


@pytest.mark.parametrize("changes", [{"format_version": 3}, {"unknown": 1}])
def test_a_store_of_a_later_version_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text(json.dumps({**identity().model_dump(), **changes}))
    with pytest.raises(LabelStoreError, match="is damaged, or of another version"):
        new_store(tmp_path)


def test_two_runs_that_make_a_store_at_once_both_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second looks for the identity just before the first has written it."""
    directory = open_directory(str(tmp_path))
    looks: list[str] = []

    def exists(name: str) -> bool:
        if not looks:
            new_store(tmp_path)
        looks.append(name)
        return len(looks) > 1

    monkeypatch.setattr(directory, "exists", exists)
    assert create_or_open_store(directory, identity()).identity == identity()


def test_of_two_models_that_make_a_store_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = open_directory(str(tmp_path))
    create = directory.create

    def create_second(name: str, data: bytes) -> bool:
        new_store(tmp_path, fingerprint="0" * 64, model="first")
        return create(name, data)

    monkeypatch.setattr(directory, "create", create_second)
    with pytest.raises(LabelStoreError, match="belongs to another model"):
        create_or_open_store(directory, identity())


# --- runs ------------------------------------------------------------------------------------------------------------


def test_runs_are_planned_open_and_finished(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert (store.planned_runs(), store.open_runs(), store.finished_runs(), store.next_run()) == ([], [], [], 1)
    label(store, infos(20))
    plan(store, infos(20, etag="v2"))
    assert (store.planned_runs(), store.open_runs(), store.finished_runs(), store.next_run()) == ([1, 2], [2], [1], 3)


def test_an_empty_run_uses_up_its_number(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.finish_run(1, run_record(1))
    assert (store.next_run(), store.open_runs()) == (2, [])
    assert store.run_record(1) == run_record(1)


def test_a_plan_that_was_given_up_is_skipped_for_ever(tmp_path: Path) -> None:
    """Its files would otherwise be taken for a part of the next plan."""
    store = new_store(tmp_path)
    store.directory.create("plans/0001/000000.parquet", b"half a plan")
    assert (store.planned_runs(), store.open_runs(), store.next_run()) == ([], [], 2)
    assert label(store, infos(20)) == 2


def test_numbers_go_on_after_9999(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for run in (2, 9999):
        store.finish_run(run, run_record(run))
    assert plan(store, infos(20)) == 10_000
    assert store.planned_runs() == [10_000]
    assert store.plan_record(10_000)["num_images"] == 20
    assert next(unit.part_name for unit in store.units(10_000)) == "predictions/10000-000000.parquet"


def test_a_finished_run_keeps_its_first_record(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.finish_run(1, run_record(1, images_per_s=1))
    store.finish_run(1, run_record(1, images_per_s=2))
    assert store.run_record(1) == run_record(1, images_per_s=1)


@pytest.mark.parametrize("name", ["plans/0001.json", "runs/0001.json"])
def test_a_damaged_record_is_named(name: str, tmp_path: Path) -> None:
    store = new_store(tmp_path)
    label(store, infos(20))
    (tmp_path / name).write_bytes(b'{"num_images": 2')
    with pytest.raises(LabelStoreDamagedError, match=f"{tmp_path}: {name} is damaged; bring it back from a copy"):
        store.plan_record(1) if name.startswith("plans") else store.run_record(1)


def test_a_unit_with_a_part_is_answered(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    units = list(store.units(plan(store, infos(100))))
    for unit in (units[0], units[3]):
        answer_unit(store, unit)
    (tmp_path / "predictions" / ".0001-000001.parquet.0123").write_bytes(b"")
    (tmp_path / "predictions" / "0001-000002.parquet.tmp").write_bytes(b"")
    (tmp_path / "predictions" / "0011-000005.parquet").write_bytes(b"")
    assert store.answered_units(1) == {0, 3}
    assert store.answered_units(2) == set()


@pytest.mark.parametrize(("run", "number"), [(1, 0), (9999, 999_999), (10_000, 1_000_000)])
def test_a_part_name_is_read_back(run: int, number: int) -> None:
    unit = Unit(run, number, "", 0, 0, 1)
    assert parse_part_name(unit.part_name.removeprefix("predictions/")) == (run, number)


@pytest.mark.parametrize(
    "name",
    ["1-0.parquet", "0001-000000.parquet.tmp", ".0001-000000.parquet", "0001-00000a.parquet", "x0001-000000.parquet"],
)
def test_other_names_are_no_parts(name: str) -> None:
    assert parse_part_name(name) is None


def test_a_plan_that_was_given_up_is_closed_and_its_planner_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    slow_run = store.claim_next_run()
    assert slow_run == 1
    store.directory.create("plans/0001/000000.parquet", b"half of a plan")
    assert store.claim_next_run() == 2
    assert not store.directory.create("plans/0001.json", b"{}")
    assert list(store.units(1)) == []
    assert (store.open_runs(), store.finished_runs()) == ([], [1])
    assert verify_store(store).is_sound


def test_a_number_is_claimed_before_it_is_used(tmp_path: Path) -> None:
    """Two commands that read the same free number: the second does not get it, whatever each finds to label."""
    store = new_store(tmp_path)
    assert store.claim_next_run() == 1
    with pytest.raises(StoreInUseError, match=r"another command is planning into this store \(run 0001 is claimed\)"):
        store.claim_run(1)
    # The next one takes the first for dead, closes its number and goes on with another.
    assert store.claim_next_run() == 2
    with spool(infos(0)) as nothing, pytest.raises(StoreInUseError):
        write_plan(store, nothing, run=1, sizes=[], about={})


def test_an_open_run_is_finished_before_a_number_is_claimed(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    run = plan(store, infos(20))
    assert store.claim_next_run() is None
    answer(store, run)
    assert store.claim_next_run() == run + 1


def test_two_runs_that_plan_at_once_never_plan_an_input_twice(tmp_path: Path) -> None:
    """Every interleaving of two planners' steps: claim a number, compare with the answers, write the plan."""
    for order in set(itertools.permutations("aaabbb")):
        store = new_store(tmp_path / "".join(order))
        planners = {name: _planner(store) for name in "ab"}
        for name in order:
            next(planners[name])
        planned = [row for run in store.planned_runs() for unit in store.units(run) for row in _uris(store, unit)]
        assert sorted(planned) == sorted(set(planned)), order
        assert len(planned) == 40, order


def _planner(store: LabelStore) -> Iterator[None]:
    run = store.claim_next_run()
    yield
    files = list(unanswered(infos(40), store, PlanCounts()))
    yield
    if run is not None:
        with contextlib.suppress(StoreInUseError), spool(files) as planned:
            write_plan(store, planned, run=run, sizes=even_sizes(40, 16), about={})
    yield


def _uris(store: LabelStore, unit: Unit) -> list[str]:
    uris: list[str] = store.read_unit(unit).column("uri").to_pylist()
    return uris


# --- storages that write over what is there --------------------------------------------------------------------------


class _Overwriting(MemoryDirectory):
    """As servers do that do not know ``If-None-Match``."""

    def create(self, name: str, data: bytes) -> bool:
        self.replace(name, data)
        return True


class _Lying(MemoryDirectory):
    """Says that the name exists, and has written over it."""

    def create(self, name: str, data: bytes) -> bool:
        is_new = name not in self.files
        self.replace(name, data)
        return is_new


class _Mixed(MemoryDirectory):
    """Behind its address stand servers of two kinds."""

    num_creates = 0

    def create(self, name: str, data: bytes) -> bool:
        self.num_creates += 1
        if self.num_creates % 2:
            return super().create(name, data)
        self.replace(name, data)
        return True


@pytest.mark.parametrize("kind", [_Overwriting, _Lying, _Mixed])
def test_a_storage_that_writes_over_names_is_refused_every_time_and_nothing_is_left(
    kind: type[MemoryDirectory],
) -> None:
    directory = kind()
    for _ in range(3):
        with pytest.raises(LabelStoreError, match="writes over what is there although it is asked not to"):
            create_or_open_store(directory, identity())
        assert directory.files == {}


def test_a_store_that_was_moved_to_such_a_storage_is_refused(tmp_path: Path) -> None:
    honest = MemoryDirectory()
    create_or_open_store(honest, identity())
    assert list(honest.files) == ["store.json"]
    moved = _Overwriting(dict(honest.files))
    for _ in range(2):
        with pytest.raises(LabelStoreError, match="writes over what is there"):
            create_or_open_store(moved, identity())
    assert moved.files == honest.files


def test_who_may_not_remove_can_keep_a_store() -> None:
    class Keeping(MemoryDirectory):
        def remove(self, name: str) -> None:
            raise StorageError("denied")

    directory = Keeping()
    for _ in range(3):
        create_or_open_store(directory, identity())
    assert sorted(directory.files) == [".create-only", "store.json"]


def test_a_store_of_another_model_is_refused_before_anything_is_tried(tmp_path: Path) -> None:
    directory = _Overwriting({"store.json": new_store(tmp_path).directory.read("store.json")})
    with pytest.raises(LabelStoreError, match="belongs to another model"):
        create_or_open_store(directory, identity(fingerprint="0" * 64))


# --- damaged plans ---------------------------------------------------------------------------------------------------


def test_a_damaged_plan_is_one_line(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    plan(store, infos(40))
    name = "plans/0001/000000.parquet"
    units = list(store.units(1))
    content = store.directory.read(name)
    store.directory.replace(name, content[:-20])
    with pytest.raises(LabelStoreDamagedError, match=f"{name} cannot be read"):
        list(store.units(1))
    store.directory.replace(name, content[:100] + bytes(len(content) - 400) + content[-300:])
    with pytest.raises(LabelStoreDamagedError, match=f"{name} cannot be read"):
        store.read_unit(units[0])
    store.directory.remove(name)
    with pytest.raises(LabelStoreDamagedError, match=f"{name} is lost; bring it back from a copy"):
        list(store.units(1))


def test_a_plan_that_lost_a_file_in_its_middle_labels_nothing_under_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "_ROWS_PER_SEGMENT", 16)
    store = new_store(tmp_path)
    plan(store, infos(64))
    store.directory.remove("plans/0001/000001.parquet")
    with pytest.raises(LabelStoreDamagedError, match=r"plans/0001/000001\.parquet is lost; bring it back from a copy"):
        list(store.units(1))


def test_a_path_that_is_not_utf8_is_recorded_and_read_back(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    plan(store, infos(1), input="/in/caf\udce9", place="file:///in/caf%E9")
    assert store.plan_record(1)["input"] == "/in/caf\udce9"


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("plans", "num_units", "x"),
        ("plans", "num_units", None),
        ("plans", "num_units", -1),
        ("plans", "num_images", "x"),
        ("plans", "num_images", 1.5),
        ("runs", "num_images", "3"),
        ("runs", "images_per_s", "fast"),
        ("runs", "cost_per_million_images", "much"),
        ("runs", "finished", 3),
        ("runs", "counts", []),
        ("runs", "counts", {"ok": "x"}),
    ],
)
def test_a_record_with_values_of_another_kind_is_damaged(name: str, key: str, value: Any, tmp_path: Path) -> None:
    store = new_store(tmp_path)
    answer(store, plan(store, infos(3)))
    path = f"{name}/0001.json"
    store.directory.replace(path, json.dumps({**json.loads(store.directory.read(path)), key: value}).encode())
    with pytest.raises(LabelStoreDamagedError, match=f"{path} is damaged; bring it back from a copy"):
        (store.plan_record if name == "plans" else store.run_record)(1)
    assert not verify_store(store).is_sound


def test_a_record_of_brackets_is_damaged(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    plan(store, infos(3))
    for name in ("plans/0001.json", "store.json"):
        store.directory.replace(name, b"[" * 100_000)
    with pytest.raises(LabelStoreDamagedError, match="is damaged"):
        store.plan_record(1)
    with pytest.raises(LabelStoreError, match="is damaged"):
        open_store(store.directory)
