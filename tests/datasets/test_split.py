"""A split loses nothing, doubles nothing, keeps every class's shares, and never loses a list that it replaces."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from imgcls_ray import cli
from imgcls_ray.datasets import rewrite
from imgcls_ray.datasets.rewrite_local import JOURNAL
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.datasets.split import split_dataset
from imgcls_ray.errors import InputError, StorageError, UsageError
from imgcls_ray.storage.local import LocalDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


def lines_of(images: dict[str, int]) -> list[str]:
    return [f"{path} {class_id}\n" for path, class_id in images.items()]


def some_images(num_per_class: Iterable[int]) -> dict[str, int]:
    return {f"images/{c}_{i}.jpg": c for c, num in enumerate(num_per_class) for i in range(num)}


def make_lists(folder: Path, **lists: str | list[str] | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in lists.items():
        content = text if isinstance(text, bytes) else "".join(text).encode()
        (folder / f"{name}.txt").write_bytes(content)
    return folder


def read_list(path: Path) -> dict[str, int]:
    """Strictly what is to be written: ``path<space>id``, LF, UTF-8; no path twice."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    assert b"\r" not in data
    pairs = [line.rsplit(" ", 1) for line in data.decode().removesuffix("\n").split("\n")]
    images = {name: int(class_id) for name, class_id in pairs}
    assert len(images) == len(pairs)
    return images


def read_splits(folder: Path) -> dict[str, dict[str, int]]:
    return {
        name: read_list(folder / f"{name}.txt")
        for name in ("train", "val", "test")
        if (folder / f"{name}.txt").exists()
    }


def pooled(folder: Path) -> dict[str, int]:
    """All images; none may be in two splits."""
    splits = read_splits(folder)
    images = {path: class_id for split in splits.values() for path, class_id in split.items()}
    assert len(images) == sum(map(len, splits.values()))
    return images


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def split(folder: Path, train: float = 80, val: float = 20, test: float = 0, **options: object) -> object:
    return split_dataset(
        str(folder),
        train_percent=train,
        val_percent=val,
        test_percent=test,
        **options,  # type: ignore[arg-type]
    )


def assert_refused(folder: Path, message: str, **options: object) -> None:
    """With the message, and with nothing written."""
    before = files_of(folder)
    with pytest.raises(UsageError, match=message):
        split(folder, **options)  # type: ignore[arg-type]
    assert files_of(folder) == before


# Reading


def test_all_lists_are_pooled_and_split_anew(tmp_path: Path) -> None:
    images = some_images([10, 20])
    lines = lines_of(images)
    folder = make_lists(tmp_path, train=lines[:5], val=lines[5:20], test=lines[20:])
    split(folder, 80, 10, 10)
    assert pooled(folder) == images
    assert {name: len(part) for name, part in read_splits(folder).items()} == {"train": 24, "val": 3, "test": 3}


def test_a_missing_final_newline_glues_no_records(tmp_path: Path) -> None:
    images = some_images([5, 5])
    lines = lines_of(images)
    folder = make_lists(tmp_path, train="".join(lines[:6]).rstrip("\n"), val="".join(lines[6:]).rstrip("\n"))
    split(folder)
    assert pooled(folder) == images


@pytest.mark.parametrize(
    "path",
    ["a b.jpg", "a  b 1.jpg", "a\tb.jpg", "# no comment.jpg", "图片/花 1.jpg", "é\u2028x.jpg", "a 7", "a\x0bb.jpg"],
)
@pytest.mark.parametrize("delimiter", [" ", "\t", " \t  "])
def test_odd_paths_stay_as_they_are(tmp_path: Path, path: str, delimiter: str) -> None:
    folder = make_lists(tmp_path, train=[f"{path}{delimiter}0\n", "x.jpg 0\n"])
    split(folder)
    assert pooled(folder) == {path: 0, "x.jpg": 0}


def test_crlf_bom_blank_lines_and_spaces_at_the_end_are_no_part_of_a_path(tmp_path: Path) -> None:
    folder = make_lists(
        tmp_path, train=b"\xef\xbb\xbfa.jpg 0\r\n\r\nb.jpg 0\r\n", val=b"\xef\xbb\xbfc.jpg 0 \t\r\n  \n"
    )
    split(folder)
    assert pooled(folder) == {"a.jpg": 0, "b.jpg": 0, "c.jpg": 0}


