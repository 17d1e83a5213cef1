"""Lists as other programs and editors leave them: nothing of them is taken for something else, or passed over."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, cast

import pytest

from imgcls_ray.datasets import list_lines
from imgcls_ray.datasets.findings import FindingCode
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.datasets.split import split_dataset
from imgcls_ray.errors import InputError
from tests.datasets.make_folders import write
from tests.datasets.test_source import codes, read, write_files, write_lists, write_texts

if TYPE_CHECKING:
    from pathlib import Path

TRAIN, VAL = "images/cat/1.jpg 0\nimages/dog/2.jpg 1\n", "images/cat/3.jpg 0\nimages/dog/4.jpg 1\n"


def read_labels(root: Path, text: str) -> tuple[list[str | None], list[tuple[FindingCode, str, int | None]]]:
    write_texts(root, train_list="", val_list="", labels=text)
    source = read_dataset(str(root))
    return source.class_names, codes(source.findings)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1 dog\n0 cat\nbird\n", FindingCode.LABEL_NOT_INTEGER),
        ("0 cat\n1 dog\n2\n", FindingCode.BAD_LINE),
        ("0,cat\n1,dog\nbird,2\n", FindingCode.LABEL_NOT_INTEGER),
    ],
)
def test_where_at_least_half_of_the_lines_have_an_id_the_others_lack_it(
    tmp_path: Path, text: str, code: FindingCode
) -> None:
    assert read_labels(tmp_path, text) == (["cat", "dog"], [(code, "labels.txt", 3)])


def test_id_and_name_may_be_separated_by_a_comma(tmp_path: Path) -> None:
    assert read_labels(tmp_path, '0,cat\n1, "big, dog"\n2,a, b\n') == (["cat", "big, dog", "a, b"], [])


@pytest.mark.parametrize(
    "text",
    ["0: cat\n1: dog\n", "cat 0\ndog 1\n", "cat,1\ndog,2\n", "names:\n  0: cat\n  1: dog\n", "nc: 1\nnames: [cat]\n"],
)
def test_lines_of_other_forms_are_no_names(tmp_path: Path, text: str) -> None:
    write_texts(tmp_path, train_list="", val_list="", labels=text)
    source = read_dataset(str(tmp_path))
    first = text.partition("\n")[0]
    assert source.class_names == []
    assert [finding.text for finding in source.findings] == [
        f"labels.txt: the file of class names cannot be read (it has lines like {first!r}; write `id name`, or a name "
        "alone, in each line)"
    ]


@pytest.mark.parametrize("text", ["type 1\ntype 2\n", "3 cats\ndog\n", "Boeing 737\nA 320\n", "cat 0\n"])
def test_names_may_have_numbers(tmp_path: Path, text: str) -> None:
    assert read_labels(tmp_path, text) == (text.splitlines(), [])


def test_lists_are_found_in_any_case_and_split_keeps_them(tmp_path: Path) -> None:
    write_files(tmp_path, *(line.split()[0] for line in f"{TRAIN}{VAL}".splitlines()))
    write_texts(tmp_path, Train=TRAIN, VAL=VAL, Label="0 cat\n1 dog\n")
    source = read_dataset(str(tmp_path))
    assert (source.class_names, source.splits) == (["cat", "dog"], ["train", "val"])
    assert [entry.where for entry in read(tmp_path)[0]] == ["Train.txt:1", "Train.txt:2", "VAL.txt:1", "VAL.txt:2"]
    report = split_dataset(str(tmp_path), train_percent=50, val_percent=50)
    assert report.backups == {"Train.txt": "Train.txt.bak", "VAL.txt": "VAL.txt.bak"}
    assert (tmp_path / "Train.txt.bak").read_text() == TRAIN
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["Label.txt", "Train.txt", "VAL.txt"]


def test_lists_whose_names_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    write_lists(tmp_path, TRAIN)
    write_texts(tmp_path, Train=TRAIN)
    with pytest.raises(InputError, match=r": has Train\.txt and train\.txt, which differ only in case; remove one"):
        read_dataset(str(tmp_path))


@pytest.mark.parametrize("images", ["images/cat/1.jpg", "train/1.jpg"])
def test_lists_without_class_names_are_refused_and_not_passed_over(tmp_path: Path, images: str) -> None:
    data = write(tmp_path, images, "images/dog/2.jpg")
    write_texts(tmp_path, train_list=TRAIN, val_list=VAL, flowers_label_list="0 cat\n1 dog\n")
    with pytest.raises(InputError) as caught:
        read_dataset(data)
    assert str(caught.value) == (
        f"{data}: train_list.txt, val_list.txt: not read, because there is no file of class names; rename it to "
        "labels.txt (one name, or `id name`, in each line), or give split_folders=none if the first folders are the "
        "classes and there are no splits"
    )


def test_lists_that_are_not_read_beside_known_splits_are_told(tmp_path: Path) -> None:
    data = write(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg")
    write_texts(tmp_path, train_list=TRAIN)
    note = "train_list.txt: not read, because there is no file of class names"
    assert read_dataset(data).notes == [note]
    assert read_dataset(data, split_folders={}).notes == [note]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_lists_in_utf_16_are_told_once(tmp_path: Path, encoding: str) -> None:
    write_lists(tmp_path, TRAIN.encode(encoding), label="0 cat\r\n1 dog\r\n".encode(encoding))
    _, findings = read(tmp_path)
    assert codes(findings) == [
        (FindingCode.UNREADABLE_LABELS, "label.txt", None),
        (FindingCode.UNREADABLE_LIST, "train.txt", None),
    ]
    for finding in findings:
        assert "lists are read as UTF-8; save it as UTF-8, e.g. with `iconv -f UTF-" in finding.detail
        assert finding.detail.endswith(f"{finding.file} > utf8-{finding.file}`, and call that {finding.file}")


class _Object(io.RawIOBase):
    """Answers each read like an object storage: with a request of its own."""

    def __init__(self, content: bytes) -> None:
        self._content, self.num_requests = io.BytesIO(content), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._content.seek(offset, whence)

    def tell(self) -> int:
        return self._content.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.num_requests += 1
        return self._content.readinto(buffer)


def test_a_list_on_object_storage_takes_a_request_for_each_mebibyte() -> None:
    opened = _Object(b"a.jpg 0\n" * 200_000)
    assert sum(1 for _ in list_lines.list_lines(cast("BinaryIO", opened), "train.txt")) == 200_000
    assert opened.num_requests <= 4
