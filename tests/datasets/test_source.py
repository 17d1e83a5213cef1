"""Every way to write a labelled dataset down is read, and every fault of what is written is told with its line."""

from __future__ import annotations

import math
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.datasets import class_name_files, tables
from imgcls_ray.datasets.findings import Finding, FindingCode, Severity
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.errors import InputError
from imgcls_ray.report.check_report import HISTOGRAM_NAME, SAMPLES_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.datasets.labelled import Entry
    from tests.s3.server import S3Server

LABELS = b"0 cat\n1 dog\n2 owl\n"


def write_lists(
    root: Path, train: bytes | str, *, val: bytes | None = b"v.jpg 0\n", label: bytes | None = LABELS
) -> None:
    root.mkdir(exist_ok=True)
    contents = {"train": train.encode() if isinstance(train, str) else train, "val": val, "label": label}
    for name, content in contents.items():
        if content is not None:
            (root / f"{name}.txt").write_bytes(content)


def read(dataset: Path | str, **options: Any) -> tuple[list[Entry], list[Finding]]:
    source = read_dataset(str(dataset), **options)
    findings = list(source.findings)
    return list(source.read(findings.append)), findings


def read_train(root: Path, train: bytes | str, **options: Any) -> tuple[list[tuple[str, int]], list[Finding]]:
    """Path and class id of each good line of a train.txt, and what is wrong with the others."""
    write_lists(root, train, val=b"")
    entries, findings = read(root, **options)
    return [(entry.path, entry.label) for entry in entries if entry.split == "train"], findings


def read_names(root: Path, label: bytes | str | None) -> tuple[list[str | None], list[Finding]]:
    write_lists(root, b"", label=label.encode() if isinstance(label, str) else label)
    source = read_dataset(str(root))
    return source.class_names, source.findings


def codes(findings: list[Finding]) -> list[tuple[FindingCode, str, int | None]]:
    return [(finding.code, finding.file, finding.line) for finding in findings]


# Lists


def test_an_entry_says_where_it_is_written_and_where_the_image_lies(tmp_path: Path) -> None:
    write_lists(tmp_path, "x.jpg 1\n\nsub/a.jpg 2\n")
    entries, findings = read(tmp_path)
    assert findings == []
    assert [entry[:6] for entry in entries] == [
        ("train", "train.txt", 1, "x.jpg", f"{tmp_path}/x.jpg", 1),
        ("train", "train.txt", 3, "sub/a.jpg", f"{tmp_path}/sub/a.jpg", 2),
        ("val", "val.txt", 1, "v.jpg", f"{tmp_path}/v.jpg", 0),
    ]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        pytest.param("a.jpg 1", "a.jpg", id="a space"),
        pytest.param("a.jpg\t1", "a.jpg", id="a tab"),
        pytest.param("a.jpg \t  1", "a.jpg", id="several"),
        pytest.param("a.jpg 1 \t", "a.jpg", id="blanks behind"),
        pytest.param("my cat 1.jpg 1", "my cat 1.jpg", id="spaces in the path"),
        pytest.param("my\tcat.jpg 1", "my\tcat.jpg", id="a tab in the path"),
        pytest.param(" a.jpg 1", " a.jpg", id="a path that begins with a space"),
        pytest.param("a#1?.jpg 1", "a#1?.jpg", id="marks of addresses in the path"),
        pytest.param("图/猫 头鹰.jpg 1", "图/猫 头鹰.jpg", id="Chinese"),
        pytest.param("a\u3000b.jpg 1", "a\u3000b.jpg", id="a wide blank in the path"),
        pytest.param("a,b.jpg 1", "a,b.jpg", id="a comma in the path"),
        pytest.param("a.jpg +1", "a.jpg", id="a plus"),
        pytest.param("a.jpg 001", "a.jpg", id="leading noughts"),
    ],
)
def test_path_and_class_id_are_parted_at_the_last_blank(tmp_path: Path, line: str, path: str) -> None:
    assert read_train(tmp_path, line) == ([(path, 1)], [])


@pytest.mark.parametrize(
    ("delimiter", "line", "path"),
    [
        (",", "my cat.jpg,1", "my cat.jpg"),
        (",", "a,b.jpg , 1", "a,b.jpg"),
        (" ", "my cat.jpg 1", "my cat.jpg"),
        ("\t", "my 2 cats.jpg\t1", "my 2 cats.jpg"),
        ("::", "a:b.jpg::1", "a:b.jpg"),
    ],
)
def test_a_given_delimiter_parts_path_and_class_id(tmp_path: Path, delimiter: str, line: str, path: str) -> None:
    assert read_train(tmp_path, line, delimiter=delimiter) == ([(path, 1)], [])