def refused_by_check(folder: Path, delimiter: str | None = None) -> str:
    """The first error that a check of the same folder tells, as text; nothing without any."""
    source = read_dataset(str(folder), delimiter=delimiter)
    findings = list(source.findings)
    for _ in source.read(findings.append):
        pass
    # A list that is not there is what a split makes.
    errors = [finding for finding in findings if finding.code.severity == "error" and finding.detail != "there is none"]
    return errors[0].text if errors else ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.jpg", "the line is not a path and a class id"),
        (" 1", "the line is not a path and a class id"),
        ("b.jpg ", "the line is not a path and a class id"),
        ("b" * 70_000 + " 1", "the line is not a path and a class id"),
        ("b.jpg x", "the class id is not a whole number"),
        ("b.jpg 1.5", "the class id is not a whole number"),
        ("b.jpg ²", "the class id is not a whole number"),
        ("b.jpg \u0661", "the class id is not a whole number"),
        ("b.jpg -1", "no class has this id"),
        ("b 1234567890", "no class has this id"),
        ("b.jpg,1", "path and class id are not parted by a space or a tab"),
    ],
)
def test_a_bad_line_is_refused_with_its_place_and_the_words_of_check(tmp_path: Path, line: str, message: str) -> None:
    folder = make_lists(tmp_path, train="a.jpg 0\n", val=f"c.jpg 0\n\n{line}\nd.jpg 0\n")
    assert refused_by_check(folder).startswith(f"val.txt:3: {message} (")
    assert_refused(folder, f": {re.escape(refused_by_check(folder))}; .*`imgcls check {folder}` lists every fault")


def test_a_list_in_another_encoding_is_refused_with_its_place(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train=b"a.jpg 0\n" + "花朵.jpg 0\n".encode("gbk"))
    assert_refused(folder, r"train\.txt:2: .* is not UTF-8")


@pytest.mark.parametrize("class_id", ["+0", "-0"])
def test_a_class_id_is_what_check_takes_for_one(tmp_path: Path, class_id: str) -> None:
    folder = make_lists(tmp_path, train=f"1.jpg {class_id}\n2.jpg 0\n")
    assert refused_by_check(folder) == ""
    split(folder)
    assert pooled(folder) == {"1.jpg": 0, "2.jpg": 0}


def test_two_spellings_of_a_class_id_are_refused(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train="1.jpg 00\n2.jpg 0\n")
    assert_refused(folder, r"train\.txt:2: two classes have the same id \('0' here and '00' before are one id; write")


def test_two_classes_of_one_name_are_split(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([5, 5])), label=b"0 crane\n1 crane\n")
    split(folder)
    assert sorted(pooled(folder).values()) == [0] * 5 + [1] * 5


@pytest.mark.parametrize("end", [b"\r\n", b"\r\r\n", b" \t\r\n", b"\n\xe3\x80\x80\n"])
def test_lines_end_where_they_end_for_check(tmp_path: Path, end: bytes) -> None:
    folder = make_lists(tmp_path, train=b"a.jpg 0" + end + b"b.jpg 0" + end)
    assert refused_by_check(folder) == ""
    split(folder)
    assert pooled(folder) == {"a.jpg": 0, "b.jpg": 0}


@pytest.mark.parametrize(
    "path", [" a.jpg", "\u3000a.jpg", "a\rb.jpg", "a.jpg\xa0", "a\0b.jpg", "/data/a.jpg", "../a.jpg"]
)
def test_whatever_path_check_reads_comes_back_as_it_was(tmp_path: Path, path: str) -> None:
    folder = make_lists(tmp_path, train=["x.jpg 0\n", f"{path} 0\n"])
    before = paths_of(folder)
    split(folder)
    assert sorted(paths_of(folder)) == sorted(before) == sorted(["x.jpg", path])


def paths_of(folder: Path) -> list[str]:
    return [entry.path for entry in read_dataset(str(folder)).read(lambda _: None)]


def test_a_path_that_would_not_come_back_is_refused(tmp_path: Path) -> None:
    # As the first line of a list it would lose its mark.
    folder = make_lists(tmp_path, train=["x.jpg 0\n", "\ufeffa.jpg 0\n"])
    assert_refused(folder, r"train\.txt:2: the name .* cannot stand in a list")


def test_a_given_delimiter_is_read_and_written(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train="a b.jpg,0\nc,d.jpg , 0\n", val="e 1.jpg,0\n")
    report = split_dataset(str(folder), train_percent=50, val_percent=50, delimiter=",")
    assert sum(report.num_images.values()) == 3
    assert refused_by_check(folder, ",") == ""
    lines = [line for name in ("train", "val") for line in (folder / f"{name}.txt").read_text().splitlines()]
    assert sorted(lines) == ["a b.jpg,0", "c,d.jpg,0", "e 1.jpg,0"]


