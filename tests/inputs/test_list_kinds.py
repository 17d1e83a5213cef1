"""Lists as people have them: each kind is read as what it is, or refused with file, line and the way out."""

from __future__ import annotations

import gzip
import io
import json
import logging
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.errors import InputError
from imgcls_ray.inputs import list_texts
from imgcls_ray.inputs.checks import check_inputs, is_any_list
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.storage.files import FileInfo

if TYPE_CHECKING:
    from pathlib import Path

    from tests.s3.server import S3Server

NAMES = ["a b.jpg", "c,d.jpg", "é.jpg"]


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names_in(source: str | Path, **options: Any) -> list[str]:
    """Names of what is listed; the last part of each URI."""
    return [info.uri.rpartition("/")[2] for info in list_inputs(str(source), ListingCounts(), **options)]


def refusal(source: str | Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        check_inputs([str(source)], **options)
    with pytest.raises(InputError):
        list(list_inputs(str(source), ListingCounts(), **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parquet_of(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def lines_of(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


# --- kinds ------------------------------------------------------------------------------------------------------------

AS_ROWS = [{"uri": name, "label": 1} for name in NAMES]
KINDS = {
    "l.txt": "\n".join(NAMES),
    "l.csv": 'label,uri\n1,a b.jpg\n2,"c,d.jpg"\n3,é.jpg\n',
    "semicolons.csv": "label;uri\n1;a b.jpg\n2;c,d.jpg\n3;é.jpg\n",
    "blank.csv": '\n\nuri\n\na b.jpg\n"c,d.jpg"\n\né.jpg,,\n',
    "quoted.csv": 'note,uri\n"x\ny","a b.jpg"\n,"c,d.jpg"\n"""",é.jpg\n',
    "l.tsv": "uri\tlabel\na b.jpg\t1\nc,d.jpg\t2\né.jpg\t3\n",
    "l.jsonl": lines_of(AS_ROWS) + '\n{"uri": ""}\n{"uri": null}\n',
    "l.ndjson": lines_of(list(NAMES)),
    "rows.json": json.dumps(AS_ROWS, indent=2),
    "texts.json": json.dumps(NAMES),
    "images.json": json.dumps({"images": NAMES, "classes": ["x"]}),
    "only.json": json.dumps({"version": 1, "data": AS_ROWS}),
    "columns.json": json.dumps({"uri": NAMES, "size": [None, None, None], "label": [1]}),
    "pandas.json": json.dumps({"uri": dict(enumerate(NAMES)), "label": {"0": 1}}),
    "index.json": json.dumps(dict(enumerate(AS_ROWS))),
    "lines.json": lines_of(AS_ROWS),
    "one.json": json.dumps({"uri": NAMES[0]}) + "\n\n" + lines_of(list(NAMES[1:])),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("form", ["plain", "gzip", "bom", "crlf"])
def test_every_kind_of_list_is_read(name: str, form: str, tmp_path: Path) -> None:
    text = KINDS[name].replace("\n", "\r\n") if form == "crlf" else KINDS[name]
    data = text.encode("utf-8-sig" if form == "bom" else "utf-8")
    path = write(tmp_path / (f"{name}.gz" if form == "gzip" else name), gzip.compress(data) if form == "gzip" else data)
    check_inputs([str(path)])
    assert names_in(path) == NAMES


@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.tsv", "l.jsonl", "rows.json", "lines.json"])
def test_every_kind_of_list_is_read_from_a_bucket(name: str, s3: S3Server, bucket: str) -> None:
    for key, data in ((name, KINDS[name].encode()), (f"{name}.gz", gzip.compress(KINDS[name].encode()))):
        s3.client().put_object(Bucket=bucket, Key=f"lists/{key}", Body=data)
        uris = [info.uri for info in list_inputs(f"s3://{bucket}/lists/{key}", ListingCounts())]
        assert uris == [f"s3://{bucket}/lists/{image}" for image in NAMES]


def test_a_list_is_gzipped_or_not_whatever_its_name_says(tmp_path: Path) -> None:
    assert names_in(write(tmp_path / "l.csv", gzip.compress(b"uri\na.jpg\n"))) == ["a.jpg"]
    assert names_in(write(tmp_path / "l.csv.gz", b"uri\na.jpg\n")) == ["a.jpg"]


def test_lists_tell_size_and_version_of_objects(tmp_path: Path) -> None:
    row = {"uri": "s3://b/1.jpg", "size": 7, "etag": '"x"'}
    texts = {"l.csv": 'uri,size,etag\ns3://b/1.jpg,7,"""x"""\n', "l.tsv": "uri\tsize\tetag\ns3://b/1.jpg\t7.0\tx\n"}
    texts |= {"l.jsonl": lines_of([row]), "l.json": json.dumps({"images": [row]})}
    for name, text in texts.items():
        found = list(list_inputs(str(write(tmp_path / name, text.encode())), ListingCounts()))
        assert found == [FileInfo("s3://b/1.jpg", 7, "x", None)], name


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())),
        *(pa.dictionary(pa.int8(), pa.large_string()),),
    ],
    ids=str,
)
def test_parquet_has_texts_of_every_type(kind: pa.DataType, tmp_path: Path) -> None:
    table = pa.table({"uri": pa.array(["b.jpg", None, "", "a.jpg"]).cast(kind)})
    assert names_in(write(tmp_path / "l.parquet", parquet_of(table))) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([7, None], pa.int16()),
        ([7, None], pa.uint64()),
        ([7.0, float("nan")], pa.float64()),
        ([7.0, None], pa.float32()),
        ([Decimal("7.00"), None], pa.decimal128(20, 2)),
        (["7", ""], pa.string()),
        (["7.0", "nan"], pa.string_view()),
    ],
)
def test_sizes_are_whole_numbers_of_any_type(values: list[Any], kind: pa.DataType, tmp_path: Path) -> None:
    table = pa.table({"uri": ["s3://b/1", "s3://b/2"], "size": pa.array(values, kind)})
    path = write(tmp_path / "l.parquet", parquet_of(table))
    assert [info.size for info in list_inputs(str(path), ListingCounts())] == [7, None]


