"""What a loading process makes of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from imgcls_ray.images.decoder import DecodedImage, DecodeLimits, decode_scaled
from imgcls_ray.images.preprocess import Decode, Preprocess
from imgcls_ray.models.classifier import ModelInput, decode_model_input
from imgcls_ray.storage import FetchLimits
from imgcls_ray.train import loading
from imgcls_ray.train.augment import Augmentation
from imgcls_ray.train.entries import write_entries
from imgcls_ray.train.loading import Images, LoadTask
from imgcls_ray.train.order import Sample
from tests.images import bad_images as make

if TYPE_CHECKING:
    from pathlib import Path

# Halves leave five times 64 pixels, and quarters the same of 32.
WIDTH, HEIGHT = 960, 640


def load(folder: Path, decode: Decode, sample: Sample, crop_scale: float = 1.0) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    (folder / "a.jpg").write_bytes(make.jpeg(pixels))
    write_entries(pa.table({"uri": [str(folder / "a.jpg")], "label": pa.array([0], pa.int32())}), folder / "entries")
    preprocess = Preprocess(resize_size=64, crop_size=64, decode=decode)
    task = LoadTask(
        {"train": folder / "entries", "val": folder / "entries"},
        Augmentation(32, "bilinear", crop_scale, 0.0, 0, 0.0, preprocess.mean),
        preprocess,
        FetchLimits(),
        DecodeLimits(),
    )
    batch = Images(task)[[sample]]
    assert not batch.bad
    image: np.ndarray = batch.pixels[0].permute(1, 2, 0).numpy()
    return image


@pytest.mark.parametrize("decode", ["full", "scaled"])
def test_val_images_are_what_the_classifier_sees(tmp_path: Path, decode: Decode) -> None:
    image = load(tmp_path, decode, Sample("val", 0, 0))
    preprocess = Preprocess(resize_size=64, crop_size=64, decode=decode)
    expected = decode_model_input((tmp_path / "a.jpg").read_bytes(), preprocess, DecodeLimits())
    assert isinstance(expected, ModelInput)
    np.testing.assert_array_equal(image, expected.pixels)


@pytest.mark.parametrize(("crop_scale", "scale"), [(1.0, 4), (0.25, 2), (0.1, 1)])
def test_the_smallest_crop_of_a_training_image_keeps_the_margin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop_scale: float, scale: int
) -> None:
    decoded: list[DecodedImage] = []

    def watched(data: bytes, limits: DecodeLimits, *, min_side: int | None) -> DecodedImage:
        decoded.append(decode_scaled(data, limits, min_side=min_side))
        return decoded[-1]

    monkeypatch.setattr(loading, "decode_scaled", watched)
    load(tmp_path, "scaled", Sample("train", 0, 0), crop_scale)
    assert [image.scale for image in decoded] == [scale]
