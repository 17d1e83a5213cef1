"""Which folders of a dataset are splits and which are classes; what cannot be told is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgcls_ray.config import CheckConfig, make_config
from imgcls_ray.config.dataset import parse_split_folders
from imgcls_ray.datasets.folder_layout import find_layout
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.datasets.split_names import possible_splits, split_called
from imgcls_ray.errors import ConfigError, InputError
from tests.datasets.make_folders import write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.s3.server import S3Server


def read(dataset: str, split_folders: str | None = None) -> tuple[dict[str, list[str]], list[str | None]]:
    """Paths by split, and class names."""
    places = None if split_folders is None else parse_split_folders(split_folders)
    source = read_dataset(dataset, split_folders=places)
    paths: dict[str, list[str]] = {split: [] for split in source.splits}
    for entry in source.read(lambda _: None):
        paths[entry.split].append(entry.path)
    return paths, source.class_names


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Train", "TRAINING")),
        *((name, "val") for name in ("val", "Valid", "Validate", "VALIDATION", "Dev")),
        *((name, "test") for name in ("Test", "testing")),
        *((name, None) for name in ("trains", "train_set", "evaluation", "tset", "")),
    ],
)
def test_a_split_has_the_names_that_people_give_it_in_any_case(name: str, split: str | None) -> None:
    assert split_called(name) == split


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val"),
        ("Training", "Testing"),
        ("train", "validation"),
        ("train", "valid", "test"),
        ("TRAIN", "DEV", "TEST"),
    ],
)
def test_folders_called_like_splits_are_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = write(tmp_path, *(f"{name}/{label}/1.jpg" for name in names for label in ("cat", "dog")))
    paths, classes = read(data)
    assert classes == ["cat", "dog"]
    assert paths == {split_called(name): [f"{name}/cat/1.jpg", f"{name}/dog/1.jpg"] for name in names}


def test_splits_of_other_names_are_told_in_one_line(tmp_path: Path) -> None:
    data = write(tmp_path, "Train/cat/1.jpg", "Train/dog/1.jpg", "valid/cat/1.jpg", "raw/1.jpg", "cover.jpg")
    assert read_dataset(data).notes == [
        "read Train/ as train, valid/ as val; left out: raw/",
        "left out: 1 image beside the folders of classes, e.g. cover.jpg",
    ]


def test_usual_splits_are_not_told_but_what_is_left_out_beside_them_is(tmp_path: Path) -> None:
    data = write(tmp_path, "train/cat/1.jpg", "val/cat/1.jpg")
    assert read_dataset(data).notes == []
    write(tmp_path, "raw/eel/1.jpg", "test/1.jpg")
    assert read_dataset(data).notes == ["left out, as no splits with folders of classes: raw/, test/"]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("train/a", "val/a", "valid/a"),
            "val/ and valid/ both mean the val split; .*split_folders=train=train,val=val",
        ),
        (("Train/a", "train/a"), "Train/ and train/ both mean the train split"),
        (("x/train/a", "x/test/a", "x/Testing/a"), "x/Testing/ and x/test/ both mean the test split"),
        (
            ("Training_set/a", "Test_set/a"),
            "are Test_set/, Training_set/ splits, or classes? For splits give "
            "split_folders=train=Training_set,test=Test_set; for classes give split_folders=none",
        ),
        (("seg_train/a", "seg_test/a", "seg_pred/a"), "split_folders=train=seg_train,test=seg_test;"),
        (
            ("train/a", "holdout/a"),
            "is train/ a split, or a class beside holdout/? .*=train=train,test=holdout; for cl",
        ),
        (
            ("train/a", "evaluate/a"),
            "is train/ a split, or a class beside evaluate/? .*=train=train,val=evaluate; for cl",
        ),
        (("train/a", "tests/a"), "split_folders=train=train,test=tests;"),
        (("01_train/a", "02_val/a"), "are 01_train/, 02_val/ splits, or classes? .*=train=01_train,val=02_val;"),
        (("train_2019/a", "val_2020/a"), "are train_2019/, val_2020/ splits, or classes?"),
        (("TrainData/a", "ValData/a"), "split_folders=train=TrainData,val=ValData"),
        (("x/train_set/a", "x/val_set/a"), "split_folders=train=x/train_set,val=x/val_set"),
        (("train", "test", "car"), "are test/, train/ splits, or classes? .*for classes give split_folders=none"),
        (("train/steam", "car/old", "bus/old"), "is train/ a split, or a class beside bus/, car/?"),
        (("Train", "Val"), "no dataset of a known kind.*; if that is a class itself, give split_folders=none"),
        (("a/train/x", "a/val/x", "b/Train/x", "b/Val/x"), "holds several datasets: a/, b/ have folders of splits"),
    ],
)
def test_what_can_be_splits_or_classes_is_asked_with_the_key_that_answers(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    data = write(tmp_path, *(f"{folder}/1.jpg" for folder in folders))
    with pytest.raises(
        InputError, match=message.replace("?", r"\?").replace("split_folders=train=", ".*=train=")
    ) as caught:
        read_dataset(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("train", "car", "bus"), ["bus", "car", "train"]),
        (("steam_train", "freight_train", "test_tube"), ["freight_train", "steam_train", "test_tube"]),
        (("train/train", "train/test", "val/train", "val/test"), ["test", "train"]),
        (("cat/train", "cat/val", "dog/train", "dog/val"), ["cat", "dog"]),
    ],
)
def test_classes_may_be_called_like_splits_where_no_split_can_be_meant(
    tmp_path: Path, folders: tuple[str, ...], classes: list[str]
) -> None:
    assert read(write(tmp_path, *(f"{folder}/1.jpg" for folder in folders)))[1] == classes


@pytest.mark.parametrize("folders", [("train", "test"), ("train/steam", "test/old", "car"), ("train", "test", "car")])
def test_the_first_folders_are_the_classes_if_the_user_says_so(tmp_path: Path, folders: tuple[str, ...]) -> None:
    paths, classes = read(write(tmp_path, *(f"{folder}/1.jpg" for folder in folders)), "none")
    assert classes == sorted({folder.partition("/")[0] for folder in folders})
    assert [*paths] == ["train"]


def test_the_folders_of_splits_are_those_that_the_user_gives(tmp_path: Path) -> None:
    data = write(
        tmp_path,
        "seg_train/seg_train/sea/1.jpg",
        "seg_train/seg_train/ice/1.jpg",
        "seg_test/seg_test/sea/2.jpg",
        "x/3.jpg",
    )
    paths, classes = read(data, "train=seg_train,test=seg_test")
    assert classes == ["ice", "sea"]
    assert paths == {
        "train": ["seg_train/seg_train/ice/1.jpg", "seg_train/seg_train/sea/1.jpg"],
        "test": ["seg_test/seg_test/sea/2.jpg"],
    }
    assert read_dataset(data, split_folders={"train": "seg_train/seg_train", "test": "seg_test"}).notes == [
        "not read, as split_folders does not name them: x/"
    ]
    with pytest.raises(InputError, match="split_folders: there is no image in seg_val/CLASS/ for the val split"):
        read(data, "train=seg_train,val=seg_val")


@pytest.mark.parametrize(
    ("folders", "splits", "classes", "note"),
    [
        (("data/cat", "data/dog"), ["train"], ["cat", "dog"], "its folders of classes are in data/"),
        (("a/b/cat", "a/b/dog"), ["train"], ["cat", "dog"], "its folders of classes are in a/b/"),
        (
            ("archive/dataset/train/cat", "archive/dataset/val/dog"),
            ["train", "val"],
            ["cat", "dog"],
            "read archive/dataset/train/ as train, archive/dataset/val/ as val",
        ),
        (
            ("set/Train/cat", "set/Train/dog", "set/Test/cat", "samples", "docs/figures"),
            ["train", "test"],
            ["cat", "dog"],
            "read set/Train/ as train, set/Test/ as test",
        ),
        (
            ("train/train/cat", "train/train/dog", "test/test/cat"),
            ["train", "test"],
            ["cat", "dog"],
            "read train/train/ as train, test/test/ as test",
        ),
        (
            ("train/images/cat", "train/images/dog", "val/images/cat"),
            ["train", "val"],
            ["cat", "dog"],
            "read train/images/ as train, val/images/ as val",
        ),
    ],
)
def test_a_dataset_that_lies_deeper_is_found_and_told(
    tmp_path: Path, folders: tuple[str, ...], splits: list[str], classes: list[str], note: str
) -> None:
    data = write(tmp_path, *(f"{folder}/1.jpg" for folder in folders), "readme.md", "cover.jpg")
    source = read_dataset(data)
    notes = [note, "left out: 1 image beside the folders of classes, e.g. cover.jpg"]
    assert (source.splits, source.class_names, source.notes) == (splits, classes, notes)
    assert len(list(source.read(lambda _: None))) == len(
        [folder for folder in folders if folder.endswith(("cat", "dog"))]
    )


@pytest.mark.parametrize("folders", [("cat",), ("cat/indoor",), ("cat", "cat/indoor", "cat/outdoor"), ("a/b/c",)])
def test_one_class_stays_one_class_whatever_is_in_it(tmp_path: Path, folders: tuple[str, ...]) -> None:
    source = read_dataset(write(tmp_path, *(f"{folder}/1.jpg" for folder in folders)))
    assert (source.class_names, source.notes) == ([folders[0].partition("/")[0]], [])


def test_an_empty_class_folder_of_a_deeper_dataset_is_named(tmp_path: Path) -> None:
    data = write(tmp_path, "data/Train/cat/1.jpg", "data/Train/dog/1.jpg", "data/Val/cat/1.jpg")
    (tmp_path / "data/Val/owl").mkdir()
    [finding] = read_dataset(data).findings
    assert (finding.split, finding.class_name) == ("val", "owl")
    assert finding.detail == "the folder data/Val/owl holds no image, so it is no class"


def test_many_classes_are_told_apart_quickly() -> None:
    folders: dict[tuple[str, ...], int] = {(f"class_{i}", f"session_{i % 7}"): 1 for i in range(50_000)}
    assert find_layout(folders).folders == {"train": ()}
    deep = {(*["a"] * 3000, f"b{number}"): 1 for number in range(2)}
    assert find_layout(deep).folders == {"train": ()}


def test_a_cover_beside_the_folders_of_a_deeper_dataset_is_left_out_and_told(tmp_path: Path) -> None:
    images = (f"data/{label}/{number}.jpg" for label in ("cat", "dog") for number in range(5))
    source = read_dataset(write(tmp_path, *images, "data/cover.jpg"))
    assert source.class_names == ["cat", "dog"]
    assert source.notes == [
        "its folders of classes are in data/",
        "left out: 1 image beside the folders of classes, e.g. data/cover.jpg",
    ]


@pytest.mark.parametrize(
    ("folders", "split_folders"), [(("cat", "dog"), None), (("cat", "dog"), {}), (("train/cat", "val/cat"), None)]
)
def test_images_beside_class_folders_are_told(
    tmp_path: Path, folders: tuple[str, ...], split_folders: dict[str, str] | None
) -> None:
    beside = folders[0].rpartition("/")[0]
    loose = (f"{beside}/{name}".lstrip("/") for name in ("loose_1.jpg", "loose_2.jpg"))
    data = write(tmp_path, *(f"{folder}/1.jpg" for folder in folders), *loose)
    told = f"{beside}/loose_1.jpg".lstrip("/")
    assert read_dataset(data, split_folders=split_folders).notes == [
        f"left out: 2 images beside the folders of classes, e.g. {told}"
    ]


def test_folders_that_split_folders_does_not_name_are_told(tmp_path: Path) -> None:
    data = write(tmp_path, "a/train/cat/1.jpg", "a/train/dog/1.jpg", "a/raw/x/1.jpg", "b/1.jpg", "b/c/1.jpg")
    assert read_dataset(data, split_folders={"train": "a/train"}).notes == [
        "not read, as split_folders does not name them: a/raw/, b/"
    ]


def test_a_deeper_dataset_on_s3_is_found(s3: S3Server, bucket: str) -> None:
    for split in ("Training", "valid"):
        for label in ("cat", "dog"):
            s3.client().put_object(Bucket=bucket, Key=f"d/archive/{split}/{label}/1.jpg", Body=b"x")
    source = read_dataset(f"s3://{bucket}/d")
    assert (source.splits, source.class_names) == (["train", "val"], ["cat", "dog"])
    assert source.notes == ["read archive/Training/ as train, archive/valid/ as val"]
    assert next(entry.path for entry in source.read(lambda _: None)) == "archive/Training/cat/1.jpg"


def test_only_names_that_differ_in_the_split_alone_may_be_splits() -> None:
    assert possible_splits(["seg_train", "seg_test", "bullet_train"]) == {"seg_train": "train", "seg_test": "test"}
    assert possible_splits(["train", "testSet", "train_test"]) == {"train": "train", "testSet": "test"}
    assert possible_splits(["train", "training_set", "car"]) == {}
    assert possible_splits(["1_train", "2_test", "3_car"]) == {"1_train": "train", "2_test": "test"}


@pytest.mark.parametrize(
    "value", ["", "x", "train", "train=", "dev=a", "train=a,train=b", "train=a,val=a", "train=/", "none,val=a"]
)
def test_split_folders_that_say_nothing_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"split_folders: expected a folder of its own for each split, e\.g\."):
        make_config(CheckConfig, {"data": "d", "split_folders": value})


def test_split_folders_may_hold_commas_and_blanks() -> None:
    assert parse_split_folders("train=my set, old, val=a/b") == {"train": "my set, old", "val": "a/b"}
    assert parse_split_folders("none") == {}


@pytest.mark.parametrize("places", [{}, {"train": "a", "val": "b"}])
def test_folders_of_splits_are_refused_where_something_else_tells_the_splits(
    tmp_path: Path, places: dict[str, str]
) -> None:
    (tmp_path / "train.txt").write_text("a/1.jpg 0\n")
    (tmp_path / "val.txt").write_text("a/1.jpg 0\n")
    (tmp_path / "label.txt").write_text("0 cat\n")
    with pytest.raises(InputError, match=r"here lists say which images are in which split: leave split_folders out"):
        read_dataset(str(tmp_path), split_folders=places)
    (tmp_path / "t.csv").write_text("uri,label\na/1.jpg,cat\n")
    with pytest.raises(InputError, match=r"here the table says which images"):
        read_dataset(str(tmp_path / "t.csv"), split_folders=places)