def test_lists_beside_class_folders_get_the_delimiter(tmp_path: Path) -> None:
    folder = make_images(tmp_path, "a b/1 x.jpg", "a b/2.jpg")
    split_dataset(str(folder), train_percent=50, val_percent=50, delimiter="::")
    lines = [(folder / f"{name}.txt").read_text() for name in ("train", "val")]
    assert sorted(lines) == ["a b/1 x.jpg::0\n", "a b/2.jpg::0\n"]
    assert (folder / "label.txt").read_text() == "0 a b\n"


@pytest.mark.parametrize("delimiter", ["0", "\n", "\udcff"])
def test_a_delimiter_that_would_not_be_read_back_is_refused(tmp_path: Path, delimiter: str) -> None:
    folder = make_images(tmp_path, "a/1.jpg", "a/2.jpg")
    assert_refused(folder, "cannot stand in a list", delimiter=delimiter)


def test_an_empty_delimiter_is_refused(tmp_path: Path) -> None:
    assert_refused(make_lists(tmp_path, train="a.jpg 0\nb.jpg 0\n"), "delimiter must not be empty", delimiter="")


def test_a_line_of_another_delimiter_names_the_key(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train="a.jpg,0\nb.jpg,0\n")
    assert_refused(folder, r"train\.txt:1: .*give delimiter, e\.g\. ','")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (b"0 cat\n", "no class has this id"),
        (b"0 cat\n1\n", "the line is not a path and a class id"),
        (b"0 cat\n1 dog\n1 owl\n", "two classes have the same id"),
        (b"", "the file of class names cannot be read"),
    ],
)
def test_a_fault_of_the_class_names_is_refused_as_check_tells_it(tmp_path: Path, label: bytes, message: str) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([5, 5])), label=label)
    assert message in refused_by_check(folder)
    assert_refused(folder, f": {re.escape(refused_by_check(folder))}")


def test_class_names_stay_as_they_are_and_name_the_classes(tmp_path: Path) -> None:
    label = "\ufeff1 dog\r\n0 big cat\r\n2 owl".encode()
    folder = make_lists(tmp_path, train=lines_of(some_images([9, 2])), label=label)
    assert_refused(folder, r"too few has dog \(2\)", train=80, val=10, test=10)
    report = split_dataset(str(folder), train_percent=50, val_percent=50)
    assert report.deviation.class_name in ("big cat", "dog")
    assert (folder / "label.txt").read_bytes() == label


def test_a_list_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([10])))
    (folder / "val.txt").symlink_to("gone.txt")
    assert_refused(folder, "the list cannot be read .*No such file")
    assert (folder / "val.txt").is_symlink()


def test_an_image_listed_again_is_kept_once_and_said_so(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train="a.jpg 0\nb.jpg 0\na.jpg 0\n", val="a.jpg\t0\n./b.jpg 0\nc.jpg 0\n")
    report = split_dataset(str(folder), train_percent=50, val_percent=50)
    assert pooled(folder).keys() in ({"a.jpg", "b.jpg", "c.jpg"}, {"a.jpg", "./b.jpg", "c.jpg"})
    assert report.num_duplicates == 3


def test_however_an_image_is_spelled_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "far" / "folder").mkdir(parents=True)
    folder = make_lists(tmp_path / "data", train="")
    (folder / "link").symlink_to("../far/folder")
    spellings = ["a.jpg", "./a.jpg", "sub/../a.jpg", f"{folder}/a.jpg", f"{tmp_path}/data/./a.jpg"]
    # What is behind a link and two dots is where the system goes.
    others = ["link/../b.jpg", "../far/b.jpg"]
    (folder / "train.txt").write_text("".join(f"{path} 0\n" for path in [*spellings, *others]))
    report = split_dataset(str(folder), train_percent=50, val_percent=50)
    assert report.num_duplicates == 5
    assert len(pooled(folder)) == 2


@pytest.mark.parametrize("again", ["a.jpg", "./a.jpg"])
def test_an_image_of_two_classes_is_refused_with_both_places(tmp_path: Path, again: str) -> None:
    folder = make_lists(tmp_path, train="b.jpg 0\na.jpg 0\n", val=f"c.jpg 1\n{again} 1\n")
    assert_refused(folder, r"val\.txt:2: (\./)?a\.jpg is of class 1 here and of class 0 in train\.txt:2")


