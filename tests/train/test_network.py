"""What a run starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.config import TrainConfig, make_config
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.zoo import find_model
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.train.network import Start, open_start

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.images.preprocess import Decode
    from imgcls_ray.models.folder import ModelFolder

NETWORK = "PP-LCNet_x0_25"
NAMES = ("ant", "bee")


def start(**values: Any) -> Start:
    return open_start(make_config(TrainConfig, {"data": "data", **values}), NAMES, DEFAULT_STORAGE)


@pytest.mark.parametrize(
    ("of_folder", "asked", "decode"),
    [
        ("full", None, "full"),
        ("scaled", None, "scaled"),
        ("full", "scaled", "scaled"),
        ("scaled", "full", "full"),
    ],
)
def test_images_are_decoded_as_asked_or_as_in_the_folder(
    small_model: ModelFolder, tmp_path: Path, of_folder: Decode, asked: Decode | None, decode: Decode
) -> None:
    new_model_folder(NETWORK, tmp_path / "model", weights=small_model.path, decode=of_folder)
    assert start(model=str(tmp_path / "model"), decode=asked).preprocess.decode == decode


def test_decoding_at_a_fraction_changes_no_size(tmp_path: Path) -> None:
    model = find_model("MobileNetV4_conv_small")
    assert model.train_size != model.preprocess.crop_size
    new_model_folder(model.name, tmp_path / "model", num_classes=2, random_seed=0, decode="scaled")
    assert start(model=str(tmp_path / "model")).train_size == model.train_size
