"""Names of the zoo give the networks that the names mean."""

from __future__ import annotations

import pytest

from imgcls_ray.errors import UnknownModelError
from imgcls_ray.models.architecture import Architecture, build_network
from imgcls_ray.models.paddle.conversion import paddle_architecture
from imgcls_ray.models.zoo import ZOO, find_model

SMALLEST = {model.family: model.name for model in reversed(list(ZOO.values()))}
"""Of every family."""


def test_the_zoo_has_all_names_of_paddlex() -> None:
    # Of each family, as its documentation of October 2024 lists them.
    counts = {
        "CLIP": 2,
        "ConvNeXt": 6,
        "FasterNet": 6,
        "MobileNetV1": 4,
        "MobileNetV2": 5,
        "MobileNetV3": 10,
        "MobileNetV4": 5,
        "PP-HGNet": 3,
        "PP-HGNetV2": 7,
        "PP-LCNet": 8,
        "PP-LCNetV2": 3,
        "ResNet": 11,
        "StarNet": 4,
        "SwinTransformer": 6,
    }
    families = [model.family for model in ZOO.values()]
    assert {family: families.count(family) for family in families} == counts
    assert len(ZOO) == 80


@pytest.mark.parametrize("name", ZOO)
def test_a_network_has_exactly_its_parameters_and_an_output_per_class_at_its_size(name: str) -> None:
    import torch

    model = find_model(name)
    size = model.preprocess.crop_size
    with torch.device("meta"):
        network = build_network(model.architecture, num_classes=1000)
        logits = network(torch.zeros(2, 3, size, size))
    assert sum(parameter.numel() for parameter in network.parameters()) == model.num_parameters
    assert logits.shape == (2, 1000)


# Those of which nothing is left to check on the CPU once the smallest of their family has run.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SMALLEST.values() else pytest.mark.slow) for name in ZOO]
)
def test_a_network_tells_two_images_apart(name: str) -> None:
    import torch

    model = find_model(name)
    size = model.preprocess.crop_size
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        network = build_network(model.architecture, num_classes=7)
        logits = network(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(
    "name", ["MobileNetV4_conv_small", "MobileNetV4_conv_large", "StarNet-S1", "ConvNeXt_base_384"]
)
def test_images_are_prepared_as_for_evaluation(name: str) -> None:
    expected = {
        "MobileNetV4_conv_small": (256, 256, 224),
        "MobileNetV4_conv_large": (448, 448, 384),
        "StarNet-S1": (256, 224, 224),
        "ConvNeXt_base_384": (384, 384, 384),
    }
    model = find_model(name)
    assert (model.preprocess.resize_size, model.preprocess.crop_size, model.train_size) == expected[name]
    assert model.preprocess.interpolation == "bicubic"


def test_timm_has_the_weights_that_the_table_names() -> None:
    import timm

    named = {model.timm_weights for model in ZOO.values() if model.timm_weights}
    assert named <= set(timm.list_pretrained())


def test_the_clip_network_is_timms_unless_paddles_weights_want_theirs() -> None:
    model = find_model("CLIP_vit_base_patch16_224")
    assert model.architecture.name == "vit_base_patch16_clip_224"
    assert paddle_architecture(model).name == "paddle_clip_vit_base"


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("PP-LCNet_x1.0", "PP-LCNet_x1_0"),
        ("resnet50", "ResNet50"),
        ("pplcnet_x2_5", "PP-LCNet_x2_5"),
        ("StarNet_S3", "StarNet-S3"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer_tiny_patch4_window7_224"),
        ("PPHGNetV2_B4", "PP-HGNetV2-B4"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownModelError, match=f"{wrong}: no model of that name; did you mean {nearest}"):
        find_model(wrong)


def test_a_name_that_is_near_to_nothing_is_refused_with_the_way_to_the_list() -> None:
    with pytest.raises(UnknownModelError, match="dog: no model of that name; `imgcls models` lists them"):
        find_model("dog")


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("hf-hub:someone/model"),
        Architecture("local-dir:/etc"),
        Architecture("lcnet_100.ra2_in1k"),
        Architecture("lcnet_100", {"checkpoint_path": "/etc/passwd"}),
        Architecture("resnet50", {"pretrained": True}),
        Architecture("resnet50", {"layers": (1,)}),
        Architecture("resnet50", {"layers": (10**6, 1, 1, 1)}),
        Architecture("resnet50", {"layers": "4"}),
        Architecture("resnet50", {"channel_multiplier": 1.0}),
        Architecture("swin_tiny_patch4_window7_224", {"always_partition": 1}),
        Architecture("paddle_lcnet"),
        Architecture("paddle_lcnet", {"channel_multiplier": float("inf")}),
        Architecture("paddle_lcnet", {"channel_multiplier": float("nan")}),
        Architecture("paddle_lcnet", {"channel_multiplier": 1e6}),
        Architecture("paddle_mobilenetv2", {"channel_multiplier": -1}),
        Architecture("paddle_mobilenetv2", {"channel_multiplier": True}),
        Architecture("paddle_resnet18", {"variant": "50"}),
        Architecture("paddle_hgnetv2_b0", {"variant": "://x"}),
        Architecture("paddle_resnet18", {"channel_multiplier": 1.0}),
    ],
)
def test_a_model_folder_shapes_its_network_and_nothing_else(architecture: Architecture) -> None:
    with pytest.raises(ValueError, match=r"timm has no architecture|takes no |missing 1 required|unexpected keyword"):
        build_network(architecture, num_classes=2)