def test_parquet_has_times_of_every_unit(tmp_path: Path) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    for unit in ("us", "ns"):
        value = pa.array([moment], pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "UTC"))
        if unit == "ns":
            value = pa.array([value.cast(pa.int64())[0].as_py() + 1], pa.int64()).cast(pa.timestamp("ns", "UTC"))
        path = write(tmp_path / "l.parquet", parquet_of(pa.table({"uri": ["s3://b/1"], "mtime": value})))
        assert [info.mtime for info in list_inputs(str(path), ListingCounts())] == [moment]


# --- a folder of Parquet parts ----------------------------------------------------------------------------------------

PARTS = {
    "lists/new/_SUCCESS": b"",
    "lists/new/.part-0.parquet.crc": b"crc",
    "lists/new/part-1.parquet": parquet_of(pa.table({"uri": ["a b.jpg", "é.jpg"]})),
    "lists/new/day=1/part-0.parquet": parquet_of(pa.table({"uri": ["c,d.jpg"], "label": [1]})),
}


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """``PARTS``, in a folder or in a bucket."""
    if request.param == "folder":
        for name, data in PARTS.items():
            write(tmp_path / name, data)
        return str(tmp_path)
    server, bucket = request.getfixturevalue("s3"), request.getfixturevalue("bucket")
    for name, data in PARTS.items():
        server.client().put_object(Bucket=bucket, Key=name, Body=data)
    return f"s3://{bucket}"


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_of_parquet_parts_is_a_list(place: str, slash: str) -> None:
    source = f"{place}/lists/new{slash}"
    check_inputs([source])
    assert is_any_list(source)
    # A relative name counts from the folder that the list is in, as of a file of that name.
    assert [info.uri for info in list_inputs(source, ListingCounts())] == [f"{place}/lists/{name}" for name in NAMES]


def test_a_folder_of_images_with_a_parquet_file_is_a_folder_of_images(tmp_path: Path) -> None:
    write(tmp_path / "labels.parquet", parquet_of(pa.table({"uri": ["gone.jpg"]})))
    write(tmp_path / "cat" / "a.jpg")
    assert names_in(tmp_path) == ["a.jpg"]
    write(tmp_path / "flat" / "labels.parquet", parquet_of(pa.table({"uri": ["gone.jpg"]})))
    write(tmp_path / "flat" / "b.jpg")
    assert names_in(tmp_path / "flat") == ["b.jpg"]
    write(tmp_path / "by" / "label=1" / "c.jpg")
    assert not is_any_list(str(tmp_path / "by"))
    assert names_in(tmp_path / "by") == ["c.jpg"]


