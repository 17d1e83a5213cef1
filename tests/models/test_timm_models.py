"""timm's own names beside the zoo's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import UnknownModelError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.timm_models import find_timm_model, preprocess_of

if TYPE_CHECKING:
    from pathlib import Path


def test_a_name_with_a_tag_has_its_weights_and_preprocessing() -> None:
    model = find_timm_model("timm:convnext_tiny.fb_in1k")
    assert model.architecture.name == "convnext_tiny"
    assert model.timm_weights == "convnext_tiny.fb_in1k"
    assert model.preprocess == Preprocess(resize_size=256, crop_size=224, interpolation="bicubic")
    squashed = find_timm_model("timm:convnext_tiny.in12k_ft_in1k_384").preprocess
    assert squashed == Preprocess(resize_size=384, crop_size=384, interpolation="bicubic", crop_mode="squash")


def test_a_name_without_a_tag_has_timms_own_choice() -> None:
    weights = find_timm_model("timm:resnet18").timm_weights
    assert weights is not None
    assert weights.startswith("resnet18.")


@pytest.mark.parametrize(
    "changed", [{"input_size": (3, 224, 112)}, {"crop_mode": "border"}, {"interpolation": "lanczos"}]
)
def test_images_that_are_prepared_in_an_unknown_way_are_refused(changed: dict[str, object]) -> None:
    known = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bicubic", "crop_mode": "center"}
    with pytest.raises(UnknownModelError, match="timm:x: its preprocessing in timm is not supported here"):
        preprocess_of({**known, "mean": (0, 0, 0), "std": (1, 1, 1), **changed}, "timm:x")


def test_an_architecture_without_weights_has_none() -> None:
    assert find_timm_model("timm:lcnet_150").timm_weights is None


def test_a_network_of_timms_makes_a_model_folder(tmp_path: Path) -> None:
    new_model_folder("timm:test_resnet", tmp_path / "m", num_classes=5, random_seed=0)
    folder = open_model_folder(tmp_path / "m")
    assert folder.spec.name == "timm:test_resnet"
    assert folder.spec.num_classes == 5
    folder.load_network()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet5", "timm:resnet5: timm has no architecture of that name; did you mean timm:resnet5"),
        ("timm:zzzzzz", "timm:zzzzzz: timm has no architecture of that name$"),
        ("timm:lcnet_050.nope", r"timm has no weights of that name; timm has timm:lcnet_050\.ra2_in1k"),
        ("timm:lcnet_150.nope", "timm has no weights of that name; timm has none of it"),
        ("timm:", "timm has no architecture of that name"),
    ],
)
def test_what_timm_lacks_is_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        find_timm_model(name)