def test_lists_without_a_line_are_refused(tmp_path: Path) -> None:
    assert_refused(make_lists(tmp_path, train="\n", val=""), "no image in train.txt, val.txt")


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, r"no dataset of a known kind; it has neither train\.txt and val\.txt nor folders")
    with pytest.raises(InputError, match="there is no such folder"):
        split(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        split(tmp_path / "file")
    with pytest.raises(UsageError, match="is not split there"):
        split_dataset("https://host/data", train_percent=50, val_percent=50)


# Folders of classes


def make_images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xff\xd8\xff")
    return folder


def test_class_folders_get_lists_beside_them(tmp_path: Path) -> None:
    names = [f"{name}/{i} x.jpg" for name in ("dog", "cat", "Ωmega b") for i in range(5)]
    folder = make_images(tmp_path, *names, "cat/.hidden.jpg", "cat/notes.txt", "readme.md")
    split(folder, 60, 20, 20)
    assert pooled(folder) == {name: ["cat", "dog", "Ωmega b"].index(name.split("/")[0]) for name in names}
    assert (folder / "label.txt").read_text(encoding="utf-8") == "0 cat\n1 dog\n2 Ωmega b\n"
    assert all((folder / name).exists() for name in names)


def test_class_folders_of_splits_are_pooled(tmp_path: Path) -> None:
    names = [f"train/{name}/{i}.jpg" for name in "ab" for i in range(4)] + [
        "val/b/9.jpg",
        "test/c/1.jpg",
        "val/c/1.jpg",
    ]
    folder = make_images(tmp_path, *names)
    split(folder)
    assert pooled(folder) == {name: "abc".index(name.split("/")[1]) for name in names}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folder = make_images(tmp_path, "train/1.jpg", "train/2.jpg", "bus/1.jpg", "bus/2.jpg")
    split(folder, 50, 50)
    assert (folder / "label.txt").read_text() == "0 bus\n1 train\n"


@pytest.mark.parametrize("beside", ["raw/a.jpg", "raw/eel/a.jpg", "holdout/a/1.jpg", "a.jpg", "train/readme.jpg"])
def test_what_lies_beside_the_splits_is_no_part_of_the_dataset(tmp_path: Path, beside: str) -> None:
    names = [f"{name}/a/{i}.jpg" for name in ("train", "val") for i in range(3)]
    folder = make_images(tmp_path, *names, beside)
    assert sorted(paths_of(folder)) == names
    split(folder)
    assert sorted(pooled(folder)) == names
    assert (folder / "label.txt").read_text() == "0 a\n"


def test_a_report_in_the_folder_is_no_class(tmp_path: Path) -> None:
    report = ("output/check_dataset/histogram.png", "output/check_dataset/demo_img/train_00_a.jpg")
    folder = make_images(tmp_path, "a/1.jpg", "a/2.jpg", *report)
    split(folder)
    assert pooled(folder) == {"a/1.jpg": 0, "a/2.jpg": 0}


@pytest.mark.parametrize("names", [("train/1.jpg", "train/2.jpg"), ("train/1.jpg", "val/1.jpg"), ("a.jpg", "b.jpg")])
def test_folders_of_splits_without_classes_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert_refused(make_images(tmp_path, *names), "no dataset of a known kind")


@pytest.mark.parametrize(
    "name", ["a/x\ny.jpg", "a/x.jpg ", " a/x.jpg", "a\u3000/x.jpg", "a/\udcff.jpg", "\udcff/x.jpg"]
)
def test_a_file_that_a_list_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    folder = make_images(tmp_path, "b/1.jpg", "b/2.jpg", name)
    assert_refused(folder, "rename")


@pytest.mark.parametrize("folder", ["empty", "train/empty", "val/empty", "train/empty/deeper", "train/notes"])
def test_an_empty_class_folder_is_no_class_and_is_named(
    tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = "" if folder == "empty" else "train/"
    make_images(tmp_path, f"{root}b/1.jpg", f"{root}b/2.jpg", "val/b/3.jpg" if root else "b/3.jpg")
    (tmp_path / folder).mkdir(parents=True)
    if folder == "train/notes":
        (tmp_path / folder / "readme.md").touch()
    split(tmp_path)
    assert (tmp_path / "label.txt").read_text() == "0 b\n"
    [message] = [message for message in caplog.messages if "left out" not in message]
    assert f"the folder {folder.removesuffix('/deeper')} holds no image, so it is no class" in message


def test_a_label_file_without_lists_makes_no_folder_a_class(tmp_path: Path) -> None:
    folder = make_images(tmp_path, "images/1.jpg", "images/2.jpg")
    (folder / "label.txt").write_bytes(b"0 cat\n1 dog\n")
    assert_refused(folder, "has label.txt, but none of train.txt, val.txt, test.txt")


# Percentages and small classes


@pytest.mark.parametrize(
    ("percents", "message"),
    [
        ((80, 10, 0), "must add up to 100: 80 .train. . 10 .val. is 90"),
        ((80, 20, 10), "is 110"),
        ((99.99999, 0.000001, 0), "is 99.999991"),
        ((100, 0, 0), "val percentage must be more than 0, got 0"),
        ((-10, 110, 0), "train percentage must be more than 0, got -10"),
        ((90, 20, -10), "test percentage must be 0 or more, got -10"),
        ((float("nan"), 20, 0), "got nan"),
        ((float("inf"), 20, 0), "got inf"),
    ],
)
def test_percentages_that_make_no_whole_are_refused(
    tmp_path: Path, percents: tuple[float, float, float], message: str
) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([10])))
    train, val, test = percents
    assert_refused(folder, message, train=train, val=val, test=test)