def test_parts_without_a_column_of_images_are_asked_about(tmp_path: Path) -> None:
    part = write(tmp_path / "new" / "part-0.parquet", parquet_of(pa.table({"url": ["http://h/a.jpg"], "label": [1]})))
    assert refusal(tmp_path / "new") == (
        f"{tmp_path}/new: holds Parquet files only, and {part}: has no column 'uri', it has url, label; if the images "
        "are in 'url', give --uri-column url"
    )
    assert names_in(tmp_path / "new", uri_column="url") == ["a.jpg"]


# --- lists of PaddleX -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["images/a b.jpg 0\nimages/c.jpg 12\n", "images/a b.jpg\t0\r\n\r\nimages/c.jpg\t12\r\n"], ids=ascii
)
@pytest.mark.parametrize("has_files", [True, False])
def test_a_list_of_paddlex_gives_its_paths(
    content: str, has_files: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if has_files:
        write(tmp_path / "images" / "a b.jpg")
    path = write(tmp_path / "val.txt", content.encode())
    with caplog.at_level(logging.INFO):
        assert names_in(path) == ["a b.jpg", "c.jpg"]
    text = f"{path}: is read as a list of PaddleX, `path id` in each line: the paths are inputs, the ids are ignored"
    assert caplog.messages == [text]


def test_a_list_of_paddlex_in_a_bucket_gives_its_paths(s3: S3Server, bucket: str) -> None:
    s3.client().put_object(Bucket=bucket, Key="set/val.txt", Body=b"images/a.jpg 0\nimages/b.jpg 1\n")
    uris = [info.uri for info in list_inputs(f"s3://{bucket}/set/val.txt", ListingCounts())]
    assert uris == [f"s3://{bucket}/set/images/{name}.jpg" for name in "ab"]


def test_a_line_without_an_id_is_a_path(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    assert names_in(write(tmp_path / "val.txt", b"a.jpg 0\nmy photo.jpg\nb.jpg 1\n")) == [
        "a.jpg",
        "b.jpg",
        "my photo.jpg",
    ]


@pytest.mark.parametrize(
    ("names", "has_files"),
    [
        (["photo.jpg 1", "photo.jpg 2"], True),
        (["IMG 1", "IMG 2"], False),
        (["holiday 2020/a.jpg", "b.jpg 1"], False),
        (["a.jpg", "b.jpg 1"], False),
        (["a.jpg", "a.jpg 2", "b.jpg"], False),
        (["IMG 1", "IMG 2", "IMG 3"], False),
    ],
)
def test_paths_that_end_with_a_number_stay_whole(names: list[str], has_files: bool, tmp_path: Path) -> None:
    for name in names if has_files else ():
        write(tmp_path / name)
    # What is left without the number may be another file, or a folder.
    write(tmp_path / "a.jpg")
    (tmp_path / "IMG").mkdir()
    path = write(tmp_path / "list.txt", "\n".join(names).encode())
    uris = [info.uri for info in list_inputs(str(path), ListingCounts())]
    assert uris == sorted(f"{tmp_path}/{name}" for name in names)


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.tsv", "list.jsonl", "list.json", "list.csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "text", "iconv"),
    [
        ("utf-16", "is UTF-16", "UTF-16LE"),
        ("utf-16-le", "is UTF-16 without a byte order mark", "UTF-16LE"),
        ("utf-16-be", "is UTF-16 without a byte order mark", "UTF-16BE"),
        ("utf-32", "is UTF-32", "UTF-32LE"),
        ("utf-32-be", "is UTF-32 without a byte order mark", "UTF-32BE"),
    ],
)
def test_other_encodings_are_refused_by_name(name: str, encoding: str, text: str, iconv: str, tmp_path: Path) -> None:
    data = "uri,label\nphotos/IMG_0001.JPG,cat\nphotos/\u732b.jpg,\u732b\n".encode(encoding)
    path = write(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    command = f"iconv -f {iconv} -t UTF-8 {name} > utf8-{name}"
    if name.endswith(".gz"):
        command = f"gzip -dc {name} | iconv -f {iconv} -t UTF-8 > utf8-list.csv"
    assert refusal(path) == f"{path}: {text}, and lists are read as UTF-8; save it as UTF-8, e.g. with `{command}`"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            b"a.jpg\0b.jpg\0c.jpg\0",
            "its names are separated by NUL (find -print0); write one in each line (find -print)",
        ),
        (bytes(range(256)) * 4 + bytes(500), "is not a text but binary data; a list is UTF-8 text, or Parquet"),
        (b"PAR1....PAR1", "is a Parquet file; name it .parquet"),
        (b"PK\x03\x04....", "is a ZIP archive or a spreadsheet; unpack it, or save it as CSV (UTF-8)"),
    ],
    ids=["print0", "binary", "parquet", "zip"],
)
def test_what_is_no_text_is_refused_by_kind(data: bytes, text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", data)
    assert refusal(path) == f"{path}: {text}"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "l.csv",
            "Path,label\na,1\n",
            ":1: has no column 'uri', it has Path, label; if the images are in 'Path', give ",
        ),
        ("l.csv", "URI\na\n", ":1: has no column 'uri', it has URI; if the images are in 'URI', give --uri-column URI"),
        (
            "l.csv",
            "a.jpg,1\n",
            ":1: has no column 'uri', it has a.jpg, 1; the first line of a table names its columns; ",
        ),
        ("l.csv", "uri,uri\na,b\n", ":1: has the column 'uri' twice; which one has the images?"),
        (
            "l.csv",
            "\nlabel,uri\n1,a,b.jpg\n",
            ":3: has 3 values for 2 columns (label, uri); put a value with ',' in it ",
        ),
        ("l.csv", 'uri\n"a.jpg\nb.jpg\n', ":3: is not a row of a table: unexpected end of data"),
        ("l.csv", "uri,size\ns3://b/a,1\ns3://b/b,1.5\n", ":3: the column 'size' is '1.5', needs a whole number of "),
        ("l.tsv", "uri\tsize\ns3://b/a\t-1\n", ":2: the column 'size' is '-1', needs a whole number of bytes"),
        ("l.tsv", "uri\tsize\ns3://b/a\tinf\n", ":2: the column 'size' is 'inf', needs a whole number of bytes"),
        ("l.jsonl", '{"uri": "a"}\n{"uri": }\n', ":2: is not JSON (column 9: Expecting value)"),
        (
            "l.jsonl",
            '{"uri": "a"}\n\n{"path": "b"}\n',
            ":3: has no key 'uri', it has path; if the images are in 'path'",
        ),
        ("l.jsonl", '{"uri": 7}\n', ":1: 'uri' needs a text, is 7"),
        ("l.jsonl", '{"uri": "s3://b/a", "size": true}\n', ":1: 'size' is true"),
        ("l.jsonl", "[" * 100_000 + "\n", ":1: is not JSON that can be read: "),
        ("l.jsonl", '{"uri": "\\ud800.jpg"}\n', ":1: "),
        (
            "l.json",
            '[{"uri": "a"},\n {"url": "b"}]',
            ", entry 2: has no key 'uri', it has url; if the images are in 'url'",
        ),
        ("l.json", '[\n"a",\n]', ": is not JSON (line 3, column 1: "),
        (
            "l.json",
            '{"a": [], "b": []}',
            ": holds no list of images; write a list of paths or of objects with the key ",
        ),
        ("l.json", '{"uri": ["a", "b"], "size": [1]}', ": its columns differ in length: uri 2, size 1"),
        ("l.json", "", ": is empty; a JSON list is a list of paths, or of objects with the key 'uri'"),
        ("l.json", "7", ": holds no list of images"),
    ],
)
def test_a_refusal_names_file_line_and_column(name: str, content: str, text: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content.encode())
    with pytest.raises(InputError) as caught:
        list(list_inputs(str(path), ListingCounts()))
    assert str(caught.value).startswith(f"{path}{text}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"uri": [1]}, ": the column 'uri' needs texts, has int64; --uri-column NAME takes another column"),
        ({"uri": [b"a"]}, ": the column 'uri' needs texts, has binary; --uri-column NAME takes another column"),
        ({"uri": ["s3://b/a"] * 2, "size": [1.0, 2.5]}, ", row 2: the column 'size' is '2.5', needs a whole number of"),
        (
            {"uri": ["s3://b/a"], "size": [True]},
            ": the column 'size' needs whole numbers, has bool; rename it if it is",
        ),
        (
            {"uri": ["s3://b/a"], "etag": [["x"]]},
            ": the column 'etag' needs texts, has list<element: string>; rename it",
        ),
    ],
)
def test_a_refusal_of_a_parquet_list_names_row_and_column(table: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "l.parquet", parquet_of(pa.table(table)))
    with pytest.raises(InputError) as caught:
        list(list_inputs(str(path), ListingCounts()))
    assert str(caught.value).startswith(f"{path}{text}")


