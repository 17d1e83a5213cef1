"""What cannot be evaluated is refused before anything is started, with the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgcls_ray.datasets.entry_file import EntryFile
from imgcls_ray.errors import InputError, UsageError
from imgcls_ray.evaluate.classifying import rows_per_block
from imgcls_ray.evaluate.reading import read_split
from tests.conftest import SMALL_CLASSES
from tests.evaluate.make_data import IDS, write_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.evaluate.reading import Split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", 6)
    return tmp_path / "data"


def read(data: Path, split: str = "val", names: tuple[str, ...] = SMALL_CLASSES) -> Split:
    entries = EntryFile(data.parent / "entries.parquet")
    return read_split(str(data), split, entries, model="the/model", model_names=names)


def test_entries_come_in_the_order_of_the_list_with_the_models_ids(data: Path) -> None:
    split = read(data)
    blocks = list(split.blocks(4))
    assert [block.number for block in blocks] == [0, 4]
    rows = [row for block in blocks for row in block.content.to_pylist()]
    names = {label: name for name, label in IDS.items()}
    for number, (row, line) in enumerate(zip(rows, (data / "val.txt").read_text().splitlines(), strict=True)):
        path, label = line.split()
        assert row == {
            "number": number,
            "uri": str(data / path),
            "label_id": SMALL_CLASSES.index(names[int(label)]),
            "source": None,
            "locator": None,
        }


def test_another_order_of_the_list_is_another_list(data: Path) -> None:
    before = read(data).list_sha256
    assert read(data).list_sha256 == before
    lines = (data / "val.txt").read_text().splitlines()
    (data / "val.txt").write_text("\n".join(reversed(lines)))
    assert read(data).list_sha256 != before


def test_a_split_that_is_not_there_is_refused_with_those_that_are(data: Path) -> None:
    with pytest.raises(UsageError, match=r"has no split 'test'; it has val\. Give --split, or create it"):
        read(data, "test")


def test_an_empty_split_is_refused(data: Path) -> None:
    (data / "val.txt").write_text("\n")
    with pytest.raises(InputError, match="its split 'val' lists no image"):
        read(data)


def test_a_missing_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("images/000.jpg 6", r"val\.txt:7: no class has this id \(6: label\.txt has 7 classes, 0 to 8\)"),
        ("images/000.jpg x", r"val\.txt:7: the class id is not a whole number"),
        ("images/000.jpg,0", r"val\.txt:7: path and class id are not parted by a space or a tab"),
    ],
)
def test_a_fault_in_the_list_is_refused_and_leads_to_the_check(data: Path, line: str, what: str) -> None:
    with (data / "val.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=what) as caught:
        read(data)
    assert str(caught.value).endswith(f"; `imgcls check {data}` lists every fault")


def test_faults_of_the_class_names_are_counted(data: Path) -> None:
    with (data / "label.txt").open("a") as file:
        file.write("0 owl\nx 9\n")
    with pytest.raises(InputError, match=r"label\.txt:8: two classes have the same id .*, and 1 more like it"):
        read(data)


def test_faults_of_another_split_are_no_concern_of_this_one(data: Path) -> None:
    (data / "train.txt").write_text("images/000.jpg nonsense\n")
    assert read(data).num_images == 6


def test_a_class_that_the_model_lacks_is_refused(data: Path) -> None:
    with pytest.raises(UsageError, match="1 of its 7 classes are none of the model's: 'dog'; the/model has 6"):
        read(data, names=tuple(name for name in SMALL_CLASSES if name != "dog"))


@pytest.mark.parametrize(
    ("num_images", "num_workers", "crop_size", "expected"),
    [(60, 2, 224, 32), (1000, 2, 224, 128), (10**6, 16, 224, 512), (10**6, 16, 448, 222), (1, 1, 64, 32)],
)
def test_blocks_are_whole_batches_for_all_workers_and_small_enough_for_rays_store(
    num_images: int, num_workers: int, crop_size: int, expected: int
) -> None:
    rows = rows_per_block(num_images, num_workers=num_workers, batch_size=32, crop_size=crop_size, uses_gpus=True)
    assert rows == expected


@pytest.mark.parametrize(
    ("batch_size", "cores", "expected"), [(64, 16, 1024), (64, 3, 384), (32, 16, 512), (1000, 1, 512), (1000, 16, 2048)]
)
def test_blocks_have_a_batch_for_each_core_whatever_the_size_of_the_images(
    batch_size: int, cores: int, expected: int
) -> None:
    rows = rows_per_block(10**6, num_workers=2, batch_size=batch_size, cores=cores, crop_size=448)
    assert rows == expected