def test_a_line_without_the_given_delimiter_is_bad(tmp_path: Path) -> None:
    good, [finding] = read_train(tmp_path, "a.jpg 1", delimiter=",")
    assert (good, finding.code) == ([], FindingCode.BAD_LINE)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"a.jpg 1\r\nb.jpg 2\r\n", [("a.jpg", 1), ("b.jpg", 2)], id="CRLF"),
        pytest.param(b"\xef\xbb\xbfa.jpg 1\n", [("a.jpg", 1)], id="byte order mark"),
        pytest.param(b"a.jpg 1\nb.jpg 2", [("a.jpg", 1), ("b.jpg", 2)], id="no newline at the end"),
        pytest.param("\n \t\n\r\n\u3000\na.jpg 1\n\n".encode(), [("a.jpg", 1)], id="blank lines"),
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\xef\xbb\xbf", [], id="nothing but a mark"),
    ],
)
def test_the_ways_of_editors_are_no_fault(tmp_path: Path, content: bytes, expected: list[tuple[str, int]]) -> None:
    assert read_train(tmp_path, content) == (expected, [])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("a.jpg", FindingCode.BAD_LINE),
        ("1", FindingCode.BAD_LINE),
        ("images/1", FindingCode.BAD_LINE),
        ("a.jpg,1", FindingCode.UNKNOWN_DELIMITER),
        ("a.jpg;-1", FindingCode.UNKNOWN_DELIMITER),
        ("a.jpg\u30001", FindingCode.UNKNOWN_DELIMITER),
        ("a.jpg\uff0c1", FindingCode.UNKNOWN_DELIMITER),
        ("a.jpg cat", FindingCode.LABEL_NOT_INTEGER),
        ("a.jpg 1.0", FindingCode.LABEL_NOT_INTEGER),
        ("a.jpg 1_0", FindingCode.LABEL_NOT_INTEGER),
        ("a.jpg \u0661", FindingCode.LABEL_NOT_INTEGER),
        ("a.jpg -1", FindingCode.LABEL_OUT_OF_RANGE),
        ("a.jpg 3", FindingCode.LABEL_OUT_OF_RANGE),
        (f"a.jpg {10**30}", FindingCode.LABEL_OUT_OF_RANGE),
        ("a.jpg " + "9" * 5000, FindingCode.LABEL_OUT_OF_RANGE),
        (f"a.jpg -{10**30}", FindingCode.LABEL_OUT_OF_RANGE),
    ],
)
def test_a_bad_line_is_told_and_the_next_one_is_read(tmp_path: Path, line: str, code: FindingCode) -> None:
    good, findings = read_train(tmp_path, f"{line}\nb.jpg 1\n")
    assert (good, codes(findings)) == ([("b.jpg", 1)], [(code, "train.txt", 1)])
    assert findings[0].split == "train"


def test_an_id_out_of_range_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    _, [finding] = read_train(tmp_path, "a.jpg 7\n")
    assert (finding.path, finding.detail) == ("a.jpg", "7: label.txt has 3 classes, 0 to 2")


def test_an_id_that_label_txt_leaves_out_is_out_of_range(tmp_path: Path) -> None:
    write_lists(tmp_path, "a.jpg 1\nb.jpg 2\n", label=b"0 cat\n2 owl\n")
    entries, findings = read(tmp_path)
    assert [entry.label for entry in entries] == [2, 0]
    assert codes(findings)[1:] == [(FindingCode.LABEL_OUT_OF_RANGE, "train.txt", 1)]


def test_a_line_that_is_not_utf8_costs_itself_only(tmp_path: Path) -> None:
    good, [finding] = read_train(tmp_path, b"caf\xe9.jpg 0\nb.jpg 1\n")
    assert (good, finding.code, finding.line) == ([("b.jpg", 1)], FindingCode.BAD_LINE, 1)
    assert finding.detail == r"b'caf\xe9.jpg 0' is not UTF-8"


def test_a_line_without_end_costs_itself_only_and_lines_are_counted_right(tmp_path: Path) -> None:
    content = b"a.jpg 0\n" + b"x" * 10**6 + b" 1\nb.jpg 1\nc.jpg x\n"
    good, [long, later] = read_train(tmp_path, content)
    assert good == [("a.jpg", 0), ("b.jpg", 1)]
    assert (long.code, long.line, later.line) == (FindingCode.BAD_LINE, 2, 4)
    assert long.detail.endswith("is longer than 65,536 bytes")


def test_a_line_as_long_as_it_may_be_is_read(tmp_path: Path) -> None:
    path = "x" * (64 * 2**10 - len(" 1\n"))
    assert read_train(tmp_path, f"{path} 1\nb.jpg 2\n") == ([(path, 1), ("b.jpg", 2)], [])


def test_two_spellings_of_a_path_lead_to_one_image(tmp_path: Path) -> None:
    write_lists(tmp_path, "a.jpg 0\n./a.jpg 0\nsub/../a.jpg 0\n.//a.jpg 0\n")
    entries, _ = read(tmp_path)
    assert {entry.uri for entry in entries if entry.split == "train"} == {f"{tmp_path}/a.jpg"}


def test_two_dots_behind_a_link_lead_where_the_system_goes(tmp_path: Path) -> None:
    (tmp_path / "far" / "folder").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to("../far/folder")
    write_lists(tmp_path / "data", "link/../a.jpg 0\n")
    entries, _ = read(tmp_path / "data")
    assert {entry.uri for entry in entries if entry.split == "train"} == {f"{tmp_path}/far/a.jpg"}


@pytest.mark.parametrize(
    "path", ["/data/a b.jpg", "https://host/a%20b.jpg", "s3://bucket/a b.jpg", "file:///data/caf%E9.jpg"]
)
def test_an_image_may_lie_elsewhere(tmp_path: Path, path: str) -> None:
    write_lists(tmp_path, f"{path} 0\n")
    entries, findings = read(tmp_path)
    assert findings == []
    assert (entries[0].path, entries[0].uri) == (path, path)


def test_a_path_may_lead_out_of_the_dataset(tmp_path: Path) -> None:
    write_lists(tmp_path / "data", "../raw/a.jpg 0\n")
    entries, _ = read(tmp_path / "data")
    assert entries[0].uri == f"{tmp_path}/raw/a.jpg"


@pytest.mark.parametrize("spell", [lambda root: f"{root}/", lambda root: f"{root}/.", lambda root: f"file://{root}"])
def test_however_the_folder_is_spelled_images_are_found(tmp_path: Path, spell: Callable[[Path], str]) -> None:
    write_lists(tmp_path, "a.jpg 0\n")
    entries, _ = read(spell(tmp_path))
    assert entries[0].uri == f"{tmp_path}/a.jpg"