@pytest.mark.parametrize("name", ["l.csv.gz", "l.txt.gz", "l.jsonl.gz"])
def test_a_packed_list_that_is_cut_off_is_refused_with_the_line(name: str, tmp_path: Path) -> None:
    rows = [f'"{i}.jpg"' for i in range(20_000)]
    data = gzip.compress("\n".join([*(["uri"] if "csv" in name else []), *rows]).encode())
    path = write(tmp_path / name, data[: len(data) // 2])
    with pytest.raises(InputError, match=rf"^{path}:\d+: cannot be unpacked, the file is cut off or damaged here: "):
        list(list_inputs(str(path), ListingCounts()))


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would have to fit into memory."""
    monkeypatch.setattr(list_texts._lines, "__kwdefaults__", {"any_bytes": False, "max_chars": 100})
    path = write(tmp_path / "l.txt", b"a.jpg\n" + b"x" * 1000)
    assert refusal(path) == f"{path}:2: is longer than 100 characters; write one image in a line"


def test_another_column_is_taken_by_name(tmp_path: Path) -> None:
    texts = {
        "l.csv": "file name,uri\na.jpg,b.jpg\n",
        "l.jsonl": '{"file name": "a.jpg"}\n',
        "coco.json": json.dumps({"images": [{"id": 1, "file name": "a.jpg"}], "annotations": [], "categories": []}),
    }
    for name, text in texts.items():
        assert names_in(write(tmp_path / name, text.encode()), uri_column="file name") == ["a.jpg"], name
    table = parquet_of(pa.table({"file name": ["a.jpg"]}))
    assert names_in(write(tmp_path / "l.parquet", table), uri_column="file name") == ["a.jpg"]
    assert refusal(tmp_path / "l.csv", uri_column="image").endswith("give --uri-column uri")


@pytest.mark.parametrize("name", ["l.jsonl", "l.csv.gz", "l.parquet"])
def test_a_long_list_is_not_held_in_memory(name: str, tmp_path: Path) -> None:
    """Its rows alone would take more than twice of what is allowed here."""
    import tracemalloc

    from imgcls_ray.inputs.lists import read_list
    from imgcls_ray.storage import DEFAULT_STORAGE

    num_rows = 40_000
    names = [f"s3://bucket/{i * 7919 % 10**9:09d}{'x' * 50}.jpg" for i in range(num_rows)]
    if name == "l.parquet":
        pq.write_table(pa.table({"uri": names}), tmp_path / name, row_group_size=2_000)
    else:
        rows = [json.dumps({"uri": uri}) for uri in names] if "jsonl" in name else names
        data = "\n".join([*(["uri"] if "csv" in name else []), *rows]).encode()
        write(tmp_path / name, gzip.compress(data, 1) if name.endswith(".gz") else data)
    del names
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_list(str(tmp_path / name), DEFAULT_STORAGE)) == num_rows
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize("kind", ["txt", "csv", "paddlex"])
def test_backslashes_of_windows_part_folders_where_only_that_finds_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    for name in ("images/cat/0.jpg", "images/dog/1.jpg", "a\\b.jpg", "a/b.jpg"):
        write(tmp_path / name)
    rows = ["images\\cat\\0.jpg", "images\\dog\\1.jpg", "a\\b.jpg", "images\\none.jpg"]
    if kind == "paddlex":
        rows = [f"{row} 0" for row in rows]
    path = write(
        tmp_path / f"l.{'csv' if kind == 'csv' else 'txt'}", "\n".join(["uri"] * (kind == "csv") + rows).encode()
    )
    found = {info.uri.removeprefix(f"{tmp_path}/") for info in list_inputs(str(path), ListingCounts())}
    assert found == {"images/cat/0.jpg", "images/dog/1.jpg", "a\\b.jpg", "images\\none.jpg"}
    [told] = [text for text in caplog.messages if "so is every path" in text]
    line = 2 if kind == "csv" else 1
    assert told == (
        f"{path}:{line}: 'images\\\\cat\\\\0.jpg' is read as 'images/cat/0.jpg', and so is every path where that finds "
        "the file"
    )


def test_a_cut_off_list_of_one_block_is_told_with_its_line(tmp_path: Path) -> None:
    data = gzip.compress(b"uri\na.jpg\nb.jpg\n")
    for size, line in ((len(data) - 8, 4), (9, 1)):
        path = write(tmp_path / "l.csv.gz", data[:size])
        with pytest.raises(
            InputError, match=rf"^{path}:{line}: cannot be unpacked, the file is cut off or damaged here: "
        ):
            list(list_inputs(str(path), ListingCounts()))
