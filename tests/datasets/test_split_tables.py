"""A split of a table writes its column ``split``, and loses no row, no other cell and not the table before."""

from __future__ import annotations

import csv
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.datasets.split import split_dataset
from imgcls_ray.errors import InputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.s3.server import S3Server


def split(table: Path | str, **options: object) -> object:
    return split_dataset(str(table), train_percent=75, val_percent=25, **options)  # type: ignore[arg-type]


def splits_of(table: Path) -> Counter[tuple[str, int]]:
    source = read_dataset(str(table))
    return Counter((entry.split, entry.label) for entry in source.read(lambda finding: pytest.fail(finding.text)))


def test_a_csv_gets_the_column_and_keeps_the_others(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = [["note", "uri", "label"], *([f'says "{i}", twice', f"{i}.jpg", "ab"[i % 2]] for i in range(16))]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    before = table.read_bytes()
    report = split(table)
    with table.open(newline="") as file:
        after = list(csv.reader(file))
    assert after[0] == ["note", "uri", "label", "split"]
    assert [row[:3] for row in after[1:]] == rows[1:]
    assert splits_of(table) == {("train", 0): 6, ("train", 1): 6, ("val", 0): 2, ("val", 1): 2}
    assert (tmp_path / "t.csv.bak").read_bytes() == before
    assert report.backups == {"t.csv": "t.csv.bak"}  # type: ignore[attr-defined]


def test_a_column_that_is_there_is_written_over_in_its_place_and_the_form_stays(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    lines = ["\ufeffuri; Split ;label", "", *(f"{i}.jpg; valid ;{i % 2}" for i in range(8))]
    table.write_bytes("\r\n".join(lines).encode())
    split(table)
    data = table.read_bytes()
    assert data.startswith("\ufeffuri;Split ;label\r\n".encode())
    assert data.count(b"\r\n") == 9
    assert splits_of(table) == {("train", 0): 3, ("train", 1): 3, ("val", 0): 1, ("val", 1): 1}


def test_rows_of_one_image_stay_and_come_into_one_split(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("uri,label,by\n" + "".join(f"{i}.jpg,a,x\n./{i}.jpg,a,y\n" for i in range(8)))
    split(table)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert all(one["split"] == two["split"] for one, two in zip(rows[::2], rows[1::2], strict=True))
    assert Counter(row["split"] for row in rows) == {"train": 12, "val": 4}


@pytest.mark.parametrize("has_split", [False, True])
def test_parquet_keeps_its_other_columns_and_their_types(tmp_path: Path, has_split: bool) -> None:
    table = tmp_path / "t.parquet"
    columns = {
        "label": [i % 2 for i in range(16)],
        "uri": [f"{i}.jpg" for i in range(16)],
        "at": [float(i) for i in range(16)],
    }
    if has_split:
        columns["split"] = ["train"] * 16
    pq.write_table(pa.table(columns).replace_schema_metadata({"by": "me"}), table, row_group_size=5)
    before = pq.read_table(table)
    split(table)
    after = pq.read_table(table)
    assert after.select(["label", "uri", "at"]).equals(before.select(["label", "uri", "at"]), check_metadata=True)
    assert after.num_columns == 4
    assert splits_of(table) == {("train", 0): 6, ("train", 1): 6, ("val", 0): 2, ("val", 1): 2}
    assert pq.read_table(tmp_path / "t.parquet.bak").equals(before)


def test_a_row_with_a_fault_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("uri,label\na.jpg,x\nb.jpg,\nc.jpg,x\n")
    before = table.read_bytes()
    with pytest.raises(UsageError, match=r"t\.csv:3.*label is empty"):
        split(table)
    table.write_text("uri,label\na.jpg,x\na.jpg,y\n")
    with pytest.raises(UsageError, match=r"a\.jpg is of class 1 here and of class 0 in t\.csv:2"):
        split(table)
    table.write_bytes(before)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    with pytest.raises(InputError, match="there is no such file"):
        split(tmp_path / "none.csv")


def test_packed_images_are_refused_with_the_way_out(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    image = pa.array([{"bytes": b"\xff\xd8", "path": "a.jpg"}])
    pq.write_table(pa.table({"image": image, "label": [0]}), table)
    with pytest.raises(UsageError, match="list the images in a table"):
        split(table)


# Object storage


@pytest.mark.parametrize("form", ["lists", "folders", "table"])
def test_a_dataset_in_a_bucket_is_split_there(s3: S3Server, bucket: str, form: str) -> None:
    client = s3.client()
    objects = {
        "lists": {"set/train.txt": "".join(f"i/{i}.jpg {i % 2}\n" for i in range(16)), "set/label.txt": "0 a\n1 b\n"},
        "folders": {f"set/{'ab'[i % 2]}/{i}.jpg": "x" for i in range(16)},
        "table": {"set/t.csv": "uri,label\n" + "".join(f"{i}.jpg,{'ab'[i % 2]}\n" for i in range(16))},
    }[form]
    for key, text in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=text.encode())
    dataset = f"s3://{bucket}/set" + ("/t.csv" if form == "table" else "")
    split(dataset)
    source = read_dataset(dataset)
    counts = Counter((entry.split, entry.label) for entry in source.read(lambda finding: pytest.fail(finding.text)))
    assert counts == {("train", 0): 6, ("train", 1): 6, ("val", 0): 2, ("val", 1): 2}
    keys = {item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]}
    new = {"lists": {"set/val.txt", "set/train.txt.bak"}, "table": {"set/t.csv.bak"}}.get(
        form, {"set/train.txt", "set/val.txt", "set/label.txt"}
    )
    assert keys == objects.keys() | new
    if form == "lists":
        backup = client.get_object(Bucket=bucket, Key="set/train.txt.bak")["Body"].read().decode()
        assert backup == objects["set/train.txt"]


def test_lists_that_were_left_half_replaced_in_a_bucket_are_not_judged(s3: S3Server, bucket: str) -> None:
    client = s3.client()
    steps = b"copy train.txt.bak to train.txt\nremove val.txt\n"
    for key, data in {"train.txt": b"a 0\nb 0\n", "label.txt": b"0 a\n", "split.unfinished": steps}.items():
        client.put_object(Bucket=bucket, Key=f"set/{key}", Body=data)
    way_out = "copy train.txt.bak to train.txt, remove val.txt, remove split.unfinished there"
    with pytest.raises(UsageError, match=way_out):
        split(f"s3://{bucket}/set")


def test_a_write_that_fails_in_a_bucket_tells_the_way_back(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgcls_ray.errors import StorageError
    from imgcls_ray.storage.object_directory import ObjectDirectory

    client = s3.client()
    client.put_object(Bucket=bucket, Key="set/train.txt", Body=b"".join(b"%d 0\n" % i for i in range(8)))
    client.put_object(Bucket=bucket, Key="set/label.txt", Body=b"0 a\n")
    replace = ObjectDirectory.replace

    def broken(self: ObjectDirectory, name: str, data: bytes) -> None:
        if name == "val.txt":
            raise StorageError("the storage is away")
        replace(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectDirectory, "replace", broken)
        with pytest.raises(
            StorageError, match=r"away; new: train\.txt;.* copy train\.txt\.bak to train\.txt, remove val"
        ):
            split(f"s3://{bucket}/set")
    with pytest.raises(UsageError, match="stopped half-way"):
        split(f"s3://{bucket}/set")
