"""A split by near-duplicates puts no picture and its copy into two splits: check finds none afterwards."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from imgcls_ray import cli
from imgcls_ray.config import CheckConfig
from imgcls_ray.datasets.check import check_dataset
from imgcls_ray.datasets.duplicate_groups import group_names
from imgcls_ray.datasets.findings import FindingCode
from imgcls_ray.datasets.split import NEAR_DUPLICATES, split_dataset
from imgcls_ray.errors import UsageError
from tests.datasets.make_faulty import jpeg, picture

if TYPE_CHECKING:
    from pathlib import Path

CLASSES, NUM_SCENES = ("cat", "dog"), 6


def write_scenes(folder: Path) -> None:
    """Class folders; of each scene a picture, the same bytes again, a brighter one and a mirrored one."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for scene in range(NUM_SCENES):
            own = picture(100 * label + scene)
            copies = (
                own,
                own,
                ImageEnhance.Brightness(own).enhance(1.1),
                own.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            )
            for number, copy in enumerate(copies):
                # By their names, no two pictures of a scene belong together.
                (folder / name / f"{number}-{scene}.jpg").write_bytes(jpeg(copy))
    (folder / "cat" / "broken.jpg").write_bytes(b"no picture")


def split(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> None:
    argv = ["imgcls", "split", str(folder), "--train-percent", "67", "--val-percent", "33", "--on", "local", *options]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0


def num_leaks(folder: Path) -> int:
    result = check_dataset(CheckConfig(data=str(folder), on="local", num_workers=1))
    return result.num_findings[FindingCode.LEAKAGE]


def test_no_copy_is_in_another_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path)
    split(monkeypatch, tmp_path, "--num-workers", "1")
    assert num_leaks(tmp_path) > 5
    capsys.readouterr()
    split(monkeypatch, tmp_path, "--num-workers", "1", "--group-by", "near-duplicates")
    said = capsys.readouterr().out
    assert "13 groups, each in one split only" in said
    assert "1 image could not be read" in said
    assert num_leaks(tmp_path) == 0
    train, val = ((tmp_path / f"{name}.txt").read_text().splitlines() for name in ("train", "val"))
    assert (len(train), len(val)) in {(33, 16), (32, 17)}


def test_a_class_that_is_too_small_is_told_before_any_image_is_read(tmp_path: Path) -> None:
    for name in ("cat/0.jpg", "dog/0.jpg", "dog/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"never read")
    with pytest.raises(UsageError, match=r"2 splits need at least 2 images of every class, and too few has cat \(1\)"):
        split_dataset(
            str(tmp_path),
            train_percent=50,
            val_percent=50,
            group_by=NEAR_DUPLICATES,
            measure=lambda _: pytest.fail("it was read"),
        )


def test_a_group_is_called_by_its_first_name_whatever_the_order() -> None:
    names = ["c", "a", "b", "d"]
    assert group_names(np.array([[0, 2], [2, 3]]), names) == {"a": "a", "b": "b", "c": "b", "d": "b"}
    assert group_names(np.array([[1, 0], [3, 0]]), ["d", "c", "a", "b"]) == {"a": "a", "b": "b", "c": "b", "d": "b"}
    assert group_names(np.empty((0, 2), np.int64), ["x"]) == {"x": "x"}
