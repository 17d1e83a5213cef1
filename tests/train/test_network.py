"""What a run starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from imgcls_ray.config import TrainConfig, make_config
from imgcls_ray.errors import UsageError
from imgcls_ray.models.new import find_named_model, new_model_folder
from imgcls_ray.models.zoo import ZOO, find_model
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.train.network import check_recipe, open_start
from imgcls_ray.train.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.images.preprocess import Decode
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.train.network import Start

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


def test_a_folder_of_a_networks_name_without_a_model_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NETWORK / "output").mkdir(parents=True)
    assert start(model=NETWORK, pretrained=False).origin == "random, seed 0"
    assert caplog.messages == [f"model={NETWORK} is the network; the folder of this name here is no model folder"]
    (tmp_path / NETWORK / "output").rmdir()
    new_model_folder(NETWORK, tmp_path / NETWORK, num_classes=2, random_seed=0)
    assert start(model=NETWORK).origin.startswith(f"{NETWORK} (")


def test_decoding_at_a_fraction_changes_no_size(tmp_path: Path) -> None:
    model = find_model("MobileNetV4_conv_small")
    assert model.train_size != model.preprocess.crop_size
    new_model_folder(model.name, tmp_path / "model", num_classes=2, random_seed=0, decode="scaled")
    assert start(model=str(tmp_path / "model")).train_size == model.train_size


def test_a_network_that_is_built_for_one_size_is_had_at_others_with_its_weights(tmp_path: Path) -> None:
    folder = new_model_folder("timm:vit_tiny_patch16_224", tmp_path / "vit", num_classes=2, random_seed=0)
    resized = start(model=str(folder.path), image_size=96)
    assert resized.architecture.args == {"img_size": 96}
    assert (resized.train_size, resized.preprocess.crop_size) == (96, 96)
    before, after = folder.load_network().state_dict(), resized.network.state_dict()
    assert after["pos_embed"].shape == (1, 37, 192)
    assert all(
        before[name].equal(after[name]) for name in before if name != "pos_embed" and not name.startswith("head")
    )
    # The position embeddings of the corners are where they were.
    assert torch.cosine_similarity(before["pos_embed"][0, 0], after["pos_embed"][0, 0], dim=0) > 0.99


@pytest.mark.slow
def test_one_of_windows_too() -> None:
    resized = start(model="timm:swin_tiny_patch4_window7_224", image_size=64, pretrained=False)
    assert resized.network(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_a_size_that_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="image_size=16: ConvNeXt_tiny cannot have images of this size"):
        start(model="ConvNeXt_tiny", image_size=16, pretrained=False)


def test_a_network_that_cannot_compute_again_is_refused_at_once() -> None:
    for name in ("timm:vgg11", "timm:inception_v3"):
        model = find_named_model(name)
        check_recipe(name, model.architecture, Recipe())
        with pytest.raises(UsageError, match=f"grad_checkpointing: timm has none for {name}; leave it out"):
            check_recipe(name, model.architecture, Recipe(), grad_checkpointing=True)


@pytest.mark.parametrize("name", sorted({model.family: name for name, model in ZOO.items()}.values()))
def test_each_family_can_compute_again(name: str) -> None:
    check_recipe(name, find_model(name).architecture, Recipe(), grad_checkpointing=True)


@pytest.mark.parametrize(
    ("name", "recipe", "message"),
    [
        (NETWORK, Recipe(drop_path=0.1), r"drop_path=0\.1: PP-LCNet_x0_25 has no blocks .* give --drop-path 0"),
        ("PP-LCNetV2_small", Recipe(layer_decay=0.7, optimizer="adamw"), None),
        ("ConvNeXt_tiny", Recipe(drop_path=0.1, layer_decay=0.7, optimizer="adamw"), None),
    ],
)
def test_what_a_network_cannot_do_is_refused_at_once(name: str, recipe: Recipe, message: str | None) -> None:
    architecture = find_model(name).architecture
    if message is None:
        check_recipe(name, architecture, recipe)
    else:
        with pytest.raises(UsageError, match=message):
            check_recipe(name, architecture, recipe)