@pytest.mark.parametrize("percents", [(33.3333333, 33.3333333, 33.3333334), (70.1, 29.9, 0), (0.1, 99.9, 0)])
def test_decimal_percentages_are_taken(tmp_path: Path, percents: tuple[float, float, float]) -> None:
    images = some_images([9, 30])
    split(make_lists(tmp_path, train=lines_of(images)), *percents)
    assert pooled(tmp_path) == images


def test_classes_with_too_few_images_are_refused_ten_by_name(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([*[2] * 12, 3])))
    assert_refused(
        folder,
        r"3 splits need at least 3 images .* class 0 \(2\).*class 9 \(2\) and 2 more; .*fewer splits",
        train=80,
        val=10,
        test=10,
    )


def test_a_class_of_one_image_per_split_is_in_each(tmp_path: Path) -> None:
    split(make_lists(tmp_path, train=lines_of(some_images([3, 3, 1000]))), 98, 1, 1)
    assert all(set(part.values()) == {0, 1, 2} for part in read_splits(tmp_path).values())


def test_totals_are_right_though_each_class_rounds_the_same_way(tmp_path: Path) -> None:
    # 14 images give 12.6 and 1.4: each class alone would round to 13 and 1, and val would have 7 percent.
    split(make_lists(tmp_path, train=lines_of(some_images([14] * 50))), 90, 10)
    assert {name: len(part) for name, part in read_splits(tmp_path).items()} == {"train": 630, "val": 70}


def test_a_share_that_is_exact_is_kept_exactly(tmp_path: Path) -> None:
    split(make_lists(tmp_path, train=lines_of(some_images([100] * 3))), 93, 7)
    assert Counter(read_splits(tmp_path)["val"].values()) == {0: 7, 1: 7, 2: 7}


# What decides, and what does not


def test_the_order_of_lines_and_lists_decides_nothing(tmp_path: Path) -> None:
    lines = [*lines_of(some_images([7, 12, 30])), "./images/0_0.jpg 0\n"]
    one = make_lists(tmp_path / "one", train=lines[:30], val=lines[30:])
    random.Random(1).shuffle(lines)
    other = make_lists(tmp_path / "other", val=lines[:10], test=lines[10:])
    split(one, seed=3)
    split(other, seed=3)
    assert read_splits(one) == read_splits(other)
    assert (one / "train.txt").read_bytes() == (other / "train.txt").read_bytes()


def test_splitting_again_gives_the_same_split(tmp_path: Path) -> None:
    make_lists(tmp_path, train=lines_of(some_images([7, 12, 30])))
    split(tmp_path)
    first = read_splits(tmp_path)
    split(tmp_path)
    assert read_splits(tmp_path) == first


def test_another_seed_gives_another_split_of_the_same_counts(tmp_path: Path) -> None:
    make_lists(tmp_path, train=lines_of(some_images([20, 30])))
    split(tmp_path, seed=0)
    first = read_splits(tmp_path)
    split(tmp_path, seed=1)
    second = read_splits(tmp_path)
    assert first != second
    assert {name: Counter(part.values()) for name, part in first.items()} == {
        name: Counter(part.values()) for name, part in second.items()
    }


@pytest.mark.parametrize("group_by", [None, r"_\d"])
def test_the_hash_seed_of_the_process_decides_nothing(tmp_path: Path, group_by: str | None) -> None:
    splits = []
    for hash_seed in ("1", "2"):
        folder = make_lists(tmp_path / hash_seed, train=lines_of(some_images([20, 30])))
        code = (
            "from imgcls_ray.datasets.split import split_dataset\n"
            f"split_dataset({str(folder)!r}, train_percent=70, val_percent=30, group_by={group_by!r})"
        )
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True)
        splits.append(read_splits(folder))
    assert splits[0] == splits[1]


def test_a_seed_means_the_same_for_ever(tmp_path: Path) -> None:
    # Made by this test itself when it was written; a change here changes everyone's splits.
    make_lists(tmp_path, train=lines_of(some_images([10])))
    split(tmp_path, 70, 30)
    assert sorted(read_splits(tmp_path)["val"]) == ["images/0_3.jpg", "images/0_6.jpg", "images/0_8.jpg"]


