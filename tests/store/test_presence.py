"""Inputs that are gone are told as not present, and only these: what no complete listing has looked for stays."""

from __future__ import annotations

import csv
import itertools
import os
import random
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from imgcls_ray.errors import LabelStoreDamagedError, StorageError, StoreInUseError
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory, walking
from imgcls_ray.storage.files import stat_file
from imgcls_ray.storage.names import NameRules
from imgcls_ray.store import side_changes
from imgcls_ray.store.compact import compact_store
from imgcls_ray.store.export import write_latest
from imgcls_ray.store.history import commit_finished, current_log, read_history
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import create_or_open_store
from imgcls_ray.store.presence_changes import PresenceChanges
from imgcls_ray.store.side_pieces import PRESENCE, pieces_in
from imgcls_ray.store.verify import verify_store
from tests.store.stores import identity, info, label, list_and_label, new_store, present_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.store.label_store import LabelStore
    from tests.s3.server import S3Server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four inputs, in two folders."""
    folder = tmp_path / "in"
    put(folder, "a.jpg", "b.jpg", "sub/c.jpg", "sub/d.jpg")
    return folder


@pytest.fixture
def store(tmp_path: Path, folder: Path) -> LabelStore:
    """All of them are labelled."""
    store = new_store(tmp_path / "labels")
    list_and_label(store, folder)
    return store


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        os.utime(path, ns=(10**18, 10**18))


def absent(store: LabelStore) -> list[str]:
    return sorted(name for name, is_present in present_of(store).items() if not is_present)


# --- what a complete listing tells ------------------------------------------------------------------------------------


def test_all_that_was_labelled_is_present(store: LabelStore) -> None:
    assert present_of(store) == dict.fromkeys(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], True)


def test_an_input_that_is_gone_keeps_its_row_and_is_told_as_not_present(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    changes = list_and_label(store, folder)
    assert (changes.num_vanished, changes.num_returned) == (1, 0)
    assert present_of(store) == {"a.jpg": True, "b.jpg": False, "c.jpg": True, "d.jpg": True}
    kept = [row["uri"] for table in latest_rows(store, only_present=True) for row in table.to_pylist()]
    assert kept == [str(folder / name) for name in ("a.jpg", "sub/c.jpg", "sub/d.jpg")]


def test_an_input_that_came_back_as_it_was_is_present_and_not_labelled_again(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    put(folder, "b.jpg")
    changes = list_and_label(store, folder)
    assert (changes.num_vanished, changes.num_returned) == (0, 1)
    assert absent(store) == []
    assert store.plan_record(3)["num_images"] == 0


def test_an_input_that_came_back_in_another_version_is_present(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    (folder / "b.jpg").write_bytes(b"other bytes")
    list_and_label(store, folder)
    assert absent(store) == []
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    assert absent(store) == ["b.jpg"]


def test_a_whole_folder_may_go(store: LabelStore, folder: Path) -> None:
    for name in ("c.jpg", "d.jpg"):
        (folder / "sub" / name).unlink()
    (folder / "sub").rmdir()
    list_and_label(store, folder)
    assert absent(store) == ["c.jpg", "d.jpg"]


def test_a_listing_that_finds_nothing_changed_writes_nothing_of_it(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    before = pieces_in(current_log(store).summary, PRESENCE)
    for _ in range(3):
        list_and_label(store, folder)
    assert pieces_in(current_log(store).summary, PRESENCE) == before
    assert store.plan_record(5)["presence"] == {"listed": [f"{folder}/"], "vanished": 0, "returned": 0}


def test_names_that_are_not_utf8_vanish_too(store: LabelStore, folder: Path) -> None:
    name = os.fsencode(folder) + b"/\xff.jpg"
    with open(name, "wb"):
        pass
    list_and_label(store, folder)
    os.unlink(name)
    list_and_label(store, folder)
    assert absent(store) == ["%FF.jpg"]


def test_the_listing_of_a_subfolder_tells_of_it_alone(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    (folder / "sub" / "c.jpg").unlink()
    list_and_label(store, folder / "sub")
    assert absent(store) == ["c.jpg"]


def test_a_folder_whose_name_begins_like_another_is_another(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.jpg", "b.jpg")
    put(tmp_path / "in-old", "c.jpg")
    put(tmp_path / "in0", "d.jpg")
    store = new_store(tmp_path / "labels")
    list_and_label(store, tmp_path / "in", tmp_path / "in-old", tmp_path / "in0")
    for name in ("in/b.jpg", "in-old/c.jpg", "in0/d.jpg"):
        (tmp_path / name).unlink()
    list_and_label(store, tmp_path / "in")
    assert absent(store) == ["b.jpg"]


def test_several_inputs_are_listed_together(tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        put(tmp_path / name, f"{name}1.jpg", f"{name}2.jpg")
    store = new_store(tmp_path / "labels")
    list_and_label(store, *(tmp_path / name for name in "xyz"))
    for name in ("x/x1.jpg", "y/y1.jpg", "z/z1.jpg"):
        (tmp_path / name).unlink()
    list_and_label(store, tmp_path / "z", tmp_path / "x")
    assert absent(store) == ["x1.jpg", "z1.jpg"]


# --- what tells nothing -----------------------------------------------------------------------------------------------


def test_a_list_tells_nothing_of_what_it_does_not_name(store: LabelStore, folder: Path, tmp_path: Path) -> None:
    (folder / "b.jpg").unlink()
    put(folder, "new.jpg")
    (tmp_path / "new.txt").write_text(f"{folder}/new.jpg\n")
    list_and_label(store, tmp_path / "new.txt")
    assert absent(store) == []
    assert "presence" not in store.plan_record(2)


def test_a_folder_beside_a_list_tells_nothing(store: LabelStore, folder: Path, tmp_path: Path) -> None:
    """The list may name what is not there: it would not be known which inputs were found."""
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    (folder / "a.jpg").unlink()
    (tmp_path / "named.txt").write_text(f"{folder}/b.jpg\n")
    list_and_label(store, folder, tmp_path / "named.txt")
    assert absent(store) == ["b.jpg"]


def test_a_file_beside_a_folder_changes_nothing(store: LabelStore, folder: Path, tmp_path: Path) -> None:
    put(tmp_path, "z.jpg")
    (folder / "b.jpg").unlink()
    list_and_label(store, folder, tmp_path / "z.jpg")
    assert absent(store) == ["b.jpg"]


def test_a_single_file_tells_nothing(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    list_and_label(store, folder / "a.jpg")
    assert absent(store) == []


@pytest.mark.parametrize("limit", [1, 2])
def test_a_listing_that_ends_at_a_limit_tells_nothing(limit: int, store: LabelStore, folder: Path) -> None:
    (folder / "sub" / "d.jpg").unlink()
    put(folder, "aa.jpg", "bb.jpg")
    list_and_label(store, folder, limit=limit)
    assert absent(store) == []


@pytest.mark.parametrize(
    "names",
    [
        NameRules(include=("a*",)),
        NameRules(exclude=("b.jpg", "sub/")),
        NameRules(exclude=("/b.jpg", "/sub/*.jpg")),
        NameRules(include=("*.png",), exclude=("a*",)),
    ],
)
def test_what_patterns_leave_out_does_not_vanish(names: NameRules, store: LabelStore, folder: Path) -> None:
    list_and_label(store, folder, names=names)
    assert absent(store) == []


def test_what_patterns_take_vanishes(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    (folder / "sub" / "c.jpg").unlink()
    list_and_label(store, folder, names=NameRules(exclude=("sub/",)))
    assert absent(store) == ["b.jpg"]


def test_what_the_default_table_leaves_out_does_not_vanish(store: LabelStore, folder: Path) -> None:
    put(folder, "notes.txt", ".hidden.jpg", "@eaDir/e.jpg", ".git/f.jpg")
    list_and_label(store, folder, names=NameRules(has_table=False))
    assert len(present_of(store)) == 8
    list_and_label(store, folder)
    assert absent(store) == []
    list_and_label(store, folder, names=NameRules(has_table=False))
    assert absent(store) == []
    (folder / "notes.txt").unlink()
    list_and_label(store, folder)
    assert absent(store) == []
    list_and_label(store, folder, names=NameRules(has_table=False))
    assert absent(store) == ["notes.txt"]


def test_a_pattern_tells_of_what_it_matches(store: LabelStore, folder: Path) -> None:
    for name in ("b.jpg", "sub/c.jpg"):
        (folder / name).unlink()
    list_and_label(store, folder / "s*" / "*.jpg")
    assert absent(store) == ["c.jpg"]
    list_and_label(store, folder / "[ab].jpg")
    assert absent(store) == ["b.jpg", "c.jpg"]


def test_what_a_folder_holds_that_cannot_be_listed_does_not_vanish(
    store: LabelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "b.jpg").unlink()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("/sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    list_and_label(store, folder)
    assert absent(store) == ["b.jpg"]


def test_too_many_folders_that_cannot_be_listed_let_nothing_vanish(
    store: LabelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgcls_ray.storage.left_out._PASSED_OVER_KEPT", 1)
    put(folder, "x1/e.jpg", "x2/f.jpg")
    list_and_label(store, folder)
    for name in ("b.jpg", "x1/e.jpg", "x2/f.jpg"):
        (folder / name).unlink()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if "/x" in str(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    list_and_label(store, folder)
    assert absent(store) == []


def test_an_empty_folder_may_be_a_volume_that_is_not_mounted(store: LabelStore, folder: Path) -> None:
    for name in ("a.jpg", "b.jpg", "sub/c.jpg", "sub/d.jpg"):
        (folder / name).unlink()
    list_and_label(store, folder)
    assert absent(store) == []
    list_and_label(store, folder, is_empty_trusted=True)
    assert absent(store) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_an_empty_input_beside_others_loses_nothing(store: LabelStore, folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "other", "x.jpg", "y.jpg")
    list_and_label(store, folder, tmp_path / "other")
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / "other" / name).unlink()
    (folder / "a.jpg").unlink()
    list_and_label(store, folder, tmp_path / "other")
    assert absent(store) == ["a.jpg"]


def test_a_folder_that_is_listed_under_another_name_does_not_vanish(tmp_path: Path) -> None:
    put(tmp_path / "in" / "x", "a.jpg")
    put(tmp_path / "in" / "b", "b.jpg")
    (tmp_path / "in" / "x" / "link").symlink_to("../b")
    store = new_store(tmp_path / "labels")
    list_and_label(store, tmp_path / "in" / "x")
    assert present_of(store) == {"a.jpg": True, "b.jpg": True}
    list_and_label(store, tmp_path / "in")
    rows = [row for table in latest_rows(store) for row in table.to_pylist()]
    assert [(row["uri"].removeprefix(str(tmp_path)), row["present"]) for row in rows] == [
        ("/in/b/b.jpg", True),
        ("/in/x/a.jpg", True),
        ("/in/x/link/b.jpg", True),
    ]


def test_samples_that_are_skipped_beside_a_store_do_not_vanish(store: LabelStore, folder: Path) -> None:
    put(folder, "samples/s.jpg")
    list_and_label(store, folder)
    put(folder, "store.json")
    list_and_label(store, folder)
    assert absent(store) == []


def test_a_listing_that_fails_tells_nothing(store: LabelStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.jpg").unlink()

    def go_away(path: str) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return stat_file(path)

    monkeypatch.setattr(walking, "stat_file", go_away)
    with pytest.raises(StorageError, match="went away while it was listed"):
        list_and_label(store, folder)
    assert absent(store) == []


# --- rows that are newer than a listing -------------------------------------------------------------------------------


def test_a_row_that_a_list_asked_for_later_shows_that_an_input_is_there(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    label(store, [info(f"{folder}/b.jpg", "v2")])
    assert absent(store) == []
    # The next complete listing knows it better.
    assert list_and_label(store, folder).num_vanished == 1
    assert absent(store) == ["b.jpg"]


def test_a_later_row_that_did_not_find_it_shows_nothing(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    label(store, [info(f"{folder}/b.jpg", None)], {f"{folder}/b.jpg": "not_found"})
    assert absent(store) == ["b.jpg"]
    assert list_and_label(store, folder).num_vanished == 0


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_many_listings_leave_few_pieces_that_say_all(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred inputs some go and come back in each of forty runs; files are small, merges are not."""
    monkeypatch.setattr(side_changes, "_FILE_ROWS", 7)
    monkeypatch.setattr(side_changes, "_GROUP_ROWS", 3)
    chance = random.Random(seed)
    folder = tmp_path / "in"
    names = [f"{i:03d}.jpg" for i in range(100)]
    put(folder, *names)
    store = new_store(tmp_path / "labels")
    list_and_label(store, folder)
    there = set(names)
    for number in range(40):
        for name in chance.sample(names, chance.choice((0, 1, 3, 20))):
            if name in there:
                (folder / name).unlink()
            else:
                put(folder, name)
            there ^= {name}
        list_and_label(store, folder)
        if number % 10 == 3:
            compact_store(store, whole=chance.random() < 0.5)
        assert absent(store) == sorted(set(names) - there)
        pieces = pieces_in(current_log(store).summary, PRESENCE)
        assert len(pieces) <= 8
        assert all(before.num_rows > after.num_rows for before, after in itertools.pairwise(pieces))
    assert verify_store(store).is_sound