def test_the_dataset_may_be_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lists(tmp_path, "a.jpg 0\n")
    monkeypatch.chdir(tmp_path)
    entries, _ = read(".")
    assert entries[0].uri == f"{tmp_path}/a.jpg"


@pytest.mark.parametrize("missing", ["train.txt", "val.txt"])
def test_a_missing_list_is_told(tmp_path: Path, missing: str) -> None:
    write_lists(tmp_path, "a.jpg 0\n")
    (tmp_path / missing).unlink()
    entries, [finding] = read(tmp_path)
    assert (finding.code, finding.file, finding.detail) == (FindingCode.UNREADABLE_LIST, missing, "there is none")
    assert len(entries) == 1


def test_with_label_txt_alone_both_lists_are_missing(tmp_path: Path) -> None:
    (tmp_path / "label.txt").write_bytes(LABELS)
    entries, findings = read(tmp_path)
    assert entries == []
    assert [finding.file for finding in findings] == ["train.txt", "val.txt"]
    assert read_dataset(str(tmp_path)).splits == []


def test_a_list_that_cannot_be_read_is_told_and_the_next_one_is_read(tmp_path: Path) -> None:
    write_lists(tmp_path, "")
    (tmp_path / "train.txt").unlink()
    (tmp_path / "train.txt").mkdir()
    entries, [finding] = read(tmp_path)
    assert (finding.code, finding.file, finding.split) == (FindingCode.UNREADABLE_LIST, "train.txt", "train")
    assert "Is a directory" in finding.detail
    assert [entry.split for entry in entries] == ["val"]


def test_the_images_to_test_with_come_last(tmp_path: Path) -> None:
    write_lists(tmp_path, "a.jpg 0\n")
    (tmp_path / "test.txt").write_text("t.jpg 0\n")
    assert read_dataset(str(tmp_path)).splits == ["train", "val", "test"]
    assert [entry.split for entry in read(tmp_path)[0]] == ["train", "val", "test"]


def test_entries_can_be_read_again(tmp_path: Path) -> None:
    write_lists(tmp_path, "a.jpg 0\nb.jpg x\n")
    source = read_dataset(str(tmp_path))
    first, second = (list(source.read(lambda _: None)) for _ in range(2))
    assert first == second
    assert len(first) == 2


def test_a_long_list_does_not_fill_the_memory(tmp_path: Path) -> None:
    write_lists(tmp_path, "images/some_name_of_an_image.jpg 1\n" * 50_000)
    source = read_dataset(str(tmp_path))
    tracemalloc.start()
    assert sum(1 for _ in source.read(lambda _: None)) == 50_001
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("labels", [("007", "07"), ("7", "007"), ("00", "0")])
def test_two_spellings_of_an_id_in_lists_are_never_one(tmp_path: Path, labels: tuple[str, str]) -> None:
    write_lists(tmp_path, f"a.jpg {labels[0]}\n", val=f"b.jpg {labels[1]}\n".encode(), label=b"0 a\n7 b\n")
    entries, findings = read(tmp_path)
    assert len(entries) == 1
    assert codes(findings)[1:] == [(FindingCode.DUPLICATE_CLASS_ID, "val.txt", 1)]


# Lists of PaddleX 2, lists from Windows


def write_texts(root: Path, **texts: str) -> None:
    root.mkdir(exist_ok=True)
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text)


@pytest.mark.parametrize(
    ("label_file", "text"),
    [
        ("labels", "cat\nbig dog\n"),
        ("labels", "0 cat\n1 big dog\n"),
        ("label_list", "0 cat\n1 big dog\n"),
        ("label", "0 cat\n1 big dog\n"),
    ],
)
def test_lists_of_paddlex_2_are_read(tmp_path: Path, label_file: str, text: str) -> None:
    write_texts(tmp_path, train_list="a.jpg 0\nb.jpg 1\n", val_list="c.jpg 1\n", **{label_file: text})
    source = read_dataset(str(tmp_path))
    assert (source.class_names, source.splits) == (["cat", "big dog"], ["train", "val"])
    entries, findings = read(tmp_path)
    assert findings == []
    assert [(entry.where, entry.label) for entry in entries] == [
        ("train_list.txt:1", 0),
        ("train_list.txt:2", 1),
        ("val_list.txt:1", 1),
    ]


def test_faults_of_paddlex_2s_lists_are_told_with_their_names(tmp_path: Path) -> None:
    write_texts(tmp_path, train_list="a.jpg 5\n", labels="cat\n\ncat\n")
    _, findings = read(tmp_path)
    assert codes(findings) == [
        (FindingCode.DUPLICATE_CLASS_NAME, "labels.txt", 3),
        (FindingCode.GAP_IN_IDS, "labels.txt", None),
        (FindingCode.UNREADABLE_LIST, "val_list.txt", None),
        (FindingCode.LABEL_OUT_OF_RANGE, "train_list.txt", 1),
    ]
    assert findings[-1].detail == "5: labels.txt has 2 classes, 0 to 2"


def test_the_usual_lists_go_before_those_of_paddlex_2(tmp_path: Path) -> None:
    write_texts(tmp_path, train="a.jpg 0\n", val="", label="0 cat\n", train_list="b.jpg 0\n", labels="dog\n")
    assert read_dataset(str(tmp_path)).class_names == ["cat"]
    assert [entry.path for entry in read(tmp_path)[0]] == ["a.jpg"]