@pytest.mark.parametrize("case", range(60))
def test_nothing_is_lost_or_doubled_and_each_class_keeps_its_shares(tmp_path: Path, case: int) -> None:
    rng = random.Random(case)
    num_splits = rng.choice([2, 3])
    num_per_class = [num_splits + int(rng.expovariate(0.05)) for _ in range(rng.randint(1, 12))]
    images = some_images(num_per_class)
    weights = [rng.randint(1, 60) for _ in range(num_splits)]
    percents = [100 * weight / sum(weights) for weight in weights]
    lines = lines_of(images)
    rng.shuffle(lines)
    cut = rng.randrange(len(lines))
    folder = make_lists(tmp_path, train=lines[:cut], val="".join(lines[cut:]).rstrip("\n"))
    split(folder, *percents, seed=case)
    assert pooled(folder) == images
    counts = [Counter(part.values()) for part in read_splits(folder).values()]
    for class_id, num in enumerate(num_per_class):
        for percent, count in zip(percents, counts, strict=True):
            assert count[class_id] >= 1
            # One image in each split comes first: with 3 images and 90 percent there can be no 2.7.
            spare = sum(max(0, 1 - num * other / 100) for other in percents)
            assert abs(count[class_id] - num * percent / 100) < 1 + spare


@pytest.mark.parametrize("case", range(20))
def test_totals_are_within_one_image_where_classes_are_large(tmp_path: Path, case: int) -> None:
    rng = random.Random(case)
    num_per_class = [rng.randint(20, 60) for _ in range(rng.randint(1, 12))]
    folder = make_lists(tmp_path, train=lines_of(some_images(num_per_class)))
    split(folder, 73, 16, 11)
    for percent, part in zip((73, 16, 11), read_splits(folder).values(), strict=True):
        assert abs(len(part) - sum(num_per_class) * percent / 100) < 1 + 1e-9


# Groups


def test_groups_never_straddle_splits(tmp_path: Path) -> None:
    rng = random.Random(0)
    images = {f"patient{rng.randrange(40)}/{i}.jpg": i % 3 for i in range(400)}
    folder = make_lists(tmp_path, train=lines_of(images))
    report = split_dataset(str(folder), train_percent=70, val_percent=20, test_percent=10, group_by=r"(patient\d+)/")
    assert pooled(folder) == images
    groups = [{path.split("/")[0] for path in part} for part in read_splits(folder).values()]
    assert report.num_groups == sum(map(len, groups)) == len(set().union(*groups))
    assert report.num_images["train"] == pytest.approx(280, abs=15)


def test_without_a_group_in_it_the_whole_match_is_the_group(tmp_path: Path) -> None:
    images = {f"s{i % 5}_{i}.jpg": 0 for i in range(50)}
    split(make_lists(tmp_path, train=lines_of(images)), group_by=r"^s\d")
    assert {path[:2] for path in read_splits(tmp_path)["val"]}.isdisjoint(
        path[:2] for path in read_splits(tmp_path)["train"]
    )


@pytest.mark.parametrize("case", range(30))
def test_every_class_with_enough_groups_of_its_own_is_in_each_split(tmp_path: Path, case: int) -> None:
    rng = random.Random(case)
    images = {
        f"{c}-{group}/{i}.jpg": c
        for c in range(rng.randint(1, 6))
        for group in range(rng.randint(3, 6))
        for i in range(rng.randint(1, 40))
    }
    folder = make_lists(tmp_path, train=lines_of(images))
    split(folder, 90, 5, 5, group_by="^[^/]+", seed=case)
    assert pooled(folder) == images
    assert all(set(part.values()) == set(images.values()) for part in read_splits(folder).values())


def test_a_path_without_a_group_is_refused_with_its_place(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train="p1/a.jpg 0\np2/a.jpg 0\n", val="z/b.jpg 0\na/b.jpg 0\n")
    assert_refused(folder, r"val\.txt:1: .* does not match z/b\.jpg", group_by=r"p\d")
    assert_refused(folder, r"val\.txt:1: .* does not match z/b\.jpg", group_by=r"(p\d)?")


def test_a_class_of_too_few_groups_is_refused(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train="p1/a.jpg 4\np1/b.jpg 4\np1/c.jpg 5\np2/d.jpg 5\n")
    assert_refused(folder, r"at least 2 groups of every class, and too few has class 4 \(1\)", group_by=r"p\d")


def test_groups_that_cannot_cover_every_class_are_refused(tmp_path: Path) -> None:
    # Three groups, each two classes in common with the next: two splits cannot have all three classes each.
    folder = make_lists(tmp_path, train="g1/a 0\ng1/b 2\ng2/a 0\ng2/b 1\ng3/a 1\ng3/b 2\n")
    assert_refused(folder, "no image of class . came into (train|val)", group_by=r"g\d")


