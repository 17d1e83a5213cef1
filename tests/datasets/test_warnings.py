"""What check and training say of a dataset that can be read but not learnt, or was read in an unusual way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgcls_ray.config import CheckConfig
from imgcls_ray.datasets.collecting import Collector
from imgcls_ray.datasets.entry_file import EntryFile
from imgcls_ray.datasets.findings import FindingCode
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.errors import InputError
from imgcls_ray.evaluate import reading
from imgcls_ray.evaluate.reading import read_split
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.train import entries as train_entries
from imgcls_ray.train.entries import read_entries
from tests.datasets.make_folders import write

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.datasets.check_result import CheckResult


def write_lists(root: Path, train: str, val: str, label: str) -> str:
    for name, text in {"train": train, "val": val, "label": label}.items():
        (root / f"{name}.txt").write_text(text)
    return str(root)


def checked(data: str, folder: Path) -> CheckResult:
    """What a check says before it looks at any image."""
    collector = Collector(CheckConfig(data=data), read_dataset(data), EntryFile(folder / "entries.parquet"))
    for _ in collector.blocks():
        pass
    collector.look_at_classes()
    return collector.result()


def trained(data: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What training warns of."""
    lines: list[str] = []
    monkeypatch.setattr(train_entries.logger, "warning", lambda text, *args: lines.append(text % args))
    read_entries(data, delimiter=None, storage=DEFAULT_STORAGE)
    return lines


@pytest.mark.parametrize("val", ["val/widget/3.jpg", "val/gadget/3.jpg"])
def test_one_class_is_an_error_of_check_and_of_training(tmp_path: Path, val: str) -> None:
    data = write(tmp_path / "data", "train/widget/1.jpg", "train/widget/2.jpg", val)
    result = checked(data, tmp_path)
    assert not result.passed
    [finding] = [finding for finding in result.findings if finding.code is FindingCode.ONE_CLASS]
    assert (finding.split, finding.detail) == ("train", "widget is the only class with images to train with")
    with pytest.raises(InputError, match=r"data: widget is the only class with images .*; add images of another class"):
        read_entries(data, delimiter=None, storage=DEFAULT_STORAGE)


def test_an_empty_class_folder_is_a_warning_of_check_and_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "data", *(f"{split}/{name}/1.jpg" for split in ("train", "val") for name in "ab"))
    (tmp_path / "data" / "train" / "empty").mkdir()
    result = checked(data, tmp_path)
    assert result.passed
    assert [finding.class_name for finding in result.findings] == ["empty"]
    [line] = trained(data, monkeypatch)
    assert line == (
        f"{data}: the class has no image in this split (the folder train/empty holds no image, so it is no class)"
    )


def test_backslashes_are_one_warning_in_training_and_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "images/a/1.jpg", "images/b/2.jpg")
    lines = "images\\a\\1.jpg 0\nimages\\b\\2.jpg 1\n"
    data = write_lists(tmp_path, lines, lines, "0 a\n1 b\n")
    [line] = trained(data, monkeypatch)
    assert line.startswith(f"{data}: train.txt:1: paths have backslashes, as on Windows; they are read as separators")
    told: list[str] = []
    monkeypatch.setattr(reading.logger, "warning", lambda text, *args: told.append(text % args))
    split = read_split(data, "val", EntryFile(tmp_path / "e.parquet"), model="m", model_names=["a", "b"])
    assert (split.num_images, len(told)) == (2, 1)


def test_many_warnings_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_lists(tmp_path, "1.jpg 0\n2.jpg 1\n", "3.jpg 0\n", "".join(f"{label} crane\n" for label in range(9)))
    lines = trained(data, monkeypatch)
    assert lines[0] == f"{data}: label.txt:2: two classes have the same name ('crane' is 0 and 1)"
    assert lines[3:] == [f"{data}: 5 more; `imgcls check {data}` tells all of them"]


def test_two_classes_of_one_name_are_two_to_train_and_in_a_report(tmp_path: Path) -> None:
    data = write_lists(tmp_path, "1.jpg 0\n2.jpg 1\n3.jpg 2\n", "4.jpg 2\n", "0 crane\n1 kite\n2 crane\n")
    entries = read_entries(data, delimiter=None, storage=DEFAULT_STORAGE)
    assert entries.class_names == ("crane", "kite", "crane")
    assert entries.images_per_class("train").tolist() == [1, 1, 1]
    result = checked(data, tmp_path)
    assert result.passed
    assert result.class_names == ["crane (id 0)", "kite", "crane (id 2)"]
    empty = [finding.class_name for finding in result.findings if finding.code is FindingCode.CLASS_WITHOUT_IMAGES]
    assert empty == ["crane (id 0)", "kite"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("Cat", "cat"), "the classes 'Cat' and 'cat'"),
        (("cafe\u0301", "caf\u00e9"), r"the classes 'cafe\u0301' and 'caf\xe9'"),
    ],
)
def test_classes_whose_names_are_twins_are_told_and_stay_two(tmp_path: Path, names: tuple[str, str], told: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    result = checked(write_lists(data, "a.jpg 0\nb.jpg 1\n", "c.jpg 0\n", f"0 {names[0]}\n1 {names[1]}\n"), tmp_path)
    assert [(f.file, f.detail) for f in result.findings if f.code is FindingCode.NAME_TWINS] == [("label.txt", told)]
    assert read_dataset(str(data)).class_names == list(names)