def test_pieces_of_a_run_that_is_open_count_already(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    put(folder, "e.jpg")
    list_and_label(store, folder)
    for name in ("runs/0002.json", "predictions/_delta_log/00000000000000000001.json"):
        os.unlink(f"{store.uri}/{name}")
    store.logs.clear()
    assert read_history(store).log.through == 1
    assert absent(store) == ["b.jpg"]


def test_a_piece_whose_plan_was_closed_by_another_command_does_not_count(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    store.claim_run(2)
    assert store.directory.create("plans/0002/presence-000000.parquet", b"of the command that was closed")
    assert store.claim_next_run(1) == 3
    commit_finished(store)
    assert absent(store) == []


def test_a_second_writer_of_a_piece_is_refused(
    store: LabelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "b.jpg").unlink()
    write = PresenceChanges.write

    def write_second(self: PresenceChanges, store: LabelStore, run: int) -> Any:
        assert store.directory.create(f"plans/{run:04d}/presence-000000.parquet", b"")
        return write(self, store, run)

    monkeypatch.setattr(PresenceChanges, "write", write_second)
    with pytest.raises(StoreInUseError, match=r"presence-000000\.parquet exists"):
        list_and_label(store, folder)


@pytest.mark.parametrize("damage", [b"", b"PAR1 not a table", None])
def test_a_piece_that_is_damaged_or_lost_is_named_and_can_be_forgotten(
    damage: bytes | None, store: LabelStore, folder: Path, tmp_path: Path
) -> None:
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    name = "plans/0002/presence-000000.parquet"
    path = f"{store.uri}/{name}"
    os.unlink(path)
    if damage is not None:
        with open(path, "wb") as file:
            file.write(damage)
    with pytest.raises(LabelStoreDamagedError, match=rf"{name} cannot be read .*--forget-lost"):
        write_latest(store, str(tmp_path / "latest.jsonl"), DEFAULT_STORAGE)
    assert any(name in problem for problem in verify_store(store).problems)
    if damage is not None:
        os.unlink(path)
    compact_store(store, is_lost_forgotten=True)
    assert verify_store(store).is_sound
    assert absent(store) == []
    list_and_label(store, folder)
    assert absent(store) == ["b.jpg"]


def test_a_piece_with_other_columns_is_damaged(store: LabelStore, folder: Path, tmp_path: Path) -> None:
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    path = f"{store.uri}/plans/0002/presence-000000.parquet"
    table = pq.read_table(path)
    os.unlink(path)
    pq.write_table(table.drop_columns(["present"]), path)
    with pytest.raises(LabelStoreDamagedError, match="it has other columns"):
        write_latest(store, str(tmp_path / "latest.jsonl"), DEFAULT_STORAGE)


def test_a_plan_that_is_damaged_hides_no_rows(store: LabelStore, folder: Path) -> None:
    (folder / "b.jpg").unlink()
    put(folder, "e.jpg")
    list_and_label(store, folder)
    for name in ("runs/0002.json", "predictions/_delta_log/00000000000000000001.json"):
        os.unlink(f"{store.uri}/{name}")
    store.logs.clear()
    with open(f"{store.uri}/plans/0002.json", "w") as file:
        file.write("{")
    assert len(present_of(store)) == 5


# --- object storage ---------------------------------------------------------------------------------------------------


def test_objects_vanish_and_come_back(bucket: str, s3: S3Server, tmp_path: Path) -> None:
    client = s3.client()
    for key in ("in/a.jpg", "in/sub/b.jpg", "in/sub/c.jpg", "in-old/d.jpg", "e.jpg"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    store = new_store(tmp_path / "labels")
    list_and_label(store, f"s3://{bucket}")
    for key in ("in/sub/b.jpg", "in-old/d.jpg", "e.jpg"):
        client.delete_object(Bucket=bucket, Key=key)
    list_and_label(store, f"s3://{bucket}/in")
    assert absent(store) == ["b.jpg"]
    list_and_label(store, f"s3://{bucket}/*.jpg")
    assert absent(store) == ["b.jpg"]
    client.put_object(Bucket=bucket, Key="f.jpg", Body=b"f")
    list_and_label(store, f"s3://{bucket}/*.jpg", names=NameRules(exclude=("e*",)))
    assert absent(store) == ["b.jpg"]
    list_and_label(store, f"s3://{bucket}/*.jpg")
    assert absent(store) == ["b.jpg", "e.jpg"]
    client.put_object(Bucket=bucket, Key="in/sub/b.jpg", Body=b"in/sub/b.jpg")
    list_and_label(store, f"s3://{bucket}/")
    assert absent(store) == ["d.jpg", "e.jpg"]


def test_objects_that_are_skipped_beside_a_store_do_not_vanish(bucket: str, s3: S3Server, tmp_path: Path) -> None:
    client = s3.client()
    for key in ("in/a.jpg", "in/samples/b.jpg", "in/model.bin"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    store = new_store(tmp_path / "labels")
    list_and_label(store, f"s3://{bucket}/in/")
    for key in ("in/store.json", "in/model.json"):
        client.put_object(Bucket=bucket, Key=key, Body=b"{}")
    list_and_label(store, f"s3://{bucket}/in/")
    assert absent(store) == []


def test_a_store_in_its_own_input_does_not_vanish(bucket: str, s3: S3Server) -> None:
    s3.client().put_object(Bucket=bucket, Key="in/a.jpg", Body=b"a")
    store = create_or_open_store(open_directory(f"s3://{bucket}/in/labels"), identity())
    label(store, [info(f"s3://{bucket}/in/labels/predictions/of-another-store.jpg")])
    list_and_label(store, f"s3://{bucket}/in/")
    assert absent(store) == []


# --- memory and requests ----------------------------------------------------------------------------------------------


def test_a_run_with_nothing_new_asks_no_more_after_many_runs_in_which_something_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    names = [f"{i:03d}.jpg" for i in range(61)]
    put(folder, *names)
    store = new_store(tmp_path / "labels")
    list_and_label(store, folder)
    asked: Counter[str] = Counter()

    def counting(do: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **more: Any) -> Any:
            asked[do.__name__] += 1
            return do(*args, **more)

        return count

    for method in ("read", "open", "create", "entries"):
        monkeypatch.setattr(type(store.directory), method, counting(getattr(type(store.directory), method)))

    def asked_by_a_run_with_nothing_new() -> Counter[str]:
        compact_store(store, whole=True)
        asked.clear()
        assert not list_and_label(store, folder).is_any
        return Counter(asked)

    (folder / names.pop()).unlink()
    list_and_label(store, folder)
    few = asked_by_a_run_with_nothing_new()
    for name in names[:60]:
        (folder / name).unlink()
        put(folder, "always.jpg")
        list_and_label(store, folder)
    many = asked_by_a_run_with_nothing_new()
    assert many["create"] == few["create"]
    assert many.total() <= few.total() + 10


def test_rows_outside_of_the_listed_place_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m"
    put(folder, "a.jpg", "b.jpg")
    store = new_store(tmp_path / "labels")
    label(store, (info(f"/a/{i:05d}") for i in range(500)))
    label(store, (info(f"/zz/{i:05d}") for i in range(500)))
    list_and_label(store, folder)
    read = []
    read_part = type(store).read_part

    def tell(self: LabelStore, name: str, *args: Any) -> Any:
        read.append(name)
        return read_part(self, name, *args)

    monkeypatch.setattr(type(store), "read_part", tell)
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    # Of 65 parts; a few more than what is wanted are read ahead.
    assert len(read) <= 8
    assert absent(store) == ["b.jpg"]


def test_csv_and_parquet_tell_it_too(store: LabelStore, folder: Path, tmp_path: Path) -> None:
    (folder / "b.jpg").unlink()
    list_and_label(store, folder)
    write_latest(store, str(tmp_path / "latest.csv"), DEFAULT_STORAGE)
    lines = (tmp_path / "latest.csv").read_text().splitlines()
    assert [row["present"] for row in csv.DictReader(lines)] == ["true", "false", "true", "true"]
    write_latest(store, str(tmp_path / "latest.parquet"), DEFAULT_STORAGE)
    assert pq.read_table(tmp_path / "latest.parquet")["present"].to_pylist() == [True, False, True, True]
    assert write_latest(store, str(tmp_path / "there.parquet"), DEFAULT_STORAGE, only_present=True) == 3