def test_a_broken_expression_is_refused(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train="a 0\nb 0\n")
    assert_refused(folder, r"'\(' is not a regular expression", group_by="(")


# Writing


def test_originals_are_kept_through_three_splits(tmp_path: Path) -> None:
    lines = lines_of(some_images([10, 10]))
    folder = make_lists(tmp_path, train="".join(lines[:15]).replace("\n", "\r\n"), val=lines[15:])
    seen = {"train": [], "val": []}  # type: dict[str, list[bytes]]
    for seed in range(3):
        for name, versions in seen.items():
            versions.append((folder / f"{name}.txt").read_bytes())
        split(folder, seed=seed)
    for name, versions in seen.items():
        assert [(folder / f"{name}.txt{end}").read_bytes() for end in (".bak", ".bak.1", ".bak.2")] == versions
    assert len(files_of(folder)) == 8


def test_a_backup_of_someone_else_is_not_written_over(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([10])))
    (folder / "train.txt.bak").write_bytes(b"precious")
    report = split_dataset(str(folder), train_percent=50, val_percent=50)
    assert (folder / "train.txt.bak").read_bytes() == b"precious"
    assert report.backups == {"train.txt": "train.txt.bak.1"}


def test_a_test_list_that_is_not_wanted_goes_to_its_backup(tmp_path: Path) -> None:
    lines = lines_of(some_images([10]))
    folder = make_lists(tmp_path, train=lines[:8], test=lines[8:])
    split(folder)
    assert not (folder / "test.txt").exists()
    assert (folder / "test.txt.bak").read_text() == "".join(lines[8:])
    assert pooled(folder) == some_images([10])


def test_a_list_keeps_its_permissions(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([10])))
    (folder / "train.txt").chmod(0o664)
    split(folder)
    assert (folder / "train.txt").stat().st_mode & 0o777 == 0o664


def fail_at(number: int, kind: type[BaseException] = OSError) -> Callable[..., None]:
    """An ``os.replace`` that breaks at its n-th call upon a list."""
    calls = 0
    replace = os.replace

    def broken(source: Path, target: Path) -> None:
        nonlocal calls
        if str(target).endswith(".txt"):
            calls += 1
            if calls == number:
                raise kind(28, "No space left on device")
        replace(source, target)

    return broken


def test_a_failure_before_the_first_list_leaves_all_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = lines_of(some_images([10]))
    folder = make_lists(tmp_path, train=lines[:8], val=lines[8:])
    before = files_of(folder)
    create = LocalDirectory.create

    def broken(self: LocalDirectory, name: str, data: bytes) -> bool:
        if name.startswith("val.txt"):
            raise StorageError("full")
        return create(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalDirectory, "create", broken)
        with pytest.raises(StorageError, match=r"as they were.*stay: train\.txt\.bak"):
            split(folder)
    assert files_of(folder) == {**before, "train.txt.bak": before["train.txt"]}
    split(folder)
    assert pooled(folder) == some_images([10])


def test_a_new_list_that_cannot_be_prepared_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([10])))
    before = files_of(folder)

    def broken(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match=r"No space left.*as they were"):
        split(folder)
    assert files_of(folder) == before


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_after_a_crash_half_way_nothing_is_split_until_the_originals_are_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    lines = lines_of(some_images([10]))
    folder = make_lists(tmp_path, train=lines[:5], val=lines[5:])
    before = files_of(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_at(2, kind))
        with pytest.raises((StorageError, KeyboardInterrupt)) as failed:
            split(folder)
    if kind is OSError:
        assert "new: train.txt; as before: val.txt; to go back: `cp train.txt.bak train.txt" in str(failed.value)
    # Here a new train.txt and the old val.txt lack images: pooling them would lose these for good.
    with pytest.raises(UsageError, match="half-way") as refused:
        split(folder)
    way_back = str(refused.value).split("`")[1]
    subprocess.run(way_back, shell=True, cwd=folder, check=True)
    assert {name: files_of(folder)[name] for name in before} == before
    split(folder)
    assert pooled(folder) == some_images([10])
    assert not [name for name in files_of(folder) if name.startswith(".")]


def test_the_way_back_takes_away_a_list_that_was_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([10])))
    monkeypatch.setattr(os, "replace", fail_at(2))
    with pytest.raises(StorageError) as failed:
        split(folder)
    subprocess.run(str(failed.value).split("`")[1], shell=True, cwd=folder, check=True)
    assert read_splits(folder) == {"train": some_images([10])}


def test_a_second_run_at_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([10])))
    (folder / JOURNAL).touch()
    assert_refused(folder, "another split or review is being written")
    # Also when the other one begins after this one has looked.
    monkeypatch.setattr("imgcls_ray.datasets.split.refuse_if_unfinished", lambda _folder: None)
    assert_refused(folder, "another split or review is being written")


