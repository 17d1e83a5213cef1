"""Datasets in tar files and Parquet are checked, trained on and evaluated like the loose files that they hold."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from imgcls_ray.config import CheckConfig
from imgcls_ray.datasets.check import check_dataset
from imgcls_ray.datasets.findings import FindingCode
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.errors import InputError
from imgcls_ray.storage import DEFAULT_STORAGE, FetchLimits
from imgcls_ray.train.entries import map_entries, read_entries, write_splits
from imgcls_ray.workers.fetching import any_version, fetch_inputs
from tests.datasets.make_faulty import jpeg, picture
from tests.packed.making import write_parquet, write_tar

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.datasets.labelled import Entry
    from tests.s3.server import S3Server

NAMES = ("cat", "dog")
IMAGES = {
    split: [jpeg(picture(seed)) for seed in range(first, first + 6)] for split, first in (("train", 0), ("val", 9))
}


def entries_of(dataset: object, **options: Any) -> tuple[list[Entry], list[str | None], list[str]]:
    source = read_dataset(str(dataset), **options)
    faults: list[str] = []
    return list(source.read(lambda finding: faults.append(finding.text))), source.class_names, faults


def write_shards(folder: Path) -> None:
    """WebDataset's tars: a split's images with the id of their class."""
    folder.mkdir()
    for split, images in IMAGES.items():
        members = []
        for number, image in enumerate(images):
            members += [(f"{number:03d}.jpg", image), (f"{number:03d}.cls", b"%d" % (number % 2))]
        write_tar(folder / f"{split}-000.tar", members)


def write_export(folder: Path) -> None:
    """A data set as Hugging Face exports it."""
    (folder / "data").mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}}
    for split, images in (("train", IMAGES["train"]), ("validation", IMAGES["val"])):
        path = write_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet",
            images,
            group_rows=4,
            label=[number % 2 for number in range(len(images))],
        )
        table = pq.read_table(path)
        about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        pq.write_table(table.replace_schema_metadata(about), path, row_group_size=4)


@pytest.mark.parametrize("write", [write_shards, write_export])
def test_splits_classes_and_images_are_found(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "data")
    entries, names, faults = entries_of(tmp_path / "data")
    assert (names, faults) == (list(NAMES) if write is write_export else ["0", "1"], [])
    assert [(entry.split, entry.label) for entry in entries] == [
        (split, number % 2) for split in ("train", "val") for number in range(6)
    ]
    assert check_dataset(CheckConfig.model_validate({"data": str(tmp_path / "data"), "on": "local"})).findings == []


@pytest.mark.parametrize("write", [write_shards, write_export])
def test_training_reads_members_at_random(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "data")
    entries = read_entries(str(tmp_path / "data"), delimiter=None, storage=DEFAULT_STORAGE)
    files = write_splits(entries.tables, tmp_path)
    order = np.random.default_rng(0).permutation(6)
    rows = map_entries(files["train"]).take(order)
    with ThreadPoolExecutor(4) as executor:
        contents = list(fetch_inputs(any_version(rows["uri"], rows), FetchLimits(), executor))
    assert contents == [IMAGES["train"][place] for place in order]


def test_labels_in_json_are_class_names(tmp_path: Path) -> None:
    members = [
        ("b/1.jpg", b"1"),
        ("b/1.json", json.dumps({"caption": "x", "label": "dog"}).encode()),
        ("b/2.json", json.dumps({"label": "cat"}).encode()),
        ("b/2.seg.jpg", b"2"),
        ("b/2.png", b"3"),
    ]
    entries, names, _ = entries_of(write_tar(tmp_path / "a.tar", members))
    assert names == ["cat", "dog"]
    assert [(entry.split, entry.path, entry.label) for entry in entries] == [
        ("train", "a.tar#b/1.jpg", 1),
        ("train", "a.tar#b/2.seg.jpg", 0),
        ("train", "a.tar#b/2.png", 0),
    ]


def test_samples_without_a_label_are_findings(tmp_path: Path) -> None:
    members = [("0.jpg", b"0"), ("0.json", b"[" * 60_000), ("1.jpg", b"1"), ("1.json", b"{")]
    members += [("2.jpg", b"2"), ("3.jpg", b"3"), ("3.cls", b"5")]
    entries, _, faults = entries_of(write_tar(tmp_path / "a.tar", members))
    assert [entry.path for entry in entries] == ["a.tar#3.jpg"]
    assert [("json cannot be read" in text, "has no label" in text) for text in faults] == [
        (True, False),
        (True, False),
        (False, True),
    ]


def test_rows_without_a_label_are_findings(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", [b"1", b"2", b"3"], label=["x", None, ""])
    result = check_dataset(CheckConfig.model_validate({"data": str(source), "on": "local"}))
    assert [finding.line for finding in result.findings if finding.code is FindingCode.BAD_LINE] == [2, 3]


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [b"1"], caption=["x"])
    with pytest.raises(InputError, match="no column of labels, it has image, caption; call it label"):
        read_dataset(f"{tmp_path}/a.parquet")
    (tmp_path / "b.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match=r"b\.tar: .*is no tar file"):
        read_dataset(f"{tmp_path}/b.tar")


def test_class_folders_beside_a_tar_stay_class_folders(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(IMAGES["train"][0])
    write_tar(tmp_path / "backup.tar", [("1.jpg", b"1"), ("1.cls", b"0")])
    assert entries_of(tmp_path)[1] == list(NAMES)


def test_datasets_on_s3(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    write_export(tmp_path / "data")
    write_shards(tmp_path / "shards")
    for path in [*(tmp_path / "data").rglob("*.parquet"), *(tmp_path / "shards").iterdir()]:
        s3.client().put_object(Bucket=bucket, Key=str(path.relative_to(tmp_path)), Body=path.read_bytes())
    for name in ("data", "shards"):
        local, remote = (entries_of(place) for place in (tmp_path / name, f"s3://{bucket}/{name}"))
        assert [entry.path for entry in remote[0]] == [entry.path for entry in local[0]]
        assert remote[1:] == local[1:]
