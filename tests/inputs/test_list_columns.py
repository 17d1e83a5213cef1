"""Rows of a list become the same files whether they are taken as columns or one by one."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.errors import InputError
from imgcls_ray.inputs import list_columns
from imgcls_ray.inputs.lists import read_list
from imgcls_ray.inputs.tables import tables_of
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.storage.files import FileInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgcls_ray.inputs.list_rows import ListRow

ORDINARY = [
    "s3://bucket/a.jpg",
    "http://host/b.jpg",
    "https://host/c%20d.jpg?x=1",
    "s3://bucket/é🐈.jpg",
    "gs://bucket/e.jpg",
]
ODD = [
    *("", None, " ", "a.jpg", "./b/../a.jpg", "here/a.jpg", "here\\a.jpg", "gone\\a.jpg", "a\\b.jpg", "null\0.jpg"),
    *("/", "..", "file:///etc/hostname", "file://nas/x.jpg", "FILE:///x%20y", "file:///%FF.jpg", "file://localhost/x"),
    *("s3:/bucket/x", "S3://bucket/x", "s3a://bucket/x", "HTTP://host/x", "gs://b/x", "s3://", "://x", "1s3://b/x"),
    *("http:/host/x", "https:\\\\host\\x", "s3://bucket\\x.jpg", "s3://b/{a,b}.jpg", "s3://b/*.jpg", " s3://b/x"),
    *("s3://b/x\n", "\ns3://b/x", "s3://b/a\0b", "x s3://b/y", "é.jpg", "http", "s3", "data:image/png;base64,AA"),
]
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
TEXT_SIZES = [
    "",
    None,
    "7",
    "007",
    " 7 ",
    "7.0",
    "1_0",
    "+7",
    "nan",
    "-1",
    "7.5",
    "inf",
    "12 KB",
    "٧",
    "9" * 18,
    "9" * 19,
]
TEXT_ETAGS = [
    "",
    None,
    "x",
    '"x"',
    'W/"x"',
    "W/x",
    '""',
    'W/""',
    ' "x" ',
    '"W/x"',
    "W/",
    'W/"',
    "é",
    '\t"x"\n',
    '"a"b"',
]
SIZES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.null(), [None]),
    (pa.int8(), [0, 7, None, -1]),
    (pa.int64(), [0, 7, None, 2**63 - 1, -(2**63)]),
    (pa.uint64(), [0, 7, None, 2**63 - 1, 2**63, 2**64 - 1]),
    (pa.float16(), [0.0, 7.0, None, float("nan")]),
    (pa.float32(), [0.0, 7.0, None, float("nan"), -1.0, 7.5, float("inf")]),
    (pa.float64(), [0.0, -0.0, 7.0, None, float("nan"), 2.0**53, 2.0**63, -7.0, 7.5, float("-inf")]),
    (pa.decimal128(20, 2), [Decimal(7), None, Decimal("7.5"), Decimal(-1)]),
    (pa.string(), TEXT_SIZES),
    (pa.large_string(), TEXT_SIZES),
    (pa.string_view(), TEXT_SIZES),
    (pa.dictionary(pa.int8(), pa.string()), TEXT_SIZES),
    (pa.dictionary(pa.int16(), pa.int64()), [0, 7, None, -1]),
]
ETAGS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.null(), [None]),
    (pa.int32(), [0, 7, None, -1]),
    (pa.float64(), [0.0, 7.5, None, float("nan"), 1e300]),
    (pa.decimal128(20, 2), [Decimal(7), None]),
    (pa.string(), TEXT_ETAGS),
    (pa.large_string(), TEXT_ETAGS),
    (pa.string_view(), TEXT_ETAGS),
    (pa.dictionary(pa.int8(), pa.large_string()), TEXT_ETAGS),
]
TIMES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.timestamp("s", "UTC"), [NOW.replace(microsecond=0), None, LONG_AGO]),
    (pa.timestamp("ms"), [NOW.replace(microsecond=0, tzinfo=None), None]),
    (pa.timestamp("us", "UTC"), [NOW, None, LONG_AGO, LAST, 2**60, -(2**60)]),
    (pa.timestamp("us", "Europe/Berlin"), [NOW, None]),
    (pa.timestamp("ns", "UTC"), [2**60, -1, -999, None]),
    (pa.timestamp("s"), [None, 0, 2**50]),
    (pa.int64(), [7, None]),
]
URI_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


def found_in(path: Path, told: list[str]) -> tuple[list[FileInfo], str]:
    """The files of a list up to its first error, and the error."""
    files: list[FileInfo] = []
    try:
        for table in tables_of(read_list(str(path), DEFAULT_STORAGE, tell=told.append)):
            files += map(FileInfo._make, zip(*(column.to_pylist() for column in table.columns), strict=True))
    except InputError as error:
        return files, str(error)
    return files, ""


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[FileInfo], str]:
    """The files and the error of a list, which are the same as when every row is looked at by itself."""
    told: list[str] = []
    told_one_by_one: list[str] = []
    found = found_in(path, told)
    with monkeypatch.context() as patched:
        patched.setattr(list_columns, "_ordinary_files", lambda rows: None)
        assert found == found_in(path, told_one_by_one)
    assert told == told_one_by_one
    return found


def draw(chance: random.Random, odd: float) -> str | None:
    return chance.choice(ODD if chance.random() < odd else ORDINARY)


def column(chance: random.Random, kinds: list[tuple[pa.DataType, list[Any]]], num_rows: int, odd: float) -> pa.Array:
    kind, values = chance.choice(kinds)
    # The first values are those that a row may have.
    drawn = [chance.choice(values if chance.random() < odd else values[:2]) for _ in range(num_rows)]
    if pa.types.is_dictionary(kind):
        encoded = pa.array(drawn, kind.value_type).dictionary_encode()
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(kind.index_type), encoded.dictionary)
    return pa.array(drawn, kind)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "here/a.jpg", "here/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("odd", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("seed", range(40))
def test_a_parquet_list_gives_the_same_files_both_ways(
    seed: int, odd: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(f"{seed} {odd}")
    num_rows = chance.choice((1, 5, 200))
    uri_type = chance.choice(URI_TYPES)
    uris = pa.array([draw(chance, odd) for _ in range(num_rows)], pa.string())
    columns = {"uri": uris if uri_type == pa.string() else uris.cast(uri_type)}
    for name, kinds in (("size", SIZES), ("etag", ETAGS), ("mtime", TIMES)):
        if chance.random() < 0.7:
            columns[name] = column(chance, kinds, num_rows, odd)
    pq.write_table(pa.table(columns), folder / "l.parquet", row_group_size=chance.choice((3, 50, 200)))
    both_ways(folder / "l.parquet", monkeypatch)


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
@pytest.mark.parametrize("seed", range(40))
def test_a_text_list_gives_the_same_files_both_ways(
    seed: int, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(f"{seed} {kind}")
    odd = chance.choice((0.0, 0.02, 0.5))
    rows = list(texts(chance, kind, chance.choice((1, 5, 200)), odd))
    path = folder / f"l.{kind}"
    path.write_bytes(b"".join([b"uri,size,etag\n"] * (kind == "csv") + rows))
    both_ways(path, monkeypatch)


def texts(chance: random.Random, kind: str, num_rows: int, odd: float) -> Iterator[bytes]:
    for _ in range(num_rows):
        uri = draw(chance, odd) or ""
        is_odd = chance.random() < odd
        size = chance.choice([*TEXT_SIZES, 7, 7.0, 7.5, 2**70, float("nan")] if is_odd else ["7"])
        etag = chance.choice([*TEXT_ETAGS, 7, 7.5] if is_odd else ['"x"'])
        if kind == "jsonl":
            yield (
                json.dumps({"uri": uri, "size": size, "etag": etag}, ensure_ascii=chance.random() < 0.5).encode()
                + b"\n"
            )
        elif kind == "csv":
            cells = ("" if cell is None else str(cell) for cell in (uri, size, etag))
            yield ",".join('"' + cell.replace('"', '""') + '"' for cell in cells).encode() + b"\n"
        else:
            yield uri.replace("\n", "").encode() + (b"\xff" if is_odd else b"") + b"\n"


def test_ordinary_rows_are_not_looked_at_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this is for; a list of objects as inventories and listings write them."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a row was looked at")

    monkeypatch.setattr("imgcls_ray.inputs.lists._file_of", refuse)
    uris = [f"{'s3' if number % 2 else 'gs'}://bucket/{number}.jpg" for number in range(10_000)]
    columns = {"uri": uris, "size": [7] * 10_000, "etag": ['"x"'] * 10_000, "mtime": [NOW] * 10_000}
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    (tmp_path / "l.csv").write_text("".join(["uri,size,etag\n", *(f'{uri},7,"""x"""\n' for uri in uris)]))
    (tmp_path / "l.jsonl").write_text("".join(json.dumps({"uri": uri, "size": 7, "etag": "x"}) + "\n" for uri in uris))
    (tmp_path / "l.txt").write_text("\n".join(uris))
    for name in ("l.parquet", "l.csv", "l.jsonl", "l.txt"):
        found = list(read_list(str(tmp_path / name), DEFAULT_STORAGE))
        size, etag, mtime = (None, None, None) if name == "l.txt" else (7, "x", NOW if name == "l.parquet" else None)
        assert found == [FileInfo(uri, size, etag, mtime) for uri in uris], name


@pytest.mark.parametrize("data", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"])
@pytest.mark.parametrize("name", ["uri", "size", "etag"])
def test_texts_that_are_not_utf8_are_refused_both_ways(
    name: str, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {
        "uri": pa.array([b"s3://b/a", b"s3://b/b"]),
        "size": pa.array([b"7", b""]),
        "etag": pa.array([b"x", b""]),
    }
    columns[name] = pa.array([columns[name][0].as_py(), b"s3://b/" + data])
    arrays = [column.view(pa.string()) for column in columns.values()]
    pq.write_table(pa.table(arrays, names=list(columns)), tmp_path / "l.parquet")
    _, error = both_ways(tmp_path / "l.parquet", monkeypatch)
    assert error.startswith(f"{tmp_path}/l.parquet: is not a readable .parquet list: 'utf-8' codec can't decode byte")


def test_a_time_of_no_year_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = pa.array([0, 2**60], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"uri": ["s3://b/a", "s3://b/b"], "mtime": times}), tmp_path / "l.parquet")
    _, error = both_ways(tmp_path / "l.parquet", monkeypatch)
    assert error == f"{tmp_path}/l.parquet: is not a readable .parquet list: date value out of range"


def test_rows_before_a_bad_one_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [7] * 1000
    sizes[700] = -1
    uris = [f"s3://b/{number}.jpg" for number in range(1000)]
    pq.write_table(pa.table({"uri": uris, "size": sizes}), tmp_path / "l.parquet")
    files, error = both_ways(tmp_path / "l.parquet", monkeypatch)
    assert [file.uri for file in files] == uris[:700]
    assert error.startswith(f"{tmp_path}/l.parquet, row 701: the column 'size' is '-1', needs a whole number of bytes")


def test_the_first_row_needs_no_more_than_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []

    def file_of(row: ListRow, _: str) -> FileInfo:
        looked_at.append(row.uri)
        return FileInfo(row.uri, None, None, None)

    monkeypatch.setattr("imgcls_ray.inputs.lists._file_of", file_of)
    uris = [f"{number}.jpg" for number in range(10_000)]
    pq.write_table(pa.table({"uri": uris}), tmp_path / "l.parquet")
    (tmp_path / "l.txt").write_text("\n".join(uris))
    for name in ("l.parquet", "l.txt"):
        looked_at.clear()
        assert next(read_list(str(tmp_path / name), DEFAULT_STORAGE)).uri == "0.jpg"
        assert looked_at == ["0.jpg"]