def test_lists_of_other_programs_beside_class_folders_are_no_lists(tmp_path: Path) -> None:
    write_files(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg")
    write_texts(tmp_path, train_list="cat/1\n")
    assert read_dataset(str(tmp_path)).class_names == ["cat"]
    (tmp_path / "train_list.txt").unlink()
    write_texts(tmp_path, labels="cat\n")
    assert read_dataset(str(tmp_path)).splits == ["train", "val"]


def test_backslashes_part_folders_where_only_that_finds_the_file(tmp_path: Path) -> None:
    write_files(tmp_path, "images/cat/1.jpg", "images/cat/2.jpg", "odd\\name.jpg")
    lines = (
        "images\\cat\\1.jpg 0",
        "images\\cat\\2.jpg 0",
        "images\\cat\\none.jpg 0",
        "odd\\name.jpg 0",
        "images/cat/1.jpg 1",
    )
    write_lists(tmp_path, "\r\n".join(lines), val=b"")
    entries, [finding] = read(tmp_path)
    assert [entry.path for entry in entries] == [
        "images/cat/1.jpg",
        "images/cat/2.jpg",
        "images\\cat\\none.jpg",
        "odd\\name.jpg",
        "images/cat/1.jpg",
    ]
    assert entries[0].uri == f"{tmp_path}/images/cat/1.jpg"
    assert (finding.code, finding.file, finding.line) == (FindingCode.BACKSLASHES, "train.txt", 1)
    assert finding.code.severity is Severity.WARNING
    assert finding.detail.startswith(r"'images\\cat\\1.jpg' is read as 'images/cat/1.jpg', and so is every path where")


def test_backslashes_in_a_table_part_folders_too(tmp_path: Path) -> None:
    write_files(tmp_path, "images/cat/1.jpg")
    path = write_csv(tmp_path, "uri,label", "images\\cat\\1.jpg,cat")
    entries, findings = read(path)
    assert [entry.uri for entry in entries] == [f"{tmp_path}/images/cat/1.jpg"]
    assert codes(findings) == [(FindingCode.BACKSLASHES, "all.csv", 2)]


def test_backslashes_of_lists_on_s3_part_folders(s3: S3Server, bucket: str) -> None:
    contents = {
        "train.txt": b"images\\1.jpg 0\nimages\\2.jpg 0\n",
        "val.txt": b"",
        "label.txt": b"0 cat\n",
        "images/1.jpg": b"x",
    }
    for key, body in contents.items():
        s3.client().put_object(Bucket=bucket, Key=f"set/{key}", Body=body)
    entries, findings = read(f"s3://{bucket}/set")
    # The first object that is found decides for all.
    assert [entry.uri for entry in entries] == [f"s3://{bucket}/set/images/{number}.jpg" for number in (1, 2)]
    assert codes(findings) == [(FindingCode.BACKSLASHES, "train.txt", 1)]


# Class names


@pytest.mark.parametrize(
    "content",
    [
        "0 big cat\n1 猫 头鹰\n",
        "0\tbig cat\n1\t猫 头鹰\n",
        "1 猫 头鹰\n0   big cat  ",
        "\ufeff0 big cat\r\n\r\n01 猫 头鹰\r\n",
    ],
)
def test_class_names_are_read_however_they_are_written(tmp_path: Path, content: str) -> None:
    assert read_names(tmp_path, content) == (["big cat", "猫 头鹰"], [])


def test_the_first_blank_parts_id_and_class_name(tmp_path: Path) -> None:
    assert read_names(tmp_path, "0 big\tcat\n1\tdog 2\n") == (["big\tcat", "dog 2"], [])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("1", FindingCode.BAD_LINE),
        ("1 ", FindingCode.BAD_LINE),
        ("cat", FindingCode.LABEL_NOT_INTEGER),
        ("cat 1", FindingCode.LABEL_NOT_INTEGER),
        ("1.0 cat", FindingCode.LABEL_NOT_INTEGER),
        ("-1 cat", FindingCode.LABEL_NOT_INTEGER),
        ("\u0661 cat", FindingCode.LABEL_NOT_INTEGER),
        ("0 dog", FindingCode.DUPLICATE_CLASS_ID),
        ("1000001 cat", FindingCode.LABEL_OUT_OF_RANGE),
        (f"{10**30} cat", FindingCode.LABEL_OUT_OF_RANGE),
        ("9" * 5000 + " cat", FindingCode.LABEL_OUT_OF_RANGE),
    ],
)
def test_a_bad_line_of_class_names_is_told_and_names_no_class(tmp_path: Path, line: str, code: FindingCode) -> None:
    names, findings = read_names(tmp_path, f"0 owl\n{line}\n")
    assert (names, codes(findings)) == (["owl"], [(code, "label.txt", 2)])


def test_two_classes_of_one_name_are_told_and_stay_two(tmp_path: Path) -> None:
    names, [finding] = read_names(tmp_path, "0 cat\n1 cat\n")
    assert names == ["cat", "cat"]
    assert (finding.code, finding.line, finding.detail) == (FindingCode.DUPLICATE_CLASS_NAME, 2, "'cat' is 0 and 1")
    assert finding.code.severity is Severity.WARNING
    source = read_dataset(str(tmp_path))
    assert [source.class_name(label) for label in range(3)] == ["cat (id 0)", "cat (id 1)", "class 2"]


def test_ids_that_are_left_out_are_told(tmp_path: Path) -> None:
    names, [finding] = read_names(tmp_path, "1 cat\n3 dog\n")
    assert names == [None, "cat", None, "dog"]
    assert (finding.code, finding.detail) == (FindingCode.GAP_IN_IDS, "no class has 0, 2")


def test_of_many_ids_that_are_left_out_the_first_are_told(tmp_path: Path) -> None:
    names, [finding] = read_names(tmp_path, "1000000 cat\n")
    assert len(names) == 1_000_001
    assert finding.detail.endswith("18, 19, …")