def test_lists_that_were_left_half_replaced_are_not_judged(tmp_path: Path) -> None:
    # What is wrong with them is that the split was stopped, not what a half-way state makes of them.
    folder = make_lists(tmp_path, train="a.jpg 0\n", val="broken\n")
    (folder / JOURNAL).write_text("cp val.txt.bak val.txt\n")
    assert_refused(folder, "stopped half-way.*`cp val.txt.bak val.txt && rm split.unfinished` in that folder")


def test_a_list_that_changes_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([10])))
    deal = rewrite.replace_lists

    def changed_before(*args: object) -> dict[str, str]:
        (folder / "val.txt").write_text("late.jpg 0\n")
        return deal(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("imgcls_ray.datasets.split.replace_lists", changed_before)
    with pytest.raises(UsageError, match=r"val\.txt: changed meanwhile"):
        split(folder)
    assert files_of(folder).keys() == {"train.txt", "val.txt"}
    assert (folder / "val.txt").read_text() == "late.jpg 0\n"


def test_many_runs_at_once_lose_no_original(tmp_path: Path) -> None:
    folder = make_lists(tmp_path, train=lines_of(some_images([50])))
    before = (folder / "train.txt").read_bytes()
    code = (
        "import sys\nfrom imgcls_ray.datasets.split import split_dataset\nfrom imgcls_ray.errors import UsageError\n"
        "for seed in range(30):\n"
        "    try:\n"
        f"        split_dataset({str(folder)!r}, train_percent=70, val_percent=30, seed=seed + int(sys.argv[1]))\n"
        "    except UsageError as error:\n"
        "        assert 'another split' in str(error) or 'changed' in str(error), error\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(i)]) for i in (0, 100)]
    assert [run.wait() for run in runs] == [0, 0]
    assert (folder / "train.txt.bak").read_bytes() == before
    assert pooled(folder) == some_images([50])
    assert JOURNAL not in files_of(folder)


# The command


@pytest.fixture
def imgcls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["imgcls", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        code = left.value.code
        assert isinstance(code, int)
        return code, captured.out, captured.err

    return run


def test_the_command_says_what_it_made(tmp_path: Path, imgcls: Callable[..., tuple[int, str, str]]) -> None:
    lines = [*lines_of(some_images([10, 30])), "images/0_0.jpg 0\n"]
    make_lists(tmp_path, train=lines[:8], val=lines[8:])
    code, out, err = imgcls("split", tmp_path, "--train-percent", 80, "--val-percent", 20)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines() if "%" in line] == [
        ["train", "32", "80.00", "%"],
        ["val", "8", "20.00", "%"],
    ]
    assert "originals kept: train.txt as train.txt.bak, val.txt as val.txt.bak" in out
    assert "left out: 1" in out
    assert "every class has its exact share in each split" in out


def test_the_command_takes_groups_seed_and_test_share(
    tmp_path: Path, imgcls: Callable[..., tuple[int, str, str]]
) -> None:
    make_images(tmp_path, *[f"cat/p{i % 6}_{i}.jpg" for i in range(60)])
    percents = ["--train-percent", "66.6", "--val-percent", "16.7", "--test-percent", "16.7"]
    code, out, _ = imgcls("split", tmp_path, *percents, "--seed", 5, "--group-by", r"p\d+")
    assert code == 0
    assert "6 groups, each in one split only" in out
    assert "largest deviation from the shares: cat has 40 images in train, its exact share is 39.96" in out
    assert "there were no lists before" in out
    assert {name: len(part) for name, part in read_splits(tmp_path).items()} == {"train": 40, "val": 10, "test": 10}


def test_the_command_takes_a_delimiter(tmp_path: Path, imgcls: Callable[..., tuple[int, str, str]]) -> None:
    make_lists(tmp_path, train=[f"{i}.jpg,0\n" for i in range(10)])
    code, _, err = imgcls("split", tmp_path, "--train-percent", 80, "--val-percent", 20, "--delimiter", ",")
    assert (code, err) == (0, "")
    assert len((tmp_path / "val.txt").read_text().split(",0\n")) == 3


def test_the_command_leaves_with_2_and_one_line_when_it_refuses(
    tmp_path: Path, imgcls: Callable[..., tuple[int, str, str]]
) -> None:
    make_lists(tmp_path, train=lines_of(some_images([10])))
    code, out, err = imgcls("split", tmp_path, "--train-percent", 80, "--val-percent", 10)
    assert (code, out) == (2, "")
    assert err == "imgcls: the percentages must add up to 100: 80 (train) + 10 (val) is 90\n"
