"""Lists and S3 Inventory reports in a bucket: which objects they mean, and what is said of one that cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.storage.files import FileInfo, stat_file
from imgcls_ray.storage.names import NameRules

if TYPE_CHECKING:
    from pathlib import Path

    from tests.s3.server import S3Server

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
# As they lie in the bucket: CSV inventories percent-encode them, the others do not.
NAMES = ("in/1.jpg", "in/a b+c%41.jpg", "in/é.png", "in/no suffix")
LEFT_OUT: tuple[dict[str, Any], ...] = (
    {"key": "in/old.jpg", "is_latest": False},
    {"key": "in/deleted.jpg", "is_delete_marker": True, "size": None, "e_tag": None},
    {"key": "in/labels.csv"},
    {"key": "in/folder.jpg/", "size": 0},
)
SCHEMA = pa.schema(
    [
        pa.field("bucket", pa.string()),
        pa.field("key", pa.string()),
        pa.field("version_id", pa.string()),
        pa.field("is_latest", pa.bool_()),
        pa.field("is_delete_marker", pa.bool_()),
        pa.field("size", pa.int64()),
        pa.field("last_modified_date", pa.timestamp("ms", tz="UTC")),
        pa.field("e_tag", pa.string()),
    ]
)
CSV_SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"
FORMATS = pytest.mark.parametrize("kind", ["CSV", "Parquet", "ORC"])


def row_of(key: str, **changes: Any) -> dict[str, Any]:
    """What an inventory says of an object."""
    row = {"bucket": "pictures", "key": key, "version_id": "v", "is_latest": True, "is_delete_marker": False}
    return {**row, "size": 100, "last_modified_date": NEW_YEAR, "e_tag": "abc", **changes}


def report_of(kind: str, rows: list[dict[str, Any]]) -> bytes:
    """One of an inventory's files."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    if kind == "Parquet":
        pq.write_table(table, buffer)
    elif kind == "ORC":
        orc.write_table(table, buffer)
    else:
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL)
        for row in rows:
            words = {name: str(value).lower() if isinstance(value, bool) else value for name, value in row.items()}
            words["key"] = quote_plus(row["key"], safe="/")
            words["last_modified_date"] = row["last_modified_date"].isoformat(timespec="milliseconds")
            writer.writerow(words.values())
        buffer.write(gzip.compress(text.getvalue().encode()))
    return buffer.getvalue()


def manifest_of(kind: str, bucket: str, keys: list[str], **changes: Any) -> bytes:
    content = {
        "sourceBucket": "pictures",
        "destinationBucket": f"arn:aws:s3:::{bucket}",
        "version": "2016-11-30",
        "fileFormat": kind,
        "fileSchema": CSV_SCHEMA if kind == "CSV" else "message s3.inventory {}",
        "files": [{"key": key, "size": 1, "MD5checksum": "0"} for key in keys],
        **changes,
    }
    return json.dumps({name: value for name, value in content.items() if value is not None}).encode()


def put_inventory(s3: S3Server, bucket: str, kind: str, *reports: list[dict[str, Any]], **changes: Any) -> str:
    """Put an inventory with its files into a bucket; returns the URI of its manifest."""
    keys = [f"inv/pictures/daily/data/{i}" for i in range(len(reports))]
    for key, rows in zip(keys, reports, strict=True):
        s3.client().put_object(Bucket=bucket, Key=key, Body=report_of(kind, rows))
    manifest = "inv/pictures/daily/2026-01-01T00-00Z/manifest.json"
    s3.client().put_object(Bucket=bucket, Key=manifest, Body=manifest_of(kind, bucket, keys, **changes))
    return f"s3://{bucket}/{manifest}"


def put(s3: S3Server, bucket: str, key: str, body: bytes) -> str:
    s3.client().put_object(Bucket=bucket, Key=key, Body=body)
    return f"s3://{bucket}/{key}"


