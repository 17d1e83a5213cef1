"""The demo's data set: the same for everyone, varied, and broken where it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import ExifTags, Image, UnidentifiedImageError

from imgcls_ray.demo.draw import CLASS_NAMES, DemoDataset, draw_dataset, draw_shape
from imgcls_ray.errors import ImageErrorCode

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DemoDataset:
    return draw_dataset(tmp_path_factory.mktemp("demo"), images_per_class=3, size=48)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def broken_file(dataset: DemoDataset, code: ImageErrorCode) -> Path:
    return next(dataset.to_label / name for name, expected in dataset.broken.items() if expected == code)


def test_same_seed_gives_the_same_files(dataset: DemoDataset, tmp_path: Path) -> None:
    draw_dataset(tmp_path, images_per_class=3, size=48)
    assert contents(tmp_path) == contents(dataset.train.parent)


def test_another_seed_gives_other_pictures(dataset: DemoDataset, tmp_path: Path) -> None:
    other = contents(draw_dataset(tmp_path, images_per_class=3, size=48, seed=1).train)
    assert not set(other.values()) & set(contents(dataset.train).values())


def test_an_image_does_not_depend_on_how_many_are_drawn(dataset: DemoDataset, tmp_path: Path) -> None:
    fewer = contents(draw_dataset(tmp_path, images_per_class=1, to_label_per_class=0, size=48).train)
    assert fewer.items() <= contents(dataset.train).items()


def test_train_has_a_folder_per_class(dataset: DemoDataset) -> None:
    assert sorted(path.name for path in dataset.train.iterdir()) == list(CLASS_NAMES)
    for name in CLASS_NAMES:
        files = [f"{name}_{index:04}.jpg" for index in range(3)]
        assert sorted(path.name for path in (dataset.train / name).iterdir()) == files


def test_to_label_holds_exactly_the_labelled_and_the_broken(dataset: DemoDataset) -> None:
    assert {path.name for path in dataset.to_label.iterdir()} == dataset.labels.keys() | dataset.broken.keys()
    assert all(file_name.startswith(f"{name}_") for file_name, name in dataset.labels.items())
    assert sorted(set(dataset.labels.values())) == list(CLASS_NAMES)


def test_to_label_has_every_kind_of_upload(dataset: DemoDataset) -> None:
    kinds = set()
    for file_name in dataset.labels:
        with Image.open(dataset.to_label / file_name) as picture:
            kinds.add((picture.format, picture.mode, picture.getexif().get(ExifTags.Base.Orientation)))
    assert kinds == {
        ("JPEG", "RGB", None),
        ("JPEG", "RGB", 6),
        ("JPEG", "L", None),
        ("PNG", "RGB", None),
        ("PNG", "RGBA", None),
        ("WEBP", "RGB", None),
    }


def test_turned_photo_is_upright_after_its_exif_orientation(dataset: DemoDataset) -> None:
    with Image.open(dataset.to_label / "circle_0003.jpg") as picture:
        stored = np.asarray(picture).astype(int)
    upright = draw_shape("circle", size=48, seed=(0, 1, 0, 3))
    # Orientation 6 asks the viewer for a quarter turn clockwise.
    assert np.abs(np.rot90(stored, -1) - np.asarray(upright)).mean() < 12
    assert np.abs(stored - np.asarray(upright)).mean() > 12


def test_empty_file_is_empty(dataset: DemoDataset) -> None:
    assert broken_file(dataset, ImageErrorCode.EMPTY).read_bytes() == b""


def test_cut_file_has_a_good_header_and_no_end(dataset: DemoDataset) -> None:
    with Image.open(broken_file(dataset, ImageErrorCode.TRUNCATED)) as picture:
        assert picture.size == (48, 48)
        with pytest.raises(OSError, match="truncated"):
            picture.load()


def test_files_that_are_no_images_are_not_recognised(dataset: DemoDataset) -> None:
    names = [name for name, code in dataset.broken.items() if code == ImageErrorCode.UNSUPPORTED_FORMAT]
    assert sorted(names) == ["notes.jpg", "web_page.jpg"]
    for name in names:
        with pytest.raises(UnidentifiedImageError):
            Image.open(dataset.to_label / name)


def test_huge_file_claims_more_pixels_than_anyone_decodes(dataset: DemoDataset) -> None:
    path = broken_file(dataset, ImageErrorCode.TOO_MANY_PIXELS)
    assert path.stat().st_size < 20_000
    with pytest.raises(Image.DecompressionBombError, match="3600000000 pixels"):
        Image.open(path)


def test_existing_data_set_is_not_mixed_with_a_new_one(dataset: DemoDataset) -> None:
    with pytest.raises(FileExistsError):
        draw_dataset(dataset.train.parent, images_per_class=1)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_shape_stands_out_from_its_ground_in_grey(name: str) -> None:
    # The picture's contrast, not its colours, must carry the class: some uploads are grey.
    for index in range(5):
        picture = np.asarray(draw_shape(name, size=64, seed=(index,)).convert("L"))
        low, high = np.percentile(picture, [8, 92])
        assert high - low > 40