def test_a_class_name_that_is_not_utf8_costs_its_line(tmp_path: Path) -> None:
    names, [finding] = read_names(tmp_path, b"0 cat\n1 caf\xe9\n")
    assert (names, finding.code, finding.line) == (["cat"], FindingCode.BAD_LINE, 2)


@pytest.mark.parametrize(
    ("content", "detail"), [(None, "there is none"), (b"", "it names no class"), (b"\n\n", "it names no class")]
)
def test_without_class_names_entries_keep_their_ids(tmp_path: Path, content: bytes | None, detail: str) -> None:
    write_lists(tmp_path, "a.jpg 5\n", label=content)
    entries, [finding] = read(tmp_path)
    assert (finding.code, finding.file, finding.detail) == (FindingCode.UNREADABLE_LABELS, "label.txt", detail)
    assert entries[0].label == 5
    assert read_dataset(str(tmp_path)).class_name(5) == "class 5"


@pytest.mark.parametrize("label", ["-1", "1000001", "99999999999", str(10**30)])
def test_without_class_names_an_id_that_none_can_be_is_out_of_range(tmp_path: Path, label: str) -> None:
    write_lists(tmp_path, f"a.jpg {label}\n", label=None)
    entries, findings = read(tmp_path)
    assert [entry.split for entry in entries] == ["val"]
    assert findings[1].detail == f"{label}: ids are 0 to 1000000"


def test_class_names_in_a_folder_are_unreadable(tmp_path: Path) -> None:
    write_lists(tmp_path, "a.jpg 0\n", label=None)
    (tmp_path / "label.txt").mkdir()
    _, [finding] = read(tmp_path)
    assert finding.code is FindingCode.UNREADABLE_LABELS
    assert "Is a directory" in finding.detail


def test_a_file_that_is_no_list_of_class_names_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_name_files, "_MAX_LABEL_FAULTS", 10)
    names, findings = read_names(tmp_path, "0 cat\n" + "images/a.jpg 0\n" * 50 + "1 dog\n")
    assert (names, len(findings)) == (["cat"], 11)
    assert findings[-1].code is FindingCode.UNREADABLE_LABELS
    assert findings[-1].detail == "10 of its lines are wrong; from line 12 on it was not read"


# Class folders