def parquet_of(**columns: list[Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def listed(source: str | Path) -> list[FileInfo]:
    return list(list_inputs(str(source), ListingCounts()))


def refusal(source: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        listed(source)
    words = str(caught.value)
    assert "\n" not in words
    return words


# Inventories


@FORMATS
def test_an_inventory_gives_objects_with_their_versions(s3: S3Server, bucket: str, kind: str) -> None:
    manifest = put_inventory(s3, bucket, kind, [row_of(name) for name in NAMES])
    assert listed(manifest) == [FileInfo(f"s3://pictures/{name}", 100, "abc", NEW_YEAR) for name in sorted(NAMES)]


@FORMATS
@pytest.mark.parametrize("row", LEFT_OUT, ids=lambda row: str(row["key"]))
def test_what_is_old_deleted_or_no_image_is_left_out(s3: S3Server, bucket: str, kind: str, row: dict[str, Any]) -> None:
    manifest = put_inventory(s3, bucket, kind, [row_of(**row), row_of("in/1.jpg")])
    assert [info.uri for info in listed(manifest)] == ["s3://pictures/in/1.jpg"]


@FORMATS
def test_the_files_of_an_inventory_are_one_sorted_stream(s3: S3Server, bucket: str, kind: str) -> None:
    manifest = put_inventory(s3, bucket, kind, [row_of("c.jpg"), row_of("a.jpg")], [], [row_of("b.jpg")])
    assert [info.uri for info in listed(manifest)] == [f"s3://pictures/{name}.jpg" for name in "abc"]


@FORMATS
def test_an_inventory_without_the_optional_columns_gives_names_only(s3: S3Server, bucket: str, kind: str) -> None:
    data, key = io.BytesIO(), "data/0"
    table = pa.table({"bucket": ["pictures"], "key": ["a.jpg"]})
    if kind == "CSV":
        data.write(gzip.compress(b'"pictures","a.jpg"\n'))
    elif kind == "Parquet":
        pq.write_table(table, data)
    else:
        orc.write_table(table, data)
    put(s3, bucket, key, data.getvalue())
    schema = {"fileSchema": "Bucket, Key"} if kind == "CSV" else {}
    manifest = put(s3, bucket, "manifest.json", manifest_of(kind, bucket, [key], **schema))
    assert listed(manifest) == [FileInfo("s3://pictures/a.jpg", None, None, None)]


def test_an_inventory_that_was_copied_is_read_where_it_lies(s3: S3Server, bucket: str) -> None:
    manifest = put_inventory(s3, bucket, "CSV", [row_of("a.jpg")], destinationBucket="arn:aws:s3:::of-its-first-owner")
    assert [info.uri for info in listed(manifest)] == ["s3://pictures/a.jpg"]


def test_a_manifest_that_was_downloaded_is_read_with_its_files_in_the_bucket(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    put_inventory(s3, bucket, "Parquet", [row_of("a.jpg")])
    keys = ["inv/pictures/daily/data/0"]
    (tmp_path / "manifest.json").write_bytes(manifest_of("Parquet", bucket, keys))
    assert [info.uri for info in listed(tmp_path / "manifest.json")] == ["s3://pictures/a.jpg"]


def test_an_object_twice_in_an_inventory_is_listed_once(s3: S3Server, bucket: str) -> None:
    manifest = put_inventory(s3, bucket, "CSV", [row_of("a.jpg"), row_of("a.jpg")])
    counts = ListingCounts()
    assert len(list(list_inputs(manifest, counts))) == 1
    assert counts.doubles == 1


@pytest.mark.parametrize("lacking", ["destinationBucket", "fileFormat", "fileSchema", "files"])
def test_a_manifest_that_lacks_something_is_refused_with_its_name(s3: S3Server, bucket: str, lacking: str) -> None:
    manifest = put_inventory(s3, bucket, "CSV", [row_of("a.jpg")], **{lacking: None})
    assert refusal(manifest) == f"{manifest}: is not the manifest of an S3 Inventory (it lacks '{lacking}')"


def test_a_manifest_of_an_unknown_format_is_refused_with_the_known_ones(s3: S3Server, bucket: str) -> None:
    manifest = put_inventory(s3, bucket, "CSV", [row_of("a.jpg")], fileFormat="Avro")
    assert refusal(manifest) == f"{manifest}: is of the format 'Avro'; known are Parquet, CSV, ORC"


def test_a_manifest_that_is_no_json_is_refused(s3: S3Server, bucket: str) -> None:
    manifest = put(s3, bucket, "manifest.json", b"<html>")
    assert refusal(manifest).startswith(f"{manifest}: is not a readable .json list: ")


@pytest.mark.parametrize("content", [b"[]", b"7", b"null", b'{"files": {}}'], ids=ascii)
def test_a_manifest_of_another_shape_is_refused(s3: S3Server, bucket: str, content: bytes) -> None:
    manifest = put(s3, bucket, "manifest.json", content)
    assert refusal(manifest).startswith(f"{manifest}: is not the manifest of an S3 Inventory (")


def test_an_inventory_whose_file_is_gone_is_refused_with_the_files_name(s3: S3Server, bucket: str) -> None:
    manifest = put(s3, bucket, "manifest.json", manifest_of("CSV", bucket, ["data/gone.csv.gz"]))
    assert refusal(manifest) == f"s3://{bucket}/data/gone.csv.gz: there is no such object that may be read"


@FORMATS
@pytest.mark.parametrize("damage", ["cut", "junk"])
def test_an_inventory_whose_file_is_damaged_is_refused(s3: S3Server, bucket: str, kind: str, damage: str) -> None:
    whole = report_of(kind, [row_of(f"{i}.jpg") for i in range(1000)])
    put(s3, bucket, "data/0", whole[: len(whole) // 2] if damage == "cut" else b"<html>404</html>")
    manifest = put(s3, bucket, "manifest.json", manifest_of(kind, bucket, ["data/0"]))
    assert refusal(manifest).startswith(f"{manifest}: ")


@pytest.mark.parametrize("first_byte", [10, 500, -8])
def test_a_csv_inventory_whose_bytes_were_changed_is_refused(s3: S3Server, bucket: str, first_byte: int) -> None:
    data = bytearray(report_of("CSV", [row_of(f"{i}.jpg") for i in range(1000)]))
    data[first_byte] ^= 255
    put(s3, bucket, "data/0", bytes(data))
    manifest = put(s3, bucket, "manifest.json", manifest_of("CSV", bucket, ["data/0"]))
    assert refusal(manifest).startswith(f"{manifest}: ")


def test_a_csv_inventory_whose_schema_does_not_fit_is_refused(s3: S3Server, bucket: str) -> None:
    manifest = put_inventory(s3, bucket, "CSV", [row_of("a.jpg")], fileSchema="Bucket, Key")
    assert refusal(manifest).startswith(f"{manifest}: is not a readable .json list: ")


@pytest.mark.parametrize("lacking", ["Bucket", "Key"])
def test_a_csv_inventory_without_bucket_or_key_is_refused(s3: S3Server, bucket: str, lacking: str) -> None:
    schema = CSV_SCHEMA.replace(lacking, "Other", 1)
    manifest = put_inventory(s3, bucket, "CSV", [row_of("a.jpg")], fileSchema=schema)
    assert lacking.lower() in refusal(manifest)


@pytest.mark.parametrize("lacking", ["bucket", "key"])
def test_a_parquet_inventory_without_bucket_or_key_is_refused(s3: S3Server, bucket: str, lacking: str) -> None:
    (other,) = {"bucket", "key"} - {lacking}
    put(s3, bucket, "data/0", parquet_of(**{other: ["a.jpg"]}))
    manifest = put(s3, bucket, "manifest.json", manifest_of("Parquet", bucket, ["data/0"]))
    assert lacking in refusal(manifest)


# Lists


def test_a_parquet_list_in_a_bucket_tells_size_and_version(s3: S3Server, bucket: str) -> None:
    data = parquet_of(uri=["s3://pictures/b.jpg", "s3://pictures/a.jpg"], size=[2, 1], etag=['"two"', "one"])
    source = put(s3, bucket, "lists/new.parquet", data)
    assert listed(source) == [
        FileInfo("s3://pictures/a.jpg", 1, "one", None),
        FileInfo("s3://pictures/b.jpg", 2, "two", None),
    ]


def test_a_parquet_list_in_a_bucket_without_size_and_version_gives_names_only(s3: S3Server, bucket: str) -> None:
    source = put(s3, bucket, "lists/new.parquet", parquet_of(uri=["s3://pictures/a.jpg"]))
    assert listed(source) == [FileInfo("s3://pictures/a.jpg", None, None, None)]


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_relative_entries_count_from_the_lists_own_prefix(s3: S3Server, bucket: str, kind: str) -> None:
    names = ["2026/a b.jpg", "c%20d.jpg"]
    data = {
        "txt": "\n".join(names).encode(),
        "csv": "\n".join(["uri", *names]).encode(),
        "parquet": parquet_of(uri=names),
    }
    source = put(s3, bucket, f"lists/today/new.{kind}", data[kind])
    assert [info.uri for info in listed(source)] == [f"s3://{bucket}/lists/today/{name}" for name in names]


def test_relative_entries_of_a_list_at_the_top_of_a_bucket_count_from_the_bucket(s3: S3Server, bucket: str) -> None:
    source = put(s3, bucket, "new.txt", b"in/a.jpg\n")
    assert [info.uri for info in listed(source)] == [f"s3://{bucket}/in/a.jpg"]


def test_a_list_in_a_bucket_may_name_inputs_of_any_kind(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    names = ["s3://pictures/b.jpg", "https://example.org/c.jpg", str(tmp_path / "a.jpg")]
    source = put(s3, bucket, "lists/new.txt", "\n".join(names).encode())
    assert listed(source) == [
        stat_file(str(tmp_path / "a.jpg")),
        FileInfo("https://example.org/c.jpg", None, None, None),
        FileInfo("s3://pictures/b.jpg", None, None, None),
    ]


def test_a_local_list_may_name_objects(tmp_path: Path) -> None:
    (tmp_path / "new.parquet").write_bytes(parquet_of(uri=["s3://pictures/a.jpg"], size=[5], etag=["e"]))
    assert listed(tmp_path / "new.parquet") == [FileInfo("s3://pictures/a.jpg", 5, "e", None)]


def test_a_list_in_a_bucket_that_is_no_list_is_refused_with_its_name(s3: S3Server, bucket: str) -> None:
    source = put(s3, bucket, "lists/new.parquet", b"uri\na.jpg\n")
    assert refusal(source).startswith(f"{source}: is not a readable .parquet list: ")


def test_a_list_in_a_bucket_needs_a_column_of_uris(s3: S3Server, bucket: str) -> None:
    source = put(s3, bucket, "lists/new.csv", b"path,label\na.jpg,cat\n")
    assert refusal(source) == (
        f"{source}:1: has no column 'uri', it has path, label; if the images are in 'path', give --uri-column path"
    )


def test_a_list_that_is_not_there_is_refused(bucket: str) -> None:
    words = refusal(f"s3://{bucket}/lists/gone.txt")
    assert words.startswith(f"s3://{bucket}/lists/gone.txt: there is no such object")


def test_weak_versions_of_a_list_are_those_of_a_listing(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('uri,etag\ns3://b/1.jpg,"W/""abc"""\ns3://b/2.jpg,"""abc"""\ns3://b/3.jpg,abc\n')
    assert [info.etag for info in listed(path)] == ["abc", "abc", "abc"]


def test_an_inventory_is_a_listing_of_the_bucket(s3: S3Server, bucket: str) -> None:
    """What a listing would leave out is left out, and counted."""
    put(s3, bucket, "labels/store.json", b"{}")
    keys = ("a.jpg", ".hidden/a.jpg", ".hidden/b.jpg", "c/.d.jpg", "labels/samples/e.jpg", "f.txt", "samples/g.jpg")
    source = put_inventory(s3, bucket, "CSV", [row_of(key, bucket=bucket) for key in keys])
    counts = ListingCounts()
    found = [info.uri.split("/", 3)[3] for info in list_inputs(source, counts)]
    assert found == ["a.jpg", "samples/g.jpg"]
    assert counts == ListingCounts(Counter({"*.txt": 1}), hidden=2, stores=1)
    # Patterns count from the bucket.
    files = list_inputs(source, ListingCounts(), names=NameRules(exclude=("/samples", bucket)))
    assert [info.uri for info in files] == [f"s3://{bucket}/a.jpg"]