def write_files(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def test_class_folders_within_splits(tmp_path: Path) -> None:
    write_files(tmp_path, "val/dog/3.jpg", "train/dog/1.jpg", "train/cat/2.png", "test/cat/4.jpg")
    source = read_dataset(str(tmp_path))
    assert (source.label_file, source.class_names, source.splits) == (None, ["cat", "dog"], ["train", "val", "test"])
    entries, findings = read(tmp_path)
    assert findings == []
    assert [entry[:6] for entry in entries] == [
        ("test", "", None, "test/cat/4.jpg", f"{tmp_path}/test/cat/4.jpg", 0),
        ("train", "", None, "train/cat/2.png", f"{tmp_path}/train/cat/2.png", 0),
        ("train", "", None, "train/dog/1.jpg", f"{tmp_path}/train/dog/1.jpg", 1),
        ("val", "", None, "val/dog/3.jpg", f"{tmp_path}/val/dog/3.jpg", 1),
    ]


def test_class_folders_without_splits_are_to_train_with(tmp_path: Path) -> None:
    write_files(tmp_path, "猫/1.jpg", "dog/2.jpg")
    entries, _ = read(tmp_path)
    assert read_dataset(str(tmp_path)).class_names == ["dog", "猫"]
    assert [(entry.split, entry.path, entry.label) for entry in entries] == [
        ("train", "dog/2.jpg", 0),
        ("train", "猫/1.jpg", 1),
    ]


def test_one_class_folder_is_a_dataset(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/1.jpg")
    assert read_dataset(str(tmp_path)).class_names == ["cat"]


def test_folders_within_a_class_are_of_the_class(tmp_path: Path) -> None:
    write_files(tmp_path, "train/cat/indoor/old/1.jpg", "train/dog/2.jpg")
    entries, _ = read(tmp_path)
    assert [(entry.path, entry.label) for entry in entries] == [
        ("train/cat/indoor/old/1.jpg", 0),
        ("train/dog/2.jpg", 1),
    ]


@pytest.mark.parametrize("stray", ["notes.md", "train/classes.csv", ".git/a.jpg", "train/.DS_Store", "raw/eel/a.jpg"])
def test_what_lies_beside_class_folders_is_no_class(tmp_path: Path, stray: str) -> None:
    write_files(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg", stray)
    assert read_dataset(str(tmp_path)).class_names == ["cat"]
    assert [entry.path for entry in read(tmp_path)[0]] == ["train/cat/1.jpg", "val/cat/2.jpg"]


@pytest.mark.parametrize(
    ("folder", "split", "name"),
    [
        ("train/empty", "train", "empty"),
        ("val/empty/deeper", "val", "empty"),
        ("train/猫", "train", "猫"),
        ("train/\udce9", "train", r"\udce9"),
    ],
)
def test_an_empty_class_folder_is_no_class_and_is_told(tmp_path: Path, folder: str, split: str, name: str) -> None:
    write_files(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg")
    (tmp_path / folder).mkdir(parents=True)
    source = read_dataset(str(tmp_path))
    assert source.class_names == ["cat"]
    assert [(f.code, f.split, f.class_name, f.detail) for f in source.findings] == [
        (
            FindingCode.CLASS_WITHOUT_IMAGES,
            split,
            name,
            f"the folder {split}/{name} holds no image, so it is no class",
        )
    ]


@pytest.mark.parametrize("folder", ["val/cat", "raw/empty", ".cache", "train/.cache"])
def test_an_empty_folder_that_is_none_of_a_class_of_its_own_is_not_told(tmp_path: Path, folder: str) -> None:
    write_files(tmp_path, "train/cat/1.jpg", "val/dog/2.jpg")
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "train" / "loop").symlink_to("loop")
    assert read_dataset(str(tmp_path)).findings == []


def test_an_empty_folder_beside_class_folders_without_splits_is_told(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/1.jpg")
    (tmp_path / "dog").mkdir()
    [finding] = read_dataset(str(tmp_path)).findings
    assert (finding.split, finding.class_name) == ("train", "dog")


@pytest.mark.parametrize("folder", ["output", "runs/monday", "cat"])
def test_an_earlier_report_within_the_dataset_is_no_class_and_no_image(tmp_path: Path, folder: str) -> None:
    report = (f"{folder}/{SAMPLES_FOLDER}/train_00_a.jpg", f"{folder}/{HISTOGRAM_NAME}")
    write_files(tmp_path, "cat/1.jpg", *report)
    assert read_dataset(str(tmp_path)).class_names == ["cat"]
    assert [entry.path for entry in read(tmp_path)[0]] == ["cat/1.jpg"]


def test_an_image_without_an_ending_is_one(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/1", "cat/2.jpg.part")
    assert len(read(tmp_path)[0]) == 2


def test_names_that_are_not_utf8_are_written_as_text_and_lead_to_the_image(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xff.jpg", "wb"):
        pass
    [entry], _ = read(tmp_path)
    assert read_dataset(str(tmp_path)).class_names == [r"caf\udce9"]
    assert entry.path == r"caf\udce9/\udcff.jpg"
    assert entry.uri == f"file://{tmp_path}/caf%E9/%FF.jpg"


@pytest.mark.parametrize("spell", [lambda root: f"{root}/", lambda root: f"{root}//", lambda root: f"file://{root}/"])
def test_however_the_folder_of_classes_is_spelled_paths_are_within_it(
    tmp_path: Path, spell: Callable[[Path], str]
) -> None:
    write_files(tmp_path, "cat/1.jpg")
    entries, _ = read(spell(tmp_path))
    assert [entry.path for entry in entries] == ["cat/1.jpg"]


@pytest.mark.parametrize(
    "paths", [(), ("a.jpg", "b.jpg"), ("notes/readme.md",), ("train/a.jpg", "val/b.jpg"), ("train/a.jpg",)]
)
def test_a_folder_without_lists_and_class_folders_is_refused(tmp_path: Path, paths: tuple[str, ...]) -> None:
    write_files(tmp_path, *paths)
    with pytest.raises(InputError, match=r"no dataset of a known kind; it has neither train\.txt"):
        read_dataset(str(tmp_path))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder; a dataset is a folder, or"):
        read_dataset(str(tmp_path / "none"))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.xlsx").write_bytes(b"")
    with pytest.raises(InputError, match="there is no such folder"):
        read_dataset(str(tmp_path / "data.xlsx"))


# Tables


def write_csv(folder: Path, *lines: str) -> Path:
    path = folder / "all.csv"
    path.write_text("\n".join(lines), newline="")
    return path


def write_parquet(folder: Path, **columns: list[Any]) -> Path:
    path = folder / "all.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_whole_numbers_in_a_table_are_class_ids(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "uri,label,split", "a.jpg,1,train", "b.jpg,0,val", "c.jpg,1,")
    assert read_dataset(str(path)).class_names == ["0", "1"]
    entries, findings = read(path)
    assert findings == []
    assert [entry[:6] for entry in entries] == [
        ("train", "all.csv", 2, "a.jpg", f"{tmp_path}/a.jpg", 1),
        ("val", "all.csv", 3, "b.jpg", f"{tmp_path}/b.jpg", 0),
        ("train", "all.csv", 4, "c.jpg", f"{tmp_path}/c.jpg", 1),
    ]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["007", "07", "7"], ["007", "07", "7"]),
        (["1", "0", "01"], ["0", "01", "1"]),
        (["0", "+1"], ["+1", "0"]),
        (["0", "-0"], ["-0", "0"]),
        (["10", "9", "1.0"], ["1.0", "10", "9"]),
    ],
)
def test_labels_of_a_table_are_names_unless_all_are_numbers_as_one_writes_them(
    tmp_path: Path, labels: list[str], names: list[str]
) -> None:
    path = write_csv(tmp_path, "uri,label", *(f"{number}.jpg,{label}" for number, label in enumerate(labels)))
    assert read_dataset(str(path)).class_names == names
    entries, findings = read(path)
    assert findings == []
    assert [names[entry.label] for entry in entries] == labels


@pytest.mark.parametrize(
    ("words", "splits"),
    [
        (["Train", "VAL", "test", "TRAIN"], ["train", "val", "test", "train"]),
        (["training", "Validation", "Testing", "Training "], ["train", "val", "test", "train"]),
        (["train", "dev", "", "Dev"], ["train", "val", "train", "val"]),
    ],
)
def test_splits_of_a_table_have_the_names_that_people_give_them(
    tmp_path: Path, words: list[str], splits: list[str]
) -> None:
    path = write_csv(tmp_path, "uri,label,split", *(f"{number}.jpg,a,{word}" for number, word in enumerate(words)))
    entries, findings = read(path)
    assert ([entry.split for entry in entries], findings) == (splits, [])


def test_two_words_for_one_split_in_a_table_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "uri,label,split", "a.jpg,a,val", "b.jpg,a,Valid")
    with pytest.raises(
        InputError, match=r"all\.csv:3: the column split has 'valid' here and 'val' before, and both mean"
    ):
        read_dataset(str(path))


def test_names_in_a_table_get_ids_in_their_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "label,uri", "owl,a.jpg", "1,b.jpg", "猫,c.jpg", "owl,d.jpg")
    assert read_dataset(str(path)).class_names == ["1", "owl", "猫"]
    assert [entry.label for entry in read(path)[0]] == [1, 0, 2, 1]


def test_a_parquet_table_is_read_like_a_csv(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, uri=["a.jpg", "s3://b/c.jpg"], label=[1, 0], split=["val", None], more=[b"", b""])
    entries, findings = read(path)
    assert findings == []
    assert [(entry.split, entry.line, entry.uri, entry.label) for entry in entries] == [
        ("val", 1, f"{tmp_path}/a.jpg", 1),
        ("train", 2, "s3://b/c.jpg", 0),
    ]
    assert read_dataset(str(path)).splits == ["train", "val"]


def test_ids_that_a_table_leaves_out_are_told(tmp_path: Path) -> None:
    source = read_dataset(str(write_csv(tmp_path, "uri,label", "a.jpg,0", "b.jpg,2")))
    assert source.class_names == ["0", None, "2"]
    assert [(finding.code, finding.detail) for finding in source.findings] == [
        (FindingCode.GAP_IN_IDS, "no class has 1")
    ]


def test_a_negative_id_in_a_table_is_out_of_range(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "uri,label", "a.jpg,0", "b.jpg,-1")
    assert read_dataset(str(path)).class_names == ["0"]
    entries, findings = read(path)
    assert [entry.path for entry in entries] == ["a.jpg"]
    assert codes(findings) == [(FindingCode.LABEL_OUT_OF_RANGE, "all.csv", 3)]


def test_numbers_that_are_too_large_for_ids_are_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "uri,label", "a.jpg,5000000000", "b.jpg,0")
    assert read_dataset(str(path)).class_names == ["0", "5000000000"]


@pytest.mark.parametrize(
    "row",
    [
        {"uri": None, "label": 1},
        {"uri": "", "label": 1},
        {"uri": "x.jpg", "label": None},
        {"uri": "x.jpg", "label": math.nan},
        {"uri": "x.jpg", "label": ""},
    ],
    ids=repr,
)
def test_a_row_with_an_empty_cell_is_bad_and_makes_no_class(tmp_path: Path, row: dict[str, Any]) -> None:
    path = write_parquet(tmp_path, uri=[row["uri"]], label=[row["label"]])
    entries, findings = read(path)
    assert (entries, codes(findings)) == ([], [(FindingCode.BAD_LINE, "all.parquet", 1)])
    assert read_dataset(str(path)).class_names == []


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg,", ",1", "a,b.jpg,1,train"])
def test_a_line_of_a_table_with_too_little_or_too_much_is_bad(tmp_path: Path, line: str) -> None:
    path = write_csv(tmp_path, "uri,label,split", "x.jpg,1,train", line)
    entries, findings = read(path)
    assert [entry.path for entry in entries] == ["x.jpg"]
    assert [(finding.code, finding.line) for finding in findings if finding.line] == [(FindingCode.BAD_LINE, 3)]


def test_another_split_is_told_and_makes_no_class(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "uri,label,split", "a.jpg,cat,train", "b.jpg,dog,holdout")
    source = read_dataset(str(path))
    assert (source.class_names, source.splits) == (["cat"], ["train"])
    _, [finding] = read(path)
    assert (finding.code, finding.line) == (FindingCode.BAD_LINE, 3)
    assert finding.detail == "the split 'holdout' is none of train, val and test"


def test_a_quoted_path_of_a_table_may_hold_anything(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "\ufeffuri,label\r", '"a, ""b"".jpg",0\r', '"c\nd.jpg",0\r', "e.jpg,0")
    assert [(entry.path, entry.line) for entry in read(path)[0]] == [('a, "b".jpg', 2), ("c\nd.jpg", 4), ("e.jpg", 5)]


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("uri,split", "has no column label, it has uri, split; it needs uri, label and maybe split"),
        ("path,label", "has no column uri, it has path, label; it needs uri, label and maybe split"),
        ("a|b", "has no column uri and no column label, it has a|b; it needs uri, label and maybe split"),
        ("uri,label,label", "has the column label twice, as 'label' and 'label'; leave one of them"),
        ("uri,label,Split,SPLIT ", "has the column split twice, as 'Split' and 'SPLIT '; leave one of them"),
        ("", "is empty; the first line of a table names its columns: uri, label and maybe split"),
        ("\n \n", "is empty; the first line of a table names its columns: uri, label and maybe split"),
    ],
)
def test_a_table_without_its_columns_is_refused(tmp_path: Path, header: str, told: str) -> None:
    path = write_csv(tmp_path, header)
    with pytest.raises(InputError) as caught:
        read_dataset(str(path))
    assert str(caught.value) == f"{path}: {told}"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["uri,label, split", "a.jpg, cat, val"], id="a blank before the name"),
        pytest.param(["URI,Label,Split ", "a.jpg,cat,val"], id="another case"),
        pytest.param(["uri,label,Label,split", "a.jpg,cat,dog,val"], id="another case beside the name"),
        pytest.param(["uri;label;split", "a.jpg;cat;val"], id="Excel's semicolons"),
        pytest.param(["uri\tlabel\tsplit", "a.jpg\tcat\tval"], id="tabs"),
        pytest.param(["", " ", "uri,label,split", "a.jpg,cat,val"], id="empty lines before"),
        pytest.param(["uri,label,split", "a.jpg,cat,val,"], id="a comma behind"),
    ],
)
def test_the_head_of_a_table_is_read_however_it_is_written(tmp_path: Path, lines: list[str]) -> None:
    path = write_csv(tmp_path, *lines)
    entries, findings = read(path)
    assert findings == []
    assert [(entry.path, entry.split, entry.line) for entry in entries] == [("a.jpg", "val", len(lines))]
    assert read_dataset(str(path)).class_names == ["cat"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a,b.jpg,1,train", "it has 4 values for 3 columns (uri, label, split)"),
        ("a.jpg", "label is empty"),
        (",", "uri and label are empty"),
    ],
)
def test_a_bad_line_of_a_table_says_what_is_wrong(tmp_path: Path, line: str, told: str) -> None:
    assert [finding.detail for finding in read(write_csv(tmp_path, "uri,label,split", line))[1]] == [told]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([b"cat", b"dog", None], ["cat", "dog"]),
        ([10.0, 2.0, math.nan], [None, None, "2", *[None] * 7, "10"]),
        ([1.5, 2.0], ["1.5", "2.0"]),
        ([True, False], ["False", "True"]),
        (pa.array(["b", "a"]).dictionary_encode(), ["a", "b"]),
        (pa.array([1, 0], pa.uint8()), ["0", "1"]),
    ],
    ids=["bytes", "floats", "fractions", "booleans", "a dictionary", "uint8"],
)
def test_labels_of_a_parquet_table_are_texts_and_whole_numbers(
    tmp_path: Path, labels: list[Any], names: list[str | None]
) -> None:
    path = write_parquet(tmp_path, URI=[f"{number}.jpg" for number in range(len(labels))], label=labels)
    assert read_dataset(str(path)).class_names == names


def test_whole_numbers_that_pandas_wrote_as_floats_are_ids(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "uri,label", "a.jpg,10.0", "b.jpg,2.0", "c.jpg,")
    assert [entry.label for entry in read(path)[0]] == [10, 2]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"uri": ["a"], "label": [["a"]]}, r"'label' is of type list<.*>; it needs texts or whole numbers"),
        ({"uri": ["a"], "label": [{"x": 1}]}, r"'label' is of type struct<.*>; it needs texts or whole numbers"),
        ({"uri": [7], "label": [1]}, "'uri' is of type int64; it needs texts"),
        ({"uri": ["a"], "label": [1], "Split": [1]}, "'Split' is of type int64; it needs texts"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, columns: dict[str, list[Any]], told: str) -> None:
    with pytest.raises(InputError, match=f"all.parquet: the column {told}$"):
        read_dataset(str(write_parquet(tmp_path, **columns)))


def test_bytes_of_a_table_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"all\.parquet: row 2: b'\\xff' is not UTF-8"):
        read_dataset(str(write_parquet(tmp_path, uri=["a", "b"], label=[b"x", b"\xff"])))


def test_a_table_in_utf_16_is_refused_with_the_command_that_saves_it(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text("uri,label\na.jpg,cat\n", encoding="utf-16")
    with pytest.raises(
        InputError, match=r"all\.csv: is UTF-16, .* `iconv -f UTF-16LE -t UTF-8 all\.csv > utf8-all\.csv`"
    ):
        read_dataset(str(path))


def test_a_table_without_rows_has_no_class(tmp_path: Path) -> None:
    source = read_dataset(str(write_csv(tmp_path, "uri,label")))
    assert (source.class_names, source.splits) == ([], [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("all.parquet", b""),
        ("all.parquet", b"uri,label\na.jpg,1\n"),
        ("all.parquet", b"PAR1" + b"\xff" * 40 + b"PAR1"),
        ("all.csv", b"uri,label\ncaf\xe9.jpg,1\n"),
        ("all.csv", b'uri,label\n"a.jpg,1\nb.jpg,1\n'),
        ("all.csv", b"uri,label\n" + b"x" * 200_000 + b",1\n"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a table: "):
        read_dataset(str(tmp_path / name))


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_dataset(str(tmp_path / "all.csv"))


def test_a_column_with_more_labels_than_there_can_be_classes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_CLASS_ID", 2)
    path = write_csv(tmp_path, "uri,label", "a.jpg,a", "b.jpg,b", "c.jpg,c")
    with pytest.raises(InputError, match="more than 2 different labels"):
        read_dataset(str(path))


def test_a_folder_may_be_called_like_a_table(tmp_path: Path) -> None:
    write_lists(tmp_path / "set.csv", "a.jpg 0\n")
    assert len(read(tmp_path / "set.csv")[0]) == 2


def test_litter_of_systems_is_no_class_and_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (
        *("train/cat/0.jpg", "train/dog/0.jpg", "val/cat/1.jpg", "val/dog/1.jpg"),
        *("Thumbs.db", "train/cat/Thumbs.db", "train/dog/desktop.ini", "val/dog/1.xmp", "train/cat/._0.jpg"),
        *("@eaDir/cat/x.jpg", "train/@eaDir/x.jpg", "__MACOSX/train/cat/x.jpg", "train/#recycle/x.jpg"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "train" / "$RECYCLE.BIN").mkdir()
    with caplog.at_level("INFO"):
        source = read_dataset(str(tmp_path))
    entries = [(entry.split, entry.path) for entry in source.read(lambda finding: pytest.fail(str(finding)))]
    assert source.class_names == ["cat", "dog"]
    assert source.findings == []
    assert sorted(entries) == [(s, f"{s}/{c}/{n}.jpg") for s, n in (("train", 0), ("val", 1)) for c in ("cat", "dog")]
    assert caplog.messages == [
        f"{tmp_path}: left out: 9 by their names: 2 @eaDir/, 2 Thumbs.db, 1 #recycle/, 1 $RECYCLE.BIN/, 1 *.xmp, "
        "1 __MACOSX/, 1 desktop.ini",
        f"{tmp_path}: left out: 1 names that begin with a dot",
    ]


def test_class_folders_that_cannot_be_listed_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat/0.jpg", "dog/0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("/dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="1 folder of the input cannot be listed"):
        read_dataset(str(tmp_path))
